"""Fields that OpenAI's two routes have in common, and what of them the inner request takes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cluster.value import JsonObject
from deployments.llm.requests import MOST_STOPS


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class OpenAiFields(BaseModel):
    """Fields that are not listed here or below mean nothing for the answer, and are ignored."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    repeat_penalty: float | None = Field(default=None, description="llama.cpp's name of repetition_penalty.")
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    logit_bias: JsonObject | None = None
    ignore_eos: bool | None = None
    response_format: JsonObject | None = None

    @field_validator("stop")
    @classmethod
    def _refuse_many_stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if isinstance(stop, list) and len(stop) > MOST_STOPS:
            raise ValueError(f"{MOST_STOPS} are allowed, these are {len(stop)}")
        return stop

    @property
    def tells_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self) -> dict[str, Any]:
        names = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "seed", "n")
        return {
            **{name: getattr(self, name) for name in names},
            "max_tokens": self.max_tokens,
            "repetition_penalty": self.repetition_penalty or self.repeat_penalty,
            "stop": [self.stop] if isinstance(self.stop, str) and self.stop else self.stop or None,
            "ignore_eos": self.ignore_eos,
            "format": format_of(self.response_format),
        }


def format_of(response_format: JsonObject | None) -> JsonObject | None:
    """OpenAI puts a schema one level deeper than others do."""
    if response_format is None or response_format.get("type") == "text":
        return None
    inner = response_format.get("json_schema", response_format)
    if response_format.get("type") == "json_schema" and isinstance(inner, dict):
        return {"type": "json_schema", "schema": inner.get("schema")}
    return response_format
