"""What is told of a folder or file of weights, read by this process or, where a stranger named it, by one apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster import environment, errors
from cluster.weights import headers

#: Longest that a place may be looked at; a file on a network may not answer at all.
PATIENCE_S = 20.0
#: Processes that look at once, and how long another waits for its turn.
AT_ONCE = 2
TURN_S = 10.0


@dataclass(frozen=True)
class Inventory:
    place: Path
    #: Bytes by name; of one file, that alone.
    files: Mapping[str, int] = field(default_factory=dict)
    configs: Mapping[str, Any] = field(default_factory=dict)
    #: By the name of an index: the files it names.
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: What the headers of weights say.
    weights: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: What could not be read, and why.
    wrong: Mapping[str, str] = field(default_factory=dict)
    is_file: bool = False

    def under(self, name: str) -> Inventory:
        """Of the folder of that name within this one."""
        prefix = f"{name}/"

        def inside(rows: Mapping[str, Any]) -> dict[str, Any]:
            return {key.removeprefix(prefix): row for key, row in rows.items() if key.startswith(prefix)}

        return Inventory(
            self.place / name,
            inside(self.files),
            inside(self.configs),
            inside(self.parts),
            inside(self.weights),
            inside(self.wrong),
        )

    def path_of(self, name: str) -> Path:
        return self.place if self.is_file else self.place / name

    def refuse_wrong(self, name: str) -> None:
        """Raises where a file that is needed could not be read."""
        if name in self.wrong:
            raise errors.LoadFailed(f"{self.path_of(name)} {self.wrong[name]}: fetch it again.")

    def config(self, name: str = "config.json") -> Mapping[str, Any]:
        """Nothing where there is none, or none that can be read."""
        config = self.configs.get(name)
        return config if isinstance(config, dict) else {}


def read(place: Path) -> Inventory:
    """By this process, which will load it anyway."""
    try:
        return _as_inventory(place, headers.inventory(str(place)))
    except headers.Unreadable as reason:
        raise errors.LoadFailed(f"{place} {reason}.") from None


_turns = threading.BoundedSemaphore(AT_ONCE)
#: One launch asks several times for the same place.
_answers: ContextVar[dict[tuple[Path, tuple[Path, ...]], Inventory] | None] = ContextVar("answers", default=None)


@contextmanager
def asking_once() -> Iterator[None]:
    """Within it, also in threads that it waits for, each place is looked at once."""
    before = _answers.set({})
    try:
        yield
    finally:
        _answers.reset(before)


def inspected(place: Path, roots: Sequence[Path] = ()) -> Inventory:
    """By a process of its own with little memory, little time and no secrets: whoever named the place may have written
    what is there. Blocks; at most a few milliseconds more than the work takes."""
    key, answers = (place, tuple(roots)), _answers.get()
    if answers is not None and key in answers:
        return answers[key]
    if not _turns.acquire(timeout=TURN_S):
        raise errors.Overloaded("Too many folders are looked at already; ask again.", retry_after_s=5.0)
    try:
        inventory = _as_inventory(place, _asked(place, roots))
    finally:
        _turns.release()
    if answers is not None:
        answers[key] = inventory
    return inventory


def _asked(place: Path, roots: Sequence[Path]) -> dict[str, Any]:
    order = {"place": str(place), "roots": [str(root.expanduser()) for root in roots]}
    process = subprocess.Popen(
        # Without the folder of installed packages, which takes longer to find than most files to read.
        [sys.executable, "-I", "-S", headers.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment.for_child(),
        cwd="/",
    )
    try:
        text, _ = process.communicate(json.dumps(order).encode(), PATIENCE_S)
        answer: dict[str, Any] = json.loads(text)
    except (subprocess.TimeoutExpired, ValueError):
        # Not waited for: a process that hangs in a file system ends when that answers.
        process.kill()
        raise errors.LoadFailed(
            f"{place} could not be looked at within {PATIENCE_S:g} s and {headers.MOST_CPU_S} s of computing: "
            "give the folder of one model."
        ) from None
    if "refused" in answer:
        raise errors.LoadFailed(f"{place} {answer['refused']}.")
    return answer


def _as_inventory(place: Path, answer: dict[str, Any]) -> Inventory:
    return Inventory(place, **answer, is_file=os.path.isfile(place))
