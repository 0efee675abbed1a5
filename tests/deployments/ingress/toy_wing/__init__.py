"""A wing as a plugin: a model type, and in the module `http` its routes."""

from __future__ import annotations

from deployments import ModelType
from tests.families import Echo

TYPES = (ModelType(name="toy", families={"toy": Echo}),)
