"""What the dialects share: one inner request out, pieces or a whole answer back, and the stream that they leave in."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from typing import Any

import orjson
from fastapi import Request

from cluster import errors
from cluster.value import JsonObject
from deployments.ingress.affinity import beginning_of_messages, beginning_of_prompt
from deployments.ingress.bodies import checked
from deployments.ingress.dialects import Services
from deployments.ingress.errors import as_cluster_error, error_body
from deployments.ingress.serving import Served, Serving, preferred_wait_s
from deployments.llm.http.pictures import pictures_read
from deployments.llm.pieces import Piece, Reply, TalkUsage
from deployments.llm.requests import Query, characters_of

#: What is sent with the same value goes to the same worker, which has the conversation in its cache.
SESSION_HEADER = "x-session-id"
END = b"data: [DONE]\n\n"
KEEP_ALIVE = b": ping\n\n"
#: A stream that has nothing to say for so long says that it is alive: what lies between drops silent connections.
KEEP_ALIVE_S = 15.0
#: How often one that has not begun says what it waits for.
WAITING_S = 1.0


class Talks:
    """One way to ask a language model."""

    def __init__(self, services: Services) -> None:
        self.serving: Serving = services.serving
        self._most_characters = services.settings.max_text_bytes
        self._most_picture_bytes = services.settings.media_bytes

    async def chat(self, fields: Mapping[str, Any]) -> Query:
        """The inner request of a chat, whose messages may have pictures."""
        messages = await pictures_read(fields["messages"], self._most_picture_bytes)
        return self.query({**fields, "messages": messages})

    def query(self, fields: Mapping[str, Any]) -> Query:
        """The inner request; fields that are None were not asked for."""
        query: Query = checked(Query, {name: value for name, value in fields.items() if value is not None})
        if (characters := characters_of(query)) > self._most_characters:
            raise errors.TooLarge(
                f"The texts have {characters} characters, {self._most_characters} are allowed in one request."
            )
        return query

    async def whole(self, request: Request, model: str | None, ability: str, query: Query) -> tuple[Reply, Served]:
        beginning = partial(_beginning, request, query)
        served = await self.serving.ask(request, model, ability, [_item(query)], {}, alone=True, beginning=beginning)
        reply: Reply = served.answer.outputs[0]
        return reply, served

    async def pieces(
        self, request: Request, model: str | None, ability: str, query: Query
    ) -> AsyncGenerator[list[Piece]]:
        """As many at a time as there are."""
        talk = self.serving.talk(request, model, ability, _item(query), {}, partial(_beginning, request, query))
        async with contextlib.aclosing(talk):
            async for news in talk:
                pieces = [each for each in news if isinstance(each, Piece)]
                if pieces:
                    yield pieces

    def waits_for(self, request: Request, uid: str) -> Callable[[], str]:
        """What a stream says that has nothing yet, and nothing where its caller would rather have a status."""

        def note() -> str:
            model = self.serving.dispatcher.table.find(uid)
            if not model.rests or preferred_wait_s(request) is not None:
                return ""
            return "the model wakes up" + (f", which takes about {model.wake_s:.0f} s" if model.wake_s else "")

        return note

    async def ids_of(self, request: Request, model: str | None, query: Query) -> list[int]:
        """The token ids of a prompt, or of messages as the model's template writes them."""
        served = await self.serving.ask(request, model, "tokenize_prompt", [_item(query)], {})
        return list(served.answer.outputs[0]["ids"])


def _beginning(request: Request, query: Query) -> str:
    """What tells a conversation from others: what its caller calls it, or how it begins."""
    if session := request.headers.get(SESSION_HEADER):
        return session
    if query.messages is not None:
        return beginning_of_messages(query.messages)
    return beginning_of_prompt(query.prompt or "")


def _item(query: Query) -> JsonObject:
    return query.model_dump(exclude_unset=True)


def usage_body(usage: TalkUsage) -> JsonObject:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning, **_guesses(usage)},
    }


def _guesses(usage: TalkUsage) -> JsonObject:
    """Those of a draft model, as OpenAI calls what it guessed."""
    if not usage.guessed:
        return {}
    return {"accepted_prediction_tokens": usage.right, "rejected_prediction_tokens": usage.guessed - usage.right}


def event(content: JsonObject) -> bytes:
    return b"data: %s\n\n" % orjson.dumps(content)


def now() -> int:
    return int(time.time())


async def kept_alive(
    source: AsyncGenerator[bytes], ping: bytes = KEEP_ALIVE, waits_for: Callable[[], str] = lambda: ""
) -> AsyncGenerator[bytes]:
    """The same, with a sign of life wherever nothing has come for a while. Before the first piece only where
    `waits_for` has something to say: an error that comes first has a status of its own."""
    async with contextlib.aclosing(source):
        coming: asyncio.Future[bytes] | None = None
        has_piece = is_begun = False
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(source))
                done, _ = await asyncio.wait((coming,), timeout=KEEP_ALIVE_S if has_piece else WAITING_S)
                if not done:
                    note = "" if has_piece else waits_for()
                    if note or is_begun:
                        is_begun = True
                        yield b": %s\n\n" % note.encode() if note else ping
                    continue
                finished, coming = coming, None
                try:
                    piece = finished.result()
                except StopAsyncIteration:
                    return
                has_piece = is_begun = True
                yield piece
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.wait((coming,))


def error_event(error: errors.ClusterError) -> bytes:
    return event(error_body(error))


async def ended(
    source: AsyncGenerator[bytes], last: bytes = END, told: Callable[[errors.ClusterError], bytes] = error_event
) -> AsyncGenerator[bytes]:
    """The same, and what ends it, after an error too: then its status has been sent, so the error becomes an event."""
    is_begun = False
    try:
        async with contextlib.aclosing(source):
            async for piece in source:
                is_begun = True
                yield piece
    # Whatever it is, the client has to hear of it and of the end.
    except Exception as error:
        if not is_begun:
            raise
        yield told(as_cluster_error(error))
    if last:
        yield last
