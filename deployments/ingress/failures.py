"""Which workers fail one call after another while others of the same model answer. Pure: time is passed in.

The supervisor probes every worker, but seconds pass between two probes, and a worker that fails at once attracts calls:
it never has much in hand. A run of failures is therefore a reason to probe now. It is no more than that: inputs may be
to blame, and the probe, which computes the family's own example, decides.
"""

from __future__ import annotations

from dataclasses import dataclass

#: So many failures in a row are a run.
RUN = 5
#: How soon the same worker may be reported again.
REPORT_S = 5.0


@dataclass
class Run:
    model: str
    failures: int = 0
    #: Another worker of the model has answered since the run began. Otherwise the inputs are to blame, or the model.
    others_answer: bool = False
    reported_at: float = float("-inf")


class FailureRuns:
    def __init__(self) -> None:
        #: By worker; empty as long as nothing fails.
        self._runs: dict[str, Run] = {}

    def __bool__(self) -> bool:
        return bool(self._runs)

    def failed(self, model: str, worker: str, now: float) -> bool:
        """True when the worker should be probed now."""
        run = self._runs.setdefault(worker, Run(model))
        run.failures += 1
        if run.failures < RUN or not run.others_answer or now - run.reported_at < REPORT_S:
            return False
        run.reported_at = now
        return True

    def answered(self, model: str, worker: str) -> None:
        self._runs.pop(worker, None)
        for run in self._runs.values():
            if run.model == model:
                run.others_answer = True

    def forget(self, worker: str) -> None:
        """It is not in the table any more."""
        self._runs.pop(worker, None)
