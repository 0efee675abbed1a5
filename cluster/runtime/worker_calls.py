"""What an ingress may ask of a worker, by the worker's socket or by Ray.

Both ends are checked against it: the worker that answers and the client that calls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from cluster.calls import Call, OpenCall, View
from cluster.figures import Figures
from cluster.worker.outcomes import Outcome
from cluster.worker.talking import Send


class WorkerCalls(Protocol):
    async def infer(self, calls: Sequence[Call]) -> tuple[list[Outcome | None], int]:
        """One outcome per call, and what the worker has in hand. An outcome is None when the worker still computes it
        while others of the same batch were refused; `collect` returns it."""

    async def talk(self, call: Call, send: Send) -> Outcome:
        """The last word of an answer whose pieces went to `send` before. By Ray it is `talk_in_frames`."""

    def talk_in_frames(self, call: Call) -> AsyncIterator[list[object]]:
        """The pieces of the same answer, those of a moment together; what `talk` returns is the last of all."""

    async def collect(self, ids: Sequence[str]) -> tuple[list[Outcome | None], int]:
        """The outcomes that `infer` left open."""

    async def reserve(self, owner: str, wait_s: float) -> None:
        """Returns when the worker is idle and takes no call but this one."""

    async def cancel(self, owners: Sequence[str], block_s: float = 0.0) -> bool:
        """Nobody waits for these requests any more; True if the worker had one of them."""

    async def watch(self, owner: str, seen: int, wait_s: float) -> View | None:
        """How far a request is, as soon as that is not version `seen`; None at once when the worker has no such
        request."""

    async def under_way(self) -> Sequence[OpenCall]:
        """The calls in hand that take their time."""

    async def failing(self) -> Sequence[str] | None:
        """The ids of the calls that the worker had when it began to fail all that it is asked, its own example too;
        None when it computes that."""

    async def metrics(self) -> bytes:
        """What the worker counts, as a page."""

    async def figures(self) -> Figures:
        """What the worker has counted, and what it does now."""

    async def overdue(self) -> Sequence[str]:
        """The ids of calls that are computed for much longer than is usual. Answered at once, as long as the worker's
        event loop is not stuck."""


#: Answered in pieces.
SPOKEN_CALLS = frozenset((WorkerCalls.talk.__name__,))
#: The other calls that a worker's socket takes.
WORKER_CALLS = (
    frozenset(name for name in vars(WorkerCalls) if not name.startswith("_"))
    - SPOKEN_CALLS
    - {WorkerCalls.talk_in_frames.__name__}
)
