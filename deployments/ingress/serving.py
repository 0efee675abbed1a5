"""What the inference routes of all dialects share: one way to ask a model, one way to say how long it took."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from fastapi import Request

from cluster import errors, keys
from cluster.calls import BATCH_PART, Answer
from cluster.names import quoted
from cluster.routes import ModelRoutes
from cluster.settings import Settings
from cluster.value import JsonObject
from deployments.ingress.affinity import Beginning
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.media import MediaReader
from deployments.vectors import Rows, joined

T = TypeVar("T")

#: Requests one ingress replica takes at once; what models can take is limited per model, with a better answer.
ONGOING = 1000
#: The fewest inputs that are worth a worker of their own: a large request is split among all workers of its model.
PART_ITEMS = 32
#: Abilities whose requests can be split: the answer to an input does not depend on the others.
IN_PARTS = frozenset(
    {"embed", "embed_sparse", "embed_tokens", "embed_all", "embed_image", "rerank", "rerank_image", "classify"}
)


#: Whether somebody waits for the answer: `interactive`, or `batch`.
PRIORITY_HEADER = "x-priority"


@dataclass(frozen=True)
class Served:
    model: ModelRoutes
    answer: Answer
    worker: str
    #: From the request to the answer, transport included.
    total_ms: float = 0.0

    @property
    def headers(self) -> dict[str, str]:
        return {
            "x-queue-time-ms": f"{self.answer.queue_ms:.1f}",
            "x-inference-time-ms": f"{self.answer.run_ms:.1f}",
            "x-compute-tokens": str(self.answer.tokens),
        }

    def timings(self, items: Sequence[Any]) -> dict[str, str]:
        """The same in the words of text-embeddings-inference, which counts characters as well."""
        texts = [text for item in items for text in ([item] if isinstance(item, str) else item)]
        return {
            **self.headers,
            "x-compute-type": "gpu" if self.model.launched.cards else "cpu",
            "x-compute-time": f"{self.total_ms:.0f}",
            "x-compute-characters": str(sum(len(text) for text in texts if isinstance(text, str))),
            "x-total-time": f"{self.total_ms:.0f}",
            "x-queue-time": f"{self.answer.queue_ms:.0f}",
            "x-inference-time": f"{self.answer.run_ms:.0f}",
        }

    @property
    def replica(self) -> str:
        """Xinference's name for it: the uid and the number of the replica."""
        index = self.worker.rpartition(":")[2].partition("-")[0]
        return f"{self.model.uid}-rep{index}"

    @property
    def usage(self) -> dict[str, int]:
        return {"prompt_tokens": self.answer.tokens, "total_tokens": self.answer.tokens}

    @staticmethod
    def id(prefix: str) -> str:
        return f"{prefix}-{time.time_ns() // 1000:x}"


def preferred_wait_s(request: Request) -> float | None:
    """How long its caller would wait for a model that sleeps, from `Prefer: wait=2`."""
    match = re.search(r"\bwait=(\d{1,6})\b", request.headers.get("prefer", ""))
    return float(match[1]) if match else None


