"""Calls of actors, and errors unwrapped in one place."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    GetTimeoutError,
    RayError,
    RaySystemError,
    RayTaskError,
)

from cluster import errors

SUPERVISOR = "supervisor"
#: Ray gives this resource to the head node only: what asks for some of it runs there.
HEAD_RESOURCE = "node:__internal_head__"
#: Calls of one actor that Ray lets in at once; our own queues refuse long before.
MANY = 10_000


def unwrap(error: BaseException) -> errors.ClusterError:
    """The error that was raised at the other end, as the class it was raised as."""
    if isinstance(error, errors.ClusterError) and not isinstance(error, RayTaskError):
        return error
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, errors.ClusterError):
            return cause
        return errors.InferenceFailed(f"{type(cause).__name__}: {cause}")
    if isinstance(error, ActorDiedError):
        return errors.WorkerLost(f"The process is gone: {_first_lines(error)}", retry_after_s=5.0)
    if isinstance(error, ActorUnschedulableError):
        return errors.WorkerLost(f"Ray cannot place it: {_first_lines(error)}", retry_after_s=5.0)
    if isinstance(error, RaySystemError) and error.traceback_str:
        return errors.InferenceFailed(f"The answer cannot be read: {_first_lines(error)}")
    if isinstance(error, (ActorUnavailableError, GetTimeoutError, TimeoutError)):
        return errors.Unavailable("It does not answer.", retry_after_s=5.0)
    return errors.Unavailable(f"{type(error).__name__}: {_first_lines(error)}", retry_after_s=5.0)


def _first_lines(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


async def answer_of(ref: Any, timeout_s: float) -> Any:
    """Waits for a call; raises our own errors only."""
    try:
        # Awaiting the reference itself is a third cheaper than a wrapped future of it.
        async with asyncio.timeout(timeout_s):
            return await ref
    except (RayError, TimeoutError) as error:
        raise unwrap(error) from None
