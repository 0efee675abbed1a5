"""Requests that outlive the connection they came on: how far they are, their results, and how they end.

A record is a small file, written only by the ingress that works on its job and read by all; that it was written lately
is the sign that the job is still worked on. Whoever cancels leaves a note beside it.
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

from cluster import errors, keys
from cluster.calls import View
from cluster.routes import ModelRoutes
from cluster.settings import Settings
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.files import Shelf
from deployments.ingress.middleware import Json, as_cluster_error, error_response
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


class Record(BaseModel):
    id: str
    #: Id of the key that made it; None where nobody is asked for one.
    owner: str | None
    model: str
    created_at: int
    status: Status = "queued"
    progress: float = 0.0
    stage: str = "waiting"
    step: int = 0
    steps: int = 0
    eta_s: float | None = None
    error: dict[str, Any] | None = None
    expires_at: int | None = None

    @property
    def call_owner(self) -> str:
        """By which workers know its calls."""
        return keys.owner_of(self.id, self.owner)

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")

    def seen(self, view: View) -> Record:
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

    def ended(self, status: Status, keep_s: float, error: errors.ClusterError | None = None) -> Record:
        changes: dict[str, Any] = {"status": status, "stage": status, "eta_s": None}
        changes["expires_at"] = int(time.time() + keep_s)
        changes["error"] = error_body(error)["error"] if error is not None else None
        changes["progress"] = 1.0 if status == "completed" else self.progress
        return self.model_copy(update=changes)

    def shown(self) -> dict[str, Any]:
        return {"object": "image.job", **self.model_dump(exclude={"owner"})}


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
        self, key: keys.Key | None, model: ModelRoutes, work: Callable[[str], Coroutine[Any, Any, dict[str, Any]]]
    ) -> Record:
        """Starts what answers under the owner that the job gets."""
        if len(self._tasks) >= AT_ONCE:
            raise errors.Overloaded(f"This ingress works on {AT_ONCE} background jobs already.", retry_after_s=5.0)
        id = f"job-{secrets.token_hex(16)}"
        record = Record(id=id, owner=key.id if key else None, model=model.uid, created_at=int(time.time()))
        await self._write(record)
        task = asyncio.get_running_loop().create_task(self._run(record, model, work(record.call_owner)), name=id)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return record

    async def _run(self, record: Record, model: ModelRoutes, work: Coroutine[Any, Any, dict[str, Any]]) -> None:
        asking = asyncio.ensure_future(work)
        try:
            record = await self._follow(record, model, asking)
            body = await asking
            await asyncio.to_thread(self._results.put, f"{record.id}.json", orjson.dumps(body))
            ended = record.ended("completed", self._settings.jobs_keep_s)
        except (asyncio.CancelledError, errors.RequestCancelled):
            told = errors.RequestCancelled(f"The job has been cancelled: {record.id}")
            ended = record.ended("cancelled", self._settings.jobs_keep_s, told)
        # Nobody else would tell the caller of it: what ends a job is written down, whatever it is.
        except Exception as error:
            ended = record.ended("failed", self._settings.jobs_keep_s, as_cluster_error(error))
        finally:
            asking.cancel()
        await self._write(ended)
        await asyncio.to_thread(self._records.drop, f"{record.id}.stop")

    async def _follow(self, record: Record, model: ModelRoutes, asking: asyncio.Future[Any]) -> Record:
        """Writes down how far it is until it is answered, and stops it where somebody has asked for that."""
        written = time.monotonic()

        def watch(seen: int, wait_s: float) -> Awaitable[View | None]:
            return self._progress.watch(model, record.call_owner, seen, wait_s)

        async with contextlib.aclosing(views(asking, watch, BEAT_S)) as seen:
            async for view in seen:
                record = record.seen(view) if view is not None else record
                if time.monotonic() - written >= BEAT_S:
                    written = time.monotonic()
                    await self._write(record)
                    if await asyncio.to_thread(self._records.age, f"{record.id}.stop") is not None:
                        asking.cancel()
        return record

    async def _write(self, record: Record) -> None:
        await asyncio.to_thread(self._records.put, f"{record.id}.json", record.model_dump_json().encode())

    # ------------------------------------------------------------------------------------- what is told of it

    def _read(self, id: str) -> Record | None:
        """For threads."""
        name = f"{id}.json"
        data, age = self._records.get(name), self._records.age(name)
        if data is None or age is None:
            return None
        record = Record.model_validate_json(data)
        if not record.is_over and age > DEAD_S:
            lost = errors.Unavailable("The ingress that worked on the job ended; send it again.")
            return record.ended("failed", self._settings.jobs_keep_s - age, lost)
        # Written for the last time when it ended; `expires_at` is for people, whose clock may be set.
        if record.is_over and age > self._settings.jobs_keep_s:
            return None
        return record

    async def find(self, key: keys.Key | None, id: str) -> Record:
        """The job, for whoever made it, as far as it is now."""
        found = await asyncio.to_thread(self._read, id) if _ID.fullmatch(id) else None
        if found is None or not _is_of(found, key):
            raise HTTPException(404, f"There is no job {id!r:.100}, or not any more.")
        model = self._dispatcher.table.models.get(found.model)
        is_open = model is not None and not found.is_over
        view = await self._progress.watch(model, found.call_owner) if model and is_open else None
        return found.seen(view) if view is not None and view.state in ("waiting", "running") else found

    async def all_of(self, key: keys.Key | None) -> list[Record]:
        def read() -> list[Record]:
            names = [name.removesuffix(".json") for name in self._records.names() if name.endswith(".json")]
            return [record for name in names if (record := self._read(name)) is not None]

        mine = [record for record in await asyncio.to_thread(read) if _is_of(record, key)]
        return sorted(mine, key=lambda record: record.created_at, reverse=True)

    async def result(self, record: Record) -> bytes:
        """The answer as it would have been sent, as JSON."""
        data = await asyncio.to_thread(self._results.get, f"{record.id}.json")
        if data is None:
            raise HTTPException(404, f"The result of the job {record.id} is not kept any more.")
        return data

    async def cancel(self, record: Record) -> Record:
        """Stops it at the worker at once, and leaves word for the ingress that waits for it."""
        await asyncio.to_thread(self._records.put, f"{record.id}.stop", b"")
        model = self._dispatcher.table.models.get(record.model)
        if model is not None:
            await self._dispatcher.abort(model, record.call_owner, BLOCK_S)
        for _ in range(20):
            found = await asyncio.to_thread(self._read, record.id)
            if found is None or found.is_over:
                return found or record
            await asyncio.sleep(BEAT_S / 5)
        return record.ended("cancelled", self._settings.jobs_keep_s)

    async def forget(self, record: Record) -> None:
        def drop() -> None:
            self._records.drop(f"{record.id}.json")
            self._results.drop(f"{record.id}.json")

        await asyncio.to_thread(drop)


def error_body(error: errors.ClusterError) -> dict[str, Any]:
    """An error as it is told in an answer."""
    body: dict[str, Any] = orjson.loads(error_response(error).body)
    return body


def _is_of(record: Record, key: keys.Key | None) -> bool:
    return record.owner == (key.id if key else None)


def router(jobs: BackgroundJobs, progress: RequestProgress) -> APIRouter:
    routes = APIRouter(tags=["images"])

    @routes.get("/v1/images/jobs")
    async def list_jobs(request: Request) -> Json:
        return Json({"object": "list", "data": [found.shown() for found in await jobs.all_of(request.state.key)]})

    @routes.get("/v1/images/jobs/{id}")
    async def job(id: str, request: Request) -> Json:
        found = await jobs.find(request.state.key, id)
        if found.status != "completed":
            return Json(found.shown())
        return Json({**found.shown(), "result": orjson.Fragment(await jobs.result(found))})

    @routes.get("/v1/images/jobs/{id}/result")
    async def result(id: str, request: Request) -> Response:
        """The answer itself; until it is there, an error that says how far it is."""
        found = await jobs.find(request.state.key, id)
        if found.status == "completed":
            return Response(await jobs.result(found), media_type="application/json")
        if found.error is not None:
            raise error_of(found.error)
        raise HTTPException(409, f"The job {id} is {found.status}, {found.progress:.0%} done.")

    @routes.delete("/v1/images/jobs/{id}")
    async def stop(id: str, request: Request) -> Json:
        """Stops a job that is not done; of one that is, nothing is kept."""
        found = await jobs.find(request.state.key, id)
        if not found.is_over:
            return Json((await jobs.cancel(found)).shown())
        await jobs.forget(found)
        return Json({**found.shown(), "deleted": True})

    @routes.get("/v1/requests/{request_id}/progress")
    async def how_far(request_id: str, request: Request) -> Json:
        """How far a request is that was sent with this id and takes its time."""
        found = await progress.find(request.state.key, request_id)
        if found is None:
            raise HTTPException(404, f"No request {request_id!r:.150} is known.")
        told = {"progress": found.fraction, "state": found.state, "stage": found.stage}
        return Json({**told, "step": found.step, "steps": found.steps, "eta": found.eta_s})

    return routes


def error_of(told: dict[str, Any]) -> errors.ClusterError:
    """The error that ended a job, as it was raised."""
    kind = errors.every_error().get(told.get("code", ""), errors.ClusterError)
    return kind(str(told.get("message", "")), told.get("param"))
