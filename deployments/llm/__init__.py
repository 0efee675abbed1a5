"""Language models: chats, completions, tools."""

from __future__ import annotations

from deployments import ModelType
from deployments.llm.llamacpp import LlamaCpp
from deployments.llm.openvino import OpenvinoLanguage
from deployments.llm.transformers import TransformersLanguage

FAMILIES = {"openvino": OpenvinoLanguage, "llamacpp": LlamaCpp, "transformers": TransformersLanguage}
TYPES = (ModelType(name="llm", families=FAMILIES),)
