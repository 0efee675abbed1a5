"""Completions in OpenAI's form, as vLLM writes and reads them with token ids instead of texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from cluster import errors
from cluster.names import cut
from cluster.value import JsonObject
from deployments.llm.language import Order, TokenSampling
from deployments.llm.tool_choice import callable_tools, must_call
from deployments.llm.writing import TokenOdds

#: The name of the model there.
MODEL = "model"
TOKEN = "token_id:"


class Step(NamedTuple):
    """What one reading of an answer has brought."""

    ids: list[int]
    odds: list[TokenOdds]
    finish: str | None = None
    #: Tokens of the prompt that were kept from others.
    cached: int = 0
    #: Tokens of the prompt, of which the engine knows best where it has pictures.
    prompt: int = 0


class Broken(Exception):
    """An answer has ended before its end, which need not be the fault of what was asked."""


def name_of_adapter(name: str) -> str:
    """The name of the model with that adapter there."""
    return f"{MODEL}+{name}"


def body_of(order: Order, sampling: TokenSampling, ends: frozenset[int]) -> JsonObject:
    query = order.query
    body: dict[str, Any] = {
        "model": MODEL if query.adapter is None else name_of_adapter(query.adapter),
        "prompt": order.ids,
        "max_tokens": order.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "presence_penalty": query.presence_penalty,
        "frequency_penalty": query.frequency_penalty,
        "repetition_penalty": query.repetition_penalty or 1.0,
        "ignore_eos": query.ignore_eos,
        "stop_token_ids": [] if query.ignore_eos else sorted(ends),
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed % 2**63
    if query.logprobs:
        body |= {"logprobs": query.top_logprobs, "return_tokens_as_token_ids": True}
    if query.format is not None and query.format.get("type") != "text":
        body["structured_outputs"] = _structure(query.format)
    return body


def chat_body_of(order: Order, sampling: TokenSampling, ends: frozenset[int]) -> JsonObject:
    """The same for a chat with pictures, but for its messages. vLLM writes the prompt itself: only it knows what stands
    for a picture. It reads neither thoughts nor calls out of the answer."""
    query = order.query
    body = body_of(order, sampling, ends)
    del body["prompt"]
    most = body.pop("max_tokens")
    if not order.takes_all:
        body["max_completion_tokens"] = most
    if query.logprobs:
        body |= {"logprobs": True, "top_logprobs": query.top_logprobs}
    if query.tools and query.tool_choice != "none":
        body["tools"] = callable_tools(query) if must_call(query) else query.tools
    return body | {
        "tool_choice": "none",
        "chat_template_kwargs": query.template,
        "add_generation_prompt": not query.continues,
        "continue_final_message": query.continues,
    }


def _structure(format: JsonObject) -> JsonObject:
    kind = format["type"]
    if kind == "json_schema":
        return {"json": format["schema"]}
    return {"json_object": True} if kind == "json_object" else {kind: format[kind]}


class TokenStream:
    """One answer as its bytes come."""

    def __init__(self, top: int = 0) -> None:
        """`top`: how many of the likeliest tokens were asked for."""
        self._top = top
        self._rest = b""
        self._last = Step([], [])

    def add(self, data: bytes) -> Step:
        """The tokens that have come, except those with which the answer ends: more is said of it after them."""
        ids: list[int] = []
        odds: list[TokenOdds] = []
        for event in self._events(data):
            if (error := event.get("error")) is not None:
                raise refusal_of(int(error.get("code") or 500), error)
            if (usage := event.get("usage")) is not None:
                details = usage.get("prompt_tokens_details") or {}
                self._last = self._last._replace(
                    cached=details.get("cached_tokens") or 0, prompt=usage.get("prompt_tokens") or 0
                )
            for choice in event.get("choices", ()):
                if choice.get("token_ids") is None and "role" in (choice.get("delta") or {}):
                    continue  # a chat begins with who speaks
                if choice.get("token_ids") is None:
                    raise errors.InferenceFailed("The engine tells no token ids: it has to be vLLM 0.12 or later.")
                ids += choice["token_ids"]
                odds += _odds_of(choice.get("logprobs") or {}, self._top)
                if (finish := choice.get("finish_reason")) is not None:
                    self._last = self._last._replace(finish=finish)
        if self._last.finish is None:
            return Step(ids, odds)
        self._last = self._last._replace(ids=self._last.ids + ids, odds=self._last.odds + odds)
        return Step([], [])

    def end(self) -> Step:
        """The last of it, when no more bytes come."""
        if self._last.finish not in ("stop", "length"):
            raise Broken(f"it ended {'without a reason' if self._last.finish is None else 'with ' + self._last.finish}")
        return self._last

    def _events(self, data: bytes) -> Iterator[JsonObject]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            text = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and text != b"[DONE]":
                try:
                    yield json.loads(text)
                except ValueError:
                    raise Broken(f"it is no JSON: {cut(text.decode(errors='replace'))}") from None


def _odds_of(told: JsonObject, top: int) -> list[TokenOdds]:
    if (rows := told.get("content")) is not None:
        return [TokenOdds(row["logprob"], _top_of(_by_token(row["top_logprobs"]))[:top]) for row in rows]
    tops = told.get("top_logprobs") or [None] * len(told.get("tokens") or ())
    rows = zip(told.get("token_logprobs") or (), tops, strict=False)
    return [TokenOdds(logprob if logprob is not None else 0.0, _top_of(likely or {})[:top]) for logprob, likely in rows]


def _by_token(rows: list[JsonObject]) -> JsonObject:
    return {row["token"]: row["logprob"] for row in rows}


def _top_of(told: JsonObject) -> list[tuple[int, float]]:
    """The likeliest first. The token that was taken may be one more than was asked for."""
    rows = [(int(token.removeprefix(TOKEN)), logprob) for token, logprob in told.items() if token.startswith(TOKEN)]
    return sorted(rows, key=lambda row: -row[1])


def refusal_of(status: int, error: JsonObject) -> Exception:
    """What the engine says in place of an answer."""
    message = cut(str(error.get("message") or "it says nothing"))
    return errors.BadRequest(f"vLLM refuses this: {message}") if 400 <= status < 500 else Broken(message)
