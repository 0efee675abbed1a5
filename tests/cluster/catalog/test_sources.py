from __future__ import annotations

from typing import Any

import pytest

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.catalog.sources import choose_source


def test_default_hub_is_taken_when_none_is_asked_for() -> None:
    entry = Catalog.builtin().find("bge-m3")
    assert choose_source(entry, hub=None, format=None, quantization=None).hub == "huggingface"
    chosen = choose_source(entry, hub=None, format=None, quantization=None, default_hub="modelscope")
    assert (chosen.hub, chosen.format) == ("modelscope", "pytorch")


def test_model_missing_on_the_default_hub_comes_from_the_other() -> None:
    entry = Catalog.builtin().find("text2vec-base-multilingual")
    assert choose_source(entry, hub=None, format=None, quantization=None, default_hub="modelscope").hub == "huggingface"


def test_asked_hub_wins_over_the_package() -> None:
    entry = Catalog.builtin().find("all-MiniLM-L6-v2")
    assert choose_source(entry, hub="huggingface", format=None, quantization=None).hub == "huggingface"


def test_quantization_narrows_the_source_to_one_file() -> None:
    entry = Catalog.builtin().find("bge-m3")
    chosen = choose_source(entry, hub="modelscope", format=None, quantization="q4_k_m")
    assert (chosen.format, chosen.path, chosen.quantizations) == ("ggufv2", "bge-m3-Q4_K_M.gguf", ("Q4_K_M",))
    default = choose_source(entry, hub=None, format="GGUFv2", quantization=None)
    assert (default.hub, default.path) == ("huggingface", "bge-m3-Q8_0.gguf")


def test_quantizations_with_files_named_otherwise_are_found() -> None:
    entry = Catalog.builtin().find("Qwen3-Reranker-4B")
    of = {q: choose_source(entry, hub=None, format="ggufv2", quantization=q).path for q in ("Q8_0", "Q6_K")}
    assert of == {"Q8_0": "Qwen3-Reranker-4B.Q8_0.gguf", "Q6_K": "Qwen3-Reranker-4B-Q6_K.gguf"}


@pytest.mark.parametrize(
    "asked, param",
    [
        ({"hub": "modelscope", "format": None, "quantization": None}, "download_hub"),
        ({"hub": None, "format": "ggufv2", "quantization": None}, "model_format"),
        ({"hub": None, "format": "pytorch", "quantization": "Q8_0"}, "quantization"),
    ],
)
def test_source_that_is_not_there_names_those_that_are(asked: dict[str, Any], param: str) -> None:
    entry = Catalog.builtin().find("text2vec-base-multilingual")
    with pytest.raises(errors.BadOption, match=r"there are huggingface pytorch \(none\)\.") as error:
        choose_source(entry, **asked)
    assert error.value.param == param
