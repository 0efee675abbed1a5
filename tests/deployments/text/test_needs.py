"""What files say of the sizes by which a model's memory grows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cluster.catalog.entry import Entry, Source
from cluster.launch import LaunchSpec
from cluster.settings import Settings
from cluster.weights.memory import CUDA_CONTEXT_BYTES, HOST_BYTES, MemoryPlan
from cluster.worker.family import Prospect
from deployments.text.embedding.sentence_transformers import SentenceTransformers
from deployments.text.needs import sizes_of, threads_of
from deployments.text.plan import ENTRY_BYTES
from deployments.text.rerank.vision import VisionRerankers

CONFIG = {"hidden_size": 8, "intermediate_size": 24, "num_attention_heads": 2, "vocab_size": 50}


def prospect(folder: Path | None, *, entry: dict[str, Any] | None = None, **spec: Any) -> Prospect:
    source = Source(hub="local", id=str(folder)) if folder else Source(hub="huggingface", id="org/absent")
    row = Entry(name="m", type="embedding", family="sentence-transformers", sources=(source,), **(entry or {}))
    launch = LaunchSpec(model_name="m", **spec)
    options = SentenceTransformers.Options.model_validate(launch.options)
    home = folder or Path("/nonexistent")
    return Prospect(launch, row, source, options, Settings(home=home, model_roots=(home,)), on_card=False)


def folder_of(place: Path, config: dict[str, Any] = CONFIG, **files: object) -> Path:
    save_file({"a": np.zeros((10, 20), "float16")}, place / "model.safetensors")
    for name, content in {"config": config, **files}.items():
        (place / f"{name}.json").write_text(json.dumps(content))
    return place


def sizes(given: Prospect) -> Any:
    return sizes_of(given, given.weights())


def test_sizes_come_from_the_configuration(tmp_path: Path) -> None:
    found = sizes(prospect(folder_of(tmp_path, {**CONFIG, "max_position_embeddings": 128, "sliding_window": 16})))
    assert (found.numbers, found.tables, found.layers) == (200, 400, 0)
    assert (found.hidden, found.intermediate, found.heads, found.max_tokens, found.window) == (8, 24, 2, 128, 16)


def test_names_of_other_architectures_are_understood(tmp_path: Path) -> None:
    config = {"text_config": {"dim": 16, "hidden_dim": 32, "n_heads": 4, "vocab_size": 10}}
    found = sizes(prospect(folder_of(tmp_path, config)))
    assert (found.hidden, found.intermediate, found.heads, found.tables) == (16, 32, 4, 160)


@pytest.mark.parametrize(
    ("entry", "options", "longest"),
    [({}, {}, 64), ({"max_tokens": 32}, {}, 32), ({"max_tokens": 32}, {"max_tokens": 16}, 16)],
)
def test_the_longest_text_is_the_least_of_all_limits(
    entry: dict[str, Any], options: dict[str, Any], longest: int, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path, sentence_bert_config={"max_seq_length": 64})
    assert sizes(prospect(folder, entry=entry, options=options)).max_tokens == longest


@pytest.mark.parametrize("kind", ["BPE", "Unigram", "WordPiece"])
def test_the_memory_of_a_tokenizer_follows_from_its_kind_of_vocabulary(kind: str, tmp_path: Path) -> None:
    words = {"decoder": {"type": "WordPiece"}, "model": {"type": kind, "vocab": {'"type": "BPE"': 1}}}
    assert sizes(prospect(folder_of(tmp_path, tokenizer=words))).tokenizer_bytes == 50 * ENTRY_BYTES[kind]


def test_a_size_that_cannot_be_is_left_out(tmp_path: Path) -> None:
    config = {**CONFIG, "hidden_size": 10**12, "vocab_size": "many", "num_attention_heads": -1}
    found = sizes(prospect(folder_of(tmp_path, config)))
    assert found.hidden == 768 and found.heads == 12


def test_before_anything_is_on_disk_the_entry_tells() -> None:
    entry = {"weight_bytes": 4 * 10**8, "facts": {"dimensions": 384}, "max_tokens": 256}
    found = sizes(prospect(None, entry=entry))
    assert (found.numbers, found.hidden, found.max_tokens) == (10**8, 384, 256)
    many = sizes(prospect(None, entry={**entry, "languages": ("en", "de", "fr", "es", "it")}))
    assert many.tokenizer_bytes > found.tokenizer_bytes + 300_000_000


def test_cores_that_a_launch_reserves_are_its_threads() -> None:
    assert threads_of(prospect(None, n_cpu=3)) == 3
    assert threads_of(prospect(None)) >= 1


def seeing(folder: Path, on_card: bool = False, **options: Any) -> MemoryPlan:
    given = replace(prospect(folder), options=VisionRerankers.Options(**options), on_card=on_card)
    return VisionRerankers.plan(given)


def test_a_model_of_pictures_has_room_for_two_of_the_largest(tmp_path: Path) -> None:
    text = {**CONFIG, "max_position_embeddings": 8192}
    vision = {"hidden_size": 64, "intermediate_size": 256, "patch_size": 16}
    folder = folder_of(tmp_path, {"model_type": "qwen3_vl", "text_config": text, "vision_config": vision})
    large, small = (seeing(folder, max_pixels=most) for most in (1800 * 32**2, 100 * 32**2))
    # Beside what is computed there are their numbers, three for each pixel, of two equal frames.
    assert large.peak_bytes - small.peak_bytes > 2 * (1800 - 512) * 32**2 * 3 * 2 * 4
    assert large.parts[0].bytes == 4 * 200 and large.host_bytes == 0
    card = seeing(folder, on_card=True)
    assert (card.parts[0].bytes, card.parts[0].lives_on, card.fixed_bytes) == (2 * 200, "card", CUDA_CONTEXT_BYTES)
    assert card.peak_bytes == card.parts[0].bytes + card.activation_bytes + card.fixed_bytes + card.spare_bytes
    assert card.host_bytes == HOST_BYTES
