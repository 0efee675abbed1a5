"""Grammars of JSON schemas, read as regular expressions: what they let an answer be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from cluster import errors
from deployments.llm.json_grammars import json_grammar
from tests.deployments.llm.forms import FORMS, OPEN_FORMS

#: A quoted text, a class, a name, or a sign.
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|[a-z][a-z0-9]*|\{[0-9,]+\}|\S|\s+')


def expression(schema: dict[str, Any]) -> re.Pattern[str]:
    """Of its grammar; what refers to itself may do so once."""
    grammar = json_grammar(schema)
    assert grammar is not None
    rules = dict(line.split(" ::= ", 1) for line in grammar.splitlines() if line)

    def parts(name: str, within: tuple[str, ...]) -> Iterator[str]:
        for token in TOKEN.findall(rules[name]):
            if token in rules:
                yield f"(?:{''.join(parts(token, (*within, name)))})" if within.count(token) < 2 else "(?!)"
            elif token.startswith('"'):
                yield re.escape(json.loads(token))
            elif not token.isspace():
                yield token if token != "(" else "(?:"

    return re.compile("".join(parts("root", ())))


@pytest.mark.parametrize(("schema", "values"), [*FORMS, *OPEN_FORMS])
def test_what_fits_the_schema_may_be_written_and_nothing_else(schema: dict[str, Any], values: list[Any]) -> None:
    may_be = expression(schema)
    for value in values:
        assert may_be.fullmatch(json.dumps(value, ensure_ascii=False, separators=(",", ":"))), value
        assert may_be.fullmatch(json.dumps(value, ensure_ascii=False, indent=2)), value
    for text in ("", "{", '{"city": }', json.dumps({"another": {"thing": [1]}}), json.dumps([["other"]]), "01"):
        assert not may_be.fullmatch(text), text


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0), (0, 9), (7, 13), (0, 100), (98, 1203), (-5, 5), (-120, -7), (-3, 0), (999, 1000)]
)
def test_whole_numbers_between_bounds_are_those_and_no_others(low: int, high: int) -> None:
    may_be = expression({"type": "integer", "minimum": low, "exclusiveMaximum": high + 1})
    assert [n for n in range(-1500, 1500) if may_be.fullmatch(str(n))] == list(range(low, high + 1))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-2, 3), (-4, -2), (9, 11)])
def test_numbers_between_bounds_may_have_decimals(low: int, high: int) -> None:
    may_be = expression({"type": "number", "minimum": low, "maximum": high})
    tenths = [n / 10 for n in range(-200, 200)]
    assert all(low <= n <= high for n in tenths if may_be.fullmatch(repr(n)))
    assert all(may_be.fullmatch(repr(n)) for n in tenths if low < n < high)
    assert may_be.fullmatch(str(low)) and may_be.fullmatch(str(high)) and not may_be.fullmatch(f"{high + 1}.5")


def test_bounds_that_are_not_whole_are_left_to_the_engine() -> None:
    assert json_grammar({"type": "array", "items": {"type": "number", "minimum": 0.5}}) is None


def test_a_schema_may_refer_to_itself_but_not_from_part_to_part_for_ever() -> None:
    assert json_grammar({"$ref": "#"}) is not None
    chain: dict[str, Any] = {f"d{number}": {"$ref": f"#/$defs/d{number + 1}"} for number in range(1500)}
    with pytest.raises(errors.InvalidBody, match="too often"):
        json_grammar({"$defs": {**chain, "d1500": True}, "$ref": "#/$defs/d0"})


def test_neither_white_space_nor_digits_go_on_for_ever() -> None:
    may_be = expression({"type": "array", "items": {"type": "number"}})
    assert may_be.fullmatch("[\n        1.25,\n        -3e5\n]")
    for text in ("[" + " " * 20 + "1]", "[\n\n1]", "[" + "1" * 40 + "]", "[0." + "3" * 40 + "]"):
        assert not may_be.fullmatch(text)
