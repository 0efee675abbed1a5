from __future__ import annotations

from typing import Any

import pytest

from cluster import errors
from deployments.llm.schemas import MOST_DEPTH, refuse_format

PERSON = {
    "type": "object",
    "title": "Person",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
        "friends": {"type": "array", "items": {"$ref": "#/$defs/Friend"}, "maxItems": 3},
        "kind": {"enum": ["a", "b"]},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"Friend": {"type": "object", "properties": {"name": {"type": "string"}}}},
}


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    "format",
    [
        None,
        {"type": "json_object"},
        {"type": "text"},
        {"type": "regex", "regex": "a+"},
        {"type": "json_schema", "schema": PERSON},
        {"type": "json_schema", "schema": {"items": {"maxLength": 100_000}, "anyOf": [{"maxLength": 255}] * 9}},
        {"type": "json_schema", "schema": {"enum": [f"word{each}" for each in range(4000)]}},
    ],
)
def test_usual_forms_pass(format: Any) -> None:
    refuse_format(format)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("text", "needs a schema"),
        (deep(MOST_DEPTH + 1), "deeper than 32"),
        (deep(10_000), "deeper than 32"),
        ({"enum": list(range(6000))}, "more than 5000 values"),
        ({"pattern": "(a+)+"}, "has pattern"),
        ({"type": "objekt"}, "has the type"),
        ({"$ref": "http://elsewhere/schema"}, "outside of it"),
        ({"$ref": "#/$defs/Nobody"}, "not in it"),
        ({"required": "name"}, "no list of names"),
        ({"minItems": 5, "maxItems": 2}, "minItems above its maxItems"),
        ({"maxLength": 10**9}, "up to 100000"),
        ({"properties": {"a": {"items": 7}}}, "schema.a.items is not a schema"),
        ({"anyOf": []}, "anyOf"),
        ({"maximum": 10**30}, "no number below"),
        ({"minimum": float("nan")}, "no number below"),
        ({"anyOf": [{"maxLength": 1000 + each} for each in range(4)]}, "too many different minLength and maxLength"),
        ({"properties": {f"p{each}": {} for each in range(501)}}, "not required: up to 500"),
        ({"items": {"properties": {"x" * 100_000: {}}, "required": ["x" * 100_000]}}, "too long: up to 4000"),
        ({"anyOf": [{"enum": ["w" * 3000 + each for each in "abc"]}]}, "too long: up to 4000"),
    ],
)
def test_what_no_grammar_can_be_made_of_is_refused(schema: Any, says: str) -> None:
    with pytest.raises(errors.BadRequest, match=says):
        refuse_format({"type": "json_schema", "schema": schema})


def test_another_form_is_refused() -> None:
    with pytest.raises(errors.BadRequest, match="takes text, json_object, json_schema, regex or choice"):
        refuse_format({"type": "grammar", "grammar": "root ::= 'a'"})
