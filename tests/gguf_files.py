"""Writes a model's weights as GGUF files, in every type that diffusers reads.

The library `gguf` packs all types except the K types. Those have blocks of 256 numbers in 8 or 16 parts. Each part has
a scale of few bits (and an offset, except for Q3_K and Q6_K), and the block has one or two fp16 factors for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

#: Types as in the names of files; `_S` and `_M` say which tensors of a real file have more bits.
TYPES = (
    "F16",
    "BF16",
    "Q8_0",
    "Q6_K",
    "Q5_1",
    "Q5_0",
    "Q5_K_S",
    "Q4_1",
    "Q4_0",
    "Q4_K_S",
    "Q4_K_M",
    "Q3_K_S",
    "Q2_K",
)
BLOCK = 256


def write(path: Path, weights: Mapping[str, Any], quantization: str, architecture: str) -> Path:
    """Matrices whose rows fill whole blocks are packed, and everything else stays fp32, as in real files."""
    type = Type[quantization if quantization in Type.__members__ else quantization.rpartition("_")[0]]
    writer = gguf.GGUFWriter(path, architecture)
    for name, tensor in weights.items():
        values = tensor.detach().float().numpy()
        if values.ndim == 2 and values.shape[-1] % gguf.GGML_QUANT_SIZES[type][0] == 0:
            writer.add_tensor(name, packed(values, type), raw_dtype=type)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def packed(values: np.ndarray, type: Type) -> np.ndarray:
    if type not in PACKERS:
        return gguf.quants.quantize(values, type)
    rows = PACKERS[type](values.reshape(-1, BLOCK).astype(np.float32))
    return rows.astype(np.uint8).reshape(*values.shape[:-1], -1)


# ------------------------------------------------------------------------------- numbers to few bits, by block


def _over(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The rounded quotient; 0 where the divisor is 0."""
    wide = np.broadcast_to(denominator, numerator.shape)
    return np.rint(np.divide(numerator, wide, out=np.zeros_like(numerator), where=wide > 0))


def _factor(of_parts: np.ndarray, most: int) -> np.ndarray:
    return (of_parts.max(-1, keepdims=True) / most).astype(np.float16)


def _with_offsets(blocks: np.ndarray, part: int, most: int, most_scale: int) -> tuple[np.ndarray, ...]:
    """The factor, the factor of the offsets, the scales, the offsets, and numbers from 0 to `most`."""
    parts = blocks.reshape(len(blocks), -1, part)
    lowest = np.minimum(parts.min(-1), 0)
    steps = (parts.max(-1) - lowest) / most
    factor, offset_factor = _factor(steps, most_scale), _factor(-lowest, most_scale)
    scales = np.clip(_over(steps, factor.astype(np.float32)), 0, most_scale)
    offsets = np.clip(_over(-lowest, offset_factor.astype(np.float32)), 0, most_scale)
    step, offset = (factor * scales)[..., None], (offset_factor * offsets)[..., None]
    numbers = np.clip(_over(parts + offset, step), 0, most).reshape(-1, BLOCK)
    return factor, offset_factor, scales.astype(np.uint8), offsets.astype(np.uint8), numbers.astype(np.uint8)


def _around_zero(blocks: np.ndarray, part: int, most: int, most_scale: int) -> tuple[np.ndarray, ...]:
    """The factor, the scales, and numbers in which `most + 1` stands for 0."""
    parts = blocks.reshape(len(blocks), -1, part)
    largest = np.abs(parts).max(-1) / most
    factor = _factor(largest, most_scale)
    scales = np.clip(_over(largest, factor.astype(np.float32)), 0, most_scale)
    numbers = np.clip(_over(parts, (factor * scales)[..., None]), -most - 1, most) + most + 1
    return factor, scales.astype(np.uint8), numbers.reshape(-1, BLOCK).astype(np.uint8)


# --------------------------------------------------------------------------------------- few bits to bytes


def _bytes(factor: np.ndarray) -> np.ndarray:
    return factor.view(np.uint8).reshape(len(factor), 2)


def _together(numbers: np.ndarray, bits: int, run: int) -> np.ndarray:
    """Packs numbers into bytes: each byte holds, from the lowest bits up, one number of each run."""
    groups = numbers.reshape(len(numbers), -1, 8 // bits, run)
    shifts = (np.arange(8 // bits) * bits).reshape(1, 1, -1, 1).astype(np.uint8)
    return np.bitwise_or.reduce(groups << shifts, axis=2).reshape(len(numbers), -1)


def _six_bits(scales: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Packs eight scales and eight offsets into twelve bytes: the second four of each fill the bits that the first four
    leave."""
    first = [scales[:, :4] | (scales[:, 4:] >> 4) << 6, offsets[:, :4] | (offsets[:, 4:] >> 4) << 6]
    return np.concatenate([*first, (scales[:, 4:] & 15) | (offsets[:, 4:] & 15) << 4], 1)


def _q2(blocks: np.ndarray) -> np.ndarray:
    factor, offset_factor, scales, offsets, numbers = _with_offsets(blocks, 16, 3, 15)
    return np.concatenate([scales | offsets << 4, _together(numbers, 2, 32), _bytes(factor), _bytes(offset_factor)], 1)


def _q3(blocks: np.ndarray) -> np.ndarray:
    factor, scales, numbers = _around_zero(blocks, 16, 3, 31)
    scales = scales + 32
    parts = [_together(scales & 15, 4, 8), _together(scales >> 4, 2, 4)]
    return np.concatenate([_together(numbers >> 2, 1, 32), _together(numbers & 3, 2, 32), *parts, _bytes(factor)], 1)


def _q4(blocks: np.ndarray) -> np.ndarray:
    factor, offset_factor, scales, offsets, numbers = _with_offsets(blocks, 32, 15, 63)
    return np.concatenate(
        [_bytes(factor), _bytes(offset_factor), _six_bits(scales, offsets), _together(numbers, 4, 32)], 1
    )


def _q5(blocks: np.ndarray) -> np.ndarray:
    factor, offset_factor, scales, offsets, numbers = _with_offsets(blocks, 32, 31, 63)
    bits = [_together(numbers >> 4, 1, 32), _together(numbers & 15, 4, 32)]
    return np.concatenate([_bytes(factor), _bytes(offset_factor), _six_bits(scales, offsets), *bits], 1)


def _q6(blocks: np.ndarray) -> np.ndarray:
    factor, scales, numbers = _around_zero(blocks, 16, 31, 127)
    return np.concatenate([_together(numbers & 15, 4, 64), _together(numbers >> 4, 2, 32), scales, _bytes(factor)], 1)


PACKERS: Mapping[Type, Callable[[np.ndarray], np.ndarray]] = {
    Type.Q2_K: _q2,
    Type.Q3_K: _q3,
    Type.Q4_K: _q4,
    Type.Q5_K: _q5,
    Type.Q6_K: _q6,
}
