"""How Xinference's own clients and command line write a launch, as the fields of a `LaunchSpec`."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator

from cluster import errors
from cluster.launch import LaunchSpec
from cluster.value import JsonObject
from deployments.ingress.bodies import checked

#: Sent with every launch of every type, whatever the model.
ALWAYS_SENT = ("n_worker", "enable_thinking", "trust_remote_code")
#: Sent as null or with its default, and of no use here. With another value it is refused as an unknown option.
ACCEPTED_WHEN_EMPTY = ("enable_virtual_env", "virtual_env_packages", "virtual_env_find_links", "peft_model_config")


def launch_spec_of(body: JsonObject) -> LaunchSpec:
    try:
        fields = _launch_fields(body)
    except ValueError as error:
        raise errors.BadOption(f"replica_config: {error}", "replica_config") from None
    spec: LaunchSpec = checked(LaunchSpec, fields, errors.BadOption)
    return spec


def _launch_fields(body: Any) -> Any:
    """What is no object is left for pydantic to refuse."""
    if not isinstance(body, dict):
        return body
    fields = {key: value for key, value in body.items() if key not in ALWAYS_SENT}
    for key in ACCEPTED_WHEN_EMPTY:
        if not fields.get(key, True):
            del fields[key]
    if isinstance(fields.get("replica_config"), list):
        fields["replica_config"] = [_flat_place(replica) for replica in fields["replica_config"]]
    return fields


def _flat_place(place: Any) -> Any:
    """Xinference nests exactly one device per replica: `{"replica_uid":…,"devices":[{…}]}`."""
    if not isinstance(place, dict) or "devices" not in place:
        return place
    devices = place["devices"]
    if not isinstance(devices, list) or len(devices) != 1 or not isinstance(devices[0], dict):
        raise ValueError("each replica of replica_config takes exactly one device")
    return devices[0]


#: A launch within a larger body.
LaunchField: TypeAlias = Annotated[LaunchSpec, BeforeValidator(_launch_fields)]
