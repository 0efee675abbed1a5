"""Requests that outlive the connection they came on: how far they are, their results, and how they end.

A record is a small file, written only by the ingress that works on its job and read by all; that it was written lately
shows that the job is still worked on. To cancel a job of another ingress, leave a note beside its record.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from typing_extensions import TypedDict

from cluster import errors, keys
from cluster.calls import View
from cluster.routes import ModelRoutes
from cluster.settings import Settings
from cluster.value import JsonObject
from deployments.ingress.bodies import Json
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.errors import as_cluster_error, error_body, error_of
from deployments.ingress.files import Shelf
from deployments.ingress.openapi import described
from deployments.ingress.progress import RequestProgress, views

log = logging.getLogger("cluster.ingress")

#: How often a record is written while nothing happens, and the silence after which nobody works on it any more.
BEAT_S = 1.0
DEAD_S = 15.0
#: How long a worker takes no request of an id that was cancelled, which may still be on its way.
BLOCK_S = 60.0
#: Jobs that one ingress works on at once.
AT_ONCE = 256

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
_ID = re.compile(r"job-[0-9a-f]{32}")


class JobRow(BaseModel):
    """A job as its maker is told of it. Where it is asked for by its id and is completed, its result is there too."""

    #: The kind of job, as the wing that began it names it: `image.job` for pictures, `ocr.job` for documents.
    object: str
    id: str
    model: str
    created_at: int
    status: Status = "queued"
    progress: float = 0.0
    stage: str = "waiting"
    step: int = 0
    steps: int = 0
    eta_s: float | None = None
    error: JsonObject | None = None
    expires_at: int | None = None


class JobRows(TypedDict):
    object: str
    data: list[JobRow]


class RequestProgressBody(TypedDict):
    progress: float
    state: str
    stage: str
    step: int
    steps: int
    eta: float | None


class JobRecord(JobRow):
    """A job as it is written down."""

    #: Id of the key that made it; None where nobody is asked for one.
    owner: str | None

    @property
    def call_owner(self) -> str:
        """By which workers know its calls."""
        return keys.owner_of(self.id, self.owner)

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")

    def at(self, view: View) -> JobRecord:
        is_running = view.state != "waiting"
        return self.model_copy(
            update={
                "status": "in_progress" if is_running else "queued",
                "progress": round(view.fraction, 4),
                "stage": view.stage,
                "step": view.step,
                "steps": view.steps,
                "eta_s": view.eta_s,
            }
        )

    def ended(self, status: Status, keep_s: float, error: errors.ClusterError | None = None) -> JobRecord:
        changes: JsonObject = {"status": status, "stage": status, "eta_s": None}
        changes["expires_at"] = int(time.time() + keep_s)
        changes["error"] = error_body(error)["error"] if error is not None else None
        changes["progress"] = 1.0 if status == "completed" else self.progress
        return self.model_copy(update=changes)

    def to_json(self) -> JsonObject:
        """What callers are told of it."""
        return self.model_dump(exclude={"owner"})


class BackgroundJobs:
    def __init__(self, dispatcher: Dispatcher, progress: RequestProgress, settings: Settings) -> None:
        self._dispatcher = dispatcher
        self._progress = progress
        self._settings = settings
        self._records = Shelf(settings.home / "jobs", max(settings.jobs_keep_s, DEAD_S))
        self._results = Shelf(settings.home / "jobs" / "results", settings.jobs_keep_s, settings.files_bytes)
        self._tasks: set[asyncio.Task[None]] = set()

    # --------------------------------------------------------------------------------------------- the work

    async def begin(
        self,
        object: str,
        key: keys.Key | None,
        model: ModelRoutes,
        work: Callable[[str], Coroutine[Any, Any, JsonObject | str]],
    ) -> JobRecord:
        """Starts `work`, which is called with the owner of the job's calls and returns the body of the answer."""
        if len(self._tasks) >= AT_ONCE:
            raise errors.Overloaded(f"This ingress works on {AT_ONCE} background jobs already.", retry_after_s=5.0)
        id = f"job-{secrets.token_hex(16)}"
        owner = key.id if key else None
        record = JobRecord(object=object, id=id, owner=owner, model=model.uid, created_at=int(time.time()))
        await self._write(record)
        task = asyncio.get_running_loop().create_task(self._run(record, model, work(record.call_owner)), name=id)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return record

    async def _run(self, record: JobRecord, model: ModelRoutes, work: Coroutine[Any, Any, JsonObject | str]) -> None:
        answer = asyncio.ensure_future(work)
        try:
            record = await self._follow(record, model, answer)
            body = await answer
            await asyncio.to_thread(self._results.put, f"{record.id}.json", orjson.dumps(body))
            ended = record.ended("completed", self._settings.jobs_keep_s)
        except (asyncio.CancelledError, errors.RequestCancelled):
            cancelled = errors.RequestCancelled(f"The job has been cancelled: {record.id}")
            ended = record.ended("cancelled", self._settings.jobs_keep_s, cancelled)
        # The caller left long ago and reads the record: whatever error ends a job must be written there.
        except Exception as error:
            ended = record.ended("failed", self._settings.jobs_keep_s, as_cluster_error(error))
        finally:
            answer.cancel()
        await self._write(ended)
        await asyncio.to_thread(self._records.drop, f"{record.id}.stop")

    async def _follow(self, record: JobRecord, model: ModelRoutes, answer: asyncio.Future[Any]) -> JobRecord:
        """Writes down how far the job is until it is answered, and stops it when another ingress left a note to."""
        written = time.monotonic()

        def watch(version: int, wait_s: float) -> Awaitable[View | None]:
            return self._progress.watch(model, record.call_owner, version, wait_s)

        async with contextlib.aclosing(views(answer, watch, BEAT_S)) as changes:
            async for view in changes:
                record = record.at(view) if view is not None else record
                if time.monotonic() - written >= BEAT_S:
                    written = time.monotonic()
                    await self._write(record)
                    if await asyncio.to_thread(self._records.age, f"{record.id}.stop") is not None:
                        answer.cancel()
        return record

    async def _write(self, record: JobRecord) -> None:
        await asyncio.to_thread(self._records.put, f"{record.id}.json", record.model_dump_json().encode())

    # ------------------------------------------------------------------------------------- what is told of it

    def _read(self, id: str) -> JobRecord | None:
        """For threads."""
        name = f"{id}.json"
        data, age = self._records.get(name), self._records.age(name)
        if data is None or age is None:
            return None
        record = JobRecord.model_validate_json(data)
        if not record.is_over and age > DEAD_S:
            lost = errors.Unavailable("The ingress that worked on the job ended; send it again.")
            return record.ended("failed", self._settings.jobs_keep_s - age, lost)
        # Written for the last time when it ended; `expires_at` is for people, whose clock may be set.
        if record.is_over and age > self._settings.jobs_keep_s:
            return None
        return record

    async def find(self, key: keys.Key | None, id: str) -> JobRecord:
        """The job as it is now; whom it is none of is told that there is none."""
        record = await asyncio.to_thread(self._read, id) if _ID.fullmatch(id) else None
        if record is None or not keys.reaches(key, record.owner):
            raise HTTPException(404, f"There is no job {id!r:.100}, or not any more.")
        model = self._dispatcher.table.models.get(record.model)
        view = await self._progress.watch(model, record.call_owner) if model and not record.is_over else None
        return record.at(view) if view is not None and view.state in ("waiting", "running") else record

    async def all_of(self, key: keys.Key | None) -> list[JobRecord]:
        def read() -> list[JobRecord]:
            names = [name.removesuffix(".json") for name in self._records.names() if name.endswith(".json")]
            return [record for name in names if (record := self._read(name)) is not None]

        mine = [record for record in await asyncio.to_thread(read) if keys.reaches(key, record.owner)]
        return sorted(mine, key=lambda record: record.created_at, reverse=True)

    async def result(self, record: JobRecord) -> bytes:
        """The answer as it would have been sent, as JSON."""
        data = await asyncio.to_thread(self._results.get, f"{record.id}.json")
        if data is None:
            raise HTTPException(404, f"The result of the job {record.id} is not kept any more.")
        return data

    async def cancel(self, record: JobRecord) -> JobRecord:
        """Stops it at the worker at once, and leaves a note for the ingress that works on it."""
        await asyncio.to_thread(self._records.put, f"{record.id}.stop", b"")
        model = self._dispatcher.table.models.get(record.model)
        if model is not None:
            await self._dispatcher.abort(model, record.call_owner, BLOCK_S)
        for _ in range(20):
            latest = await asyncio.to_thread(self._read, record.id)
            if latest is None or latest.is_over:
                return latest or record
            await asyncio.sleep(BEAT_S / 5)
        return record.ended("cancelled", self._settings.jobs_keep_s)

    async def forget(self, record: JobRecord) -> None:
        def drop() -> None:
            self._records.drop(f"{record.id}.json")
            self._results.drop(f"{record.id}.json")

        await asyncio.to_thread(drop)


