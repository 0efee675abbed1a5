"""What text models answer: vectors as arrays, never as lists of lists, in the few shapes that there are.

One vector per input is a float32 array [inputs, dimensions]. Several vectors per input are `Rows`, a weight for some
words of the vocabulary is `SparseRows`; both are flat arrays with the places where each input begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cluster import errors

Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.integer]
#: The arrays of one batch, under the names that a model takes them by.
Arrays: TypeAlias = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Several vectors per input: those of input `i` are `values[offsets[i]:offsets[i + 1]]`."""

    values: Floats
    offsets: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[Floats]:
        return (self.values[a:b] for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True))

    @classmethod
    def of(cls, arrays: Sequence[Floats]) -> Rows:
        values = np.concatenate(arrays) if len(arrays) else np.empty((0, 0), np.float32)
        return cls(values, _offsets(map(len, arrays)))


@dataclass(frozen=True, slots=True, eq=False)
class SparseRows:
    """Weights of some words per input: word ids, ascending, and their weights."""

    indices: Ints
    values: Floats
    offsets: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[tuple[Ints, Floats]]:
        spans = zip(self.offsets[:-1], self.offsets[1:], strict=True)
        return ((self.indices[a:b], self.values[a:b]) for a, b in spans)

    @classmethod
    def of(cls, pairs: Sequence[tuple[Ints, Floats]]) -> SparseRows:
        if not pairs:
            return cls(np.empty(0, np.int64), np.empty(0, np.float32), _offsets(()))
        indices = np.concatenate([indices for indices, _ in pairs])
        return cls(indices, np.concatenate([values for _, values in pairs]), _offsets(len(i) for i, _ in pairs))


def _offsets(lengths: Iterable[int]) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.fromiter(lengths, np.int64))])


def joined(parts: Sequence[Any]) -> Any:
    """The answers to the parts of one request as the answer to the whole."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Rows):
        return Rows.of([row for part in parts for row in part])
    if isinstance(first, SparseRows):
        return SparseRows.of([row for part in parts for row in part])
    if isinstance(first, Mapping):
        return {name: joined([part[name] for part in parts]) for name in first}
    if isinstance(first, np.ndarray):
        return np.concatenate(parts)
    return [output for part in parts for output in part]


def unit(vectors: Floats) -> Floats:
    """The same directions at length 1."""
    directions: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return directions


def sigmoid(logits: Floats) -> Floats:
    """In fp32 whatever the model computes in: half precision makes ties at the top."""
    return np.exp(-np.logaddexp(np.float32(0), -logits)).astype(np.float32)


#: How vectors may be written down: each beside float trades exactness for a half to a thirty-second of the size.
PRECISIONS = ("float", "float16", "int8", "uint8", "binary", "ubinary")


def quantized(vectors: Floats, precision: str) -> np.ndarray:
    """int8 and uint8 share the range of a unit vector's components; binary keeps signs, eight to a byte.

    The range is fixed, not taken from the batch: the same text must give the same bytes whatever it is batched with.
    """
    if precision in ("float", "float16"):
        return np.ascontiguousarray(vectors, dtype="<f4" if precision == "float" else "<f2")
    if precision in ("binary", "ubinary"):
        packed: NDArray[np.uint8] = np.packbits(vectors > 0, axis=-1)
        if precision == "ubinary":
            return packed
        signed: np.ndarray = (packed.astype(np.int16) - 128).astype(np.int8)
        return signed
    # A vector of another length would be cut off at the ends of the range.
    scaled: Floats = np.clip(np.rint(unit(vectors) * 127.0), -128, 127)
    return scaled.astype(np.int8) if precision == "int8" else (scaled + 128).astype(np.uint8)


def refused_unless_finite(outputs: Sequence[Floats]) -> list[Floats | errors.BadRequest]:
    """Replaces an answer that has a NaN by an error for its caller; other callers get their answers."""
    return [
        output if np.isfinite(output).all() else errors.BadRequest("the model gives no finite answer to it.", "input")
        for output in outputs
    ]
