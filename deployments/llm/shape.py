"""The sizes of a language model, from its config or its GGUF header, and the memory that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster import errors

#: What OpenVINO builds from GGUF files.
ARCHITECTURES = ("llama", "qwen2", "qwen3")
#: Bytes of one number that is kept of a token; u8 has a scale and a zero point for each head besides.
KEPT_BYTES = {"auto": 2.0, "f16": 2.0, "bf16": 2.0, "f32": 4.0, "u8": 1.1875}
#: The name of the same precision for a number format of torch.
PRECISIONS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


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


def shape_of_config(config: Mapping[str, object]) -> Shape:
    """`config`: as transformers saves it; that of the text, where a model reads pictures as well."""

    def number(*names: str, usual: int | None = None) -> int:
        for name in names:
            if isinstance(value := config.get(name), int):
                return value
        if usual is None:
            raise errors.LoadFailed(f"The model's config.json does not say its {names[0]}.")
        return usual

    hidden, heads = number("hidden_size", "n_embd", "d_model"), number("num_attention_heads", "n_head", "num_heads")
    return Shape(
        layers=number("num_hidden_layers", "n_layer", "num_layers"),
        heads=heads,
        kv_heads=number("num_key_value_heads", usual=heads),
        head=number("head_dim", usual=hidden // max(1, heads)),
        hidden=hidden,
        context=number("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
        vocabulary=number("vocab_size"),
    )
