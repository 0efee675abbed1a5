"""Language models: chats, completions, tools."""

from __future__ import annotations

from deployments import ModelType
from deployments.llm.llamacpp import LlamaCpp
from deployments.llm.openvino import OpenvinoLanguage
from deployments.llm.transformers import TransformersLanguage
from deployments.llm.vllm import VllmLanguage

FAMILIES = {
    "openvino": OpenvinoLanguage,
    "llamacpp": LlamaCpp,
    "transformers": TransformersLanguage,
    "vllm": VllmLanguage,
}
TYPES = (ModelType(name="llm", families=FAMILIES),)
