"""The three nets as they come, on CPU: each call has a core of its own, but for a page that is alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from deployments.ocr.ppocr.finding import Floats
from deployments.ocr.ppocr.letters import Said, twins_in
from deployments.ocr.ppocr.nets import DETECTING, READING, TURNING, alphabet_of

#: Width of strips that are read in one call: narrow ones cost more by the call than by the pixel.
BATCH_WIDTH = 640


class Turning:
    """Tells lines that are upside down."""

    def __init__(self, file: Path) -> None:
        self._session = _session(file, 1)

    def answers(self, glances: Sequence[Floats]) -> list[float]:
        return [float(one[1]) for one in _answer(self._session, np.stack(glances))]


class OnnxNets:
    name = "onnxruntime"

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder = folder
        self.threads = threads
        self._reading = _session(folder / READING, 1)
        self._turning = Turning(folder / TURNING)
        self._detecting = _session(folder / DETECTING, 1)
        self._wide = _session(folder / DETECTING, threads) if threads > 1 else None
        self._detected_now = 0
        self._lock = threading.Lock()
        self.alphabet: Sequence[str] = alphabet_of(self._reading.get_modelmeta().custom_metadata_map["character"])
        self._twins = twins_in(self.alphabet)

    def set_threads(self, threads: int) -> None:
        if threads != self.threads:
            self._wide = _session(self._folder / DETECTING, threads) if threads > 1 else None
            self.threads = threads

    def room(self, shape: tuple[int, ...]) -> int:
        return BATCH_WIDTH // shape[-1]

    def detect(self, pages: Sequence[Floats]) -> list[Floats]:
        found: list[Floats] = []
        for page in pages:
            with self._detecting_session() as session:
                found.append(_answer(session, page[None])[0, 0])
        return found

    def read(self, strips: Sequence[Floats]) -> list[Said]:
        return [self._said(one) for one in _answer(self._reading, np.stack(strips))]

    def turn(self, glances: Sequence[Floats]) -> list[float]:
        return self._turning.answers(glances)

    def _said(self, steps: Floats) -> Said:
        classes = steps.argmax(axis=1)
        at = np.arange(len(classes))
        return Said(classes, steps[at, classes], np.where(self._twins[classes], steps[at, self._twins[classes]], 0))

    @contextmanager
    def _detecting_session(self) -> Iterator[Any]:
        """All cores for a page that is the only one here."""
        with self._lock:
            self._detected_now += 1
            alone = self._detected_now == 1
        try:
            yield self._wide if alone and self._wide is not None else self._detecting
        finally:
            with self._lock:
                self._detected_now -= 1


def _answer(session: Any, value: Floats) -> Any:
    return session.run(None, {session.get_inputs()[0].name: value})[0]


def _session(file: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Pages come in many sizes, and what was planned for one is kept for ever.
    options.enable_mem_pattern = False
    # A core that waits for the next call would be taken from the calls beside it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
