"""How Xinference's own clients and command line write a launch, as the fields of a `LaunchSpec`."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, TypeAlias

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import BeforeValidator

from cluster import errors
from cluster.launch import LaunchSpec
from cluster.names import quoted
from cluster.value import JsonObject
from deployments.ingress.bodies import checked

#: Sent with every launch of every type, whatever the model.
ALWAYS_SENT = ("n_worker", "enable_thinking", "trust_remote_code")
#: Workers share the installation that serves, so there is no environment to make. Where one would get other packages,
#: the launch is refused: see `_refuse_packages`.
VIRTUAL_ENVIRONMENT = ("enable_virtual_env", "virtual_env_packages", "virtual_env_find_links")
PEFT = "peft_model_config"
#: The parts of that: the adapters, and arguments of the libraries that load them and fuse them with the model.
ADAPTERS, LOADING, FUSING = "lora_list", "image_lora_load_kwargs", "image_lora_fuse_kwargs"


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
    fields = {key: value for key, value in body.items() if key not in (*ALWAYS_SENT, *VIRTUAL_ENVIRONMENT)}
    _refuse_packages(body.get("virtual_env_packages"))
    fields |= _adapters_in(fields.pop(PEFT, None))
    if isinstance(fields.get("replica_config"), list):
        fields["replica_config"] = [_flat_place(replica) for replica in fields["replica_config"]]
    return fields


def _refuse_packages(packages: Any) -> None:
    """Refuses a launch that asks for packages which are not installed; what is there already is no request."""
    for text in packages if isinstance(packages, list) else ():
        if not _is_installed(str(text)):
            raise errors.BadOption(
                f"virtual_env_packages asks for {quoted(text)}, which is not installed, and a launch installs nothing: "
                "install it where the workers run.",
                "virtual_env_packages",
            )


def _is_installed(package: str) -> bool:
    try:
        wanted = Requirement(package)
        return wanted.specifier.contains(version(wanted.name), prereleases=True)
    except PackageNotFoundError:
        return False
    except InvalidRequirement:
        # Xinference's own words, such as #system_torch#, mean what is installed.
        return package.startswith("#")


def _adapters_in(peft: Any) -> JsonObject:
    """Xinference fuses the adapters of a launch with the model, by a scale: requests that name none get them."""
    if peft is None:
        return {}
    parts = {name: part for name, part in peft.items() if part} if isinstance(peft, dict) else {PEFT: peft}
    adapters, loading, fusing = parts.pop(ADAPTERS, []), parts.pop(LOADING, {}), parts.pop(FUSING, {})
    if parts or not (isinstance(adapters, list) and isinstance(loading, dict) and isinstance(fusing, dict)):
        raise errors.BadOption(f"{PEFT} takes {ADAPTERS}, a list, and {LOADING} and {FUSING}, objects.", PEFT)
    unused = [*(loading.keys() - {"subfolder", "weight_name"}), *(fusing.keys() - {"lora_scale", "safe_fusing"})]
    if unused:
        raise errors.BadOption(
            f"{PEFT} says {quoted(unused[0])}, which means nothing here; subfolder, weight_name and lora_scale do.",
            PEFT,
        )
    if not adapters:
        return {}
    inside = "/".join(str(loading[name]) for name in ("subfolder", "weight_name") if name in loading)
    rows = [_placed(adapter, inside) for adapter in adapters]
    return {"lora_modules": rows, "lora_scale": fusing.get("lora_scale", 1.0)}


def _placed(adapter: Any, inside: str) -> Any:
    """With the path of the file in its folder, where that is said apart."""
    if not inside or not isinstance(adapter, dict):
        return adapter
    return {**adapter, "local_path": f"{adapter.get('local_path')}/{inside}"}


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
