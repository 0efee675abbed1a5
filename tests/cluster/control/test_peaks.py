from __future__ import annotations

from typing import Any

import pytest

from cluster.control.peaks import MARGIN, MOST_PEAKS, Peak, key_of, larger, merged, needs_of, oldest
from cluster.launch import Needs, Wanted
from tests.make import GIB, make_wanted


def launched(**fields: Any) -> Wanted:
    wanted = make_wanted(n_gpu="auto", **fields)
    return wanted.model_copy(update={"on_card": Needs(memory_bytes=GIB, card_bytes=4 * GIB)})


def peak(memory_gib: float, card_gib: float = 0, measured: float = 0.0, *, is_full: bool = False) -> Peak:
    needs = Needs(memory_bytes=int(memory_gib * GIB), card_bytes=int(card_gib * GIB))
    return Peak(model="m", needs=needs, measured=measured, is_full=is_full)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"options": {"steps": 2}}, id="options"),
        pytest.param({"model_engine": "onnx"}, id="engine"),
        pytest.param({"quantization": "int8"}, id="quantisation"),
        pytest.param({"envs": {"OMP_NUM_THREADS": "1"}}, id="environment"),
    ],
)
def test_what_is_loaded_in_another_way_is_measured_by_itself(other: dict[str, Any]) -> None:
    assert key_of(launched(), on_card=False) != key_of(launched(**other), on_card=False)


def test_another_revision_and_another_device_are_measured_by_themselves() -> None:
    wanted = launched()
    newer = wanted.model_copy(update={"source": wanted.source.model_copy(update={"revision": "b"})})
    keys = {key_of(wanted, on_card=False), key_of(wanted, on_card=True), key_of(newer, on_card=False)}
    assert len(keys) == 3


def test_the_name_and_the_number_of_replicas_change_nothing() -> None:
    assert key_of(launched(), on_card=False) == key_of(launched(replica=3, model_uid="other"), on_card=False)


def test_the_larger_of_expected_and_measured_is_needed_in_memory_and_on_the_card_each() -> None:
    wanted = launched()
    peaks = {key_of(wanted, on_card=True): peak(3, 2), key_of(wanted, on_card=False): peak(0.5)}
    assert needs_of(wanted, peaks, on_card=True) == Needs(memory_bytes=3 * GIB, card_bytes=4 * GIB)
    assert needs_of(wanted, peaks, on_card=False) == wanted.needs(on_card=False)
    assert larger(Needs(memory_bytes=1, card_bytes=4), Needs(memory_bytes=2, card_bytes=3)) == Needs(
        memory_bytes=2, card_bytes=4
    )


def test_what_was_measured_at_full_size_is_claimed_next_time_with_a_margin() -> None:
    wanted = launched()
    peaks = {key_of(wanted, on_card=True): peak(0.5, 2, is_full=True)}
    needs = needs_of(wanted, peaks, on_card=True)
    assert needs == Needs(memory_bytes=int(0.5 * GIB * (1 + MARGIN)), card_bytes=int(2 * GIB * (1 + MARGIN)))
    assert needs.card_bytes < wanted.needs(on_card=True).card_bytes
    assert needs_of(launched(memory="3GiB"), peaks, on_card=True) == wanted.needs(on_card=True)


def test_of_two_measurements_the_larger_counts_and_is_full_if_one_was() -> None:
    first, larger_one = peak(2, 1, measured=1.0), peak(1, 3, measured=2.0, is_full=True)
    assert merged(None, first) is first
    assert merged(first, larger_one) == peak(2, 3, measured=2.0, is_full=True)
    assert merged(first, peak(1, measured=2.0)) is first, "nothing new"


def test_the_oldest_measurements_are_too_many() -> None:
    peaks = {str(number): peak(1, measured=number) for number in range(MOST_PEAKS + 2)}
    assert oldest(peaks) == ["0", "1"]
    assert oldest({"a": peak(1)}) == []
