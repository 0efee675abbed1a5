"""The supervisor and the ingress, put onto a Ray that runs; the program that `deploying` starts.

Which ingress that is, `deployments.ingress.deploy` says, so that nothing here knows of model types.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import sys
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import serve

from cluster import errors
from cluster.runtime.actor_calls import SUPERVISOR
from cluster.runtime.connection import connect
from cluster.runtime.deploying import is_current, made_with, remember
from cluster.runtime.place import Place
from cluster.runtime.ray_head import STOP_TIMEOUT_S
from cluster.runtime.supervisor_actor import start_supervisor
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from cluster.worker.preload import Preload

#: The ingress's name in Ray Serve.
APP_NAME = "cluster"
#: Makes what `serve.run` takes: the head's ingress, or one on each of so many nodes.
Ingresses = Callable[[Settings, int], Any]
#: The modules that workers need first, by the model types that are installed.
Preloaded = Callable[[Settings], Preload]


def deploy(ingresses: Ingresses, preload: Preloaded) -> None:
    """What to serve comes on stdin. stdout is redirected so that what libraries print cannot corrupt the answer."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    settings, address, ingress_nodes = pickle.load(sys.stdin.buffer)
    outcome: str | errors.ClusterError | None
    try:
        outcome = _serve(settings, address, Place(settings), ingress_nodes, ingresses, preload)
    except errors.ClusterError as error:
        outcome = error
    with answer:
        pickle.dump(outcome, answer)


def _serve(
    settings: Settings, address: str, place: Place, ingress_nodes: int, ingresses: Ingresses, preload: Preloaded
) -> str | None:
    """The supervisor and the ingress; returns a new admin key when one had to be made."""
    connect(settings, address)
    # Its import sets it to something more talkative.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        _refuse_foreign(settings, place)
        was_current = _retire_outdated(settings, ingress_nodes, place)
        supervisor = start_supervisor(settings, preload(settings))
        serve.start(proxy_location="Disabled")
        try:
            serve.run(ingresses(settings, 0), name=APP_NAME, route_prefix=None)
        except RuntimeError as error:
            deployments = serve.status().applications[APP_NAME].deployments.values()
            message = next((deployment.message for deployment in deployments), str(error))
            # The message ends with the traceback, and that with the reason.
            raise errors.Unavailable(f"The ingress does not start: {message.strip().splitlines()[-1]}") from None
        if ingress_nodes:
            _serve_elsewhere(ingresses(settings, ingress_nodes), was_current)
        if not settings.asks_for_keys:
            return None
        if asyncio.run(supervisor.all_keys()):
            return None
        _, text = asyncio.run(supervisor.create_key("admin", ["admin"], None))
        return text
    finally:
        ray.shutdown()


def _serve_elsewhere(ingress: Any, was_current: bool) -> None:
    """One more ingress on each node that is there for it; the head's goes on. Nodes may come later."""
    name = f"{APP_NAME}-nodes"
    if was_current and name in serve.status().applications:
        # They answered while the head was away; Ray Serve would replace them all.
        return
    app = serve.RunTarget(target=ingress, name=name, route_prefix=None)
    serve.run_many([app], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _refuse_foreign(settings: Settings, place: Place) -> None:
    """A cluster belongs to the home that made it: another home wants other models and would end the ones it finds."""
    running = [row for row in ray.util.list_named_actors(all_namespaces=True) if row["name"] == SUPERVISOR]
    for namespace in (row["namespace"] for row in running):
        try:
            supervisor = SupervisorClient.find(settings.model_copy(update={"namespace": namespace}))
            home, where, url = asyncio.run(supervisor.home())
        except (errors.Unavailable, AttributeError):
            # It does not answer, or its version has no such call. Only the home that made it may use it again: another
            # home cannot tell whether it is a leftover.
            if namespace == settings.namespace and made_with(place).exists():
                continue
            home, where, url = "", f"a home that cannot be asked (Ray namespace {namespace})", "an unknown address"
        if (home, namespace) != (place.id, settings.namespace):
            raise errors.Conflict(
                f"This Ray runs the cluster of {where}, which serves at {url}: use that one, or start a Ray of your "
                "own by leaving out --address."
            )


def _retire_outdated(settings: Settings, ingress_nodes: int, place: Place) -> bool:
    """Ray may have brought back the supervisor of its last time, with the settings and the keys of that time. Where the
    settings differ it goes for good, and the ingresses with theirs are replaced; otherwise it reads the store anew.
    Returns whether they are the same."""
    current = is_current(settings, ingress_nodes, place)
    remember(settings, ingress_nodes, place)
    try:
        supervisor = ray.get_actor(SUPERVISOR, settings.namespace)
    except ValueError:
        return current
    ray.kill(supervisor, no_restart=not current)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while not current and time.monotonic() < deadline:
        try:
            ray.get_actor(SUPERVISOR, settings.namespace)
        except ValueError:
            break
        time.sleep(0.1)
    return current
