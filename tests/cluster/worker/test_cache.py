from __future__ import annotations

import numpy as np
import pytest

from cluster.worker.cache import OVERHEAD_BYTES, AnswerCache, size_of


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