class Serving:
    def __init__(self, dispatcher: Dispatcher, settings: Settings) -> None:
        self.dispatcher = dispatcher
        self.settings = settings
        self._media = MediaReader(settings)

    async def ask(
        self,
        request: Request,
        model: str | None,
        ability: str,
        items: Sequence[Any],
        params: JsonObject,
        *,
        alone: bool = False,
        beginning: Beginning | None = None,
    ) -> Served:
        """`alone`: the request takes long, and is not gathered with others. `beginning`: how the prompt begins, which a
        worker may have in its cache."""
        self.refuse_many(items)
        routes = self.find(request, model, ability)
        request.state.model = routes.uid
        await self._wait_as_asked(request, routes)
        started = time.perf_counter()
        timeout_s, asker = self.timeout_of(request), owner_of(request) + lane_of(request)

        async def part_of(first: int, last: int) -> tuple[Answer, str]:
            try:
                return await self.dispatcher.ask(
                    routes, ability, items[first:last], params, asker, timeout_s, alone, beginning
                )
            except errors.BadRequest as error:
                raise renumbered(error, first) from None

        spans = spans_of(len(items), len(routes.workers) if ability in IN_PARTS else 1)
        answers = await _all_or_none([part_of(*span) for span in spans])
        answer = _one_answer([answer for answer, _ in answers])
        return Served(routes, answer, answers[0][1], (time.perf_counter() - started) * 1000)

    async def talk(
        self,
        request: Request,
        model: str | None,
        ability: str,
        item: object,
        params: JsonObject,
        beginning: Beginning,
    ) -> AsyncGenerator[list[object]]:
        """The pieces of an answer, as many at a time as there are; the very last is the `Answer`."""
        routes = self.find(request, model, ability)
        request.state.model = routes.uid
        await self._wait_as_asked(request, routes)
        owner, timeout_s = owner_of(request) + lane_of(request), self.timeout_of(request)
        talk = self.dispatcher.talk(routes, ability, item, params, owner, timeout_s, beginning)
        async with aclosing(talk):
            async for pieces in talk:
                yield pieces

    async def _wait_as_asked(self, request: Request, model: ModelRoutes) -> None:
        """Requests wait for a model that sleeps as long as they may take, or less where they say `Prefer: wait=2`."""
        if model.rests and (most_s := preferred_wait_s(request)) is not None:
            await self.dispatcher.woken(model, most_s)

    async def embed(
        self,
        request: Request,
        model: str | None,
        items: Sequence[Any],
        params: JsonObject,
        ability: str = "embed",
        param: str = "input",
    ) -> Served:
        """Vectors of texts, images and sounds, each asked by the ability for it, in the order of the items."""
        media = [next(iter(item)) if isinstance(item, dict) else "" for item in items]
        if not any(media):
            return await self.ask(request, model, ability, items, params)
        self.refuse_many(items)
        places: dict[str, list[int]] = {}
        for position, kind in enumerate(media):
            places.setdefault(f"embed_{kind}" if kind else ability, []).append(position)
        for needed in places:
            self.find(request, model, needed)
        items = await self._media.read(items, param)
        parts = await self.ask_all(
            request, model, [(needed, [items[i] for i in at], params) for needed, at in places.items()]
        )
        served = _together(parts)
        if len(parts) == 1:
            return served
        order = np.argsort(np.concatenate(list(places.values())))
        return replace(served, answer=served.answer._replace(outputs=_ordered(served.answer.outputs, order)))

    async def rank(
        self, request: Request, model: str | None, query: Any, documents: Sequence[Any], params: JsonObject
    ) -> Served:
        """Scores of documents. They and the query are texts, or `{"image": …}` with or without a `text`."""
        for items in ([query], documents):
            self.refuse_many([item.get("text", "") if isinstance(item, dict) else item for item in items])
        if not any(isinstance(item, dict) for item in (query, *documents)):
            return await self.ask(request, model, "rerank", documents, {**params, "query": query})
        self.find(request, model, "rerank_image")
        shown = [{"image": item["image"]} if isinstance(item, dict) else item for item in documents]
        read = await self._media.read(shown, "documents")
        documents = [
            {**item, **file} if isinstance(item, dict) else item for item, file in zip(documents, read, strict=True)
        ]
        if isinstance(query, dict):
            query = {**query, "image": await self._media.file(query["image"], "query", "The query")}
        return await self.ask(request, model, "rerank_image", documents, {**params, "query": query})

    async def ask_all(
        self, request: Request, model: str | None, questions: Sequence[tuple[str, Sequence[Any], JsonObject]]
    ) -> list[Served]:
        """The answers to several questions of one request; if one fails, all do."""
        return await _all_or_none(
            [self.ask(request, model, ability, items, params) for ability, items, params in questions]
        )

    def find(self, request: Request, model: str | None, ability: str = "") -> ModelRoutes:
        """The model of that name, as far as the caller's key may know of it."""
        return self.dispatcher.table.find(model, ability, request.state.key, request.state.request_id)

    def able(self, request: Request, model: str | None, *abilities: str) -> str:
        """The first of these abilities that the model has, or any model where none is named; else the first of all."""
        for ability in abilities:
            if model is None:
                if self.dispatcher.table.able(request.state.key, [ability]):
                    return ability
            else:
                try:
                    self.find(request, model, ability)
                except errors.BadRequest:
                    continue
                return ability
        return abilities[0]

    def refuse_many(self, items: Sequence[Any]) -> None:
        if len(items) > self.settings.max_items:
            raise errors.BadRequest(f"The request has {len(items)} inputs, {self.settings.max_items} are allowed.")
        characters = sum(len(item) for item in items if isinstance(item, str))
        if characters > self.settings.max_text_bytes:
            raise errors.TooLarge(
                f"The inputs have {characters} characters, {self.settings.max_text_bytes} are allowed in one request."
            )

    def refuse_cap(self, request: Request, model: str | None, ability: str, most: int | None, name: str) -> None:
        """Refuses a limit of tokens that the model would have to obey: how much it reads is decided at its launch."""
        if most is None:
            return
        reads = self.find(request, model, ability).max_tokens
        if reads is None or most < reads:
            raise errors.BadRequest(
                f"{name} cannot be {most}: the model reads up to {reads} tokens of a text; launch it with "
                f"max_tokens={most} to have it read fewer.",
                name,
            )

    def timeout_of(self, request: Request) -> float:
        """How long the request may take: what its header asks for, within what the server allows."""
        most = self.settings.request_timeout_s
        header = request.headers.get("x-request-timeout")
        if header is None:
            return most
        try:
            seconds = float(header)
        except ValueError:
            raise errors.BadRequest(f"x-request-timeout takes seconds, not {quoted(header)}.") from None
        if not seconds > 0:
            raise errors.BadRequest(f"x-request-timeout must be above 0, not {quoted(header)}.")
        return min(seconds, most)


