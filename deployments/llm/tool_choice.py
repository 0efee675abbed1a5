"""Requests that leave a model no choice but to call a tool: their answers are held to the JSON of a call."""

from __future__ import annotations

from typing import Any

from cluster import errors
from cluster.names import cut
from cluster.value import JsonObject
from deployments.llm.requests import Query
from deployments.llm.schemas import refuse_schema


def must_call(query: Query) -> bool:
    return bool(query.tools) and query.tool_choice not in ("auto", "none")


def callable_tools(query: Query) -> list[JsonObject]:
    """Those of the tools that may be called: all, or the one with the name that tool_choice has."""
    functions = [_function(tool) for tool in query.tools]
    if isinstance(query.tool_choice, str):
        return query.tools
    function = query.tool_choice.get("function", query.tool_choice)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise errors.InvalidBody("tool_choice takes auto, none, required or the name of a function.", "tool_choice")
    tools = [tool for tool, each in zip(query.tools, functions, strict=True) if each["name"] == name]
    if not tools:
        raise errors.InvalidBody(f"tool_choice names {cut(name)}, which is none of the tools.", "tool_choice")
    return tools


def held_to_call(query: Query) -> Query:
    """The same, with a format that only the call of a tool has."""
    if query.format is not None:
        raise errors.BadRequest(
            "An answer that has to call a tool has a form already: leave out either tool_choice or the format.",
            "tool_choice",
        )
    schema = call_schema(callable_tools(query))
    refuse_schema(schema, "tools")
    return query.model_copy(update={"format": {"type": "json_schema", "schema": schema}})


def call_schema(tools: list[JsonObject]) -> JsonObject:
    """Of one call of any of them."""
    calls, parameters = [], {}
    for number, function in enumerate(map(_function, tools)):
        where = f"tool{number}"
        parameters[where] = _moved(function.get("parameters") or {"type": "object"}, f"#/$defs/{where}")
        properties = {"name": {"const": function["name"]}, "arguments": {"$ref": f"#/$defs/{where}"}}
        calls.append(
            {
                "type": "object",
                "properties": properties,
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return {"anyOf": calls, "$defs": parameters}


def _function(tool: JsonObject) -> JsonObject:
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise errors.InvalidBody("Each of the tools must have a function with a name.", "tools")
    return function


def _moved(schema: Any, root: str, depth: int = 0) -> Any:
    """The schema with its references to itself as they are within another one."""
    if depth > 64:
        raise errors.InvalidBody("The parameters of a tool are too deep.", "tools")
    if isinstance(schema, list):
        return [_moved(each, root, depth + 1) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {}
    for name, value in schema.items():
        if name == "$ref" and isinstance(value, str) and value.startswith("#"):
            moved[name] = root + value[1:].rstrip("/")
        else:
            moved[name] = value if name in ("enum", "const", "default") else _moved(value, root, depth + 1)
    return moved
