"""What the files of a text model on this machine, or else its entry, say of the sizes by which its memory grows."""

from __future__ import annotations

import os
from dataclasses import replace

from cluster.value import JsonObject
from cluster.weights.inventory import Inventory
from cluster.weights.memory import BYTES_OF_DTYPE, MemoryPlan, weight_bytes
from cluster.worker.family import UNKNOWN_WEIGHT_BYTES, Prospect
from deployments.pictures import MOST_PIXELS, OPENING_BYTES
from deployments.text.engine_limits import TORCH_BATCH_TOKENS, named
from deployments.text.plan import (
    ENTRY_BYTES,
    FP32,
    HEAD,
    USUAL_HIDDEN,
    USUAL_TOKENS,
    EncoderCase,
    EncoderSizes,
    card_plan,
    host_plan,
    per_token,
    plain_plan,
)

#: The kind of vocabulary in files of which a tokenizer is made, where it has no file of its own.
VOCABULARIES = {"vocab.txt": "WordPiece", "vocab.json": "BPE"}
#: Assumed before anything is on disk: the vocabulary of a model of one language, and of one of many.
WORDS, WORDS_OF_MANY = 30_000, 250_000
#: Characters of an entry in tokenizer.json at least.
ENTRY_CHARACTERS = 12
#: From so many languages on.
MANY = 5


def encoder_plan_of(prospect: Prospect, dtype: str, *, answers_in_words: bool = False) -> MemoryPlan:
    """On CPU. `answers_in_words`: for each token there is a number for every word of the vocabulary."""
    inventory = prospect.weights()
    case = EncoderCase(
        kind=prospect.entry.family,
        engine=named(prospect.spec.model_engine),
        dtype=dtype,
        sizes=sizes_of(prospect, inventory, answers_in_words),
        is_converted=inventory is not None
        and weight_bytes(inventory) != weight_bytes(inventory, BYTES_OF_DTYPE[dtype]),
        threads=threads_of(prospect),
    )
    return host_plan(case)