def owner_of(request: Request) -> str:
    """The name by which workers know a request: its id, and whose it is where callers have keys."""
    key = request.state.key
    return str(request.state.request_id) if key is None else keys.owner_of(request.state.request_id, key.id)


def lane_of(request: Request) -> str:
    """What is put behind the owner of a call to say that it may wait behind others."""
    priority = request.headers.get(PRIORITY_HEADER, "interactive").strip().lower()
    if priority not in ("interactive", "batch"):
        raise errors.BadRequest(f"{PRIORITY_HEADER} takes interactive or batch, not {quoted(priority)}.")
    return BATCH_PART if priority == "batch" else ""


def spans_of(items: int, workers: int) -> list[tuple[int, int]]:
    """How a request is split: at most a part per worker, none too small, all of nearly the same size."""
    parts = max(1, min(workers, items // PART_ITEMS))
    return [(items * part // parts, items * (part + 1) // parts) for part in range(parts)]


def renumbered(error: errors.BadRequest, first: int) -> errors.BadRequest:
    """The error with the input's number in the request instead of in its part."""
    match = re.match(r"Input (\d+)", error.message)
    if not first or match is None:
        return error
    message = f"Input {int(match[1]) + first}{error.message[match.end() :]}"
    return type(error)(message, error.param, error.retry_after_s)


async def _all_or_none(questions: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All answers, or the first error, after which nobody waits for the others."""
    if len(questions) == 1:
        return [await questions[0]]
    answers = [asyncio.ensure_future(question) for question in questions]
    try:
        return await asyncio.gather(*answers)
    finally:
        for unanswered in answers:
            unanswered.cancel()


def _one_answer(parts: Sequence[Answer]) -> Answer:
    if len(parts) == 1:
        return parts[0]
    return Answer(
        joined([part.outputs for part in parts]),
        sum(part.tokens for part in parts),
        max(part.queue_ms for part in parts),
        max(part.run_ms for part in parts),
    )


def _ordered(outputs: Any, order: Any) -> Any:
    if isinstance(outputs, Rows):
        rows = list(outputs)
        return Rows.of([rows[position] for position in order])
    return outputs[order]


def _together(parts: Sequence[Served]) -> Served:
    """Several answers as one: the outputs one after another, the tokens added up, the time of the slowest."""
    answer = _one_answer([part.answer for part in parts])
    return Served(parts[0].model, answer, parts[0].worker, max(part.total_ms for part in parts))
