"""A language model with random weights that sees, for llama.cpp: a small Llama and a LLaVA projector for it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from PIL import Image

from tests import tiny_gguf

HIDDEN, CONTEXT, WORDS = tiny_gguf.HIDDEN, 512, 400
#: Of the pictures that it sees, and of their patches, each of which is a token.
SIDE, PATCH = 32, 8
PICTURE_TOKENS = (SIDE // PATCH) ** 2
EYES, EYE_LAYERS = 32, 2
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def save_seeing(folder: Path) -> Path:
    """A model and what it sees with, in one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_text(folder / "model.gguf")
    save_projector(folder / "mmproj-model.gguf")
    return folder


def save_text(path: Path) -> Path:
    return tiny_gguf.write(path, words=WORDS, template=TEMPLATE, is_exact=True)


def save_projector(path: Path, architecture: str = "clip") -> Path:
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", True)
    sizes = {
        **{"image_size": SIDE, "patch_size": PATCH, "embedding_length": EYES, "feed_forward_length": 2 * EYES},
        **{"projection_dim": HIDDEN, "block_count": EYE_LAYERS, "attention.head_count": 2},
    }
    for name, size in sizes.items():
        writer.add_uint32(f"clip.vision.{name}", size)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for name in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{name}", [0.5] * 3)
    weights = {
        "v.patch_embd.weight": _matrix(random, EYES, 3, PATCH, PATCH),
        "v.class_embd": random.normal(0, 1, EYES),
        "v.position_embd.weight": random.normal(0, 0.1, (PICTURE_TOKENS + 1, EYES)),
        **_norm("v.pre_ln"),
        **_linear(random, "mm.0", HIDDEN, EYES),
        **_linear(random, "mm.2", HIDDEN, HIDDEN),
    }
    for layer in range(EYE_LAYERS):
        block = f"v.blk.{layer}"
        weights |= _norm(f"{block}.ln1") | _norm(f"{block}.ln2")
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            weights |= _linear(random, f"{block}.{name}", EYES, EYES)
        weights |= _linear(random, f"{block}.ffn_up", 2 * EYES, EYES)
        weights |= _linear(random, f"{block}.ffn_down", EYES, 2 * EYES)
    return _written(writer, path, weights)


def _matrix(random: np.random.Generator, *shape: int) -> Any:
    return random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)


def _norm(name: str) -> dict[str, Any]:
    return {f"{name}.weight": np.ones(EYES), f"{name}.bias": np.zeros(EYES)}


def _linear(random: np.random.Generator, name: str, rows: int, columns: int) -> dict[str, Any]:
    return {f"{name}.weight": 2 * _matrix(random, rows, columns), f"{name}.bias": np.zeros(rows)}


def _written(writer: gguf.GGUFWriter, path: Path, weights: Mapping[str, Any]) -> Path:
    for name, values in weights.items():
        writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def picture(colour: str, size: tuple[int, int] = (SIDE, SIDE), format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format)
    return file.getvalue()


def half(colour: str, other: str) -> bytes:
    """A picture of two colours side by side."""
    file = io.BytesIO()
    image = Image.new("RGB", (SIDE, SIDE), colour)
    image.paste(other, (SIDE // 2, 0, SIDE, SIDE))
    image.save(file, "PNG")
    return file.getvalue()
