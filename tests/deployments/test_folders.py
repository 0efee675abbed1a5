from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.weights.inventory import read
from deployments.folders import Contents, family_in

#: The file that decides, and the family of an embedding model that follows from it.
EMBEDDING: dict[str, tuple[Contents, str | None]] = {
    "nothing": (Contents(), None),
    "a plain encoder": (Contents(config={"architectures": ["BertModel"]}), None),
    "a masked language model and no more": (Contents(config={"architectures": ["BertForMaskedLM"]}), None),
    "what sentence-transformers says is sparse": (Contents(kind="SparseEncoder"), "sparse"),
    "a sparse module": (Contents(modules=["Transformer", "SpladePooling"]), "sparse"),
    "what sentence-transformers says has many vectors": (Contents(kind="MultiVectorEncoder"), "late-interaction"),
    "what PyLate saved": (Contents(kind="ColBERT", modules=["Transformer", "Dense"]), "late-interaction"),
    "Stanford's ColBERT": (Contents(config={"architectures": ["HF_ColBERT"]}), "late-interaction"),
    "two small heads": (Contents(["sparse_linear.pt", "colbert_linear.safetensors", "modules.json"]), "bge-m3"),
    "one small head": (Contents(["colbert_linear.pt"]), None),
    "a table": (Contents(modules=["StaticEmbedding", "Normalize"]), "static"),
    "CLIP": (Contents(config={"model_type": "clip"}), "clip"),
    "CLIP of old sentence-transformers": (Contents(config={"model_type": "clip"}, modules=["CLIPModel"]), "clip"),
    "CLIP that sentence-transformers loads": (Contents(config={"model_type": "clip"}, modules=["Transformer"]), None),
    "SigLIP": (Contents(config={"model_type": "siglip2"}), "clip"),
    "CLAP": (Contents(config={"model_type": "clap"}), "clap"),
}
RERANK: dict[str, tuple[Contents, str | None]] = {
    "a head": (Contents(config={"architectures": ["BertForSequenceClassification"]}), None),
    "a language model": (Contents(config={"architectures": ["Qwen3ForCausalLM"]}), "causal"),
    "a language model that scores": (Contents(modules=["Transformer", "LogitScore"]), "causal"),
    "a model that sees": (Contents(config={"model_type": "qwen3_vl"}, modules=["Transformer", "LogitScore"]), "vision"),
    "many vectors": (Contents(kind="MultiVectorEncoder"), "late-interaction"),
    "a config that is odd": (Contents(config={"architectures": None}), None),
}


@pytest.mark.parametrize(("contents", "family"), EMBEDDING.values(), ids=EMBEDDING)
def test_the_files_of_an_embedding_model_tell_its_family(contents: Contents, family: str | None) -> None:
    assert family_in("embedding", contents) == family


@pytest.mark.parametrize(("contents", "family"), RERANK.values(), ids=RERANK)
def test_the_files_of_a_reranker_tell_its_family(contents: Contents, family: str | None) -> None:
    assert family_in("rerank", contents) == family


@pytest.mark.parametrize(
    ("files", "family"),
    [
        (["model.safetensors", "config.json", "tokenizer.json"], "transformers"),
        (["model-Q4_0.gguf"], None),
        (["model-Q4_0.gguf", "model.safetensors"], None),
        ([], None),
    ],
)
def test_the_files_of_a_language_model_tell_its_family(files: list[str], family: str | None) -> None:
    assert family_in("llm", Contents(files)) == family


def test_other_types_have_their_usual_family() -> None:
    assert family_in("classify", Contents(kind="SparseEncoder")) is None


def test_a_folder_is_read(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "config.json": {"architectures": ["BertModel"]},
        "modules.json": [{"idx": 0, "type": "sentence_transformers.models.Transformer"}, {"type": "a.SpladePooling"}],
        "config_sentence_transformers.json": {"model_type": "SparseEncoder"},
    }
    for name, values in files.items():
        (tmp_path / name).write_text(json.dumps(values))
    found = Contents.of(read(tmp_path))
    assert found == Contents(set(files), files["config.json"], "SparseEncoder", ["Transformer", "SpladePooling"])


@pytest.mark.parametrize(
    "files",
    [
        {"modules.json": [{"type": "sentence_transformers.models.Transformer"}, {"type": "pylate.models.Dense.Dense"}]},
        {"config_sentence_transformers.json": {"query_prefix": "[Q] ", "document_prefix": "[D] "}},
    ],
    ids=["a class of its own", "prefixes"],
)
def test_what_pylate_saved_without_saying_so_is_recognised(tmp_path: Path, files: dict[str, Any]) -> None:
    for name, values in files.items():
        (tmp_path / name).write_text(json.dumps(values))
    assert family_in("embedding", Contents.of(read(tmp_path))) == "late-interaction"
    assert family_in("rerank", Contents.of(read(tmp_path))) == "late-interaction"


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"a"'])
def test_files_that_are_broken_tell_nothing(tmp_path: Path, text: str) -> None:
    for name in ("config.json", "config_sentence_transformers.json"):
        (tmp_path / name).write_text(text)
    assert family_in("embedding", Contents.of(read(tmp_path))) is None
