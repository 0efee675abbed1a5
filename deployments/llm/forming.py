"""Answers that are held to a form, by an engine that chooses tokens here: they begin when their form is compiled."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from cluster import errors
from cluster.worker.family import Stop
from deployments.llm.language import Hear, Order, TokenSampling
from deployments.llm.token_masks import TokenForm, TokenForms

#: Forms that wait to be compiled, at most. Each takes up to a tenth of a second.
MOST_WAITING = 64


class ChoosingEngine(Protocol):
    """An engine whose tokens are chosen here."""

    def write(self, order: Order, sampling: TokenSampling, hear: Hear, form: TokenForm | None = None) -> Stop: ...


class FormingEngine:
    """Compiles in a thread of its own, one form after another: neither requests nor steps wait for it."""

    def __init__(self, engine: ChoosingEngine, forms: TokenForms) -> None:
        self._engine = engine
        self._forms = forms
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="forms")
        self._waiting = threading.BoundedSemaphore(MOST_WAITING)

    def write(self, order: Order, sampling: TokenSampling, hear: Hear) -> Stop:
        format = order.query.format
        if format is None or format.get("type") == "text":
            return self._engine.write(order, sampling, hear)
        if (form := self._forms.begun(format)) is not None:
            return self._engine.write(order, sampling, hear, form)
        if not self._waiting.acquire(blocking=False):
            raise errors.Overloaded(
                f"{MOST_WAITING} other forms of answers are being prepared; try again in a moment.",
                "response_format",
                retry_after_s=5.0,
            )
        answer = _WaitingAnswer(order, sampling, hear)
        self._compiler.submit(self._begin, answer)
        return answer.stop

    def close(self) -> None:
        self._compiler.shutdown(wait=False)

    def _begin(self, answer: _WaitingAnswer) -> None:
        format = answer.order.query.format
        assert format is not None
        try:
            form = self._forms.begun(format) or self._forms.compiled(format)
        except ValueError as error:
            answer.hear((), (), errors.BadRequest(f"Answers cannot be held to this form: {error}", "response_format"))
        else:
            answer.begin(self._engine, form)
        finally:
            self._waiting.release()


class _WaitingAnswer:
    def __init__(self, order: Order, sampling: TokenSampling, hear: Hear) -> None:
        self.order = order
        self.hear = hear
        self._sampling = sampling
        self._lock = threading.Lock()
        self._is_stopped = False
        #: Of the engine, once it has it.
        self._stop: Stop | None = None

    def begin(self, engine: ChoosingEngine, form: TokenForm) -> None:
        with self._lock:
            if not self._is_stopped:
                try:
                    self._stop = engine.write(self.order, self._sampling, self.hear, form)
                except errors.ClusterError as error:
                    self.hear((), (), error)
                return
        self.hear((), (), "cancelled")

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            stop = self._stop
        if stop is not None:
            stop()
