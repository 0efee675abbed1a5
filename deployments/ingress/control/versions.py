"""The versions of a model as Xinference's clients name and list them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from fastapi import APIRouter
from typing_extensions import TypedDict

from cluster.catalog.catalog import Catalog
from cluster.catalog.entry import Entry, Source, xinference_size
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


def version_of(entry: Entry, variant: Source) -> str:
    """Its size stands in it where the model has several."""
    size = xinference_size(variant.size)
    return JOINT.join((entry.name, *([f"{size}B"] if size else []), variant.format, variant.quantizations[0]))


def fields_of_version(version: str) -> JsonObject:
    """What a launch says for it."""
    name, *form = version.rsplit(JOINT, 2)
    if len(form) != 2:
        return {"model_name": version}
    fields = {"model_format": form[0], **({} if form[1] == "none" else {"quantization": form[1]})}
    if (sized := re.fullmatch(rf"(.+){JOINT}(\d+(?:_\d+)?)B", name)) is not None:
        return {"model_name": sized[1], "model_size_in_billions": sized[2], **fields}
    return {"model_name": name, **fields}


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
            families = type.families_of(entry).values()
            if engine is not None and not any(engine in family.engines for family in families):
                continue
            for ability in abilities_of(entry, settings):
                names.setdefault(ability, []).append(entry.name)
    return names


def _versions(entry: Entry, settings: Settings) -> list[VersionRow]:
    variants = [variant for source in entry.sources for variant in source.variants()]
    return [_version_row(entry, variant, settings) for variant in variants]


def _version_row(entry: Entry, variant: Source, settings: Settings) -> VersionRow:
    folder: Path | None = is_cached(variant, settings.home, roots=settings.model_roots)
    return {
        "model_version": version_of(entry, variant),
        "model_name": entry.name,
        "model_format": variant.format,
        "quantization": variant.quantizations[0],
        "model_hub": variant.hub,
        "model_revision": variant.revision,
        "cache_status": folder is not None,
        "model_file_location": {settings.host: str(folder)} if folder is not None else None,
    }
