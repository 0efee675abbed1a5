"""How Xinference's own clients and command line write a launch, as the fields of a `LaunchSpec`, and what they call the
types of models: they can open only those that Xinference has."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.launch import LaunchSpec
from cluster.settings import Settings
from cluster.value import JsonObject
from deployments import model_types
from deployments.ingress.bodies import checked

#: Types that are called the same there.
SAME_TYPES = ("embedding", "rerank", "image")
#: What other models are there, by what they can. The rest is of the type that takes anything.
TYPES_BY_ABILITY = {"ocr": "image", "text2image": "image", "embed": "embedding", "rerank": "rerank", "chat": "LLM"}
ANY_TYPE = "flexible"

#: Sent with every launch of every type, whatever the model.
ALWAYS_SENT = ("n_worker", "enable_thinking", "trust_remote_code")
#: Sent as null or with its default, and of no use here. With another value it is refused as an unknown option.
ACCEPTED_WHEN_EMPTY = ("enable_virtual_env", "virtual_env_packages", "virtual_env_find_links")


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
    fields |= _adapters_in(fields.pop("peft_model_config", None))
    if isinstance(fields.get("replica_config"), list):
        fields["replica_config"] = [_flat_place(replica) for replica in fields["replica_config"]]
    return fields


def _adapters_in(peft: Any) -> JsonObject:
    """Xinference wraps the adapters of a launch. What else it can say there has no use here, and is refused."""
    if not isinstance(peft, dict):
        return {} if peft is None else {"peft_model_config": peft}
    others = {name: value for name, value in peft.items() if name != "lora_list" and value}
    adapters = peft.get("lora_list")
    return {**({"lora_modules": adapters} if adapters else {}), **({"peft_model_config": others} if others else {})}


def _flat_place(place: Any) -> Any:
    """Xinference nests exactly one device per replica: `{"replica_uid":…,"devices":[{…}]}`."""
    if not isinstance(place, dict) or "devices" not in place:
        return place
    devices = place["devices"]
    if not isinstance(devices, list) or len(devices) != 1 or not isinstance(devices[0], dict):
        raise ValueError("each replica of replica_config takes exactly one device")
    return devices[0]


def xinference_type(type: str, abilities: Collection[str]) -> str:
    """Xinference's word for a type of ours."""
    if type in SAME_TYPES:
        return type
    return next((word for ability, word in TYPES_BY_ABILITY.items() if ability in abilities), ANY_TYPE)


def own_type(type: str, name: str, catalog: Catalog, settings: Settings) -> str:
    """Our word for the type of the model of that name: Xinference has one word for several types of ours. A type that
    has such a model itself is meant itself."""
    if not type or _has(catalog, type, name):
        return type
    for other in model_types(settings.plugins).values():
        if _has(catalog, other.name, name):
            entry = catalog.find(name, other.name)
            abilities = (other.abilities and other.abilities(entry)) or other.family_for(entry, None).abilities
            if xinference_type(other.name, abilities).lower() == type.lower():
                return other.name
    return type


def types_called(word: str, settings: Settings) -> list[str]:
    """Our types of that name in Xinference's words: one that is called so itself comes first."""
    types = model_types(settings.plugins)
    called = [
        type.name
        for type in types.values()
        if type.name != word
        and any(xinference_type(type.name, family.abilities).lower() == word for family in type.families.values())
    ]
    return [word, *sorted(called)]


def _has(catalog: Catalog, type: str, name: str) -> bool:
    try:
        catalog.find(name, type)
    except errors.UnknownModel:
        return False
    return True


#: A launch within a larger body.
LaunchField: TypeAlias = Annotated[LaunchSpec, BeforeValidator(_launch_fields)]
