"""The versions of a model as Xinference's clients name and list them, and the files of one on this machine's disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.catalog.entry import Entry, Source
from cluster.names import quoted
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from cluster.value import JsonObject
from cluster.weights.locate import CachedModel, cached, is_cached
from cluster.weights.removal import files_of, remove
from deployments import model_types
from deployments.ingress.bodies import Json
from deployments.ingress.control.access import refuse_limited
from deployments.ingress.control.plan import current_catalog
from deployments.ingress.openapi import described
from deployments.ingress.xinference import abilities_of, own_type

#: Between the parts of a version's name.
JOINT = "--"


class VersionRow(TypedDict):
    model_version: str
    model_name: str
    model_format: str
    quantization: str
    model_hub: str
    model_revision: str | None
    cache_status: bool
    model_file_location: dict[str, str] | None


class DeletableFiles(TypedDict):
    model_version: str
    worker_ip: str
    paths: list[str]


class Deleted(TypedDict):
    result: bool


def version_of(entry: Entry, source: Source, quantization: str) -> str:
    return JOINT.join((entry.name, source.format, quantization))


def fields_of_version(version: str) -> JsonObject:
    """What a launch says for it."""
    name, *rest = version.rsplit(JOINT, 2)
    if len(rest) != 2:
        return {"model_name": version}
    return {"model_name": name, "model_format": rest[0], **({} if rest[1] == "none" else {"quantization": rest[1]})}


def watching(supervisor: SupervisorClient, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["watch"])

    @routes.get("/v1/models/families")
    @described("The models that can be launched, by what they can do", dict[str, list[str]])
    async def families() -> Json:
        return Json(_by_ability(await current_catalog(supervisor, settings), settings))

    @routes.get("/v1/models/{type}/{name:path}/versions")
    @described("The versions of a model that can be launched", list[VersionRow])
    async def versions(type: str, name: str) -> Json:
        catalog = await current_catalog(supervisor, settings)
        entry = catalog.find(name, own_type(type, name, catalog, settings).lower())
        return Json(await asyncio.to_thread(_versions, entry, settings))

    @routes.get("/v1/cache/models/files")
    @described("The files of a model on the disk of this machine", DeletableFiles)
    async def deletable(model_version: str, request: Request) -> Json:
        models = await _cached(supervisor, settings, model_version)
        paths = await asyncio.to_thread(lambda: [str(path) for model in models for path in files_of(model)])
        return Json({"model_version": model_version, "worker_ip": settings.host, "paths": paths})

    return routes


def deleting(supervisor: SupervisorClient, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["launch"])

    @routes.delete("/v1/cache/models")
    @described("Delete the weights of a model from the disk of this machine", Deleted)
    async def delete(model_version: str, request: Request) -> Json:
        """`model_version` is a version, a revision, or the name of a model. What is launched keeps its weights."""
        refuse_limited(request)
        models = await _cached(supervisor, settings, model_version)
        ids = {(model.hub, model.id) for model in models}
        for status in await supervisor.all_statuses():
            if (status.wanted.source.hub, status.wanted.source.id) in ids:
                raise errors.Conflict(
                    f"{status.uid} is launched with these weights; terminate it before they are deleted.",
                    "model_version",
                )
        for model in models:
            await asyncio.to_thread(remove, model)
        return Json({"result": bool(models)})

    return routes


def _by_ability(catalog: Catalog, settings: Settings) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for type in model_types(settings.plugins).values():
        for entry in catalog.of_type(type.name):
            for ability in abilities_of(entry, settings):
                names.setdefault(ability, []).append(entry.name)
    return names


def _versions(entry: Entry, settings: Settings) -> list[VersionRow]:
    rows: list[VersionRow] = []
    for source in entry.sources:
        folder: Path | None = is_cached(source, settings.home, roots=settings.model_roots)
        for quantization in source.quantizations:
            rows.append(
                {
                    "model_version": version_of(entry, source, quantization),
                    "model_name": entry.name,
                    "model_format": source.format,
                    "quantization": quantization,
                    "model_hub": source.hub,
                    "model_revision": source.revision,
                    "cache_status": folder is not None,
                    "model_file_location": {settings.host: str(folder)} if folder is not None else None,
                }
            )
    return rows


async def _cached(supervisor: SupervisorClient, settings: Settings, version: str) -> list[CachedModel]:
    """What is on this disk of that version."""
    catalog = await current_catalog(supervisor, settings)
    entries = [entry for type in catalog.types() for entry in catalog.of_type(type)]
    names = {version, str(fields_of_version(version)["model_name"])}
    ids = {source.id for entry in entries if names & set(entry.names) for source in entry.sources}
    models = await asyncio.to_thread(cached, settings.home)
    of_version = [model for model in models if model.id in ids or version in (model.revision, model.id)]
    if not of_version:
        raise errors.BadRequest(f"Nothing of {quoted(version)} is on the disk of this machine.", "model_version")
    return of_version
