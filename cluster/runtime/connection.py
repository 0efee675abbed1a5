"""How a process becomes a client of a Ray that runs."""

from __future__ import annotations

import os
import time

from cluster import errors
from cluster.runtime.place import Place
from cluster.runtime.ray_head import START_TIMEOUT_S
from cluster.settings import Settings


def variables_for(address: str) -> dict[str, str]:
    """What Ray must find in the environment of a client. Ray and Serve read it when they are imported."""
    return {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if address.startswith("127.") else {}


def prepare(settings: Settings, address: str) -> None:
    """To be called before anything imports Ray."""
    os.environ.update(settings.as_environment())
    os.environ.update(variables_for(address))


def connect(settings: Settings, address: str) -> None:
    import ray

    host, deadline = address.rpartition(":")[0], time.monotonic() + START_TIMEOUT_S
    is_own = (Place(settings).read() or {}).get("address") == address
    # Ray finds the address of its machine by the route to a public one, and may take another than at its start.
    where = {"_node_ip_address": host} if is_own and not host.startswith("127.") else {}
    while True:
        try:
            ray.init(address=address, namespace=settings.namespace, log_to_driver=False, logging_level="ERROR", **where)
            return
        except ConnectionError as error:
            if time.monotonic() > deadline:
                raise errors.Unavailable(f"Ray at {address} does not answer: {error}") from None
            time.sleep(0.2)
