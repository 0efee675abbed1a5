"""The inventory of a folder or file of weights, read by this process or, where a stranger named it, by a child."""

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
from typing import Any, TypeVar

from cluster import environment, errors
from cluster.value import JsonObject
from cluster.weights import headers

T = TypeVar("T")

#: The longest that reading may take; a file on a network may not answer at all.
PATIENCE_S = 20.0
#: Children that read at the same time, and how long another one waits for its turn.
AT_ONCE = 2
TURN_S = 10.0


@dataclass(frozen=True)
class Inventory:
    place: Path
    #: The size of each file by its name; for a single file, only that one.
    files: Mapping[str, int] = field(default_factory=dict)
    configs: Mapping[str, object] = field(default_factory=dict)
    #: By the name of an index: the files it names.
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: What the headers of weights say.
    weights: Mapping[str, JsonObject] = field(default_factory=dict)
    #: What could not be read, and why.
    wrong: Mapping[str, str] = field(default_factory=dict)
    is_file: bool = False

    def under(self, name: str) -> Inventory:
        """The inventory of the folder with that name in this one."""
        prefix = f"{name}/"

        def inside(rows: Mapping[str, T]) -> dict[str, T]:
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
        """Raises if that file could not be read."""
        if name in self.wrong:
            raise errors.LoadFailed(f"{self.path_of(name)} {self.wrong[name]}: fetch it again.")

    def config(self, name: str = "config.json") -> JsonObject:
        """The config, or an empty one if it is missing or unreadable."""
        config = self.configs.get(name)
        return config if isinstance(config, dict) else {}


def read(place: Path) -> Inventory:
    """Reads in this process, which is going to load the weights anyway."""
    try:
        return _as_inventory(place, headers.inventory(str(place)))
    except headers.Unreadable as reason:
        raise errors.LoadFailed(f"{place} {reason}.") from None


_turns = threading.BoundedSemaphore(AT_ONCE)
#: A launch asks for the same place several times; within `asking_once` the answers are kept.
_answers: ContextVar[dict[tuple[Path, tuple[Path, ...]], Inventory] | None] = ContextVar("answers", default=None)


@contextmanager
def asking_once() -> Iterator[None]:
    """Within it, also in threads that are waited for, each place is read only once."""
    answers = _answers.get()
    before = _answers.set({} if answers is None else answers)
    try:
        yield
    finally:
        _answers.reset(before)


def inspected(place: Path, roots: Sequence[Path] = ()) -> Inventory:
    """Reads in a child with little memory, little time and no secrets, because a stranger may have written the files.
    Blocks for a few milliseconds more than the reading takes."""
    key, answers = (place, tuple(roots)), _answers.get()
    if answers is not None and key in answers:
        return answers[key]
    if not _turns.acquire(timeout=TURN_S):
        raise errors.Overloaded("Too many folders are being read already; try again.", retry_after_s=5.0)
    try:
        inventory = _as_inventory(place, _answer_of_child(place, roots))
    finally:
        _turns.release()
    if answers is not None:
        answers[key] = inventory
    return inventory


def _answer_of_child(place: Path, roots: Sequence[Path]) -> JsonObject:
    order = {"place": str(place), "roots": [str(root.expanduser()) for root in roots]}
    process = subprocess.Popen(
        # -S skips site-packages: finding it takes longer than reading most files.
        [sys.executable, "-I", "-S", headers.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment.for_child(),
        cwd="/",
    )
    try:
        text, _ = process.communicate(json.dumps(order).encode(), PATIENCE_S)
        answer: JsonObject = json.loads(text)
    except (subprocess.TimeoutExpired, ValueError):
        # The child is not waited for: if it hangs in a file system, it ends only when that answers.
        process.kill()
        raise errors.LoadFailed(
            f"{place} could not be read within {PATIENCE_S:g} s and {headers.MOST_CPU_S} s of computing: "
            "give the folder of one model."
        ) from None
    if "refused" in answer:
        raise errors.LoadFailed(f"{place} {answer['refused']}.")
    return answer


def _as_inventory(place: Path, answer: Mapping[str, Any]) -> Inventory:
    return Inventory(place, **answer, is_file=os.path.isfile(place))
