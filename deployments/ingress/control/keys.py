"""Makes, lists and revokes API keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from cluster.keys import Key
from cluster.runtime.supervisor_client import SupervisorClient
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.control.access import refuse_limited
from deployments.ingress.control.waiting import until_seen
from deployments.ingress.openapi import described


class NewKey(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    scopes: list[str] = ["list", "infer"]
    models: list[str] | None = None


class KeyRow(TypedDict):
    id: str
    name: str
    scopes: list[str]
    models: list[str] | None
    created: float


class CreatedKey(KeyRow):
    #: Told only now: of the key itself nothing is stored.
    key: str


def administration(supervisor: SupervisorClient, current_keys: Callable[[], Mapping[str, Key]]) -> APIRouter:
    # A key for some models that could make keys could make one for all.
    routes = APIRouter(tags=["administration"], dependencies=[Depends(refuse_limited)])

    @routes.post("/v1/keys")
    @described("Make a key", CreatedKey, body=NewKey)
    async def create_key(request: Request) -> Json:
        body: NewKey = checked(NewKey, await json_body(request))
        key: Key
        key, text = await supervisor.create_key(body.name, body.scopes, body.models)
        await until_seen(lambda: key.digest in current_keys())
        return Json({**key.shown(), "key": text})

    @routes.get("/v1/keys")
    @described("List the keys", list[KeyRow])
    async def list_keys() -> Json:
        keys = await supervisor.all_keys()
        return Json([key.shown() for key in keys])

    @routes.delete("/v1/keys/{id}")
    @described("Revoke a key", None)
    async def revoke_key(id: str) -> Json:
        await supervisor.revoke_key(id)
        await until_seen(lambda: all(key.id != id for key in current_keys().values()))
        return Json(None)

    return routes
