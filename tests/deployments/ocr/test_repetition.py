from __future__ import annotations

import random

import pytest

from deployments.ocr.documents.repetition import LEAST_TOKENS, LONGEST, TIMES, begins_to_repeat


@pytest.mark.parametrize("period", [1, 2, 7, 60, LONGEST])
def test_an_endless_repetition_is_cut_behind_its_first_time(period: int) -> None:
    before = [1000 + place for place in range(30)]
    said = list(range(period))
    assert begins_to_repeat(before + said * (max(TIMES, LEAST_TOKENS // period + 1) + 1)) == 30 + period


def test_what_differs_each_time_is_no_repetition() -> None:
    table = [token for row in range(60) for token in (1, 2, 100 + row, 3, 2)]
    assert begins_to_repeat(table) is None


def test_a_few_times_the_same_are_no_repetition() -> None:
    assert begins_to_repeat([1, 2, 3] * (TIMES - 1)) is None
    assert begins_to_repeat([7] * (LEAST_TOKENS - 1)) is None


def test_ordinary_text_is_never_cut() -> None:
    chance = random.Random(0)
    assert begins_to_repeat([chance.randrange(50) for _ in range(5000)]) is None
