"""The shapes of vectors: they cross processes unchanged, are joined in order, and lose no more than their precision
allows."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle

from deployments.vectors import PRECISIONS, Rows, SparseRows, joined, quantized, unit

RANDOM = np.random.default_rng(7)
#: Three answers with two, no and three vectors of four dimensions.
ARRAYS = [RANDOM.standard_normal((n, 4), dtype=np.float32) for n in (2, 0, 3)]
PAIRS = [
    (np.array([1, 9]), np.array([0.5, 0.25], np.float32)),
    (np.array([], np.int64), np.array([], np.float32)),
    (np.array([3]), np.array([2.0], np.float32)),
]


def assert_rows(rows: Rows, arrays: list[Any]) -> None:
    assert len(rows) == len(arrays)
    for found, wanted in zip(rows, arrays, strict=True):
        assert found.shape == wanted.shape and np.array_equal(found, wanted)


def assert_sparse(rows: SparseRows, pairs: list[tuple[Any, Any]]) -> None:
    assert len(rows) == len(pairs)
    for (indices, values), (wanted_indices, wanted_values) in zip(rows, pairs, strict=True):
        assert np.array_equal(indices, wanted_indices) and np.array_equal(values, wanted_values)


def test_rows_give_each_input_its_vectors() -> None:
    rows = Rows.of(ARRAYS)
    assert_rows(rows, ARRAYS)
    assert rows.values.shape == (5, 4) and rows.values.dtype == np.float32
    assert rows.offsets.tolist() == [0, 2, 2, 5]


def test_sparse_rows_give_each_input_its_words() -> None:
    rows = SparseRows.of(PAIRS)
    assert_sparse(rows, PAIRS)
    assert rows.indices.tolist() == [1, 9, 3] and rows.offsets.tolist() == [0, 2, 2, 3]


def test_no_inputs_are_no_rows() -> None:
    assert list(Rows.of([])) == [] and len(Rows.of([])) == 0
    assert list(SparseRows.of([])) == [] and len(SparseRows.of([])) == 0


@pytest.mark.parametrize("pickled", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
def test_rows_cross_processes_whole(pickled: Any) -> None:
    for protocol in (4, 5):
        assert_rows(pickled.loads(pickled.dumps(Rows.of(ARRAYS), protocol=protocol)), ARRAYS)
        assert_sparse(pickled.loads(pickled.dumps(SparseRows.of(PAIRS), protocol=protocol)), PAIRS)


def test_parts_are_joined_in_order() -> None:
    assert_rows(joined([Rows.of(ARRAYS[:1]), Rows.of(ARRAYS[1:])]), ARRAYS)
    assert_sparse(joined([SparseRows.of(PAIRS[:2]), SparseRows.of(PAIRS[2:])]), PAIRS)
    assert joined([np.array([[1.0]]), np.array([[2.0], [3.0]])]).tolist() == [[1.0], [2.0], [3.0]]
    assert joined([["a"], ["b", "c"]]) == ["a", "b", "c"]


def test_parts_of_several_kinds_are_joined_kind_by_kind() -> None:
    parts = [
        {"dense": np.array([[n]], np.float32), "sparse": SparseRows.of([PAIRS[n]]), "tokens": Rows.of([ARRAYS[n]])}
        for n in range(3)
    ]
    whole = joined(parts)
    assert whole["dense"].tolist() == [[0.0], [1.0], [2.0]]
    assert_sparse(whole["sparse"], PAIRS)
    assert_rows(whole["tokens"], ARRAYS)
    classes = [{"scores": np.array([[0.1, 0.9]]), "labels": [["no", "yes"]]}] * 2
    assert joined(classes)["labels"] == [["no", "yes"], ["no", "yes"]]


def test_one_part_is_the_whole() -> None:
    rows = Rows.of(ARRAYS)
    assert joined([rows]) is rows


def test_unit_vectors_have_length_one_and_nothing_stays_nothing() -> None:
    found = unit(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    assert found.dtype == np.float32
    assert np.allclose(found, [[0.6, 0.8], [0.0, 0.0]])


VECTORS = unit(RANDOM.standard_normal((50, 384), dtype=np.float32))


def cosines(found: Any) -> Any:
    return (unit(found.astype(np.float32)) * VECTORS).sum(axis=1)


@pytest.mark.parametrize(
    ("precision", "dtype", "width"),
    [
        ("float", "<f4", 384),
        ("float16", "<f2", 384),
        ("int8", "int8", 384),
        ("uint8", "uint8", 384),
        ("binary", "int8", 48),
        ("ubinary", "uint8", 48),
    ],
)
def test_each_precision_has_its_type_and_size(precision: str, dtype: str, width: int) -> None:
    found = quantized(VECTORS, precision)
    assert precision in PRECISIONS
    assert (found.dtype, found.shape) == (np.dtype(dtype), (50, width))
    assert found.flags["C_CONTIGUOUS"]


def test_rounding_costs_little_of_the_direction() -> None:
    assert cosines(quantized(VECTORS, "float16")).min() > 0.999999
    assert cosines(quantized(VECTORS, "int8")).min() > 0.998
    assert cosines(quantized(VECTORS, "uint8").astype(np.int16) - 128).min() > 0.998


def test_signs_are_what_binary_keeps() -> None:
    bits = np.unpackbits(quantized(VECTORS, "ubinary"), axis=-1)
    assert np.array_equal(bits.astype(bool), VECTORS > 0)
    # The same bits as signed int8, the way Cohere and sentence-transformers write them.
    assert np.array_equal(quantized(VECTORS, "binary").astype(np.int16) + 128, quantized(VECTORS, "ubinary"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_vector_is_written_the_same_whoever_it_is_asked_with(precision: str) -> None:
    alone = [quantized(VECTORS[n : n + 1], precision)[0] for n in range(50)]
    assert np.array_equal(np.stack(alone), quantized(VECTORS, precision))


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_a_long_vector_is_not_cut_off_at_the_ends_of_the_range(precision: str) -> None:
    near = quantized(VECTORS * 40, precision).astype(np.int16) - quantized(VECTORS, precision)
    assert np.abs(near).max() <= 1


def test_the_ends_of_the_range_are_not_passed() -> None:
    extremes = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    assert quantized(extremes, "int8").tolist() == [[127, 0], [-127, 0]]
    assert quantized(extremes, "uint8").tolist() == [[255, 128], [1, 128]]
