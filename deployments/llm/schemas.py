"""Which formats answers can be held to: JSON schemas, and what grammars are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster import errors
from cluster.names import cut
from cluster.value import JsonObject
from deployments.llm.patterns import choice_grammar, regex_grammar

MOST_DEPTH = 32
MOST_VALUES = 5_000
MOST_NUMBER = 2**63
#: What makes grammars take seconds to compile, each so that it takes about five. The letters of texts with a length,
#: of which many cost no more than this:
MOST_LENGTHS, LONG = 400, 130
#: The squares of how many properties an object may have or not have, and those of the lengths of fixed texts.
MOST_OPTIONAL = 500**2
MOST_LETTERS = 20_000_000
#: What the grammars of the engines can express.
TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
CONSTRAINTS = frozenset(
    """
    type properties required items enum const anyOf $ref $defs definitions additionalProperties
    minItems maxItems minLength maxLength minimum maximum exclusiveMinimum exclusiveMaximum
    """.split()
)
#: What says nothing about how the answer is written.
NOTES = frozenset(
    "title description default examples $schema $id $comment deprecated readOnly writeOnly strict".split()
)


def refuse_format(format: JsonObject | None) -> None:
    """Raises for a form of answers that no grammar can be made of."""
    if format is None or format.get("type") in ("json_object", "text") or grammar_of(format) is not None:
        return
    if format.get("type") != "json_schema":
        raise errors.BadRequest(
            f"response_format takes text, json_object, json_schema, regex or choice, not {format.get('type')!r:.50}.",
            "response_format",
        )
    refuse_schema(format.get("schema"), "response_format")


def grammar_of(format: JsonObject) -> str | None:
    """What the engines are given for a format that is no JSON."""
    if format.get("type") == "regex":
        return regex_grammar(format.get("regex"))
    return choice_grammar(format.get("choice")) if format.get("type") == "choice" else None


def refuse_schema(schema: object, param: str) -> None:
    """`param`: the field of the request that it came in."""
    if not isinstance(schema, dict):
        raise errors.InvalidBody(f"{param}: json_schema needs a schema, which is an object.", param)
    try:
        _refuse_large(schema)
        _refuse_in(schema, schema, "schema")
        _refuse_heavy(schema)
    except _Refusal as refusal:
        raise errors.InvalidBody(f"{param}: {refusal}", param) from None


class _Refusal(Exception):
    """What is wrong, as a sentence."""


def _refuse_large(schema: object) -> None:
    level: list[Any] = [schema]
    values = 0
    for _ in range(MOST_DEPTH):
        level = [inner for value in level for inner in _inner(value)]
        values += len(level)
        if values > MOST_VALUES:
            raise _Refusal(f"The schema has more than {MOST_VALUES} values.")
        if not level:
            return
    raise _Refusal(f"The schema is deeper than {MOST_DEPTH} levels.")


def _inner(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _refuse_heavy(schema: JsonObject) -> None:
    """For a schema that is one."""
    parts = list(_parts(schema))
    lengths = {(part.get("minLength", 0), part.get("maxLength", 0)) for part in parts}
    if sum(min(max(each), LONG) for each in lengths) > MOST_LENGTHS:
        raise _Refusal(
            f"The schema has too many different minLength and maxLength: together up to {MOST_LENGTHS}, where those "
            f"above {LONG} count as that."
        )
    optional = [len(part.get("properties", {}).keys() - part.get("required", [])) for part in parts]
    if sum(each**2 for each in optional) > MOST_OPTIONAL:
        raise _Refusal("The schema has too many properties that are not required: up to 500 in one object.")
    texts = [text for part in parts for text in (*part.get("properties", {}), *part.get("enum", []), part.get("const"))]
    if sum(len(text) ** 2 for text in texts if isinstance(text, str)) > MOST_LETTERS:
        raise _Refusal("The schema has names or values that are too long: up to 4000 letters.")


def _parts(schema: JsonObject) -> Iterator[JsonObject]:
    """It, and all schemas within it."""
    waiting: list[Any] = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            for name in ("properties", "$defs", "definitions"):
                waiting += part.get(name, {}).values()
            waiting += [part.get("items"), part.get("additionalProperties"), *part.get("anyOf", [])]


def _refuse_in(schema: object, root: JsonObject, where: str) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise _wrong(where, "is not a schema")
    unknown = sorted(set(schema) - CONSTRAINTS - NOTES)
    if unknown:
        raise _wrong(where, f"has {cut(unknown[0])}, which answers cannot be held to")
    _refuse_words(schema, root, where)
    for name in ("properties", "$defs", "definitions"):
        inner = schema.get(name, {})
        if not isinstance(inner, dict):
            raise _wrong(where, f"has {name} that are no object")
        for key, each in inner.items():
            _refuse_in(each, root, f"{where}.{cut(key)}")
    for name in ("items", "additionalProperties"):
        if name in schema:
            _refuse_in(schema[name], root, f"{where}.{name}")
    choices = schema.get("anyOf", [True])
    if not isinstance(choices, list) or not choices:
        raise _wrong(where, "has an anyOf that is no list of schemas")
    for choice in choices:
        _refuse_in(choice, root, f"{where}.anyOf")


def _refuse_words(schema: JsonObject, root: JsonObject, where: str) -> None:
    types = schema.get("type", [])
    if not all(type in TYPES for type in (types if isinstance(types, list) else [types])):
        raise _wrong(where, f"has the type {types!r:.50}")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise _wrong(where, "requires what is no list of names")
    if "enum" in schema and not (isinstance(schema["enum"], list) and schema["enum"]):
        raise _wrong(where, "has an enum that is no list of values")
    for name in ("minItems", "maxItems", "minLength", "maxLength"):
        if name in schema and not (type(schema[name]) is int and 0 <= schema[name] <= 100_000):
            raise _wrong(where, f"has a {name} that is no whole number up to 100000")
    for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if name in schema and not (type(schema[name]) in (int, float) and abs(schema[name]) < MOST_NUMBER):
            raise _wrong(where, f"has a {name} that is no number below 2**63")
    for low, high in (("minItems", "maxItems"), ("minLength", "maxLength"), ("minimum", "maximum")):
        if low in schema and high in schema and schema[low] > schema[high]:
            raise _wrong(where, f"has a {low} above its {high}")
    if "$ref" in schema:
        _refuse_reference(schema["$ref"], root, where)


def _refuse_reference(reference: object, root: JsonObject, where: str) -> None:
    target: Any = root
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise _wrong(where, "refers to something outside of it")
    for part in reference[1:].strip("/").split("/"):
        if part:
            target = target.get(part) if isinstance(target, dict) else None
    if not isinstance(target, dict):
        raise _wrong(where, f"refers to {cut(reference)}, which is not in it")


def _wrong(where: str, what: str) -> _Refusal:
    return _Refusal(f"{where} {what}.")
