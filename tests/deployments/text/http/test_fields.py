"""Fields of bodies: one meaning under the names of all clients, and a refusal that says which name was wrong."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import errors
from deployments.text.http.embeddings import inputs
from deployments.text.http.fields import (
    count,
    embedding_params,
    flag,
    flag_of,
    ids_of,
    model_of,
    most_tokens,
    texts_of,
    truncation,
)
from deployments.text.http.vllm import _sides


@pytest.mark.parametrize("model", [None, "", "default/not-specified"])
def test_no_model_is_no_model_however_it_is_said(model: Any) -> None:
    assert model_of({"model": model}) is None
    assert model_of({}) is None
    assert model_of({"model": "bge-m3"}) == "bge-m3"


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, {}),
        ({"dimensions": 64}, {"dimensions": 64}),
        ({"output_dimension": 64}, {"dimensions": 64}),
        ({"truncate_dim": 64}, {"dimensions": 64}),
        # Infinity's word for all of them.
        ({"dimensions": 0}, {}),
        ({"normalize": False}, {"normalize": False}),
        ({"normalized": True}, {"normalize": True}),
        ({"normalize_embeddings": True}, {"normalize": True}),
        ({"prompt_name": "query"}, {"prompt_name": "query"}),
        ({"task": "retrieval.query"}, {"prompt_name": "retrieval.query"}),
        ({"input_type": "document"}, {"prompt_name": "document"}),
        ({"prompt": "q: "}, {"prompt": "q: "}),
        ({"truncation": False}, {"truncate": "NONE"}),
        ({"normalize": "false"}, {"normalize": False}),
        ({"truncate": "true"}, {"truncate": "END"}),
    ],
)
def test_each_word_for_the_same_is_the_same(body: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert embedding_params(body) == wanted


def test_what_is_not_to_be_cached_says_so() -> None:
    assert embedding_params({}, caches=False) == {"cache": False}


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, None),
        ({"truncate": None}, None),
        ({"truncate": True}, "END"),
        ({"truncate": False}, "NONE"),
        ({"truncation": True}, "END"),
        ({"truncate": "start"}, "START"),
        ({"truncate": "END"}, "END"),
        ({"truncate": "NONE"}, "NONE"),
        ({"truncate": "true"}, "END"),
        ({"truncate": "False"}, "NONE"),
        ({"truncate": 0}, "NONE"),
        ({"truncation_direction": "Left"}, "START"),
        ({"truncate": True, "truncation_direction": "left"}, "START"),
        ({"truncate": True, "truncation_direction": "Right"}, "END"),
        ({"truncate": False, "truncation_direction": "Left"}, "NONE"),
        ({"truncation_side": "left"}, "START"),
    ],
)
def test_where_a_long_text_is_cut_is_one_of_three_words(body: dict[str, Any], wanted: str | None) -> None:
    assert truncation(body) == wanted


@pytest.mark.parametrize("text", ["true", "True", "yes", "on", "1", 1, 1.0, True])
def test_what_means_true_is_true(text: Any) -> None:
    assert flag(text, "raw") is True and flag_of({"raw": text}, "raw") is True


@pytest.mark.parametrize("text", ["false", "FALSE", "no", "off", "0", 0, False, None])
def test_what_means_false_is_false(text: Any) -> None:
    assert flag(text, "raw") is False
    assert flag_of({"raw": text, "scores": text}, "raw", "scores") is (None if text is None else False)


REFUSED = [
    (model_of, {"model": 5}, "model"),
    (embedding_params, {"dimensions": 1.5}, "dimensions"),
    (embedding_params, {"dimensions": False}, "dimensions"),
    (embedding_params, {"output_dimension": 0}, "output_dimension"),
    (embedding_params, {"normalized": "perhaps"}, "normalized"),
    (embedding_params, {"task": 5}, "task"),
    (truncation, {"truncate": 5}, "truncate"),
    (truncation, {"truncation": "MAYBE"}, "truncation"),
    (truncation, {"truncation_direction": "up"}, "truncation_direction"),
    (truncation, {"truncation_side": 5}, "truncation_side"),
    (lambda body: count(body, "top_n", "top_k"), {"top_k": 0}, "top_k"),
    (lambda body: most_tokens(body, "max_tokens"), {"max_tokens": -2}, "max_tokens"),
    (lambda body: flag(body["raw"], "raw"), {"raw": 2}, "raw"),
    (lambda body: texts_of(body["a"], "a"), {"a": []}, "a"),
    (lambda body: texts_of(body["a"], "a"), {"a": ["a", 5]}, "a"),
    (lambda body: ids_of(body["a"], "a"), {"a": [1, True]}, "a"),
    (lambda body: ids_of(body["a"], "a"), {"a": [2**31]}, "a"),
    (lambda body: ids_of(body["a"], "a"), {"a": []}, "a"),
    (inputs, {"input": [True]}, "input"),
    (inputs, {"input": [[1, 2.0]]}, "input"),
    (inputs, {"input": [{"text": "a", "image": "b"}]}, "input"),
    (_sides, {}, "queries"),
    (_sides, {"queries": "a"}, "documents"),
    (_sides, {"items": "a"}, "queries"),
    (_sides, {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_2"),
]


@pytest.mark.parametrize(
    ("read", "body", "param"), REFUSED, ids=lambda value: getattr(value, "__name__", str(value)[:40])
)
def test_what_is_wrong_is_named(read: Any, body: dict[str, Any], param: str) -> None:
    with pytest.raises(errors.InvalidBody) as raised:
        read(body)
    assert raised.value.param == param and param in raised.value.message


@pytest.mark.parametrize(
    ("given", "modality", "wanted"),
    [
        ("a", None, ["a"]),
        (["a", "b"], "text", ["a", "b"]),
        ([1, 2], None, [[1, 2]]),
        ([[1, 2], [3]], None, [[1, 2], [3]]),
        (["a", [1, 2], {"text": "c", "id": 5}], None, ["a", [1, 2], "c"]),
        ({"image": "data:,"}, None, [{"image": "data:,"}]),
        ([{"audio": "x", "more": {}}, "a"], None, [{"audio": "x"}, "a"]),
        (["x", {"image": "y"}], "image", [{"image": "x"}, {"image": "y"}]),
        ("x", "audio", [{"audio": "x"}]),
    ],
)
def test_inputs_are_texts_ids_and_media(given: Any, modality: str | None, wanted: list[Any]) -> None:
    assert inputs({"input": given}, modality) == wanted


@pytest.mark.parametrize(
    ("body", "left", "right"),
    [
        ({"text_1": "a", "text_2": ["b", "c"]}, ["a", "a"], ["b", "c"]),
        ({"queries": ["a", "b"], "documents": ["c", "d"]}, ["a", "b"], ["c", "d"]),
        ({"queries": ["a", "b"], "items": "c"}, ["a", "b"], ["c", "c"]),
        ({"data_1": "a", "data_2": "b"}, ["a"], ["b"]),
    ],
)
def test_two_sides_are_paired(body: dict[str, Any], left: list[str], right: list[str]) -> None:
    assert _sides(body) == (left, right)
