"""The sizes of a language model, from its config or its GGUF header, and the memory that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster import errors

#: What OpenVINO builds from GGUF files.
ARCHITECTURES = ("llama", "qwen2", "qwen3")
#: Bytes of one number that is kept of a token; u8 has a scale and a zero point for each head besides.
KEPT_BYTES = {"auto": 2.0, "f16": 2.0, "bf16": 2.0, "f32": 4.0, "u8": 1.1875}


@dataclass(frozen=True)
class Shape:
    layers: int
    heads: int
    kv_heads: int
    head: int
    hidden: int
    context: int
    vocabulary: int

    def bytes_per_token(self, precision: str = "auto") -> int:
        """Of the keys and values that are kept of a token."""
        return int(2 * self.layers * self.kv_heads * self.head * KEPT_BYTES[precision])

    def kept_tokens(self, wanted: int, most_bytes: int, precision: str = "auto") -> int:
        """How many of the wanted tokens can be kept in so much memory."""
        return max(1, min(wanted, most_bytes // self.bytes_per_token(precision)))


def shape_of_gguf(architecture: str, numbers: Mapping[str, int]) -> Shape:
    """`numbers`: of the header, by their names without the architecture."""
    try:
        hidden, heads = numbers["embedding_length"], numbers["attention.head_count"]
        return Shape(
            layers=numbers["block_count"],
            heads=heads,
            kv_heads=numbers.get("attention.head_count_kv", heads),
            head=numbers.get("attention.key_length", hidden // heads),
            hidden=hidden,
            context=numbers["context_length"],
            vocabulary=numbers.get("vocab_size", 0),
        )
    except (KeyError, ZeroDivisionError) as error:
        raise errors.LoadFailed(f"The GGUF file of a {architecture} model does not say its {error}.") from None
