"""What can be launched, and with which options: the form of the web page follows from it."""

from __future__ import annotations

from fastapi import APIRouter
from typing_extensions import TypedDict

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.launch import LaunchSpec
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from cluster.value import JsonObject
from deployments import model_types
from deployments.ingress.bodies import Json
from deployments.ingress.control.plan import current_catalog
from deployments.ingress.openapi import described
from deployments.ingress.xinference import abilities_of, own_type


class CatalogueRow(TypedDict):
    name: str
    type: str
    abilities: list[str]
    description: str
    languages: list[str]
    max_tokens: int | None
    weight_bytes: int | None
    licence: str | None
    #: What it lacks here to be launched.
    needs: str | None
    builtin: bool


class VariantRow(TypedDict):
    hub: str
    format: str
    sizes: list[str]
    quantizations: list[str]


class LaunchOptions(TypedDict):
    type: str
    name: str
    #: JSON schemas: of what every launch takes, and of the options of the family that loads it.
    launch: JsonObject
    family: JsonObject
    #: What the entry says where the launch says nothing.
    defaults: JsonObject
    engines: list[str]
    variants: list[VariantRow]


def watching(supervisor: SupervisorClient, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["watch"])

    def row(entry: Entry) -> CatalogueRow:
        return {
            "name": entry.name,
            "type": entry.type,
            "abilities": list(abilities_of(entry, settings)),
            "description": entry.description,
            "languages": list(entry.languages),
            "max_tokens": entry.max_tokens,
            "weight_bytes": entry.weight_bytes,
            "licence": entry.licence,
            "needs": entry.facts.get("needs"),
            "builtin": entry.builtin,
        }

    @routes.get("/v1/catalog")
    @described("The models that can be launched, of all types", list[CatalogueRow])
    async def every() -> Json:
        catalog = await current_catalog(supervisor, settings)
        return Json([row(entry) for type in catalog.types() for entry in catalog.of_type(type)])

    @routes.get("/v1/options/{type}/{name:path}")
    @described("What a launch of a model takes, as JSON schemas", LaunchOptions)
    async def options(type: str, name: str) -> Json:
        catalog = await current_catalog(supervisor, settings)
        entry = catalog.find(name, own_type(type, name, catalog, settings))
        model_type = model_types(settings.plugins)[entry.type]
        family = model_type.families.get(entry.family)
        if family is None:
            raise errors.BadRequest(f"{entry.name} needs the family {entry.family}, which is not installed.")
        body: LaunchOptions = {
            "type": entry.type,
            "name": entry.name,
            "launch": LaunchSpec.model_json_schema(),
            "family": family.Options.model_json_schema(),
            "defaults": entry.options,
            "engines": list(dict.fromkeys(e for f in model_type.families_of(entry).values() for e in f.engines)),
            "variants": [_variant(source) for source in entry.sources],
        }
        return Json(body)

    return routes


def _variant(source: Source) -> VariantRow:
    return {
        "hub": source.hub,
        "format": source.format,
        "sizes": list(source.sizes),
        "quantizations": list(source.quantizations),
    }
