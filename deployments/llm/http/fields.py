"""Fields that OpenAI's two routes have in common, and what of them the inner request takes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cluster import errors
from cluster.names import cut
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
    lora_name: str | None = Field(default=None, description="An adapter that the model was launched with.")
    response_format: JsonObject | None = None
    guided_json: JsonObject | None = Field(default=None, description="vLLM's name of a JSON schema for the answer.")
    guided_regex: str | None = Field(default=None, description="A regular expression that the whole answer matches.")
    guided_choice: list[str] | None = Field(default=None, description="The texts that the answer may be.")
    guided_grammar: str | None = Field(default=None, description="Not available.")
    structured_outputs: JsonObject | None = Field(
        default=None, description="vLLM's newer form of these: one of json, json_object, regex and choice."
    )

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
            "adapter": self.lora_name,
            "format": self._format(),
        }

    def _format(self) -> JsonObject | None:
        forms = [
            *([response] if (response := format_of(self.response_format)) else []),
            *([structured_format(self.structured_outputs)] if self.structured_outputs else []),
            *(
                structured_format({name.removeprefix("guided_"): value})
                for name in ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
                if (value := getattr(self, name)) is not None
            ),
        ]
        if len(forms) > 1:
            raise errors.InvalidBody("An answer has one format, and the request has several.", "response_format")
        return forms[0] if forms else None


#: What vLLM's structured outputs can be, as formats.
STRUCTURES = {
    "json": ("json_schema", "schema"),
    "json_object": ("json_object", ""),
    "regex": ("regex", "regex"),
    "choice": ("choice", "choice"),
}


def structured_format(structure: JsonObject) -> JsonObject:
    unknown = sorted(set(structure) - set(STRUCTURES))
    if unknown or len(structure) != 1:
        raise errors.BadRequest(
            f"structured_outputs takes one of {', '.join(STRUCTURES)}, not {cut(', '.join(unknown or structure))!r}.",
            "structured_outputs",
        )
    ((name, value),) = structure.items()
    kind, field = STRUCTURES[name]
    return {"type": kind, **({field: value} if field else {})}


def format_of(response_format: JsonObject | None) -> JsonObject | None:
    """OpenAI puts a schema one level deeper than others do."""
    if response_format is None or response_format.get("type") == "text":
        return None
    inner = response_format.get("json_schema", response_format)
    if response_format.get("type") == "json_schema" and isinstance(inner, dict):
        return {"type": "json_schema", "schema": inner.get("schema")}
    return response_format
