"""What a request asks a language model, in whatever dialect it came; checked before anything is computed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cluster import errors
from cluster.names import cut
from cluster.value import JsonObject

MOST_STOPS = 16
MOST_STOP_CHARACTERS = 200
MOST_CHOICES = 16
MOST_TOP = 20
MOST_MESSAGES = 4096
MOST_TOOLS = 128


class Query(BaseModel):
    """Sampling that is not asked for is the model's own."""

    model_config = ConfigDict(extra="forbid")

    #: One of the two.
    messages: list[JsonObject] | None = Field(default=None, max_length=MOST_MESSAGES)
    prompt: str | list[Annotated[int, Field(ge=0, strict=True)]] | None = None

    tools: list[JsonObject] = Field(default=[], max_length=MOST_TOOLS)
    #: Or the name of the tool that has to be called.
    tool_choice: Literal["auto", "none", "required"] | JsonObject = "auto"
    #: Given to the chat template, such as `enable_thinking`.
    template: JsonObject = {}
    #: The last message is of the assistant, and is to be continued.
    continues: bool = False

    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    min_p: float | None = Field(default=None, ge=0, lt=1)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=2)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    stop: list[str] = Field(default=[], max_length=MOST_STOPS)
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MOST_TOP)
    #: How the answer has to be written: `{"type": "json_object"}`, `{"type": "json_schema", "schema": …}`,
    #: `{"type": "regex", "regex": …}` or `{"type": "choice", "choice": [texts]}`.
    format: JsonObject | None = None
    echo: bool = False
    #: The name of an adapter that the model was launched with.
    adapter: str | None = Field(default=None, max_length=200)
    #: Goes on where the model would end; for measuring.
    ignore_eos: bool = False

    @field_validator("stop")
    @classmethod
    def _refuse_odd_stops(cls, stops: list[str]) -> list[str]:
        if any(not stop or len(stop) > MOST_STOP_CHARACTERS for stop in stops):
            raise ValueError(f"each has 1 to {MOST_STOP_CHARACTERS} characters")
        return stops

    @model_validator(mode="after")
    def _refuse_both_or_none(self) -> Query:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("there must be either messages or a prompt")
        if self.messages == [] or self.prompt == []:
            raise ValueError("there is nothing to answer")
        return self


def query_of(item: Any) -> Query:
    """What comes from an ingress has been checked there; what comes by the generic routes has not."""
    if isinstance(item, str):
        return Query(prompt=item)
    try:
        return Query.model_validate(item)
    except ValidationError as error:
        problem = error.errors()[0]
        where = cut(".".join(map(str, problem["loc"])))
        raise errors.InvalidBody(f"{where}: {problem['msg']}" if where else problem["msg"], where or None) from None


def characters_of(query: Query) -> int:
    """How much text there is to read."""
    return _characters([query.messages, query.prompt, query.tools])


def _characters(value: object) -> int:
    total, waiting = 0, [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, str):
            total += len(inner)
        elif isinstance(inner, dict):
            waiting += inner.values()
        elif isinstance(inner, list):
            waiting += inner
    return total
