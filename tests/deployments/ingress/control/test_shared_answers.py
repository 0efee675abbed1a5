from __future__ import annotations

import asyncio

import pytest

from cluster import errors
from deployments.ingress.control.shared_answers import MOST_KEPT, SharedAnswers


class Asked:
    def __init__(self) -> None:
        self.questions: list[int] = []
        self.is_away = False

    async def answer(self, question: int) -> int:
        self.questions.append(question)
        await asyncio.sleep(0)
        if self.is_away:
            raise errors.Unavailable("It restarts.")
        return len(self.questions)


def test_who_asks_within_a_while_is_told_the_same() -> None:
    async def scene() -> None:
        asked = Asked()
        shared = SharedAnswers(asked.answer)
        together = await asyncio.gather(*(shared.answer(1, 1.0) for _ in range(50)))
        assert together == [1] * 50 and await shared.answer(2, 1.0) == 2
        assert await shared.answer(1, 0.0) == 3 and await shared.answer(1, 1.0) == 3
        assert asked.questions == [1, 2, 1]

    asyncio.run(scene())


def test_who_wants_a_new_answer_gets_one_that_was_asked_for_later_and_shares_it() -> None:
    async def scene() -> None:
        asked = Asked()
        shared = SharedAnswers(asked.answer)
        assert await shared.answer(1, 1.0) == 1
        many = (shared.new_answer(1, 0.02) for _ in range(50))
        assert await asyncio.gather(*many, shared.answer(1, 1.0)) == [*[2] * 50, 1]
        assert await shared.answer(1, 1.0) == 2 and await shared.new_answer(2, 0.02) == 3

    asyncio.run(scene())


def test_an_error_is_told_to_those_who_wait_and_to_nobody_later() -> None:
    async def scene() -> None:
        asked = Asked()
        shared = SharedAnswers(asked.answer)
        asked.is_away = True
        waiting = [asyncio.ensure_future(shared.answer(1, 1.0)) for _ in range(2)]
        for each in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(each, errors.Unavailable)
        asked.is_away = False
        assert await shared.answer(1, 1.0) == 2

    asyncio.run(scene())


def test_who_leaves_does_not_take_the_answer_from_others() -> None:
    async def scene() -> None:
        asked = Asked()
        shared = SharedAnswers(asked.answer)
        first, second = (asyncio.ensure_future(shared.answer(1, 1.0)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == 1
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(scene())


def test_only_some_answers_are_kept() -> None:
    async def scene() -> None:
        asked = Asked()
        shared = SharedAnswers(asked.answer)
        for question in range(MOST_KEPT + 1):
            await shared.answer(question, 5.0)
        await shared.answer(MOST_KEPT, 5.0)
        await shared.answer(0, 5.0)
        assert asked.questions == [*range(MOST_KEPT + 1), 0]

    asyncio.run(scene())
