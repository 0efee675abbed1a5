"""The weights on the disks of the nodes, as Xinference's clients list and delete them."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from cluster import errors
from cluster.keys import visible
from cluster.names import quoted
from cluster.runtime.disks import disks, remove_everywhere
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from cluster.status import ModelStatus
from cluster.weights.removal import Disk
from deployments.ingress.bodies import Json
from deployments.ingress.control.access import refuse_limited
from deployments.ingress.control.plan import current_catalog
from deployments.ingress.control.shapes import CachedRow, cached_rows
from deployments.ingress.control.versions import fields_of_version
from deployments.ingress.openapi import described


class CachedModels(TypedDict):
    list: list[CachedRow]


class DeletableFiles(TypedDict):
    model_version: str
    worker_ip: str
    paths: list[str]


class Deleted(TypedDict):
    result: bool


def watching(supervisor: SupervisorClient, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["watch"])

    @routes.get("/v1/cache/models")
    @described("The weights on the disks of all nodes", CachedModels)
    async def cached_models(request: Request, model_name: str | None = None, worker_ip: str | None = None) -> Json:
        catalog = await current_catalog(supervisor, settings)
        statuses = visible(request.state.key, await supervisor.all_statuses())
        rows = cached_rows(catalog, await disks(settings), _users(statuses))
        by_node = [row for row in rows if worker_ip in (None, "", row["actor_ip_address"])]
        return Json({"list": [row for row in by_node if model_name in (None, "", row["model_name"])]})

    @routes.get("/v1/cache/models/files")
    @described("The files of a model on the disks of the nodes", DeletableFiles)
    async def deletable(model_version: str) -> Json:
        there = await _of_version(supervisor, settings, model_version)
        paths = [str(path) for disk in there for stored in disk.models for path in stored.files]
        nodes = ", ".join(disk.ip for disk in there)
        return Json({"model_version": model_version, "worker_ip": nodes, "paths": paths})

    return routes


def deleting(supervisor: SupervisorClient, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["launch"])

    @routes.delete("/v1/cache/models")
    @described("Delete the weights of a model from the disks of all nodes", Deleted)
    async def delete(model_version: str, request: Request) -> Json:
        """`model_version` is a version, a revision, or the name of a model. What is launched keeps its weights."""
        refuse_limited(request)
        there = await _of_version(supervisor, settings, model_version)
        keys = {stored.key for disk in there for stored in disk.models}
        users = _users(await supervisor.all_statuses())
        if uids := [uid for hub, id, _ in keys for uid in users.get((hub, id), ())]:
            raise errors.Conflict(
                f"{uids[0]} is launched with these weights; terminate it before they are deleted.", "model_version"
            )
        await remove_everywhere(settings, keys)
        return Json({"result": True})

    return routes


def _users(statuses: Iterable[ModelStatus]) -> dict[tuple[str, str], list[str]]:
    """The models that are launched, by the hub and the id of their weights."""
    users: dict[tuple[str, str], list[str]] = {}
    for status in statuses:
        users.setdefault((status.wanted.source.hub, status.wanted.source.id), []).append(status.uid)
    return users


async def _of_version(supervisor: SupervisorClient, settings: Settings, version: str) -> list[Disk]:
    """The nodes that have something of that version, with just that."""
    catalog = await current_catalog(supervisor, settings)
    entries = [entry for type in catalog.types() for entry in catalog.of_type(type)]
    names = {version, str(fields_of_version(version)["model_name"])}
    ids = {id for entry in entries if names & set(entry.names) for source in entry.sources for id in source.ids()}
    every = [
        Disk(disk.ip, [s for s in disk.models if s.model.id in ids or version in (s.model.revision, s.model.id)])
        for disk in await disks(settings)
    ]
    there = [disk for disk in every if disk.models]
    if not there:
        raise errors.BadRequest(f"Nothing of {quoted(version)} is on the disk of any node.", "model_version")
    return there
