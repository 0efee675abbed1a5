"""The installed weights on the other engines: really exported and quantised, and close to fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.catalog.catalog import Catalog
from cluster.settings import Settings
from cluster.weights.locate import locate
from cluster.worker.family import Setup
from deployments.text.embedding.sentence_transformers import SentenceTransformers
from deployments.text.sample import PASSAGES, QUESTIONS
from tests.tiny import ask

pytestmark = pytest.mark.slow

ENTRY = Catalog.builtin().find("all-MiniLM-L6-v2")
FOLDER = locate(ENTRY.sources[0], home=Settings().home)
TEXTS = [*QUESTIONS, *PASSAGES, "", "x", "one two three " * 200]
#: For each engine: the least cosine of a single text, and the least average.
NEAR = {
    "torch_bf16": (0.995, 0.999),
    "onnx": (0.99999, 0.99999),
    "onnx_int8": (0.9, 0.97),
    "openvino_bf16": (0.98, 0.995),
    "openvino_int8": (0.85, 0.95),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all engines: what one of them exports is used by the next."""
    return tmp_path_factory.mktemp("home")


def load(engine: str, home: Path) -> tuple[Any, Any]:
    family = SentenceTransformers()
    setup = Setup(ENTRY, ENTRY.sources[0], family.Options(), FOLDER, "cpu", threads=2, engine=engine, home=home)
    return family, family.load(setup)


@pytest.fixture(scope="module")
def exact(home: Path) -> Any:
    return ask(load("torch", home)[0], "embed", TEXTS)


@pytest.mark.parametrize("engine", NEAR)
def test_vectors_are_near_to_those_of_fp32(engine: str, home: Path, exact: Any) -> None:
    family, told = load(engine, home)
    assert told.engine == engine.replace("_", "-")
    found = ask(family, "embed", TEXTS)
    cosines = (found * exact).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(exact, axis=1)
    least, mean = NEAR[engine]
    assert cosines.min() >= least and cosines.mean() >= mean, (cosines.min(), cosines.mean())


@pytest.mark.parametrize("engine", ["onnx", "openvino_bf16"])
def test_tokens_have_the_vectors_of_fp32(engine: str, home: Path, exact: Any) -> None:
    ours, theirs = (ask(load(name, home)[0], "embed_tokens", TEXTS[:8]) for name in (engine, "torch"))
    assert np.array_equal(ours.offsets, theirs.offsets)
    assert np.abs(ours.values - theirs.values).max() < (1e-3 if engine == "onnx" else 0.3)
