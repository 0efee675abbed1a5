"""The versions of a model as Xinference's clients name and list them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import APIRouter
from typing_extensions import TypedDict

from cluster.catalog.catalog import Catalog
from cluster.catalog.entry import Entry, Source
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from cluster.value import JsonObject
from cluster.weights.locate import is_cached
from deployments import model_types
from deployments.ingress.bodies import Json
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


def version_of(entry: Entry, source: Source, quantization: str) -> str:
    return JOINT.join((entry.name, source.format, quantization))


def fields_of_version(version: str) -> JsonObject:
    """What a launch says for it."""
    name, *form = version.rsplit(JOINT, 2)
    if len(form) != 2:
        return {"model_name": version}
    return {"model_name": name, "model_format": form[0], **({} if form[1] == "none" else {"quantization": form[1]})}


def watching(supervisor: SupervisorClient, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["watch"])

    @routes.get("/v1/models/families")
    @described("The models that can be launched, by what they can do", dict[str, list[str]])
    async def families() -> Json:
        return Json(_by_ability(await current_catalog(supervisor, settings), settings))

    @routes.get("/v1/models/vllm-supported")
    @described("The models that the engine vllm can load, by what they can do", dict[str, list[str]])
    async def vllm_supported() -> Json:
        names = _by_ability(await current_catalog(supervisor, settings), settings, engine="vllm")
        return Json({"chat": names.get("chat", []), "generate": names.get("generate", [])})

    @routes.get("/v1/models/{type}/{name:path}/versions")
    @described("The versions of a model that can be launched", list[VersionRow])
    async def versions(type: str, name: str) -> Json:
        catalog = await current_catalog(supervisor, settings)
        entry = catalog.find(name, own_type(type, name, catalog, settings).lower())
        return Json(await asyncio.to_thread(_versions, entry, settings))

    return routes


def _by_ability(catalog: Catalog, settings: Settings, engine: str | None = None) -> dict[str, list[str]]:
    """All of them, or those that an engine can load."""
    names: dict[str, list[str]] = {}
    for type in model_types(settings.plugins).values():
        for entry in catalog.of_type(type.name):
            family = type.families.get(entry.family)
            if engine is not None and (family is None or engine not in family.engines):
                continue
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
