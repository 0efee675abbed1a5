"""JSON schemas as grammars, for an engine whose own leave it to the model how much white space stands between two
values, or how many digits a number has: a small model then goes on with either until its answer is cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import inf
from typing import Any

from cluster import errors
from cluster.value import JsonObject
from deployments.llm.patterns import literal

#: A list may be as long as the answer; more items than these are not counted.
MOST_COUNTED = 500
#: Behind each sign and value: nothing, a blank, or a new line with its indent. No two ways begin alike: of such the
#: engine has let an answer go from one to the other, and write a list without commas.
COMMON = r"""
gap ::= [ ]{0,1} | "\n" [ \t]{0,16}
hex ::= [0-9a-fA-F]
letter ::= [^"\\\u0001-\u001F\u007F] | "\\" (["\\/bfnrt] | "u" ([0-9abcefABCEF] hex{3} | [dD] [0-7] hex{2}))
text ::= "\"" letter* "\""
whole ::= "-"? ("0" | [1-9] [0-9]{0,17})
decimals ::= "." [0-9]{1,17}
number ::= whole decimals? ([eE] [+\-]? [0-9]{1,2})?
any ::= text | number | "true" | "false" | "null" | list | object
list ::= "[" gap (any gap ("," gap any gap)*)? "]"
object ::= "{" gap (text gap ":" gap any gap ("," gap text gap ":" gap any gap)*)? "}"
"""
PLAIN = {"string": "text", "boolean": '("true" | "false")', "null": '"null"', "number": "number", "integer": "whole"}
BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})


def json_grammar(schema: JsonObject) -> str | None:
    """For a schema that `refuse_schema` has passed; None if it holds a number between bounds that are not whole."""
    rules = _Rules(schema)
    try:
        root = rules.of(schema)
    except _NotWhole:
        return None
    except RecursionError:
        raise errors.InvalidBody("The schema refers from part to part too often.", "response_format") from None
    return f"root ::= {root}\n{rules.text()}{COMMON}"


class _NotWhole(Exception):
    pass


class _Rules:
    def __init__(self, root: JsonObject) -> None:
        self._root = root
        self._texts: list[str] = []
        self._by_reference: dict[str, str] = {}

    def text(self) -> str:
        return "".join(f"r{number} ::= {text}\n" for number, text in enumerate(self._texts))

    def _new(self, text: str = "") -> str:
        self._texts.append(text)
        return f"r{len(self._texts) - 1}"

    def of(self, schema: Any) -> str:
        """What stands for it in a rule."""
        if not isinstance(schema, dict):
            return "any"
        if "$ref" in schema:
            return self._referred(schema["$ref"])
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return f"({' | '.join(_value(value) for value in values)})"
        if "anyOf" in schema:
            return f"({' | '.join(self.of({**_without(schema, 'anyOf'), **each}) for each in _choices(schema))})"
        types = schema.get("type") or _implied(schema)
        names = [types] if isinstance(types, str) else types
        return f"({' | '.join(self._of_type(name, schema) for name in names)})" if names else "any"

    def _referred(self, reference: str) -> str:
        if reference not in self._by_reference:
            # Its name is there before its text, which may refer to itself.
            name = self._by_reference[reference] = self._new()
            target: Any = self._root
            for part in filter(None, reference[1:].strip("/").split("/")):
                target = target[part]
            self._texts[int(name[1:])] = self.of(target)
        return self._by_reference[reference]

    def _of_type(self, name: str, schema: JsonObject) -> str:
        if name == "object":
            return self._object(schema)
        if name == "array":
            return self._array(schema)
        if name == "string" and ("minLength" in schema or "maxLength" in schema):
            return f'"\\"" letter{_times(schema.get("minLength", 0), schema.get("maxLength"))} "\\""'
        if name in ("integer", "number") and BOUNDS & schema.keys():
            return f"({' | '.join(_within(schema, has_decimals=name == 'number'))})"
        return PLAIN[name]

    def _array(self, schema: JsonObject) -> str:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if most == 0:
            return '"[" gap "]"'
        item = self._new(self.of(schema.get("items")))
        more = _times(max(least - 1, 0), most if most is None else most - 1)
        items = f'{item} gap ("," gap {item} gap){more}'
        return f'"[" gap {items} "]"' if least else f'"[" gap ({items})? "]"'

    def _object(self, schema: JsonObject) -> str:
        required = schema.get("required", [])
        properties = schema.get("properties", {})
        all_properties = {**properties, **{name: True for name in required if name not in properties}}
        others = schema.get("additionalProperties", not all_properties)
        pair = f'text gap ":" gap {self._new(self.of(others))} gap' if others else ""
        # From the last to the first: what may follow a property, and what may stand where none has come yet.
        more, first = (f'("," gap {pair})*', f'({pair} ("," gap {pair})* | "")') if pair else ("", '""')
        for name, inner in reversed(all_properties.items()):
            own = self._new(f'{_value(name)} gap ":" gap {self.of(inner)} gap')
            begun = f"{own} {more}"
            first = self._new(begun if name in required else f"{begun} | {first}")
            more = self._new(f'"," gap {own} {more}' if name in required else f'("," gap {own})? {more}')
        return f'"{{" gap {first} "}}"'


def _choices(schema: JsonObject) -> list[JsonObject]:
    return [each if isinstance(each, dict) else {} for each in schema["anyOf"]]


def _without(schema: JsonObject, name: str) -> JsonObject:
    return {key: value for key, value in schema.items() if key != name}


def _implied(schema: JsonObject) -> str | None:
    if {"properties", "required", "additionalProperties"} & schema.keys():
        return "object"
    return "array" if {"items", "minItems", "maxItems"} & schema.keys() else None


def _value(value: Any) -> str:
    return literal(json.dumps(value, ensure_ascii=False), "response_format")


def _times(least: int, most: int | None) -> str:
    return f"{{{least},}}" if most is None or most > MOST_COUNTED else f"{{{least},{most}}}"


def _within(schema: JsonObject, has_decimals: bool) -> Iterator[str]:
    """The numbers between its bounds. Of those with decimals the ones whose whole part may have any."""
    if any(schema.get(name, 0) != int(schema.get(name, 0)) for name in BOUNDS):
        raise _NotWhole
    if has_decimals and {"exclusiveMinimum", "exclusiveMaximum"} & schema.keys():
        raise _NotWhole
    low = int(max(schema.get("minimum", -inf), schema.get("exclusiveMinimum", -inf) + 1, -(10**18)))
    high = int(min(schema.get("maximum", inf), schema.get("exclusiveMaximum", inf) - 1, 10**18))
    for sign, least, most in (('"-" ', max(-high, 1), -low), ("", max(low, 0), high)):
        for part in _digits(least, most):
            yield f"{sign}{part}"
        for part in _digits(max(least - (sign != "" and high >= 0), 0), most - 1) if has_decimals else ():
            yield f"{sign}{part} decimals"


def _digits(low: int, high: int) -> Iterator[str]:
    """The whole numbers from one to the other, neither below zero."""
    while low <= high:
        end = min(high, 10 ** len(str(low)) - 1)
        yield from _as_long(str(low), str(end))
        low = end + 1


def _as_long(low: str, high: str) -> Iterator[str]:
    """For numbers of as many digits."""
    if not low:
        yield '""'
        return
    all_low, all_high = low[1:].strip("0") == "", high[1:].strip("9") == ""
    first, last = int(low[0]) + (not all_low), int(high[0]) - (not all_high)
    if low[0] == high[0] and not (all_low and all_high):
        yield from _behind(low[0], _as_long(low[1:], high[1:]))
        return
    if not all_low:
        yield from _behind(low[0], _as_long(low[1:], "9" * len(low[1:])))
    if first <= last:
        yield f"[{first}-{last}]" + (f" [0-9]{{{len(low) - 1}}}" if len(low) > 1 else "")
    if not all_high:
        yield from _behind(high[0], _as_long("0" * len(high[1:]), high[1:]))


def _behind(digit: str, ways: Iterator[str]) -> Iterator[str]:
    for way in ways:
        yield f'"{digit}" {way}'
