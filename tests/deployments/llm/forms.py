"""Twenty forms of answers, each with some answers that fit it."""

from __future__ import annotations

from typing import Any


def an_object(**properties: Any) -> dict[str, Any]:
    """All of them are required."""
    required = list(properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


TEXT = {"type": "string", "maxLength": 12}
NUMBER = {"type": "integer", "minimum": 0, "maximum": 99}
TREE = {**an_object(n=NUMBER), "properties": {"n": NUMBER, "left": {"$ref": "#/$defs/tree"}}}

FORMS: list[tuple[dict[str, Any], list[Any]]] = [
    (an_object(city=TEXT, people=NUMBER), [{"city": 'Par"is', "people": 99}, {"city": "", "people": 0}]),
    (an_object(a={"type": "boolean"}, b={"type": "null"}), [{"a": True, "b": None}]),
    ({"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 4}, [[1, 2], [1, 2, 3, 4]]),
    ({"enum": ["red", "green", 5, None]}, ["red", 5, None]),
    (an_object(kind={"const": "cat"}, age=NUMBER), [{"kind": "cat", "age": 7}]),
    ({"anyOf": [an_object(x=NUMBER), an_object(y=TEXT)]}, [{"x": 1}, {"y": "z"}]),
    (an_object(inner=an_object(deep=an_object(deeper=NUMBER))), [{"inner": {"deep": {"deeper": 5}}}]),
    (
        {"$defs": {"p": an_object(n=TEXT)}, **an_object(p={"$ref": "#/$defs/p"}, q={"$ref": "#/$defs/p"})},
        [{"p": {"n": "a"}, "q": {"n": "b"}}],
    ),
    ({"type": "integer", "exclusiveMinimum": -3, "maximum": 4}, [-2, 0, 4]),
    (an_object(tags={"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}), [{"tags": []}, {"tags": ["b"]}]),
    (an_object(n={"anyOf": [NUMBER, {"type": "null"}]}), [{"n": None}, {"n": 3}]),
    ({"type": "array", "items": an_object(i=NUMBER), "minItems": 1, "maxItems": 2}, [[{"i": 1}], [{"i": 1}, {"i": 2}]]),
    ({"type": "integer", "minimum": 10, "maximum": 20}, [10, 15, 20]),
    (an_object(t={"type": ["string", "null"], "maxLength": 5}), [{"t": None}, {"t": "abcde"}]),
    (
        {"properties": {"a": NUMBER, "b": NUMBER, "c": NUMBER}, "required": ["b"], "additionalProperties": False},
        [{"b": 1}, {"a": 1, "b": 2}, {"b": 2, "c": 3}, {"a": 1, "b": 2, "c": 3}],
    ),
    ({"type": "object", "required": ["any"], "properties": {"any": NUMBER}}, [{"any": 2}]),
    (
        an_object(**{"with space": TEXT, "ключ": NUMBER, 'quo"te': NUMBER}),
        [{"with space": "a", "ключ": 1, 'quo"te': 2}],
    ),
    (an_object(unicode={"enum": ["grün", "日本", "🙂"]}), [{"unicode": "日本"}]),
    ({"type": "boolean"}, [True, False]),
    (an_object(share={"type": "number", "minimum": 0, "maximum": 1}), [{"share": 0.25}, {"share": 1}]),
]
#: Answers of these may be of any length.
OPEN_FORMS: list[tuple[dict[str, Any], list[Any]]] = [
    ({"properties": {"a": NUMBER, "b": TEXT}, "additionalProperties": NUMBER}, [{}, {"b": "x"}, {"a": 1, "other": 2}]),
    ({"$defs": {"tree": TREE}, "$ref": "#/$defs/tree"}, [{"n": 1}, {"n": 1, "left": {"n": 2}}]),
    ({"type": "object", "required": ["x"]}, [{"x": [1, None]}, {"x": {"y": ""}}]),
    ({"items": {"type": "string"}}, [[], ["a", "b"]]),
]
