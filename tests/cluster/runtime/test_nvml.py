from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.cards import Card
from cluster.runtime.node_cards import UNKNOWN_CARDS, NodeCards, cut_cards
from tests.fake_driver import FakeDriver

ROOT = Path(__file__).parents[3]
GIB = 2**30
#: Answers every line with what the driver says at that moment.
READER = """
import dataclasses, json, os, sys
from cluster.runtime import nvml
print("begun", flush=True)
for line in sys.stdin:
    if line.startswith("of "):
        print(json.dumps([card.uuid for card in nvml.cards_of(line.strip()[3:].split(","))]), flush=True)
    elif line.strip() == "slices":
        nvml.show_slices()
        print(json.dumps(os.environ.get("CUDA_VISIBLE_DEVICES")), flush=True)
    else:
        cards = nvml.cards(line.strip())
        print(json.dumps(None if cards is None else [dataclasses.asdict(card) for card in cards]), flush=True)
"""


class Reader:
    """A process with that driver, since a library is looked for by the variables that a process began with."""

    def __init__(self, **variables: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        environment.pop("CUDA_VISIBLE_DEVICES", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None and self.process.stdout.readline() == "begun\n"

    def ask(self, line: str = "") -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    return FakeDriver(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def reader(driver: FakeDriver) -> Iterator[Reader]:
    reader = Reader(**driver.variables)
    yield reader
    reader.close()


def test_a_card_is_told_with_whose_processes_have_it(driver: FakeDriver, reader: Reader) -> None:
    driver.show(
        f"card|NVIDIA H200|GPU-1|{141 * GIB}|{12 * GIB}|37|0",
        f"process|{os.getpid()}|{9 * GIB}",
        "process|4000001|-1",
    )
    (card,) = reader.ask()
    assert (card["name"], card["uuid"], card["total_bytes"], card["load"]) == ("NVIDIA H200", "GPU-1", 141 * GIB, 0.37)
    assert card["used_bytes"] == 12 * GIB
    ours, hidden = card["users"]
    assert (ours["pid"], ours["bytes"]) == (os.getpid(), 9 * GIB) and ours["name"] and os.getppid() in ours["parents"]
    assert (hidden["pid"], hidden["bytes"], hidden["name"]) == (4000001, None, "")
    # Nothing is kept: the next answer is what is then.
    driver.show(f"card|NVIDIA H200|GPU-1|{141 * GIB}|0|0|0")
    (card,) = reader.ask()
    assert (card["used_bytes"], card["load"], card["users"]) == (0, 0.0, [])


def test_every_slice_is_a_card_of_its_own(driver: FakeDriver, reader: Reader) -> None:
    driver.show(
        f"card|NVIDIA A100|GPU-1|{40 * GIB}|{9 * GIB}|50|1",
        f"slice|NVIDIA A100 MIG 3g.20gb|MIG-a|{20 * GIB}|{7 * GIB}",
        f"process|{os.getpid()}|{7 * GIB}",
        f"slice|NVIDIA A100 MIG 1g.5gb|MIG-b|{5 * GIB}|0",
        f"card|NVIDIA A100|GPU-2|{40 * GIB}|0|0|0",
    )
    cards = reader.ask()
    assert [(card["uuid"], card["total_bytes"] // GIB, card["load"]) for card in cards] == [
        ("MIG-a", 20, None),
        ("MIG-b", 5, None),
        ("GPU-2", 40, 0.0),
    ]
    assert [len(card["users"]) for card in cards] == [1, 0, 0]
    # So Ray counts three cards, by names that each give a process one of them.
    assert reader.ask("slices") == "MIG-a,MIG-b,GPU-2"


def test_a_worker_reads_the_cards_that_it_has(driver: FakeDriver, reader: Reader) -> None:
    driver.show(*(f"card|X|GPU-{number}|{GIB}|0|0|0" for number in range(3)))
    assert reader.ask("of GPU-2,GPU-0") == ["GPU-2", "GPU-0"]
    # Of others nothing is said, nor where one of them is not known.
    assert reader.ask("of GPU-2,GPU-7") == reader.ask("of GPU-2,") == []


def test_where_nothing_is_cut_ray_counts_as_it_does(driver: FakeDriver) -> None:
    driver.show(f"card|NVIDIA A100|GPU-1|{40 * GIB}|0|0|0")
    reader = Reader(**driver.variables)
    assert reader.ask("slices") is None
    reader.close()


def test_without_a_driver_nothing_is_invented(driver: FakeDriver) -> None:
    reader = Reader()
    assert reader.ask() is None
    reader.close()
    broken = Reader(**{**driver.variables, "FAKE_NVML": "/nowhere"})
    assert broken.ask() is None
    broken.close()


def test_a_driver_that_lacks_the_later_question_is_asked_the_earlier(driver: FakeDriver) -> None:
    driver.show(f"card|Tesla T4|GPU-1|{15 * GIB}|{GIB}|0|0")
    reader = Reader(**driver.variables, FAKE_NVML_IS_OLD="1")
    assert reader.ask()[0]["used_bytes"] == GIB
    reader.close()


def test_a_process_of_our_ray_is_known_by_its_name_and_home(driver: FakeDriver, reader: Reader, tmp_path: Path) -> None:
    code = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'ray::Worker'); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "CLUSTER_HOME": str(tmp_path)}, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"1\n"
        driver.show(f"card|NVIDIA H200|GPU-1|{141 * GIB}|{GIB}|0|0", f"process|{process.pid}|{GIB}")
        assert reader.ask(str(tmp_path))[0]["users"][0]["is_ours"]
        assert not reader.ask("/another/home")[0]["users"][0]["is_ours"]
    finally:
        process.kill()
        process.communicate()


# --------------------------------------------------------------------------------------- beside what torch says


def test_the_driver_is_matched_by_numbers_and_not_by_order() -> None:
    """CUDA puts the fastest first, NVML goes by the bus."""
    cards = NodeCards(8 * GIB, ("0", "1"), "cuda", 2, (("fast", "bbb", 24 * GIB), ("slow", "AAA", 8 * GIB)))
    driver = [Card("slow", "GPU-aaa", 8 * GIB + 1, 5), Card("fast", "GPU-bbb", 24 * GIB + 1, 7, 0.5)]
    assert [(card.name, card.total_bytes, card.used_bytes) for card in cards.seen_by(driver)] == [
        ("fast", 24 * GIB, 7),
        ("slow", 8 * GIB, 5),
    ]


def test_where_torch_does_not_say_which_card_it_is_nobody_guesses() -> None:
    cards = NodeCards(GIB, (), "cuda", 2, (("one", "", GIB), ("two", "", GIB)))
    driver = [Card("x", "GPU-a", GIB, 5), Card("y", "GPU-b", GIB, 6)]
    assert [card.used_bytes for card in cards.seen_by(driver)] == [None, None]
    single = NodeCards(GIB, (), "cuda", 1, (("one", "", GIB),))
    assert single.seen_by(driver[:1])[0].used_bytes == 5
    assert single.seen_by(None) == (Card("one", "", GIB),)


def test_where_torch_uses_none_the_drivers_are_chosen_by_name() -> None:
    """A process that may use the third and the fourth counts them as the first and the second."""
    driver = [Card("x", f"GPU-{letter}", GIB, number) for number, letter in enumerate("abcd")]
    for names in (("2", "0", "9"), ("GPU-c", "GPU-a", "GPU-x")):
        assert UNKNOWN_CARDS._replace(names=names).seen_by(driver) == (driver[2], driver[0], Card())
    assert UNKNOWN_CARDS.seen_by(driver) == tuple(driver)


def test_torch_tries_one_slice_and_the_driver_sizes_all() -> None:
    every, names = (Card("3g", "MIG-a", 20 * GIB), Card("1g", "MIG-b", 5 * GIB)), ("MIG-a", "MIG-b")
    usable, facts = cut_cards(names, {0: 20 * GIB}, {0: ("3g", "a", 20 * GIB)}, every)
    assert usable == {0: 20 * GIB, 1: 5 * GIB}
    assert facts == {0: ("3g", "MIG-a", 20 * GIB), 1: ("1g", "MIG-b", 5 * GIB)}
    # Where torch can use none, none is there.
    assert cut_cards(names, {}, {}, every) == ({}, {})
