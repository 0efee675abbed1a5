"""Tiny models of many kinds with random weights: their results mean nothing, but must be the same however they are
computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from cluster.catalog.entry import Entry, Source
from cluster.worker.family import Setup

TEXTS = [
    "A dog.",
    "",
    "It rains in the mountains, and the river is high; the boats stay in the harbour until the wind turns.",
    "Tea and bread",
    "Grüße aus Zürich",
    "Tea and bread",
    "The committee met on Tuesday and approved the budget with two changes, the library and the bridge. " * 2,
]
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
#: Weights large enough that each layer changes something, unlike the small weights of a fresh model.
STRONG = 0.2


def tokenizer(
    *,
    pads_left: bool = False,
    frames: bool = True,
    types: bool = False,
    max_tokens: int = 128,
    extra: tuple[str, ...] = (),
    names: dict[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes and some pairs of them, with [CLS] and [SEP] around the text unless told otherwise."""
    named = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "mask": "[MASK]", **(names or {})}
    made = Tokenizer(BPE(unk_token=named["unk"]))
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    specials = [named["unk"], named["pad"], named["cls"], named["sep"], named["mask"], *extra]
    trainer = BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    if frames:
        cls, sep, second = named["cls"], named["sep"], 1 if types else 0
        made.post_processor = TemplateProcessing(
            single=f"{cls} $A {sep}",
            pair=f"{cls} $A {sep} $B:{second} {sep}:{second}",
            special_tokens=[(name, made.token_to_id(name)) for name in (cls, sep)],
        )
    names_of_inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        **{f"{kind}_token": token for kind, token in named.items()},
        padding_side="left" if pads_left else "right",
        model_max_length=max_tokens,
        model_input_names=names_of_inputs,
    )


def saved(folder: Path, kind: Any, config: Any, words: PreTrainedTokenizerFast) -> Path:
    """Saves a model with random weights in a folder, as a hub would have it."""
    torch.manual_seed(0)
    config.initializer_range = STRONG
    config.vocab_size, config.pad_token_id = len(words), words.pad_token_id
    model = kind(config)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if name.endswith("bias"):
                values.normal_(0, STRONG)
    model.eval().save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def launched(family: Any, folder: Path, type: str, *, facts: dict[str, Any] | None = None, **options: Any) -> Any:
    """A family that has loaded the model of a folder, as in a worker."""
    given = {name: options.pop(name) for name in ("allow_pickle", "engine", "home", "settings") if name in options}
    source = Source(hub="local", id=str(folder))
    entry = Entry(name=folder.name, type=type, family="tiny", sources=(source,), facts=facts or {})
    model = family()
    model.facts = model.load(Setup(entry, source, family.Options(**options), folder, "cpu", threads=1, **given))
    return model


def ask(model: Any, ability: str, items: Any, **params: Any) -> Any:
    """Does what a worker does with a request, without the queue."""
    prepared = model.prepare(ability, items, params)
    if prepared.answers is not None:
        return prepared.answers
    outputs = list(model.run(prepared.values)) if prepared.values else []
    for output in outputs:
        if isinstance(output, Exception):
            raise output
    return model.pack(prepared.join(outputs) if prepared.join else outputs, params)
