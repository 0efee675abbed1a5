"""OpenAI's completions: a prompt and how it goes on, without a chat around it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from typing_extensions import TypedDict

from cluster import errors
from cluster.value import JsonObject
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.chat import ChatUsage
from deployments.ingress.dialects import Services
from deployments.ingress.events import Events
from deployments.ingress.openapi import EVENTS, described
from deployments.llm.http.fields import OpenAiFields
from deployments.llm.http.talks import Talks, ended, event, kept_alive, now, usage_body
from deployments.llm.pieces import Piece, TalkUsage, TokenChance
from deployments.llm.requests import Query

MOST_PROMPTS = 64


class CompletionFields(OpenAiFields):
    prompt: str | list[str] | list[int] | list[list[int]]
    #: How many of the likeliest tokens are told; the one that was taken always is.
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(each, int) for each in self.prompt):
            return [[int(each) for each in self.prompt if isinstance(each, int)]]
        return [each for each in self.prompt if not isinstance(each, int)]

    def query(self, talks: Talks) -> list[Query]:
        if self.suffix:
            raise errors.BadRequest("The model goes on with a prompt, and fills nothing in before a suffix.", "suffix")
        if self.logit_bias:
            raise errors.BadRequest("logit_bias is not available.", "logit_bias")
        if self.best_of not in (None, 1, self.n):
            raise errors.BadRequest("best_of is not available: ask for n answers and take the best.", "best_of")
        prompts = self.prompts
        if not 0 < len(prompts) <= MOST_PROMPTS:
            raise errors.InvalidBody(f"There are {len(prompts)} prompts; 1 to {MOST_PROMPTS} are allowed.", "prompt")
        return [
            talks.query(
                {
                    **self.sampling(),
                    "prompt": prompt,
                    "logprobs": self.logprobs is not None or None,
                    "top_logprobs": max(0, (self.logprobs or 0) - 1) or None,
                    "echo": self.echo,
                }
            )
            for prompt in prompts
        ]


class CompletionLogprobs(TypedDict):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class Completion(TypedDict):
    id: str
    object: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: ChatUsage


def router(services: Services) -> APIRouter:
    routes = APIRouter(tags=["completions"])
    talks = services.shared(Talks)

    @routes.post("/v1/completions")
    @described("Go on with a prompt", Completion, body=CompletionFields, media_types=(EVENTS,))
    async def complete(request: Request) -> Response:
        """Several prompts are answered beside each other; the answers to the first come first."""
        fields: CompletionFields = checked(CompletionFields, await json_body(request))
        query = fields.query(talks)
        uid = talks.serving.find(request, fields.model, "generate").uid
        common = {"id": f"cmpl-{request.state.request_id}", "object": "text_completion", "created": now(), "model": uid}
        if fields.stream:
            source = _together([talks.pieces(request, fields.model, "generate", each) for each in query], query[0].n)
            chunks = _chunks(source, common, fields.tells_usage)
            return await Events.of(ended(kept_alive(chunks, waits_for=talks.waits_for(request, uid))))
        answers = await asyncio.gather(*(talks.whole(request, fields.model, "generate", each) for each in query))
        replies = [reply for reply, _ in answers]
        choices = [choice for reply in replies for choice in reply.choices]
        usages = [reply.usage for reply in replies]
        rows = [
            _row(index, choice.text, choice.finish, choice.chances if query[0].logprobs else None, 0)
            for index, choice in enumerate(choices)
        ]
        return Json({**common, "choices": rows, "usage": usage_body(_sum(usages))}, headers=answers[0][1].headers)

    return routes


def _sum(usages: Sequence[TalkUsage]) -> TalkUsage:
    return TalkUsage(*(sum(numbers) for numbers in zip(*usages, strict=True)))


async def _together(sources: Sequence[AsyncGenerator[list[Piece]]], n: int) -> AsyncGenerator[list[Piece]]:
    """The pieces of all prompts' answers as they come, their choices numbered through."""
    if len(sources) == 1:
        async with contextlib.aclosing(sources[0]) as only:
            async for pieces in only:
                yield pieces
        return
    news: asyncio.Queue[list[Piece] | Exception | None] = asyncio.Queue()

    async def read(number: int, source: AsyncGenerator[list[Piece]]) -> None:
        try:
            async with contextlib.aclosing(source):
                async for pieces in source:
                    news.put_nowait([piece._replace(choice=piece.choice + number * n) for piece in pieces])
            news.put_nowait(None)
        # It ends the answers to all prompts.
        except Exception as error:
            news.put_nowait(error)

    reading = [asyncio.ensure_future(read(number, source)) for number, source in enumerate(sources)]
    try:
        left = len(sources)
        while left:
            told = await news.get()
            if isinstance(told, Exception):
                raise told
            if told is None:
                left -= 1
            else:
                yield told
    finally:
        for each in reading:
            each.cancel()
        await asyncio.wait(reading)


async def _chunks(source: AsyncGenerator[list[Piece]], common: JsonObject, tells_usage: bool) -> AsyncGenerator[bytes]:
    usages: list[TalkUsage] = []
    written: dict[int, int] = {}
    async with contextlib.aclosing(source):
        async for pieces in source:
            chunks = []
            for piece in pieces:
                if piece.usage is not None:
                    usages.append(piece.usage)
                offset = written.get(piece.choice, 0)
                written[piece.choice] = offset + len(piece.text)
                row = _row(piece.choice, piece.text, piece.finish, piece.chances or None, offset)
                chunks.append(event({**common, "choices": [row]}))
            yield b"".join(chunks)
    if tells_usage and usages:
        yield event({**common, "choices": [], "usage": usage_body(_sum(usages))})


def _row(
    index: int, text: str, finish: str | None, chances: Sequence[TokenChance] | None, offset: int
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": _chances(chances, offset), "finish_reason": finish}


def _chances(chances: Sequence[TokenChance] | None, offset: int) -> CompletionLogprobs | None:
    if chances is None:
        return None
    offsets = []
    for chance in chances:
        offsets.append(offset)
        offset += len(chance.text)
    return {
        "tokens": [chance.text for chance in chances],
        "token_logprobs": [chance.logprob for chance in chances],
        "top_logprobs": [
            {chance.text: chance.logprob, **{text: logprob for text, logprob, _ in chance.top}} for chance in chances
        ],
        "text_offset": offsets,
    }
