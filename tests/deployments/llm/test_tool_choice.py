"""Which call an answer is held to where the request leaves no choice."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import errors
from deployments.llm.requests import Query
from deployments.llm.tool_choice import call_schema, callable_tools, held_to_call, must_call

CITY = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/City"}, "whole": {"anyOf": [{"$ref": "#"}]}},
    "$defs": {"City": {"enum": ["Rome"]}},
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
TIME = {"type": "function", "function": {"name": "time"}}


def query(choice: Any, tools: Any = (WEATHER, TIME), **more: Any) -> Query:
    return Query(messages=[{"role": "user"}], tools=list(tools), tool_choice=choice, **more)


@pytest.mark.parametrize(
    ("choice", "tools"),
    [
        ("required", [WEATHER, TIME]),
        ({"type": "function", "function": {"name": "time"}}, [TIME]),
        ({"type": "function", "name": "time"}, [TIME]),
    ],
)
def test_all_tools_or_the_named_one_may_be_called(choice: Any, tools: Any) -> None:
    assert must_call(query(choice)) and callable_tools(query(choice)) == tools
    assert held_to_call(query(choice)).format == {"type": "json_schema", "schema": call_schema(tools)}


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_else_the_model_decides(choice: str) -> None:
    assert not must_call(query(choice))


def test_references_of_parameters_hold_within_the_call() -> None:
    schema = call_schema([TIME, WEATHER])
    assert [call["properties"]["name"] for call in schema["anyOf"]] == [{"const": "time"}, {"const": "weather"}]
    assert schema["$defs"]["tool0"] == {"type": "object"}
    assert schema["$defs"]["tool1"]["properties"] == {
        "city": {"$ref": "#/$defs/tool1/$defs/City"},
        "whole": {"anyOf": [{"$ref": "#/$defs/tool1"}]},
    }


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (query({"function": {"name": "nobody"}}), "none of the tools"),
        (query({"type": "function"}), "the name of a function"),
        (query("required", [{"type": "function"}]), "a function with a name"),
        (query("required", [{"function": {"name": "f", "parameters": {"pattern": "a"}}}]), "tools: .* has pattern"),
        (query("required", [{"function": {"name": "f", "parameters": 7}}]), "is not a schema"),
        (query("required", format={"type": "json_object"}), "has a form already"),
    ],
)
def test_what_no_call_can_be_held_to_is_refused(asked: Query, says: str) -> None:
    with pytest.raises(errors.BadRequest, match=says):
        held_to_call(asked)
