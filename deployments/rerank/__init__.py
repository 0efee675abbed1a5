"""A query and documents to scores."""

from __future__ import annotations

from deployments import ModelType
from deployments.rerank.cross_encoder import CrossEncoders

TYPE = ModelType(name="rerank", families={"cross-encoder": CrossEncoders})
