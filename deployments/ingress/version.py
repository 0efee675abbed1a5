"""The version of this package, for the routes that tell it."""

from __future__ import annotations

from importlib.metadata import version

VERSION = version("model-cluster")
