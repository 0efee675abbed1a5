"""Calls that may last: answered at once, told as they go along, or left to a job that outlives its caller."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import wraps
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Self, overload
from urllib.parse import quote

from cluster import errors
from cluster.client.http import Async, Pause, Request, Steps, Sync, call
from cluster.client.results import answer_of, event_of

P = ParamSpec("P")

#: Between two looks at a job.
LOOK_S = 0.5


class _JobCalls:
    """What is worked on whether or not anybody waits; the server keeps its result for a while."""

    def __init__(self, owner: Sync | Async, id: str) -> None:
        self._http: Any = owner._http
        self._path = f"/v1/images/jobs/{quote(id, safe='')}"
        self.id = id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    @call
    def describe(self) -> Steps[dict[str, Any]]:
        """All that is known of it: its status, progress, when it was made and when it is forgotten."""
        answer: dict[str, Any] = yield Request("GET", self._path)
        return answer

    @call
    def status(self) -> Steps[str]:
        """`queued`, `in_progress`, `completed`, `failed` or `cancelled`."""
        job = yield from _JobCalls.describe.steps(self)
        return str(job["status"])

    @call
    def progress(self) -> Steps[float]:
        """How much is done, 0 to 1."""
        job = yield from _JobCalls.describe.steps(self)
        return float(job["progress"])

    @call
    def cancel(self) -> Steps[None]:
        """Stops it at its next step; of one that is done, nothing is kept."""
        yield Request("DELETE", self._path)

    @call
    def result(self, timeout: float | None = None) -> Steps[Any]:
        """Waits for what would have been answered at once, or raises what the job failed of."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            job = yield from _JobCalls.describe.steps(self)
            if job["status"] not in ("queued", "in_progress"):
                # Asked for by itself, the result of what failed is the error.
                return answer_of(job["result"] if "result" in job else (yield Request("GET", f"{self._path}/result")))
            if deadline is not None and time.monotonic() > deadline:
                raise errors.DeadlineExceeded(
                    f"The job {self.id} is at {job['progress']:.0%} after {timeout:g} s and goes on; "
                    "ask for its result again, or cancel it."
                )
            yield Pause(LOOK_S)


class Job(_JobCalls, Sync):
    pass


class AsyncJob(_JobCalls, Async):
    pass


def job_of(owner: Any, id: str) -> Job | AsyncJob:
    return Job(owner, id) if isinstance(owner, Sync) else AsyncJob(owner, id)


class lasting(Generic[P]):
    """Makes the description of a request a method; what is asked decides what it returns.

    The answer; where the request asks for a stream, an iterator of what comes out on the way; with `background=True`
    a job.
    """

    def __init__(self, describe: Callable[Concatenate[Any, P], Request]) -> None:
        self.describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: Sync | Async, kind: type) -> Callable[P, Any]: ...

    def __get__(self, owner: Any, kind: type) -> Any:
        if owner is None:
            return self

        @wraps(MethodType(self.describe, owner))
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            request = self.describe(owner, *args, **kwargs)
            if request.streams:
                return owner._events(request, event_of)
            return owner._drive(_answered(owner, request))

        return method


def _answered(owner: Any, request: Request) -> Steps[Any]:
    answer = yield request
    is_job = isinstance(answer, Mapping) and answer.get("object") == "image.job"
    return job_of(owner, answer["id"]) if is_job else answer_of(answer)
