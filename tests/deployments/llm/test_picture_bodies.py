"""Bodies with pixels: made once for all answers to a request, for few at once, and for nobody who has left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cluster import errors
from deployments.llm.language import Order
from deployments.llm.picture_bodies import PictureBodies
from deployments.llm.requests import Query

PATIENCE_S = 30.0


class Unpacking:
    """Each picture takes until it may go on."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.goes_on = threading.Event()

    def __call__(self, messages: Sequence[Any], check: Callable[[], None]) -> bytes:
        self.begun += 1
        try:
            assert self.goes_on.wait(PATIENCE_S)
            check()
            return b"pixels"
        finally:
            self.ended += 1


def order(pixels: int) -> Order:
    return Order([], Query(messages=[{"role": "user"}]), 1, picture_tokens=1, pixels=pixels)


async def turn() -> None:
    """All that can be done at once is done."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.001)


class Answers:
    def __init__(self, bodies: PictureBodies) -> None:
        self.bodies = bodies
        self.given: list[bytes] = []
        #: Whether the engine has read them, and whether it has written all.
        self.reads, self.ends = asyncio.Event(), asyncio.Event()

    def begin(self, order: Order) -> asyncio.Task[None]:
        return asyncio.ensure_future(self.write(order))

    def end(self) -> None:
        self.reads.set()
        self.ends.set()

    async def write(self, order: Order) -> None:
        async with self.bodies.of(order) as (body, leave):
            self.given.append(body)
            await self.reads.wait()
            leave()
            await self.ends.wait()


def test_the_answers_to_one_request_share_what_is_unpacked() -> None:
    async def story() -> None:
        unpacking = Unpacking()
        answers = Answers(PictureBodies(100, unpacking))
        asked = order(1)
        writing = [answers.begin(asked) for _ in range(16)]
        await turn()
        writing[0].cancel()
        unpacking.goes_on.set()
        await until(lambda: len(answers.given) == 15)
        assert unpacking.begun == 1
        assert all(body is answers.given[0] for body in answers.given)
        answers.end()
        await asyncio.gather(*writing, return_exceptions=True)
        await answers.write(asked)
        assert unpacking.begun == 2, "it is not kept when all of them have ended"

    asyncio.run(story())


def test_answers_wait_until_others_have_ended() -> None:
    async def story() -> None:
        unpacking = Unpacking()
        unpacking.goes_on.set()
        answers = Answers(PictureBodies(2, unpacking))
        writing = [answers.begin(order(1)) for _ in range(4)]
        await until(lambda: len(answers.given) == 2)
        await turn()
        assert unpacking.begun == 2
        writing[3].cancel()
        writing[0].cancel()
        await until(lambda: len(answers.given) == 3)
        answers.end()
        await asyncio.gather(*writing, return_exceptions=True)
        assert unpacking.begun == 3, "the last was stopped while it waited"

    asyncio.run(story())


def test_answers_that_are_being_written_keep_none_from_being_begun() -> None:
    async def story() -> None:
        unpacking = Unpacking()
        unpacking.goes_on.set()
        answers = Answers(PictureBodies(2, unpacking))
        many = order(1)
        writing = [answers.begin(many) for _ in range(16)]
        await until(lambda: len(answers.given) == 2)
        answers.reads.set()
        await until(lambda: len(answers.given) == 16)
        writing.append(answers.begin(order(2)))
        await until(lambda: len(answers.given) == 17)
        assert not any(each.done() for each in writing)
        answers.end()
        await asyncio.gather(*writing)

    asyncio.run(story())


def test_nothing_goes_on_for_somebody_who_has_left_nor_comes_in_before_it_has_ended() -> None:
    async def story() -> None:
        unpacking = Unpacking()
        answers = Answers(PictureBodies(1, unpacking))
        stopped = answers.begin(order(1))
        await turn()
        next_one = answers.begin(order(1))
        stopped.cancel()
        await asyncio.wait([stopped], timeout=PATIENCE_S)
        await turn()
        assert (unpacking.begun, unpacking.ended) == (1, 0), "its pixels may be there still"
        answers.end()
        unpacking.goes_on.set()
        await asyncio.wait_for(next_one, PATIENCE_S)
        assert unpacking.begun == 2 and answers.given == [b"pixels"]

    asyncio.run(story())


def test_a_picture_that_cannot_be_unpacked_takes_no_room() -> None:
    def refuse(messages: Sequence[Any], check: Callable[[], None]) -> bytes:
        raise errors.BadRequest("It is none.")

    async def story() -> None:
        answers = Answers(PictureBodies(1, refuse))
        for _ in range(3):
            with pytest.raises(errors.BadRequest):
                await asyncio.wait_for(answers.begin(order(1)), PATIENCE_S)

    asyncio.run(story())
