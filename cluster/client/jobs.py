"""Calls that may take long: answered at once, as a stream, or by a job that outlives its caller."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import update_wrapper
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Self, overload

from cluster import errors
from cluster.client.http import Async, AsyncDriver, Driver, Pause, Request, Steps, Sync, ask, call, path_part
from cluster.client.results import answer_of, event_of
from cluster.value import JsonObject

P = ParamSpec("P")

#: Between two looks at a job.
LOOK_S = 0.5


class JobCalls:
    """Work that the server goes on with whether or not anybody waits; it keeps the result for a while."""

    id: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    @property
    def path(self) -> str:
        return f"/v1/images/jobs/{path_part(self.id)}"

    @call
    def describe(self) -> Steps[JsonObject]:
        """Its status, its progress, when it was made and when the server forgets it."""
        return ask("GET", self.path)

    @call
    def status(self) -> Steps[str]:
        """`queued`, `in_progress`, `completed`, `failed` or `cancelled`."""
        job = yield from JobCalls.describe.steps(self)
        return str(job["status"])

    @call
    def progress(self) -> Steps[float]:
        """How much is done, 0 to 1."""
        job = yield from JobCalls.describe.steps(self)
        return float(job["progress"])

    @call
    def cancel(self) -> Steps[None]:
        """Stops it at its next step; of a job that is done, the result is deleted."""
        yield Request("DELETE", self.path)

    @call
    def result(self, timeout: float | None = None) -> Steps[Any]:
        """Waits for what the call would have returned without a job, or raises the error that ended the job."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            job = yield from JobCalls.describe.steps(self)
            if job["status"] not in ("queued", "in_progress"):
                # The result of a failed job is its error, which this route answers with.
                return answer_of(job["result"] if "result" in job else (yield Request("GET", f"{self.path}/result")))
            if deadline is not None and time.monotonic() > deadline:
                raise errors.DeadlineExceeded(
                    f"The job {self.id} is at {job['progress']:.0%} after {timeout:g} s and goes on; "
                    "ask for its result again, or cancel it."
                )
            yield Pause(LOOK_S)


class Job(JobCalls, Sync):
    def __init__(self, driver: Driver, id: str) -> None:
        self.driver = driver
        self.id = id


class AsyncJob(JobCalls, Async):
    def __init__(self, driver: AsyncDriver, id: str) -> None:
        self.driver = driver
        self.id = id


def job_of(owner: Sync | Async, id: str) -> Job | AsyncJob:
    return Job(owner.driver, id) if isinstance(owner, Sync) else AsyncJob(owner.driver, id)


class lasting(Generic[P]):
    """Makes the description of a request a method whose result depends on what is asked for.

    By default the answer; with `stream=True` an iterator of what comes out on the way; with `background=True` a job.
    So its type is `Any`: no signature tells the three apart where the options are open.
    """

    def __init__(self, describe: Callable[Concatenate[Any, P], Request]) -> None:
        self.describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: Sync | Async, kind: type) -> Callable[P, Any]: ...

    def __get__(self, owner: Sync | Async | None, kind: type) -> Self | Callable[P, object]:
        if owner is None:
            return self

        def method(*args: P.args, **kwargs: P.kwargs) -> object:
            request = self.describe(owner, *args, **kwargs)
            if request.streams:
                return owner.driver.events(request, event_of)
            return owner.driver.run(_answered(owner, request))

        update_wrapper(method, MethodType(self.describe, owner))
        return method


def _answered(owner: Sync | Async, request: Request) -> Steps[object]:
    answer = yield request
    is_job = isinstance(answer, Mapping) and str(answer.get("object")).endswith(".job")
    return job_of(owner, answer["id"]) if is_job else answer_of(answer)
