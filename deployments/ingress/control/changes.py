"""Applies a list of declared models, and exports the wanted ones as such a list."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict

from cluster import errors
from cluster.control.changes import Change
from cluster.launch import Wanted
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from cluster.value import JsonObject
from deployments import resolve
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.control.access import refuse_limited
from deployments.ingress.control.plan import current_catalog, looked_up
from deployments.ingress.openapi import described
from deployments.ingress.xinference_launch import LaunchField


class Declared(BaseModel):
    model_config = ConfigDict(extra="forbid")

    models: list[LaunchField]
    prune: bool = True
    dry_run: bool = False


class ChangeRow(TypedDict):
    uid: str
    change: str
    before: JsonObject | None
    after: JsonObject | None
    fields: list[str]


class Changes(TypedDict):
    changes: list[ChangeRow]


class Declarations(TypedDict):
    models: list[JsonObject]


def declaring(supervisor: SupervisorClient, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["launch"])

    @routes.post("/v1/models/apply")
    @described("Apply a list of models", Changes, body=Declared)
    async def apply(request: Request) -> Json:
        refuse_limited(request)
        body: Declared = checked(Declared, await json_body(request))
        catalog = await current_catalog(supervisor, settings)
        declared = [await looked_up(resolve, spec, catalog, settings) for spec in body.models]
        _refuse_doubles(declared)
        changes = await supervisor.apply(declared, body.prune, body.dry_run)
        return Json({"changes": [_change_row(change) for change in changes]})

    @routes.get("/v1/models/export")
    @described("Export the wanted models as such a list", Declarations)
    async def export(request: Request) -> Json:
        refuse_limited(request)
        statuses = await supervisor.all_statuses()
        return Json({"models": [declaration(status.wanted) for status in statuses]})

    return routes


def _refuse_doubles(declared: Sequence[Wanted]) -> None:
    names = [wanted.uid for wanted in declared]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise errors.BadRequest(f"{double} is declared twice; give one of them another model_uid.", "models")


def _change_row(change: Change) -> ChangeRow:
    return {
        "uid": change.uid,
        "change": change.change,
        "before": declaration(change.before),
        "after": declaration(change.after),
        "fields": list(change.fields),
    }


def declaration(wanted: Wanted | None) -> JsonObject | None:
    """A wanted model as a line of models.yaml: what the launch said, without what follows from it."""
    if wanted is None:
        return None
    fields = wanted.spec.model_dump(mode="json", exclude_defaults=True, exclude={"options"})
    if fields.get("model_uid") == wanted.entry.name:
        del fields["model_uid"]
    return {**fields, **wanted.spec.options}
