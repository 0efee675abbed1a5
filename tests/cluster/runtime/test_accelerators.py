from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import environment
from cluster.runtime import accelerators
from cluster.runtime.accelerators import NONE, usable
from cluster.runtime.node_cards import usable_first

GIB = 2**30


class Value:
    """A value on a card."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __add__(self, other: int) -> Value:
        return self

    def cpu(self) -> list[float]:
        return [2.0]


def torch_with(cards: dict[str, list[int]], broken: tuple[str, ...] = (), full: tuple[str, ...] = ()) -> Any:
    """Something like torch on a machine with those cards."""

    def ones(count: int, device: str) -> Value:
        if device in broken:
            raise RuntimeError("CUDA error: no kernel image is available")
        if device in full:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return Value(device)

    def kind(name: str) -> Any:
        sizes = cards.get(name, [])
        return SimpleNamespace(
            is_available=lambda: bool(sizes),
            device_count=lambda: len(sizes),
            get_device_properties=lambda index: SimpleNamespace(total_memory=sizes[index]),
            recommended_max_memory=lambda: sizes[0],
        )

    return SimpleNamespace(
        ones=ones, cuda=kind("cuda"), xpu=kind("xpu"), mps=kind("mps"), backends=SimpleNamespace(mps=kind("mps"))
    )


@pytest.mark.parametrize(
    ("torch", "found"),
    [
        pytest.param(torch_with({}), NONE, id="a torch for CPUs"),
        pytest.param(torch_with({"cuda": [GIB, 2 * GIB]}), ("cuda", {0: GIB, 1: 2 * GIB}), id="NVIDIA or AMD"),
        pytest.param(torch_with({"xpu": [GIB]}), ("xpu", {0: GIB}), id="Intel"),
        pytest.param(torch_with({"mps": [GIB]}), ("mps", {0: GIB}), id="Apple"),
        pytest.param(torch_with({"cuda": [GIB]}, broken=("cuda:0",)), NONE, id="a driver that is too old"),
        pytest.param(torch_with({"cuda": [9, GIB]}, broken=("cuda:0",)), ("cuda", {1: GIB}), id="a broken one"),
        pytest.param(torch_with({"cuda": [GIB]}, full=("cuda:0",)), ("cuda", {0: GIB}), id="others have filled it"),
        pytest.param(SimpleNamespace(), NONE, id="no torch that is known"),
    ],
)
def test_only_cards_that_compute_are_counted(torch: Any, found: tuple[str, dict[int, int]]) -> None:
    assert usable(torch) == found


def test_a_broken_card_is_counted_last() -> None:
    assert usable_first(("4", "5", "6"), {1, 2}) == ("5", "6", "4")
    assert usable_first((), {0, 1}) == ("0", "1")
    assert usable_first((), {1}) == ("1", "0")
    assert usable_first((), ()) == ()


def test_the_program_answers_in_one_line() -> None:
    command = [*environment.ISOLATED, accelerators.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment.for_python())
    assert json.loads(done.stdout).keys() == {"device", "sizes", "identities"}
