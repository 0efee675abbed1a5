"""A query and documents to scores."""

from __future__ import annotations

from deployments import ModelType
from deployments.rerank.causal import CausalScorers
from deployments.rerank.cross_encoder import CrossEncoders
from deployments.rerank.late_interaction import LateRerankers

TYPE = ModelType(
    name="rerank",
    families={"cross-encoder": CrossEncoders, "causal": CausalScorers, "late-interaction": LateRerankers},
)
