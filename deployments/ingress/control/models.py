"""Launches models, ends them, and tells how they are."""

from __future__ import annotations

from typing import Required

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from cluster import errors, keys
from cluster.launch import LaunchSpec
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from cluster.status import ModelState, ModelStatus
from cluster.value import JsonObject
from cluster.weights.inventory import asking_once
from deployments.ingress.bodies import Json, json_body
from deployments.ingress.control.access import by_any_name
from deployments.ingress.control.plan import FitBody, fit_of, resolved
from deployments.ingress.control.shapes import LaunchProgress, progress_body
from deployments.ingress.control.versions import fields_of_version
from deployments.ingress.control.waiting import LAUNCH_WAIT_S, Seconds, until_gone, until_ready, until_routed
from deployments.ingress.openapi import described
from deployments.ingress.routing import RouteTable
from deployments.ingress.xinference_launch import launch_spec_of

#: The longest that a question for a status is held.
LONGEST_WAIT_S = 30.0


class VersionLaunch(TypedDict, total=False):
    """With it any option of a launch."""

    model_version: Required[str]
    model_uid: str | None
    model_engine: str | None
    model_type: str | None
    replica: int


class LaunchedModel(TypedDict):
    model_uid: str
    generation: int


class RestingModel(TypedDict):
    model_uid: str
    state: ModelState
    reason: str


def launching(supervisor: SupervisorClient, table: RouteTable, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["launch"], dependencies=[by_any_name(table)])

    async def launched(
        request: Request, body: JsonObject, wait_ready: bool, timeout: float | None = None, dry_run: bool = False
    ) -> Json:
        if not body.get("model_name"):
            raise errors.BadRequest("Invalid input. Please specify the `model_name` field.", "model_name")
        spec = launch_spec_of(body)
        with asking_once():
            wanted = await resolved(spec, supervisor, settings)
            keys.check_model(request.state.key, wanted.uid)
            if dry_run:
                fit = await fit_of(wanted, supervisor, settings)
                if "gives_way" in fit:
                    fit["gives_way"] = [uid for uid in fit["gives_way"] if keys.sees(request.state.key, uid)]
                return Json(fit)
        status = await supervisor.launch(wanted, spec.model_uid is not None)
        if wait_ready:
            status = await until_ready(supervisor, status, timeout or LAUNCH_WAIT_S)
            await until_routed(table, status.uid)
        return Json({"model_uid": status.uid, "generation": status.generation})

    @routes.post("/v1/models")
    @described("Launch a model", LaunchedModel | FitBody, body=LaunchSpec)
    async def launch(
        request: Request, wait_ready: bool = True, timeout: Seconds | None = None, dry_run: bool = False
    ) -> Json:
        return await launched(request, await json_body(request), wait_ready, timeout, dry_run)

    @routes.post("/v1/plan")
    @described("What a launch would take and whether it fits, without launching", FitBody, body=LaunchSpec)
    async def plan(request: Request) -> Json:
        """Part by part, with smaller launches where it does not fit: the answer of a launch with `dry_run`."""
        return await launched(request, await json_body(request), wait_ready=False, dry_run=True)

    @routes.post("/v1/models/instance")
    @described(
        "Launch a version of a model, as its list of versions names it", LaunchedModel | FitBody, body=VersionLaunch
    )
    async def launch_version(request: Request, wait_ready: bool = True) -> Json:
        body = await json_body(request)
        version = body.pop("model_version", None)
        if not isinstance(version, str) or not version:
            raise errors.BadRequest("Say which version to launch: model_version is missing.", "model_version")
        return await launched(request, {**body, **fields_of_version(version)}, wait_ready)

    @routes.delete("/v1/models/{uid:path}")
    @described("Terminate a model", None)
    async def terminate(uid: str) -> Json:
        await supervisor.terminate(uid)
        await until_gone(table, uid)
        return Json(None)

    @routes.post("/v1/models/{uid:path}/doze")
    @described("Let a model doze: its next request wakes it, sooner than one that sleeps", RestingModel)
    async def doze(uid: str) -> Json:
        status = await supervisor.doze(uid)
        await until_routed(table, uid)
        return Json({"model_uid": uid, "state": status.state, "reason": status.reason})

    @routes.post("/v1/models/{uid:path}/sleep")
    @described("Send a model to sleep: its next request wakes it", RestingModel)
    async def sleep(uid: str) -> Json:
        status = await supervisor.sleep(uid)
        await until_routed(table, uid)
        return Json({"model_uid": uid, "state": status.state, "reason": status.reason})

    @routes.post("/v1/models/{uid:path}/wake")
    @described("Wake a model", RestingModel)
    async def wake(uid: str, wait_ready: bool = True, timeout: Seconds | None = None) -> Json:
        status = await supervisor.wake(uid)
        if wait_ready:
            status = await until_ready(supervisor, status, timeout or LAUNCH_WAIT_S)
            await until_routed(table, uid)
        return Json({"model_uid": uid, "state": status.state, "reason": status.reason})

    @routes.post("/v1/models/{uid:path}/cancel")
    @described("Cancel a launch", None)
    async def cancel(uid: str) -> Json:
        await supervisor.cancel(uid)
        await until_gone(table, uid)
        return Json(None)

    return routes


def watching(supervisor: SupervisorClient, table: RouteTable) -> APIRouter:
    routes = APIRouter(tags=["watch"], dependencies=[by_any_name(table)])

    @routes.get("/v1/statuses")
    @described("The status of all models", list[ModelStatus])
    async def statuses(request: Request) -> Json:
        every = await supervisor.all_statuses()
        return Json([_without_secrets(status) for status in keys.visible(request.state.key, every)])

    @routes.get("/v1/models/{uid:path}/status")
    @described("The status of a model, at once or as soon as it is another", ModelStatus)
    async def status_of(uid: str, version: int | None = None, wait: Seconds = 0.0) -> Json:
        wait = max(0.0, min(wait, LONGEST_WAIT_S))
        status = await supervisor.status(uid, version, wait)
        if status.state == ModelState.READY:
            await until_routed(table, uid)
        return Json(_without_secrets(status))

    @routes.get("/v1/models/{uid:path}/progress")
    @described("The progress of a launch", LaunchProgress)
    async def progress(uid: str) -> Json:
        return Json(progress_body(await supervisor.status(uid)))

    return routes


def _without_secrets(status: ModelStatus) -> JsonObject:
    """The status with the names of environment variables only: their values are sometimes tokens."""
    body = status.model_dump(mode="json")
    envs = body["wanted"]["spec"].get("envs")
    if envs:
        body["wanted"]["spec"]["envs"] = dict.fromkeys(envs, "***")
    return body
