"""The models that can be launched: the catalogue's, and those that people registered."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel
from typing_extensions import TypedDict

from cluster import errors
from cluster.catalog.entry import Entry
from cluster.catalog.registrations import parse_registration, to_registration
from cluster.names import quoted
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from cluster.value import JsonObject
from deployments import model_types
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.control.access import refuse_limited
from deployments.ingress.control.plan import current_catalog
from deployments.ingress.control.shapes import EngineVariant, engines_body
from deployments.ingress.openapi import described
from deployments.ingress.xinference import (
    abilities_of,
    own_type,
    registered_type,
    registration_words,
    types_called,
    xinference_type,
)


class Registration(BaseModel):
    model: str
    worker_ip: str | None = None
    persist: bool = True


class RegistrationRow(TypedDict):
    """With `detailed` it has all fields of the registration as well."""

    model_name: str
    is_builtin: bool
    #: In our words: Xinference has one word for several types.
    cluster_type: str


def _row(entry: Entry) -> RegistrationRow:
    return {"model_name": entry.name, "is_builtin": entry.builtin, "cluster_type": entry.type}


def registering(supervisor: SupervisorClient, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["launch"])

    @routes.post("/v1/model_registrations/{type}")
    @described("Register a model", None, body=Registration)
    async def register(type: str, request: Request) -> Json:
        refuse_limited(request)
        body: Registration = checked(Registration, await json_body(request))
        type = registered_type(type, body.model, settings)
        types = model_types(settings.plugins)
        if type not in types:
            raise errors.BadRequest(
                f"There are no models of the type {quoted(type)}; there are {', '.join(sorted(types))}."
            )
        entry = parse_registration(type, body.model, family=next(iter(types[type].families)))
        try:
            orjson.dumps(entry.facts)
        except orjson.JSONEncodeError as error:
            raise errors.InvalidBody(f"The registration cannot be kept: {error}.", "model") from None
        # Raises where the name is taken, while the caller is there to read it.
        (await current_catalog(supervisor, settings)).with_registered([entry])
        await supervisor.register(entry)
        return Json(None)

    @routes.delete("/v1/model_registrations/{type}/{name}")
    @described("Forget a registered model", None)
    async def unregister(type: str, name: str, request: Request) -> Json:
        refuse_limited(request)
        await supervisor.unregister(own_type(type, name, await current_catalog(supervisor, settings), settings), name)
        return Json(None)

    return routes


def watching(supervisor: SupervisorClient, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["watch"])

    def described_entry(entry: Entry) -> JsonObject:
        return {**registration_words(entry, settings), **to_registration(entry)}

    @routes.get("/v1/model_registrations/{type}")
    @described("The models of a type that can be launched", list[RegistrationRow])
    async def registrations(type: str, detailed: bool = False) -> Json:
        word, catalog = type.lower(), await current_catalog(supervisor, settings)
        entries = [
            entry
            for own in types_called(word, settings)
            for entry in catalog.of_type(own)
            # A type of ours may hold models of several of its types.
            if own == word or xinference_type(own, abilities_of(entry, settings)).lower() == word
        ]
        return Json([{**(described_entry(entry) if detailed else {}), **_row(entry)} for entry in entries])

    @routes.get("/v1/model_registrations/{type}/{name:path}")
    @described("The registration of a model", JsonObject)
    async def registration(type: str, name: str) -> Json:
        catalog = await current_catalog(supervisor, settings)
        try:
            return Json(described_entry(catalog.find(name, own_type(type, name, catalog, settings))))
        except errors.UnknownModel:
            raise errors.UnknownModel(f"Model {name} not found", "model_name") from None

    @routes.get("/v1/engines/{name}")
    @described("The engines that can load a model", dict[str, list[EngineVariant] | str])
    async def engines_of(name: str) -> Json:
        return Json(engines_body(await current_catalog(supervisor, settings), "", name, settings))

    @routes.get("/v1/engines/{type}/{name:path}")
    @described("The engines that can load a model of this type", dict[str, list[EngineVariant] | str])
    async def engines(type: str, name: str) -> Json:
        catalog = await current_catalog(supervisor, settings)
        return Json(engines_body(catalog, own_type(type, name, catalog, settings), name, settings))

    return routes
