"""Puts the supervisor and the ingress onto a Ray that runs.

It does so in a process of its own, with which Ray's libraries go: whoever waits for Ctrl-C, or watches, has no use for
their 100 MB.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import pickle
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from cluster import errors
from cluster.keys import Key, new_key
from cluster.place import Place
from cluster.ray_head import START_TIMEOUT_S, STOP_TIMEOUT_S
from cluster.settings import Settings
from cluster.store import Store

SERVE_TIMEOUT_S = 300.0
#: How long a supervisor that is just being restarted is waited for.
ADOPTION_S = 30.0


def connect(settings: Settings, address: str) -> None:
    if address.startswith("127."):
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # Only now: Ray and Serve read their settings from the environment when they are imported.
    import ray

    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            ray.init(address=address, namespace=settings.namespace, log_to_driver=False, logging_level="ERROR")
            return
        except ConnectionError as error:
            if time.monotonic() > deadline:
                raise errors.Unavailable(f"Ray at {address} does not answer: {error}") from None
            time.sleep(0.2)


def serve_apart(settings: Settings, address: str, place: Place, ingress_nodes: int) -> str | None:
    """Returns a new admin key when one had to be made."""
    try:
        with place.log.open("ab") as log:
            done = subprocess.run(
                [sys.executable, "-m", "cluster.deploying"],
                input=pickle.dumps((settings, address, ingress_nodes)),
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                timeout=SERVE_TIMEOUT_S,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise errors.Unavailable(f"Nothing is served after {SERVE_TIMEOUT_S:.0f} s; see {place.log}.") from None
    if done.returncode:
        tail = place.log.read_text(errors="replace").splitlines()[-1:]
        raise errors.Unavailable(f"Nothing could be served; {place.log} ends with: {' '.join(tail)}")
    told: str | errors.ClusterError | None = pickle.loads(done.stdout)
    if isinstance(told, errors.ClusterError):
        raise told
    return told


def admit(settings: Settings, text: str) -> None:
    """Writes down a key that was made elsewhere, always under the same id: another takes its place."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    key: Key = new_key("admin", ["admin"])[0].model_copy(update={"id": "given", "digest": digest})
    store = Store(settings.store)
    try:
        known = store.get("key", key.id)
        if known is None or known["digest"] != digest:
            store.put("key", key.id, key.model_dump(mode="json"))
    finally:
        store.close()


def _main() -> None:
    """The other side of it. What libraries print on stdout is no answer."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    settings, address, ingress_nodes = pickle.load(sys.stdin.buffer)
    told: str | errors.ClusterError | None
    try:
        told = _serve(settings, address, Place(settings), ingress_nodes)
    except errors.ClusterError as error:
        told = error
    with answer:
        pickle.dump(told, answer)


def _serve(settings: Settings, address: str, place: Place, ingress_nodes: int) -> str | None:
    """The supervisor and the ingress; returns a new admin key when one had to be made."""
    connect(settings, address)
    import ray
    from ray import serve

    from cluster import actors
    from deployments.ingress.app import APP_NAME, deployed

    # Its import sets it to something more talkative.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        _refuse_foreign(settings, place)
        was_current = _retire_outdated(settings, ingress_nodes, place)
        supervisor = actors.Control.start(settings)
        serve.start(proxy_location="Disabled")
        try:
            serve.run(deployed(settings), name=APP_NAME, route_prefix=None)
        except RuntimeError as error:
            told = [one.message for one in serve.status().applications[APP_NAME].deployments.values()] or [str(error)]
            # The message ends with the traceback, and that with the reason.
            raise errors.Unavailable(f"The ingress does not start: {told[0].strip().splitlines()[-1]}") from None
        if ingress_nodes:
            _serve_elsewhere(settings, ingress_nodes, was_current)
        if not settings.asks_for_keys:
            return None
        if asyncio.run(supervisor.call_patiently("all_keys")):
            return None
        _, text = asyncio.run(supervisor.call("create_key", "admin", ["admin"], None))
        return str(text)
    finally:
        ray.shutdown()


def _serve_elsewhere(settings: Settings, nodes: int, was_current: bool) -> None:
    """One more ingress on each node that is there for it; the head's goes on. Nodes may come later."""
    from ray import serve

    from deployments.ingress.app import APP_NAME, deployed

    name = f"{APP_NAME}-nodes"
    if was_current and name in serve.status().applications:
        # They answered while the head was away; Ray Serve would replace them all.
        return
    app = serve.RunTarget(target=deployed(settings, nodes), name=name, route_prefix=None)
    serve.run_many([app], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _refuse_foreign(settings: Settings, place: Place) -> None:
    """A cluster belongs to the home that made it: another has other wishes, and would end all that it does not know."""
    import ray

    from cluster import actors

    running = [row for row in ray.util.list_named_actors(all_namespaces=True) if row["name"] == actors.SUPERVISOR]
    for namespace in (row["namespace"] for row in running):
        try:
            supervisor = actors.Control.find(settings.model_copy(update={"namespace": namespace}))
            home, where, url = asyncio.run(supervisor.call_patiently("home", patience_s=ADOPTION_S))
        except (errors.Unavailable, AttributeError):
            # It does not answer, or is of a version that cannot be asked. The home that made it may take it up again;
            # nobody else can tell whether it is a leftover.
            if namespace == settings.namespace and _made_with(place).exists():
                continue
            home, where, url = "", f"a home that cannot be asked (Ray namespace {namespace})", "an unknown address"
        if (home, namespace) != (place.id, settings.namespace):
            raise errors.Conflict(
                f"This Ray runs the cluster of {where}, which serves at {url}: use that one, or start a Ray of your "
                "own by leaving out --address."
            )


def _made_with(place: Place) -> Path:
    """Says with which settings this home served last."""
    return place.run / "supervisor.settings"


def is_current(settings: Settings, ingress_nodes: int, place: Place) -> bool:
    """What this home served with last is what it would serve with now."""
    made_with = _made_with(place)
    return made_with.exists() and made_with.read_text() == _digest(settings, ingress_nodes)


def _retire_outdated(settings: Settings, ingress_nodes: int, place: Place) -> bool:
    """Ray may have brought back the supervisor of its last time, with the settings and the keys of that time. Where the
    settings differ it goes for good, and the ingresses with theirs are replaced; otherwise it reads the store anew.
    Returns whether they are the same."""
    import ray

    from cluster import actors

    current = is_current(settings, ingress_nodes, place)
    _made_with(place).write_text(_digest(settings, ingress_nodes))
    try:
        found = ray.get_actor(actors.SUPERVISOR, settings.namespace)
    except ValueError:
        return current
    ray.kill(found, no_restart=not current)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while not current and time.monotonic() < deadline:
        try:
            ray.get_actor(actors.SUPERVISOR, settings.namespace)
        except ValueError:
            break
        time.sleep(0.1)
    return current


def _digest(settings: Settings, ingress_nodes: int) -> str:
    """Of all that the supervisor and the ingresses are made with."""
    told = f"{settings.model_dump_json()} {ingress_nodes} {metadata.version('model-cluster')}"
    return hashlib.sha256(told.encode()).hexdigest()


if __name__ == "__main__":
    _main()