def sizes_of(prospect: Prospect, inventory: Inventory | None, answers_in_words: bool = False) -> EncoderSizes:
    entry = prospect.entry
    if inventory is None:
        is_of_many = len(entry.languages) >= MANY
        hidden = _size(entry.facts, "dimensions") or USUAL_HIDDEN
        words = WORDS_OF_MANY if is_of_many else WORDS
        numbers = (entry.weight_bytes or UNKNOWN_WEIGHT_BYTES) // FP32
        return EncoderSizes(
            numbers=numbers,
            tables=min(words * hidden, numbers // 2),
            hidden=hidden,
            intermediate=4 * hidden,
            heads=max(hidden // HEAD, 1),
            max_tokens=_longest(prospect, entry.max_tokens or USUAL_TOKENS),
            answer=2 * words if answers_in_words else 0,
            tokenizer_bytes=words * ENTRY_BYTES["Unigram" if is_of_many else "WordPiece"],
        )
    config = _config_in(inventory)
    hidden = _size(config, "hidden_size", "dim", "d_model", "n_embd") or USUAL_HIDDEN
    words = _size(config, "vocab_size") or min(WORDS, inventory.files.get("tokenizer.json", 10**9) // ENTRY_CHARACTERS)
    limit = _size(inventory.config("sentence_bert_config.json"), "max_seq_length")
    positions = _size(config, "max_position_embeddings", "n_positions") or USUAL_TOKENS
    return EncoderSizes(
        numbers=weight_bytes(inventory, FP32) // FP32,
        tables=words * (_size(config, "embedding_size") or hidden),
        hidden=hidden,
        intermediate=_size(config, "intermediate_size", "hidden_dim", "n_inner") or 4 * hidden,
        heads=_size(config, "num_attention_heads", "n_heads", "n_head") or max(hidden // HEAD, 1),
        max_tokens=_longest(prospect, limit or positions),
        window=_size(config, "sliding_window", "local_attention"),
        answer=2 * words if answers_in_words else 0,
        tokenizer_bytes=words * ENTRY_BYTES[vocabulary_in(inventory)],
    )


def paired_plan_of(prospect: Prospect, dtype: str, modality: str) -> MemoryPlan:
    """Of a model of texts and of pictures or sounds, which computes a batch of one kind at a time."""
    inventory = prospect.weights()
    sizes = sizes_of(prospect, inventory)
    texts = max(TORCH_BATCH_TOKENS, sizes.max_tokens) * per_token(sizes)
    media = _of_media(inventory.config() if inventory is not None else {}, modality)
    weights = sizes.numbers * BYTES_OF_DTYPE[dtype]
    return plain_plan(prospect.entry.family, dtype, weights, max(texts, media), sizes.tokenizer_bytes)


def _of_media(config: JsonObject, modality: str) -> int:
    """A batch of pictures; sounds are read as pictures of their pitches. Each counts for as many tokens of a batch as
    it has patches."""
    part = config.get("vision_config" if modality == "image" else "audio_config")
    part = part if isinstance(part, dict) else {}
    side = _size(part, "image_size", "spec_size") or 224
    patch = _size(part, "patch_size") or 16
    patches = max(side // patch, 1) ** 2
    inputs = max(TORCH_BATCH_TOKENS // patches, 1)
    hidden = _size(part, "hidden_size") or USUAL_HIDDEN
    width = EncoderSizes(0, hidden=hidden, intermediate=_size(part, "intermediate_size") or 4 * hidden)
    # Its pixels, as they came and as the model reads them.
    return inputs * ((patches + 1) * per_token(width) + 2 * 3 * side**2 * FP32)


def vision_plan_of(prospect: Prospect, dtype: str) -> MemoryPlan:
    """Of a model that reads texts and up to two pictures in one row of tokens; a token stands for a few patches."""
    inventory, options = prospect.weights(), prospect.options
    sizes = sizes_of(prospect, inventory)
    batch = prospect.settings.batch_tokens if prospect.on_card else TORCH_BATCH_TOKENS
    tokens = max(batch, sizes.max_tokens)
    part = (inventory.config() if inventory is not None else {}).get("vision_config")
    vision = part if isinstance(part, dict) else {}
    hidden = _size(vision, "hidden_size") or USUAL_HIDDEN
    width = EncoderSizes(0, hidden=hidden, intermediate=_size(vision, "intermediate_size") or 4 * hidden)
    side, merged = _size(vision, "patch_size") or 16, (_size(vision, "spatial_merge_size") or 2) ** 2
    patches = min(tokens * merged, max(2 * options.max_pixels // side**2, batch * merged))
    # Each patch is there twice, as if it were of two frames: as it comes, in the batch, and on the card.
    pixels = 2 * 3 * side**2 * FP32 * patches
    unpacked = OPENING_BYTES * MOST_PIXELS
    weights = sizes.numbers * BYTES_OF_DTYPE[dtype]
    computed = max(tokens * per_token(sizes), patches * per_token(width))
    if not prospect.on_card:
        activations = 2 * pixels + max(computed, unpacked)
        return plain_plan(prospect.entry.family, dtype, weights, activations, sizes.tokenizer_bytes)
    return card_plan(prospect.entry.family, dtype, weights, pixels + computed, 2 * pixels + unpacked)


def static_plan_of(prospect: Prospect) -> MemoryPlan:
    inventory = prospect.weights()
    sizes = sizes_of(prospect, inventory)
    # Words are looked up when a request comes, and nothing is multiplied.
    plan = plain_plan(prospect.entry.family, "float32", sizes.numbers * FP32, 0, sizes.tokenizer_bytes)
    return replace(plan, host_bytes=plan.peak_bytes if prospect.on_card else 0)


def vocabulary_in(inventory: Inventory) -> str:
    """Its kind; the largest where no file says."""
    kind = inventory.config("tokenizer.json").get("vocabulary")
    named = next((kind for name, kind in VOCABULARIES.items() if name in inventory.files), "Unigram")
    return kind if isinstance(kind, str) else named


def threads_of(prospect: Prospect) -> int:
    """What a worker computes with that has its node for itself, if nodes have as many cores as this machine."""
    return int(prospect.spec.n_cpu or 0) or os.cpu_count() or 1


def _longest(prospect: Prospect, positions: int) -> int:
    limits = (positions, prospect.entry.max_tokens, getattr(prospect.options, "max_tokens", None))
    return min(limit for limit in limits if limit)


def _config_in(inventory: Inventory) -> JsonObject:
    """Of the model itself, which older layouts have in a folder; of its texts, where it reads other things too."""
    inner = next(
        (name for name in sorted(inventory.configs) if name.endswith("Transformer/config.json")), "config.json"
    )
    config = inventory.config() or inventory.config(inner)
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def _size(values: JsonObject, *names: str) -> int | None:
    """The first of these that is a plausible size: memory is going to be claimed for it."""
    sizes = (values.get(name) for name in names)
    return next((size for size in sizes if type(size) is int and 0 < size < 10_000_000), None)
