from __future__ import annotations

import json
import re
from typing import Any

import pytest

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.catalog.entry import Entry, Source, billions_in, xinference_size
from cluster.catalog.registrations import parse_registration, to_registration
from cluster.catalog.rows import documents
from cluster.catalog.sources import checked_source, choose_source

ENTRIES = Catalog.builtin().of_type("llm")
ABILITIES = {"chat", "generate", "tools", "reasoning", "hybrid"}

each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


def chosen(name: str = "qwen3", **asked: Any) -> Source:
    wish = {"hub": None, "format": None, "quantization": None, **asked}
    return choose_source(Catalog.builtin().find(name, "llm"), **wish)


def test_the_models_that_people_ask_for_are_there() -> None:
    assert len(ENTRIES) == 32
    names = {entry.name for entry in ENTRIES}
    assert {"qwen3", "llama-3.1-instruct", "gemma-3-it", "deepseek-r1-distill-qwen", "smollm2-135m-instruct"} <= names


@each_entry
def test_each_row_is_whole(entry: Entry) -> None:
    assert entry.languages and entry.max_tokens
    assert set(entry.facts.get("model_ability", ["chat"])) <= ABILITIES
    assert ("reasoning_start_tag" in entry.facts) == ("reasoning_end_tag" in entry.facts)
    for source in entry.sources:
        assert source.revision is None or len(source.revision) == 40
        assert (source.format == "ggufv2") == bool(source.architecture) or source.hub == "package"
        assert len(set(source.quantizations)) == len(source.quantizations)
        assert len({billions_in(size) for size in source.sizes}) == len(source.sizes)


@each_entry
def test_every_variant_has_an_id_and_a_file_of_its_own(entry: Entry) -> None:
    variants = [variant for source in entry.sources for variant in source.variants()]
    for variant in variants:
        if variant.hub != "package":
            checked_source(entry.name, variant)
        assert "{" not in variant.id + variant.path
        assert (variant.format == "ggufv2") == variant.path.endswith(".gguf")
    assert len({(variant.id, variant.path) for variant in variants}) == len(variants)


def test_no_size_and_quantisation_is_offered_twice_in_one_format() -> None:
    for entry in ENTRIES:
        rows = [
            (variant.format, billions_in(variant.size), variant.quantizations[0])
            for source in entry.sources
            for variant in source.variants()
            if variant.size is not None
        ]
        assert len(set(rows)) == len(rows), entry.name


@each_entry
def test_what_a_launch_takes_without_words_is_a_gguf_file_where_there_is_one(entry: Entry) -> None:
    first = chosen(entry.name)
    formats = {source.format for source in entry.sources}
    assert first.format == ("ggufv2" if "ggufv2" in formats else "pytorch")
    sizes = [
        billions_in(size) or 0 for source in entry.sources if source.format == first.format for size in source.sizes
    ]
    assert (billions_in(first.size) if first.size else 0) == min(sizes, default=0)


@pytest.mark.parametrize("size", ["0_6", "0.6", 0.6, "0.6B", "0_6B"])
def test_a_size_is_meant_however_it_is_written(size: Any) -> None:
    source = chosen(size=size, quantization="q4_k_m")
    assert (source.id, source.path) == ("unsloth/Qwen3-0.6B-GGUF", "Qwen3-0.6B-Q4_K_M.gguf")
    assert (source.size, source.quantizations, source.architecture) == ("0.6B", ("Q4_K_M",), "qwen3")


@pytest.mark.parametrize(
    ("asked", "id"),
    [
        ({}, "unsloth/Qwen3-0.6B-GGUF"),
        ({"size": 30}, "unsloth/Qwen3-30B-A3B-GGUF"),
        ({"size": "30B-A3B", "format": "pytorch"}, "Qwen/Qwen3-30B-A3B"),
        ({"size": 8, "format": "gptq", "quantization": "Int8"}, "JunHowie/Qwen3-8B-GPTQ-Int8"),
        ({"size": 8, "quantization": "int4"}, "JunHowie/Qwen3-8B-GPTQ-Int4"),
        ({"format": "AWQ"}, "Qwen/Qwen3-4B-AWQ"),
    ],
)
def test_size_format_and_quantisation_choose_the_repository(asked: dict[str, Any], id: str) -> None:
    assert chosen(**asked).id == id


