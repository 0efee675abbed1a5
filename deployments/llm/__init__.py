"""Language models: chats, completions, tools."""

from __future__ import annotations

from deployments import ModelType
from deployments.llm.llamacpp import LlamaCpp
from deployments.llm.openvino import OpenvinoLanguage

TYPES = (ModelType(name="llm", families={"openvino": OpenvinoLanguage, "llamacpp": LlamaCpp}),)
