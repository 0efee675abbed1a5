"""How other machines come into this cluster, and leave it. They have no key but the token of its Ray, which they never
send."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from cluster import errors
from cluster.joining import Invitation, JoinRequest, LeaveRequest, Purpose, SealedInvitation, Versions, is_proven, proof
from cluster.runtime.place import Place
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from deployments.ingress.auth import keyless
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.openapi import described


class WorkersLeft(TypedDict):
    workers: int
    #: Nothing new is placed there any more.
    is_closed: bool


class _Head:
    """What the files of this cluster say about its Ray."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._place = Place(settings)
        self._versions = Versions.here()

    def token(self) -> str:
        """Read anew each time: it is replaced by deleting its file."""
        state = self._place.read()
        try:
            if state is not None:
                return self._place.token.read_text().strip()
        except OSError:
            pass
        raise errors.Conflict(
            "This cluster runs on a Ray that it did not start, so no machine can join it here: add nodes to that Ray."
        )

    def check(self, shown: JoinRequest, purpose: Purpose, text: str = "") -> str:
        """The token, if the caller has it too."""
        token = self.token()
        if not is_proven(shown.proof, token, purpose, shown.nonce, text):
            raise errors.NotAuthenticated(
                "The token is not this cluster's: use a copy of run/ray.token in the CLUSTER_HOME of its head."
            )
        return token

    def invitation(self) -> Invitation:
        state = self._place.read() or {}
        return Invitation(
            versions=self._versions,
            unix=time.time(),
            address=state["address"],
            session=state["session"],
            object_store_bytes=self._settings.object_store_bytes,
            ray_ports=self._settings.ray_ports,
        )


def router(supervisor: SupervisorClient, settings: Settings) -> APIRouter:
    routes = APIRouter(tags=["nodes"])
    head = _Head(settings)

    @routes.post("/v1/cluster/join")
    @keyless("proven")
    @described("Tell a machine that has the token what it needs to join", SealedInvitation, body=JoinRequest)
    async def join(request: Request) -> Json:
        body: JoinRequest = checked(JoinRequest, await json_body(request))
        token = await asyncio.to_thread(head.check, body, "join")
        text = (await asyncio.to_thread(head.invitation)).model_dump_json()
        return Json({"text": text, "seal": proof(token, "answer", body.nonce, text)})

    @routes.post("/v1/cluster/leave")
    @keyless("proven")
    @described("Move what runs on a machine elsewhere, and tell how much is left", WorkersLeft, body=LeaveRequest)
    async def leave(request: Request) -> Json:
        """For a machine that has the token and is about to go; it asks until nothing is left."""
        body: LeaveRequest = checked(LeaveRequest, await json_body(request))
        await asyncio.to_thread(head.check, body, "leave", body.node)
        rows = {node.id: (node, workers) for node, _, workers in await supervisor.nodes()}
        if body.node not in rows:
            return Json({"workers": 0, "is_closed": True})
        node, workers = rows[body.node]
        is_closed = node.state == "draining"
        if not is_closed:
            await supervisor.mark_node(body.node, "draining")
        return Json({"workers": workers, "is_closed": is_closed})

    return routes
