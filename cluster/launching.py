"""Decides whether a launch is over, for everyone who follows one: the ingress, the client, the command line."""

from __future__ import annotations

from cluster import errors
from cluster.status import RESTING, ModelState, ModelStatus, WorkerState

#: States in which nothing more happens to a worker that loads.
SETTLED = (WorkerState.READY, WorkerState.FAILED)


def has_ended(status: ModelStatus, generation: int = 0) -> bool:
    """True once the launch of that generation is READY, or sleeps until it is used; False while it may still become so;
    raises what it failed with. Generation 0 stands for the current one."""
    if generation and status.generation > generation:
        raise errors.LaunchCancelled(f"The launch of {status.uid} was replaced by a newer one.")
    if generation and status.generation < generation:
        return False
    if status.state in {ModelState.READY, *RESTING}:
        return True
    if (failure := _failure_of(status)) is not None:
        raise failure
    return False


def _failure_of(status: ModelStatus) -> errors.ClusterError | None:
    workers = [worker for worker in status.workers if worker.generation == status.generation]
    failed = [worker for worker in workers if worker.state is WorkerState.FAILED]
    # With some replicas READY and the others failed for good, waiting longer changes nothing.
    is_settled = bool(failed) and all(worker.state in SETTLED for worker in workers)
    code = status.error_code or (failed[0].error_code if failed else "")
    kind = errors.every_error().get(code, errors.LoadFailed)
    if status.state is ModelState.FAILED or is_settled:
        reason = status.reason or (failed[0].reason if failed else "")
        error = kind(reason or f"{status.uid} could not be launched.")
        error.log_tail = status.log_tail
        return error
    if status.state is ModelState.WAITING and kind is errors.DoesNotFit:
        return errors.DoesNotFit(
            f"{status.reason.removesuffix('.')}; the launch waits for room until `cluster terminate {status.uid}`."
        )
    return None
