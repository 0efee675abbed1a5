"""The most memory that this process takes while it loads a model and warms up, in main memory and on its cards.

And what the processes take that it starts meanwhile: they convert models and try engines.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from cluster.cards import ReadCards, no_cards, own_bytes
from cluster.launch import Needs
from cluster.weights.memory import CUDA_CONTEXT_BYTES

#: Between two looks; one takes 10 microseconds.
SAMPLE_S = 0.01
#: So many looks at this process are between two at its children: to find them takes 5 ms.
BESIDE_EVERY = 50
#: Processes that this one has started and that are nobody's children, so that they outlive it for as long as they have
#: to: they count as its own, with all that they have started.
ADOPTED: set[int] = set()
#: Files whose pages are a model's weights. The kernel can take them back, and the next pass would read them again.
WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".onnx", ".onnx_data", ".data")


class PeakMeter:
    """`with PeakMeter() as meter: …`, and then `meter.needs()`."""

    def __init__(self, read_cards: ReadCards = no_cards) -> None:
        self._read_cards = read_cards
        self._peak = 0
        #: The most that the driver said of its cards.
        self._on_cards = 0
        #: Of all child processes together. It is no part of what the model needs: they end before it is loaded.
        self.beside = 0
        self._is_over = threading.Event()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._sample, name="peak", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()

    def needs(self) -> Needs:
        own = own_bytes(self._read_cards())
        return Needs(memory_bytes=self._peak + mapped_weights(), card_bytes=_card_bytes(max(self._on_cards, own), own))

    def _sample(self) -> None:
        for number in count():
            self._peak = max(self._peak, held())
            if number % BESIDE_EVERY == 0:
                self.beside = max(self.beside, sum(map(held, children())))
                self._on_cards = max(self._on_cards, own_bytes(self._read_cards()))
            if self._is_over.wait(SAMPLE_S):
                return


def held(process: int | None = None) -> int:
    """What would be free without this process: its pages without those of files and shared memory. Of another process
    that may have ended, by its id."""
    try:
        statm = Path("/proc", "self" if process is None else str(process), "statm").read_text()
    except OSError:
        return int(psutil.Process().memory_info().rss) if process is None else 0
    resident, shared = map(int, statm.split()[1:3])
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def children() -> list[int]:
    """The ids of all processes that this one has started, and of theirs."""
    started: list[int] = []
    for pid in (os.getpid(), *ADOPTED):
        with suppress(psutil.Error, OSError):
            started += [process.pid for process in psutil.Process(pid).children(recursive=True)]
            started += [pid] if pid in ADOPTED else []
    return started


def mapped_weights() -> int:
    """The pages in memory of files of weights, which `held` leaves out. Of a file that is mapped several times the
    pages are the same: its size is the most that counts."""
    pages: Counter[str] = Counter()
    file = ""
    try:
        with open("/proc/self/smaps") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if "-" in name.split(" ")[0]:
                    path = line.split(maxsplit=5)[5:]
                    file = path[0].rstrip() if path and path[0].rstrip().endswith(WEIGHTS) else ""
                elif file and name == "Rss":
                    pages[file] += int(value.split()[0]) * 1024
                elif file and name == "Anonymous":
                    pages[file] -= int(value.split()[0]) * 1024  # written to since, and held
    except OSError:
        pass  # another system, which does not say
    return sum(min(size, _size_of(file, size)) for file, size in pages.items())


def _size_of(file: str, otherwise: int) -> int:
    try:
        size = os.path.getsize(file)
    except OSError:
        return otherwise  # it has been removed, and is still mapped
    page = os.sysconf("SC_PAGE_SIZE")
    return -(-size // page) * page


def torch_cards() -> Any:
    """Torch's part for the kind of card that this process computes on; None where it does on none."""
    torch: Any = sys.modules.get("torch")
    for kind in ("cuda", "xpu", "npu"):
        cards = getattr(torch, kind, None)
        if cards is not None and cards.is_available() and cards.is_initialized():
            return cards
    return None


def _card_bytes(own_most: int, own_now: int) -> int:
    """What the process takes of its cards at most: what torch has reserved at most, and what the driver and other
    libraries take besides, which is what the driver says that it has now beyond what torch has. Where the driver does
    not say that, what a context usually takes. `own_most`: the most that the driver was seen to say."""
    cards = torch_cards()
    if cards is None:
        # Another library computes there, or none.
        return own_most
    numbers = range(cards.device_count())
    reserved = sum(int(cards.max_memory_reserved(number)) for number in numbers)
    if not own_now:
        return reserved + len(numbers) * CUDA_CONTEXT_BYTES
    beside = own_now - sum(int(cards.memory_reserved(number)) for number in numbers)
    return max(reserved + max(beside, 0), own_most)
