"""A query and documents, texts or pictures, to scores."""

from __future__ import annotations

from deployments import ModelType
from deployments.text.rerank.causal import CausalScorers
from deployments.text.rerank.cross_encoder import CrossEncoders
from deployments.text.rerank.late_interaction import LateRerankers
from deployments.text.rerank.vision import VisionRerankers

TYPE = ModelType(
    name="rerank",
    families={
        "cross-encoder": CrossEncoders,
        "causal": CausalScorers,
        "late-interaction": LateRerankers,
        "vision": VisionRerankers,
    },
)
