"""A machine that has joined a cluster: starts Ray's node process here, starts it again when it ends or when the head
was started anew, and gives its models up before it leaves.

The command that joins does this itself, without importing Ray: it asks the head over HTTP, where models are served.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx
import psutil

from cluster import errors
from cluster.client.http import parse
from cluster.joining import (
    Invitation,
    JoinRequest,
    LeaveRequest,
    Purpose,
    Versions,
    check_fit,
    proof,
    read_invitation,
)
from cluster.runtime import ray_head
from cluster.runtime.place import NODE_HOME, Place
from cluster.runtime.ray_head import START_RAY, is_alive, name_of, node_words, own_address, ray_variables, run_ray
from cluster.runtime.watchdog import LOOK_S, pause_before
from cluster.settings import Settings

log = logging.getLogger("cluster.runtime.join")

#: How long the head may take to answer, and Ray's port to accept.
ANSWER_S, PORT_S = 3.0, 1.5
#: How often the head is asked whether it is still the one that was joined.
ASK_S = 2.0
#: How often it is asked how much is left to move.
LEAVE_S = 0.3
#: Under another address of this machine Ray would use 127.0.0.1, where the head's own node is already.
START_ON_LOOPBACK = (
    f"from ray._private import services; services.resolve_ip_for_localhost = lambda host: host; {START_RAY}"
)


@dataclass(frozen=True)
class JoinPlan:
    """What was asked of this machine."""

    #: `host:port` of the head, where it serves models.
    head: str
    token: str
    labels: Mapping[str, str] = field(default_factory=dict)
    #: The address and the name under which the others know this machine; found by itself if empty.
    address: str = ""
    name: str = ""


class JoinedMachine:
    def __init__(self, settings: Settings, plan: JoinPlan) -> None:
        self._settings = settings
        self._plan = plan
        self._place = Place(settings)
        self._url = plan.head if "://" in plan.head else f"http://{plan.head}"
        self._run = secrets.token_hex(8)
        self._starts: list[float] = []
        self._raylet: psutil.Process | None = None
        self._session = ""
        self._asked = 0.0

    # ------------------------------------------------------------------------------------ joining

    def invited(self) -> Invitation:
        """What the head says now; raises when this machine may not join it."""
        invitation = head_of(self._url, self._plan.token)
        check_fit(invitation, Versions.here(), time.time())
        return invitation

    def join(self, invitation: Invitation) -> str:
        """Returns the address of this machine when its node process runs."""
        ray_head.end(self._place)
        self._place.prepare()
        refuse_closed_port(invitation.address)
        host = self._plan.address or own_address(invitation.address.rpartition(":")[0])
        is_loopback = ipaddress.ip_address(host).is_loopback
        self._place.token.write_text(self._plan.token)
        state = {
            "run": self._run,
            "session": invitation.session,
            "address": invitation.address,
            "url": self._url,
            "joined": True,
        }
        self._place.state.write_text(json.dumps(state))
        os.environ.update(ray_variables(self._place, ours=True))
        os.environ.update({ray_head.RUN: self._run, NODE_HOME: str(self._settings.home)})
        os.environ["CLUSTER_HOME"] = str(self._settings.home)
        if is_loopback:
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1"
        words = node_words(
            host,
            self._settings.ray_ports or invitation.ray_ports,
            invitation.object_store_bytes,
            self._plan.labels,
            self._name(is_loopback),
        )
        run_ray(
            self._place, [f"--address={invitation.address}", *words], START_ON_LOOPBACK if is_loopback else START_RAY
        )
        raylets = [process for process in ray_head.processes_of(self._place) if name_of(process) == "raylet"]
        if not raylets:
            raise ray_head.failed_start(self._place)
        self._raylet, self._session = raylets[0], invitation.session
        return host

    def _name(self, is_loopback: bool) -> str:
        """On one machine there are several under one host name."""
        own = socket.gethostname()
        return self._plan.name or (f"{own}-{self._place.id[:6]}" if is_loopback else own)

    # ------------------------------------------------------------------------------------ staying

    def watch(self, stop_asked: threading.Event) -> None:
        """Until it is asked to stop: whatever happens to Ray here or on the head, it joins again."""
        while not stop_asked.wait(LOOK_S):
            reason = self._why_again()
            while reason and not stop_asked.is_set():
                reason = self._join_again(reason, stop_asked)

    def _why_again(self) -> str:
        if self._raylet is None or not is_alive(self._raylet):
            return "Ray's node process ended"
        if time.monotonic() - self._asked < ASK_S:
            return ""
        self._asked = time.monotonic()
        try:
            session = self.invited().session
        # While the head is away, what runs here goes on, and nothing would be better elsewhere.
        except errors.ClusterError as error:
            log.debug("the head does not answer: %s", error)
            return ""
        return "" if session == self._session else "the head was started anew"

    def _join_again(self, reason: str, stop_asked: threading.Event) -> str:
        """Why it could not; empty when it has joined."""
        pause = pause_before(self._starts, time.monotonic())
        log.warning("%s; joining again%s", reason, f" in {pause:.0f} s" if pause > 1 else "")
        if stop_asked.wait(pause):
            return ""
        self._starts = [*self._starts[-9:], time.monotonic()]
        try:
            invitation = self.invited()
            if self._raylet is not None and is_alive(self._raylet):
                # Its head is gone, so it would spend its orderly end on waiting for that.
                self._raylet.kill()
            self.join(invitation)
        # The head may be back in a minute, or the disk have room.
        except (errors.ClusterError, OSError, subprocess.SubprocessError, psutil.Error) as error:
            return str(error) or repr(error)
        log.warning("joined again after %.1f s", time.monotonic() - self._starts[-1])
        return ""

    # ------------------------------------------------------------------------------------ leaving

    def leave(self, within_s: float) -> int:
        """Has its models moved elsewhere; returns how many workers are left when there is nothing to wait for any
        more, or no time."""
        deadline, left = time.monotonic() + within_s, 0
        if self._raylet is None or not is_alive(self._raylet):
            return 0
        node = _node_of(self._raylet)
        while time.monotonic() < deadline:
            nonce = secrets.token_hex(16)
            request = LeaveRequest(nonce=nonce, proof=proof(self._plan.token, "leave", nonce, node), node=node)
            try:
                answer = _asked(self._url, "leave", request)
            except errors.ClusterError as error:
                log.warning("the head does not answer: %s", error)
                break
            assert isinstance(answer, dict)
            left = answer["workers"]
            if answer["is_closed"] and not left:
                break
            time.sleep(LEAVE_S)
        return left

    def end(self) -> None:
        """Ends what was started here."""
        ray_head.end(self._place)


def head_of(url: str, token: str) -> Invitation:
    """What the head there says of itself, if both have the token."""
    nonce = secrets.token_hex(16)
    request = JoinRequest(nonce=nonce, proof=proof(token, "join", nonce))
    return read_invitation(_asked(url, "join", request), token, nonce)


def _asked(url: str, purpose: Purpose, request: JoinRequest) -> object:
    try:
        response = httpx.post(
            f"{url}/v1/cluster/{purpose}", json=request.model_dump(), timeout=ANSWER_S, trust_env=False
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise errors.Unavailable(
            f"No cluster answers at {_host_of(url)} ({type(error).__name__}): give the address that `cluster up` "
            "printed there. A cluster that was started without --host answers on its own machine only."
        ) from None
    if response.status_code in (404, 405):
        raise errors.Conflict(
            f"The cluster at {_host_of(url)} runs another version than this machine, which runs {Versions.here()}: "
            "nothing can join it. Install the same on both."
        )
    return parse(response)


def _host_of(url: str) -> str:
    return url.rpartition("://")[2]


def _node_of(raylet: psutil.Process) -> str:
    """Ray's id of the node, which its agents are told."""
    words: Sequence[str] = raylet.cmdline()
    return next((word.partition("=")[2] for word in words if word.startswith(("--node_id=", "--node-id="))), "")


def refuse_closed_port(address: str) -> None:
    """Raises where a firewall keeps this machine from Ray's control process: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), PORT_S).close()
    except OSError as error:
        raise errors.Unavailable(
            f"The head answers, but Ray's port {port} of {host} does not ({error.strerror or error}): open it between "
            "the machines, or fix the ports on the head with --ray-ports and open those."
        ) from None
