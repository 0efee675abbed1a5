"""Flags made from the fields of a pydantic model, and options written as `--key value` or `NAME=VALUE`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
import orjson
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cluster.names import nearest
from cluster.value import JsonObject

F = TypeVar("F", bound=Callable[..., Any])


def flags_of(
    model: type[BaseModel],
    also: Mapping[str, tuple[str, ...]] | None = None,
    only: Collection[str] | None = None,
) -> Callable[[F], F]:
    """Gives a command one flag per field, None where it is not given. `also` adds further spellings."""

    def decorate(command: F) -> F:
        for name, field in reversed(model.model_fields.items()):
            if only is None or name in only:
                command = _flag(name, field, (also or {}).get(name, ()))(command)
        return command

    return decorate


def _flag(name: str, field: FieldInfo, also: tuple[str, ...]) -> Callable[[F], F]:
    dashed = name.replace("_", "-")
    kinds = _kinds(field.annotation)
    choices = [kind for kind in kinds if isinstance(kind, str)]
    attributes: dict[str, Any] = {"help": _help(field), "required": field.is_required()}
    flag = f"--{dashed}"
    if kinds == [bool]:
        flag = f"--{dashed}/--no-{dashed}"
        attributes["default"] = None
    elif kinds == [int]:
        attributes["type"] = int
    elif kinds == [float]:
        attributes["type"] = float
    elif choices == kinds:
        attributes["type"] = click.Choice(choices)
    elif dict in kinds:
        attributes.update(multiple=True, metavar="KEY=VALUE", callback=_read_pairs)
    elif tuple in kinds:
        attributes.update(metavar="A,B or JSON", callback=_read_list)
    return click.option(name, *also, flag, **attributes)


def _kinds(annotation: object) -> list[object]:
    """The types that a field takes except None, a Literal as its values: `int | Literal["auto"]` is [int, "auto"]."""
    origin = get_origin(annotation)
    if origin is Literal:
        return list(get_args(annotation))
    if origin in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [] if annotation is NoneType else [origin or annotation]


def _help(field: FieldInfo) -> str:
    default = field.default
    if field.is_required() or default is None or default == "" or default == ():
        return field.description or ""
    return f"{field.description}  [default: {str(default).lower() if isinstance(default, bool) else default}]"


def _read_pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str] | None:
    pairs = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE.", ctx, param)
        pairs[key] = text
    return pairs or None


def _read_list(ctx: click.Context, param: click.Parameter, value: str | None) -> object:
    """Text with commas stays text, which the field splits; a list that commas cannot express is JSON."""
    if value is None or not value.startswith("["):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise click.BadParameter(f"{value!r} is not JSON: {error}.", ctx, param) from None


def with_dashes(flag: str) -> str:
    """`--model_name`, as Xinference spells some of its flags, is `--model-name`."""
    return flag.replace("_", "-")


def read_options(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> JsonObject:
    """`--option NAME=VALUE`, any number of times."""
    options = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE.", ctx, param)
        options[name.replace("-", "_")] = parse_value(text)
    return options


def more_fields(example: str) -> Callable[[F], F]:
    """The flag for fields of a request that have none of their own."""
    return click.option(
        "--option",
        "more",
        multiple=True,
        metavar="NAME=VALUE",
        callback=read_options,
        help=f"Any other field of the request, e.g. {example}.",
    )


#: How Xinference's command line spells the adapters of a launch.
ADAPTERS = ("--lora-modules", "--lora_modules", "-lm")
#: And how it spells the way in which weights are packed, beside JSON.
PACKING = ("--quantization-config", "--quantization_config")


def family_options(words: Iterable[str]) -> JsonObject:
    """The options of the model's family, from words that are no flags of the command: `--key value`, `--key=value`,
    `--key` for true; `--lora-modules NAME PATH` and `--quantization-config KEY VALUE`, any number of times."""
    options: JsonObject = {}
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if word in ADAPTERS:
            if len(remaining) < 2:
                raise click.UsageError(f"{word} needs a name and a path, e.g. {word} sketch /models/sketch.")
            name, path = remaining.pop(0), remaining.pop(0)
            options.setdefault("lora_modules", []).append({"name": name, "path": path})
            continue
        if word in PACKING and len(remaining) > 1 and not remaining[1].startswith("-"):
            key, text = remaining.pop(0), remaining.pop(0)
            options.setdefault("quantization_config", {})[key] = parse_value(text)
            continue
        if not re.match(r"--\w", word):
            raise click.UsageError(f"{word!r} does not belong to any option; name the model with --model-name.")
        key, equals, text = word[2:].partition("=")
        if not equals:
            is_flag = not remaining or re.match(r"--\w", remaining[0]) or remaining[0] in ADAPTERS
            text = "true" if is_flag else remaining.pop(0)
        options[key.replace("-", "_")] = parse_value(text)
    return options


_WORDS = {"None": None, "True": True, "true": True, "False": False, "false": False}


def parse_value(text: str) -> Any:
    """A value as Xinference's command line reads one: None, true, 1, 0.5, JSON, or else the text."""
    if text in _WORDS:
        return _WORDS[text]
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    # Python's float() also takes "nan" and "inf", which JSON lacks, and "1_8", a model size, as 18.
    if re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", text, re.IGNORECASE):
        try:
            number = float(text)
        except ValueError:
            return text
        return number if math.isfinite(number) else text
    if text.startswith(("{", "[")):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            return text
    return text


def nearest_flag(key: str, model: type[BaseModel]) -> str | None:
    """The flag that the user probably meant."""
    close = nearest(key, model.model_fields, cutoff=0.8)
    return f"--{close[0].replace('_', '-')}" if close else None
