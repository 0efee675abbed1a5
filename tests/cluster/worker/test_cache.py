from __future__ import annotations

import numpy as np
import pytest

from cluster import errors
from cluster.worker.cache import OVERHEAD_BYTES, AnswerCache, size_of
from tests.cluster.worker.queues import Model, Queue, play, refuses


def vector(size: int = 100) -> np.ndarray:
    return np.zeros(size, np.float32)


def entry_bytes(key: str, answer: object) -> int:
    return size_of(key) + size_of(answer) + OVERHEAD_BYTES


def test_an_answer_is_found_again_and_counted() -> None:
    cache, answer = AnswerCache(10_000), vector()
    assert cache.get("a") is None
    cache.put("a", answer)
    assert cache.get("a") is answer
    assert (cache.hits, cache.misses) == (1, 1)


def test_bytes_are_those_of_keys_answers_and_their_places() -> None:
    cache = AnswerCache(10_000)
    cache.put("a", vector(100))
    cache.put("b", vector(200))
    assert cache.bytes == entry_bytes("a", vector(100)) + entry_bytes("b", vector(200))


def test_what_was_not_used_for_longest_makes_room() -> None:
    cache = AnswerCache(3 * entry_bytes("a", vector()))
    for key in "abc":
        cache.put(key, vector())
    cache.get("a")
    cache.put("d", vector())
    assert [key for key in "abcd" if cache.get(key) is not None] == ["a", "c", "d"]
    assert cache.bytes == 3 * entry_bytes("a", vector())


def test_a_large_answer_takes_the_place_of_several() -> None:
    cache = AnswerCache(4 * entry_bytes("a", vector()))
    for key in "abcd":
        cache.put(key, vector())
    cache.put("large", vector(400))
    assert cache.get("large") is not None and cache.get("a") is None
    assert cache.bytes <= 4 * entry_bytes("a", vector())


def test_an_answer_that_is_too_large_drives_nothing_out() -> None:
    cache = AnswerCache(entry_bytes("a", vector()))
    cache.put("a", vector())
    cache.put("b", vector(10_000))
    assert cache.get("a") is not None and cache.get("b") is None


def test_the_same_answer_is_not_counted_twice() -> None:
    cache = AnswerCache(10_000)
    cache.put("a", vector())
    before = cache.bytes
    cache.put("a", vector())
    assert cache.bytes == before


def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache = AnswerCache(0)
    cache.put("a", vector())
    assert cache.get("a") is None and cache.bytes == 0


def test_many_answers_never_exceed_the_limit() -> None:
    cache, random = AnswerCache(20_000), np.random.default_rng(0)
    for number in range(500):
        cache.put(f"{random.integers(60)}", vector(int(random.integers(1, 900))))
        cache.get(f"{number % 60}")
        assert 0 <= cache.bytes <= 20_000


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        pytest.param(vector(10), 40, id="an array"),
        pytest.param((vector(10), np.zeros(10, np.int32)), 80, id="a pair, as sparse weights are"),
        pytest.param({"dense": vector(10), "tokens": np.zeros((2, 10), np.float32)}, 120, id="several kinds"),
        pytest.param(np.float32(1), 4, id="a number of an array"),
    ],
)
def test_an_answer_counts_for_what_it_holds(answer: object, size: int) -> None:
    assert size_of(answer) == size


def test_a_row_of_an_array_does_not_keep_the_array() -> None:
    batch = np.zeros((1000, 100), np.float32)
    cache = AnswerCache(10_000)
    cache.put("a", batch[0])
    cache.put("b", (batch[1], {"c": batch[2]}))
    one, (two, more) = cache.get("a"), cache.get("b")  # type: ignore[misc]
    assert [part.base for part in (one, two, more["c"])] == [None, None, None]


def test_what_several_ask_at_once_is_computed_once() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        tickets = [queue.submit(5, 6, owner=str(n), same=True) for n in range(4)]
        assert [await queue.answer(ticket) for ticket in tickets] == [[10, 12]] * 4
        assert queue.model.batches == [[5, 6]]
        assert queue.batcher.shared == 6

    play(scene)


def test_what_is_asked_twice_in_one_request_is_computed_once() -> None:
    async def scene(queue: Queue) -> None:
        assert await queue.answer(queue.submit(5, 6, 5, same=True)) == [10, 12, 10]
        assert queue.model.batches == [[5, 6]]

    play(scene)


def test_under_another_key_the_same_is_not_the_same() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        tickets = [queue.submit(5, key=key, same=True) for key in "ab"]
        assert [await queue.answer(ticket) for ticket in tickets] == [[10], [10]]
        assert queue.model.batches == [[5], [5]]

    play(scene)


@pytest.mark.parametrize("pads", [False, True])
def test_who_leaves_does_not_take_with_him_what_others_want(pads: bool) -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        queue.submit(5, 6, owner="gone", same=True)
        kept = queue.submit(6, 7, owner="kept", same=True)
        assert queue.batcher.cancel("gone")
        assert queue.batcher.waiting == 2
        assert await queue.answer(kept) == [12, 14]
        assert sorted(sum(queue.model.batches, [])) == [6, 7]

    play(scene, pads=pads)


def test_what_cannot_be_computed_fails_for_everybody_who_asked_for_it() -> None:
    async def scene(queue: Queue) -> None:
        await queue.busy()
        tickets = [queue.submit(13, owner=str(n), same=True) for n in range(2)]
        for ticket in tickets:
            assert isinstance(await queue.answer(ticket), errors.InferenceFailed)
        assert isinstance(await queue.answer(queue.submit(13, same=True)), errors.InferenceFailed)

    play(scene, Model(refuses(13)))


def test_an_answer_that_is_kept_is_not_computed_again() -> None:
    async def scene(queue: Queue) -> None:
        for _ in range(3):
            assert await queue.answer(queue.submit(5, same=True)) == [10]
        assert await queue.answer(queue.submit(5)) == [10]
        assert queue.model.batches == [[5], [5]]
        assert queue.batcher.cache is not None and queue.batcher.cache.hits == 2

    play(scene, cache=AnswerCache(10_000))


def test_an_error_is_not_kept() -> None:
    async def scene(queue: Queue) -> None:
        assert isinstance(await queue.answer(queue.submit(13, same=True)), errors.BadRequest)
        queue.model._run = lambda batch: [value * 2 for value in batch]
        assert await queue.answer(queue.submit(13, same=True)) == [26]

    play(scene, Model(lambda batch: [errors.BadRequest("no.")] * len(batch)), cache=AnswerCache(10_000))
