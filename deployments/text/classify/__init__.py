"""Texts to labels."""

from __future__ import annotations

from deployments import ModelType
from deployments.text.classify.sequences import SequenceClassifiers

TYPE = ModelType(name="classify", families={"sequence-classification": SequenceClassifiers})
