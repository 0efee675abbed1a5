"""The three nets by onnxruntime on CPU. A call runs on one core, except for a page that is the only one under way."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deployments.ocr.ppocr.finding import Floats
from deployments.ocr.ppocr.letters import Said, twins_in
from deployments.ocr.ppocr.nets import DETECTING, READING, TURNING, alphabet_of

#: Total width of the strips of one call: of narrow strips, the call itself costs more than the pixels.
BATCH_WIDTH = 640

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class Turning:
    """The net that tells whether a line is upside down."""

    def __init__(self, file: Path) -> None:
        self._session = _session(file, 1)

    def answers(self, glances: Sequence[Floats]) -> list[float]:
        return [float(score[1]) for score in _answer(self._session, np.stack(glances))]


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
        maps: list[Floats] = []
        for page in pages:
            with self._detecting_session() as session:
                maps.append(_answer(session, page[None])[0, 0])
        return maps

    def read(self, strips: Sequence[Floats]) -> list[Said]:
        return [self._said(steps) for steps in _answer(self._reading, np.stack(strips))]

    def turn(self, glances: Sequence[Floats]) -> list[float]:
        return self._turning.answers(glances)

    def _said(self, steps: Floats) -> Said:
        classes = steps.argmax(axis=1)
        at = np.arange(len(classes))
        return Said(classes, steps[at, classes], np.where(self._twins[classes], steps[at, self._twins[classes]], 0))

    @contextmanager
    def _detecting_session(self) -> Iterator[InferenceSession]:
        """With all cores for a page that is the only one being detected."""
        with self._lock:
            self._detected_now += 1
            alone = self._detected_now == 1
        try:
            yield self._wide if alone and self._wide is not None else self._detecting
        finally:
            with self._lock:
                self._detected_now -= 1


def _answer(session: InferenceSession, value: Floats) -> Floats:
    answer: Floats = session.run(None, {session.get_inputs()[0].name: value})[0]
    return answer


def _session(file: Path, threads: int) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A memory plan is kept for ever for each size of input, and pages come in many sizes.
    options.enable_mem_pattern = False
    # A core that spins while it waits for the next call is missing to the other calls.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