@pytest.mark.parametrize(
    ("asked", "param", "says"),
    [
        ({"size": 9}, "model_size_in_billions", "there are 0.6B, 1.7B, 4B, 8B, 14B, 32B, 30B-A3B, 235B-A22B."),
        ({"size": "large"}, "model_size_in_billions", "no weights with model_size_in_billions 'large'; there are 0.6B"),
        ({"size": 4, "format": "awq", "quantization": "Q4"}, "quantization", "huggingface awq 4B 8B 14B 32B (none)."),
        ({"format": "mlx"}, "model_format", "huggingface ggufv2 0.6B 1.7B"),
        ({"size": 235, "format": "awq"}, "model_size_in_billions", "there are 4B, 8B, 14B, 32B."),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(asked: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(errors.BadOption, match=re.escape(says)) as refused:
        chosen(**asked)
    assert refused.value.param == param


def test_a_size_of_a_model_that_has_one_is_passed_over() -> None:
    assert chosen("smollm2", size="7").hub == "package"


def test_any_of_its_repositories_finds_a_model_and_only_those_of_a_size_name_it() -> None:
    catalog = Catalog.builtin()
    assert catalog.find("Qwen/Qwen3-8B").name == catalog.find("JunHowie/Qwen3-8B-GPTQ-Int4").name == "qwen3"
    entry = catalog.find("qwen3")
    assert {"Qwen/Qwen3-0.6B", "unsloth/Qwen3-0.6B-GGUF"} <= set(entry.hub_ids_of("0.6B"))
    assert not [id for id in entry.hub_ids_of("0.6B") if "0.6B" not in id]


@pytest.mark.parametrize(
    ("size", "billions", "written"),
    [("0.6B", 0.6, "0_6"), ("135M", 0.135, "0_135"), ("30B-A3B", 30, 30), ("E2B", 2, 2), ("70b", 70, 70)],
)
def test_sizes_are_read_and_written_as_xinference_does(size: str, billions: float, written: int | str) -> None:
    assert billions_in(size) == billions and xinference_size(size) == written


@pytest.mark.parametrize(
    ("name", "size", "billions"),
    [
        *(("gemma-4", size, billions) for size, billions in (("E2B", 5.1), ("e4b", 8), (12, 12), ("31B", 31))),
        *(("gpt-oss", 20, 20.9), ("gpt-oss", 120, 116.8), ("DeepSeek-V3.2", None, 685), ("qwen3", "30B-A3B", 30)),
    ],
)
def test_weights_are_counted_where_the_name_of_a_size_says_another_number(
    name: str, size: Any, billions: float
) -> None:
    assert chosen(name, size=size).weight_billions == billions


def test_such_numbers_are_given_for_all_sizes() -> None:
    with pytest.raises(ValueError, match="billions takes a number for each of 2 sizes"):
        Source(hub="huggingface", id="me/{size}", sizes=("1B", "2B"), billions=(1.2,))


def test_lists_of_quantisations_are_named_once_and_all_used() -> None:
    document = documents()["llm"]
    used = [source.get("quantizations") for row in document["model"] for source in row["sources"]]
    assert document["quantizations"].keys() == {name for name in used if isinstance(name, str)}


def test_the_listing_has_a_spec_for_each_size_and_quantisation_that_can_be_registered_again() -> None:
    listed = to_registration(Catalog.builtin().find("deepseek-r1-distill-qwen"))
    specs = [spec for spec in listed["model_specs"] if spec["model_size_in_billions"] == "1_5"]
    assert ("ggufv2", "Q8_0") in {(spec["model_format"], spec["quantization"]) for spec in specs}
    again = parse_registration("llm", json.dumps({**listed, "model_name": "mine"}))
    wish: dict[str, Any] = {"hub": None, "format": "ggufv2", "quantization": "Q6_K", "size": "7"}
    source = choose_source(again, **wish)
    assert (source.id, source.path) == (
        "unsloth/DeepSeek-R1-Distill-Qwen-7B-GGUF",
        "DeepSeek-R1-Distill-Qwen-7B-Q6_K.gguf",
    )
    assert again.facts["reasoning_start_tag"] == "<think>" and again.max_tokens == 131072
