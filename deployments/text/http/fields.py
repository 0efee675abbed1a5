"""The fields of JSON bodies: read under every name that clients have for one, refused under the name it came with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cluster import errors
from cluster.names import quoted
from cluster.value import JsonObject

_BOOLEAN = TypeAdapter(bool)


def model_of(body: JsonObject) -> str | None:
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise errors.InvalidBody(f"model must be a name, not of the type {type(model).__name__}.", "model")
    # Infinity's own clients send this when they were not told a model.
    return None if model in ("", "default/not-specified") else model


def first(body: JsonObject, kind: type | tuple[type, ...], *names: str) -> Any:
    """The first of these names that is given; each is one client's word for the same thing."""
    name = name_of(body, *names)
    if name is None:
        return None
    if not isinstance(body[name], kind):
        raise errors.InvalidBody(f"{name} cannot be of the type {type(body[name]).__name__}.", name)
    return body[name]


def name_of(body: JsonObject, *names: str) -> str | None:
    return next((name for name in names if body.get(name) is not None), None)


def flag(value: object, name: str) -> bool:
    """A boolean, or null for false, as Xinference's client sends it. Clients also send texts and numbers that mean
    one: what pydantic takes is taken."""
    if value is None or isinstance(value, bool):
        return bool(value)
    try:
        return _BOOLEAN.validate_python(value)
    except ValidationError:
        raise errors.InvalidBody(f"{name} takes true or false, not {quoted(value)}.", name) from None


def flag_of(body: JsonObject, *names: str) -> bool | None:
    """The first of these names that is given, as a boolean."""
    name = name_of(body, *names)
    return None if name is None else flag(body[name], name)


def count(body: JsonObject, *names: str) -> int | None:
    """The first of these names that is given, as a number above 0."""
    name = name_of(body, *names)
    if name is None:
        return None
    value = body[name]
    if not is_int(value) or value < 1:
        raise errors.InvalidBody(f"{name} takes a whole number above 0, not {quoted(value)}.", name)
    return int(value)


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def texts_of(given: object, name: str) -> list[str]:
    """One text or several, at least one."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or set(map(type, texts)) != {str}:
        raise errors.InvalidBody(f"{name} must be a text or a list of at least one.", name)
    return texts


def ids_of(given: object, name: str) -> list[int]:
    ids = given if isinstance(given, list) and set(map(type, given)) == {int} else [-1]
    if min(ids) < 0 or max(ids) >= 2**31:
        raise errors.InvalidBody(f"{name} must be token ids, which are whole numbers from 0 on.", name)
    return list(ids)


def truncation(body: JsonObject) -> str | None:
    """START, END or NONE, which is where a text that is too long is cut; None where the caller does not say."""
    name = name_of(body, "truncate", "truncation")
    value = body[name] if name is not None else None
    if isinstance(value, str) and value.upper() in ("START", "END", "NONE"):
        return value.upper()
    if name is not None:
        try:
            value = _BOOLEAN.validate_python(value)
        except ValidationError:
            raise errors.InvalidBody(
                f"{name} takes true, false, START, END or NONE, not {quoted(value)}.", name
            ) from None
    if value is False:
        return "NONE"
    name = name_of(body, "truncation_direction", "truncation_side")
    if name is None:
        return "END" if value else None
    side = first(body, str, name)
    if side.lower() not in ("left", "right"):
        raise errors.InvalidBody(f"{name} takes left or right, not {quoted(side)}.", name)
    return "START" if side.lower() == "left" else "END"


def most_tokens(body: JsonObject, name: str) -> int | None:
    """How many tokens of a text may be read; -1 is as many as the model can, which is what happens anyway."""
    return None if body.get(name) == -1 and is_int(body[name]) else count(body, name)


def own_ids(items: Sequence[Any]) -> JsonObject:
    """For dialects whose token ids are always the model's own."""
    return {"token_ids": "model"} if any(isinstance(item, list) for item in items) else {}


def embedding_params(body: JsonObject, *, caches: bool = True) -> JsonObject:
    """What a model is told beside the inputs."""
    # 0 is Infinity's word for all of them.
    is_all = is_int(body.get("dimensions")) and body["dimensions"] == 0
    params = {
        "dimensions": None if is_all else count(body, "dimensions", "output_dimension", "truncate_dim"),
        "normalize": flag_of(body, "normalize", "normalized", "normalize_embeddings"),
        "prompt_name": first(body, str, "prompt_name", "task", "input_type"),
        "prompt": first(body, str, "prompt"),
        "truncate": truncation(body),
        "token_ids": first(body, str, "token_ids"),
        "cache": None if caches else False,
    }
    return {name: value for name, value in params.items() if value is not None}
