"""A wing as a plugin brings one: a model type, and beside it in `http` its own routes."""

from __future__ import annotations

from deployments import ModelType
from tests.families import Echo

TYPES = (ModelType(name="toy", families={"toy": Echo}),)
