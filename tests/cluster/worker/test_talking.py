"""Requests to an engine with a scheduler of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

import pytest

from cluster import errors
from cluster.calls import BATCH_PART
from cluster.worker.admission import QueueLimits
from cluster.worker.talking import TalkQueue
from tests.speaking import Speaking, SpeakingOptions

PATIENCE_S = 10.0
Scene = Callable[[TalkQueue, Speaking], Awaitable[None]]


def play(
    scene: Scene, *, slots: int = 4, room: float | None = None, luggage: float = inf, queue_tokens: int = 1000
) -> None:
    """Runs the scene, after which nothing may be left in the queue or the engine."""

    async def whole() -> None:
        engine = Speaking()
        engine.start(SpeakingOptions(slots=slots, step_seconds=0.001))
        limits = QueueLimits(queue_tokens)
        talks = TalkQueue(engine.begin, slots=slots, room=room, luggage=luggage, limits=limits)
        try:
            await scene(talks, engine)
        finally:
            engine.may_step.set()
        while talks.running:
            await asyncio.sleep(0.001)
        assert (talks.held, talks.brought, talks.waiting, list(talks._open)) == (0, 0, 0, [])

    asyncio.run(asyncio.wait_for(whole(), PATIENCE_S))


def say(
    talks: TalkQueue, text: str, owner: str = "r", seconds: float = 10, send: Any = None, luggage: float = 0
) -> Any:
    words = text.split()
    return talks.submit([words], [len(words)], [luggage], owner=owner, seconds_left=seconds, send=send)


def test_pieces_come_in_order_and_the_whole_at_the_end() -> None:
    async def scene(talks: TalkQueue, engine: Speaking) -> None:
        pieces: list[object] = []
        assert await say(talks, "one two three", send=pieces.append).done == ["one two three"]
        assert pieces == ["one", "two", "three"]

    play(scene)


def test_values_that_are_there_together_share_steps() -> None:
    async def scene(talks: TalkQueue, engine: Speaking) -> None:
        requests = [say(talks, "a b c d", owner=f"r{number}") for number in range(4)]
        await asyncio.gather(*(request.done for request in requests))
        assert max(engine.steps) == 4 and len(engine.steps) < 8

    play(scene)


def test_a_value_that_comes_later_joins_those_under_way() -> None:
    async def scene(talks: TalkQueue, engine: Speaking) -> None:
        said: list[object] = []
        long = say(talks, "word " * 200, send=said.append)
        while not said:
            await asyncio.sleep(0.001)
        assert await say(talks, "short", owner="s").done == ["short"]
        assert not long.done.done()
        talks.cancel("r")

    play(scene)


def test_no_more_are_begun_than_the_engine_has_slots_and_room_for() -> None:
    async def scene(talks: TalkQueue, engine: Speaking) -> None:
        engine.may_step.clear()
        requests = [say(talks, "a b c d", owner=f"r{number}") for number in range(5)]
        assert (talks.running, talks.held, talks.waiting) == (2, 8, 3)
        engine.may_step.set()
        await asyncio.gather(*(request.done for request in requests))
        assert max(engine.steps) == 2

    play(scene, slots=4, room=10)


def test_a_value_larger_than_all_room_is_begun_alone() -> None:
    async def scene(talks: TalkQueue, engine: Speaking) -> None:
        assert await say(talks, "word " * 50).done

    play(scene, room=10)


def test_what_brings_more_than_there_is_room_for_waits_and_keeps_no_place_from_others() -> None:
    async def scene(talks: TalkQueue, engine: Speaking) -> None:
        engine.may_step.clear()
        bringing = [say(talks, "a b", owner=f"p{number}", luggage=each) for number, each in enumerate((6, 4, 6, 1))]
        plain = say(talks, "a b", owner="text")
        assert (talks.running, talks.brought) == (3, 10), "two that bring something, and the text"
        assert [bool(request.begun) for request in (*bringing, plain)] == [True, True, False, False, True]
        bringing[3].done.cancel()
        engine.may_step.set()
        assert await bringing[2].done == ["a b"]

    play(scene, slots=4, luggage=10)


def test_what_a_batch_brings_waits_behind_what_somebody_waits_for() -> None:
    async def scene(talks: TalkQueue, engine: Speaking) -> None:
        engine.may_step.clear()
        first, batch, later = (
            say(talks, "a b", owner=owner, luggage=10) for owner in ("first", f"job{BATCH_PART}#1", "later")
        )
        order: list[str] = []
        for name, request in (("batch", batch), ("later", later)):
            request.done.add_done_callback(lambda _, name=name: order.append(name))
        engine.may_step.set()
        await asyncio.gather(first.done, batch.done, later.done)
        assert order == ["later", "batch"]

    play(scene, slots=4, luggage=10)


def test_who_brings_more_than_all_room_has_it_alone() -> None:
    async def scene(talks: TalkQueue, engine: Speaking) -> None:
        engine.may_step.clear()
        small, large, next_one = (say(talks, "a", owner=f"p{each}", luggage=each) for each in (1, 11, 2))
        assert [bool(request.begun) for request in (small, large, next_one)] == [True, False, False]
        engine.may_step.set()
        await asyncio.gather(small.done, large.done, next_one.done)

    play(scene, slots=4, luggage=10)


def test_who_has_least_to_do_goes_first_and_every_fourth_turn_the_oldest() -> None:
    async def scene(talks: TalkQueue, engine: Speaking) -> None:
        engine.may_step.clear()
        said: list[object] = []
        sizes = {"running": 1, "large": 9, "a": 1, "b": 2, "c": 3, "d": 4}
        requests = [say(talks, f"{name} " * size, owner=name, send=said.append) for name, size in sizes.items()]
        engine.may_step.set()
        await asyncio.gather(*(request.done for request in requests))
        assert list(dict.fromkeys(said)) == ["running", "a", "b", "large", "c", "d"]

    play(scene, slots=1)


def test_what_fails_fails_alone() -> None:
    async def scene(talks: TalkQueue, engine: Speaking) -> None:
        bad, good = say(talks, "so fail", owner="bad"), say(talks, "a b c", owner="good")
        with pytest.raises(errors.InferenceFailed, match="ValueError: told to fail"):
            await bad.done
        with pytest.raises(errors.BadRequest, match="The engine refuses this"):
            await say(talks, "refused", owner="refused").done
        assert await good.done == ["a b c"]

    play(scene)


@pytest.mark.parametrize("way", ["cancel", "leave", "deadline"])
def test_what_nobody_waits_for_ends_at_the_next_step(way: str) -> None:
    async def scene(talks: TalkQueue, engine: Speaking) -> None:
        said: list[object] = []
        request = say(talks, "word " * 5000, owner="r#1", seconds=0.1 if way == "deadline" else 10, send=said.append)
        while len(said) < 3:
            await asyncio.sleep(0.001)
        if way == "leave":
            request.done.cancel()
        elif way == "cancel":
            assert talks.cancel("r")
        if way != "leave":
            with pytest.raises(errors.DeadlineExceeded if way == "deadline" else errors.RequestCancelled):
                await request.done
        then, steps = len(said), len(engine.steps)
        while talks.running:
            await asyncio.sleep(0)
        assert len(said) == then, "nothing is told of it any more"
        assert len(engine.steps) <= steps + 2

    play(scene)


def test_what_waits_is_never_begun_once_cancelled_and_its_id_is_refused_for_a_while() -> None:
    async def scene(talks: TalkQueue, engine: Speaking) -> None:
        engine.may_step.clear()
        first, second = say(talks, "a", owner="a#1"), say(talks, "b", owner="b#1")
        talks.cancel("b", 60)
        with pytest.raises(errors.RequestCancelled, match="has been cancelled: b"):
            await second.done
        with pytest.raises(errors.RequestCancelled, match="refused"):
            say(talks, "b", owner="b#2")
        engine.may_step.set()
        await first.done
        assert engine.steps == [1]

    play(scene, slots=1)


def test_a_queue_that_is_full_refuses_at_once() -> None:
    async def scene(talks: TalkQueue, engine: Speaking) -> None:
        engine.may_step.clear()
        say(talks, "a", owner="running")
        waiting = say(talks, "b " * 8, owner="waiting")
        with pytest.raises(errors.Overloaded, match="8 tokens wait"):
            say(talks, "c c c", owner="late")
        talks.cancel("waiting")
        with pytest.raises(errors.RequestCancelled):
            await waiting.done

    play(scene, slots=1, queue_tokens=10)


def test_an_engine_that_tells_nothing_for_long_is_not_alive() -> None:
    async def scene(talks: TalkQueue, engine: Speaking) -> None:
        engine.may_step.clear()
        request = say(talks, "a")
        assert talks.is_alive
        talks.heard_at = time.monotonic() - 10_000
        assert not talks.is_alive
        engine.may_step.set()
        await request.done
        talks.heard_at = time.monotonic() - 10_000
        assert talks.is_alive, "an idle engine has nothing to tell"

    play(scene)