def router(jobs: BackgroundJobs, progress: RequestProgress) -> APIRouter:
    routes = APIRouter(tags=["images"])

    @routes.get("/v1/images/jobs")
    @described("The background jobs that this key may see", JobRows)
    async def list_jobs(request: Request) -> Json:
        return Json({"object": "list", "data": [record.to_json() for record in await jobs.all_of(request.state.key)]})

    @routes.get("/v1/images/jobs/{id}")
    @described("The progress of a job", JobRow)
    async def job(id: str, request: Request) -> Json:
        record = await jobs.find(request.state.key, id)
        if record.status != "completed":
            return Json(record.to_json())
        return Json({**record.to_json(), "result": orjson.Fragment(await jobs.result(record))})

    @routes.get("/v1/images/jobs/{id}/result")
    @described("The answer of a job", Any)
    async def result(id: str, request: Request) -> Response:
        """The answer itself; until it is there, an error that says how far it is."""
        record = await jobs.find(request.state.key, id)
        if record.status == "completed":
            return Response(await jobs.result(record), media_type="application/json")
        if record.error is not None:
            raise error_of(record.error)
        raise HTTPException(409, f"The job {id} is {record.status}, {record.progress:.0%} done.")

    @routes.delete("/v1/images/jobs/{id}")
    @described("Stop or forget a job", JobRow)
    async def stop(id: str, request: Request) -> Json:
        """Stops a job that is not done; of one that is, nothing is kept."""
        record = await jobs.find(request.state.key, id)
        if not record.is_over:
            return Json((await jobs.cancel(record)).to_json())
        await jobs.forget(record)
        return Json({**record.to_json(), "deleted": True})

    @routes.get("/v1/requests/{request_id}/progress")
    @described("The progress of a request", RequestProgressBody)
    async def how_far(request_id: str, request: Request) -> Json:
        """How far a request is that was sent with this id and takes its time."""
        view = await progress.find(request.state.key, request_id)
        if view is None:
            raise HTTPException(404, f"No request {request_id!r:.150} is known.")
        return Json(
            {
                "progress": view.fraction,
                "state": view.state,
                "stage": view.stage,
                "step": view.step,
                "steps": view.steps,
                "eta": view.eta_s,
            }
        )

    return routes
