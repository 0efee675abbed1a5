"""A thread that alone steps an engine, and is the only one that touches it: others leave their orders in a queue."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from queue import SimpleQueue

from cluster import errors
from cluster.worker.family import Stop
from deployments.llm.grammars import engine_words
from deployments.llm.language import Hear
from deployments.llm.writing import TokenOdds

log = logging.getLogger("cluster.worker.worker")


class EngineThread(ABC):
    def __init__(self, name: str) -> None:
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._numbers = count()
        #: Who hears of each answer that has not ended, by its number.
        self._hears: dict[int, Hear] = {}
        self._broken: errors.InferenceFailed | None = None
        self._is_closed = False
        threading.Thread(target=self._run, daemon=True, name=name).start()

    def close(self) -> None:
        """Ends its thread; it writes nothing any more."""
        self._is_closed = True
        self._orders.put(lambda: None)

    def _run(self) -> None:
        while not self._is_closed:
            try:
                if not self._may_step:
                    self._orders.get()()
                while not self._orders.empty():
                    self._orders.get()()
                if self._may_step:
                    self._step()
            # Nothing of the engine is known to be whole. A new process has to take over.
            except Exception as error:
                log.critical("the engine failed: %s", error)
                said = f"The engine failed: {type(error).__name__}: {engine_words(error)}"
                self._broken = errors.InferenceFailed(said)
                for number in list(self._hears):
                    self._tell(number, end=self._broken)

    @property
    def _may_step(self) -> bool:
        return self._broken is None and self._is_writing

    def _take(self, hear: Hear, begin: Callable[[int], None]) -> Stop:
        """Of any thread. `begin` gives an answer of that number to the engine, in this one."""
        if self._broken is not None:
            raise errors.InferenceFailed(*self._broken.args)
        number = next(self._numbers)
        self._orders.put(partial(self._enter, number, hear, begin))
        return lambda: self._orders.put(partial(self._stop, number))

    # ---------------------------------------------------------------------------------- what follows, in its thread

    def _enter(self, number: int, hear: Hear, begin: Callable[[int], None]) -> None:
        if self._broken is not None:
            hear((), (), self._broken)
            return
        self._hears[number] = hear
        begin(number)

    def _stop(self, number: int) -> None:
        if number in self._hears:
            self._cancel(number)

    def _tell(
        self,
        number: int,
        ids: Sequence[int] = (),
        odds: Sequence[TokenOdds] = (),
        end: str | Exception | None = None,
        cached: int = 0,
    ) -> None:
        hear = self._hears[number] if end is None else self._hears.pop(number)
        hear(ids, odds, end, cached)

    @property
    def _is_writing(self) -> bool:
        """Whether there is anything to step for."""
        return bool(self._hears)

    @abstractmethod
    def _cancel(self, number: int) -> None:
        """Ends an answer that has not ended, and tells so, now or when it is stepped the next time."""

    @abstractmethod
    def _step(self) -> None:
        """Computes a token of each answer, and tells of it."""
