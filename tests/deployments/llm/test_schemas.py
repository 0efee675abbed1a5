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
    ],
)
def test_what_no_grammar_can_be_made_of_is_refused(schema: Any, says: str) -> None:
    with pytest.raises(errors.BadRequest, match=says):
        refuse_format({"type": "json_schema", "schema": schema})


def test_another_form_is_refused() -> None:
    with pytest.raises(errors.BadRequest, match="takes text, json_object, json_schema, regex or choice"):
        refuse_format({"type": "grammar", "grammar": "root ::= 'a'"})
