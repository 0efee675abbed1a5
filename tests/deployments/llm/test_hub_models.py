"""Language models of the catalogue from a hub of our own, with small files behind it that llama.cpp really loads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.launch import LaunchSpec, Wanted
from cluster.settings import Settings
from cluster.weights.inventory import read
from cluster.weights.locate import is_cached, locate
from cluster.weights.memory import gguf_header
from cluster.worker.family import Setup, load_family
from cluster.worker.planning import plan_of
from deployments import resolve
from deployments.llm.facts import LanguageFacts
from deployments.llm.llamacpp import LlamaCpp
from deployments.llm.pieces import Reply
from tests import tiny_gguf
from tests.deployments.llm.letters import Told
from tests.hub import Hub
from tests.live import until

#: As those of models are that begin to think with every answer.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    return tiny_gguf.write(folder / "whole.gguf", "qwen3", template=THINKING).read_bytes()


@pytest.fixture(scope="module")
def parts(folder: Path) -> list[bytes]:
    tiny_gguf.write(folder / "split.gguf", "qwen3", parts=3)
    return [file.read_bytes() for file in sorted(folder.glob("split-*.gguf"))]


def asked(home: Path, **fields: Any) -> Wanted:
    spec = LaunchSpec.model_validate({"model_name": "qwen3", **fields})
    return resolve(spec, Catalog.builtin(), Settings(home=home))


def loaded(wanted: Wanted, home: Path) -> tuple[LlamaCpp, LanguageFacts]:
    family = load_family(wanted.family)()
    assert isinstance(family, LlamaCpp)
    options = LlamaCpp.Options.model_validate(wanted.spec.options)
    folder = locate(wanted.source, home=home)
    setup = Setup(
        entry=wanted.entry, source=wanted.source, options=options, folder=folder, device="cpu", threads=1, home=home
    )
    facts = family.load(setup)
    assert isinstance(facts, LanguageFacts)
    return family, facts


def answer_of(family: LlamaCpp, item: Any) -> Reply:
    told = Told(family, item)
    until(lambda: told.outcome is not None, within=60)
    return told.reply


def test_a_size_and_a_quantisation_are_fetched_and_answer(hub: Hub, whole: bytes, tmp_path: Path) -> None:
    files = {f"Qwen3-0.6B-{quantization}.gguf": whole for quantization in ("Q4_K_M", "Q8_0")}
    hub.add("unsloth/Qwen3-0.6B-GGUF", {**files, "README.md": b""})
    wanted = asked(tmp_path, model_size_in_billions="0_6", quantization="Q4_K_M", cache_gb=0.01, slots=2)
    family, facts = loaded(wanted, tmp_path)
    assert set(hub.served) == {"Qwen3-0.6B-Q4_K_M.gguf"}
    assert facts.engine == "llamacpp" and facts.reasons and facts.takes_tools
    assert facts.context_length == 512
    (choice,) = answer_of(family, {"prompt": "hello", "max_tokens": 6, "temperature": 0, "ignore_eos": True}).choices
    assert choice.text and choice.finish == "length"


def test_what_it_thinks_is_told_apart(hub: Hub, whole: bytes, tmp_path: Path) -> None:
    hub.add("unsloth/Qwen3-0.6B-GGUF", {"Qwen3-0.6B-Q4_K_M.gguf": whole})
    family, _ = loaded(asked(tmp_path, cache_gb=0.01, slots=1), tmp_path)
    messages = [{"role": "user", "content": "hello"}]
    (choice,) = answer_of(family, {"messages": messages, "max_tokens": 6, "temperature": 0, "ignore_eos": True}).choices
    assert choice.reasoning and not choice.text


def test_a_file_in_parts_is_fetched_whole_and_answers(hub: Hub, parts: list[bytes], tmp_path: Path) -> None:
    names = [f"Q8_0/Qwen3-0.6B-Q8_0-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    hub.add("unsloth/Qwen3-0.6B-GGUF", dict(zip(names, parts, strict=True)))
    wanted = asked(tmp_path, quantization="Q8_0", cache_gb=0.01, slots=1)
    guess = wanted.claim_bytes
    family, _ = loaded(wanted, tmp_path)
    assert set(hub.served) == set(names)
    assert answer_of(family, {"prompt": "hello", "max_tokens": 2, "ignore_eos": True}).choices[0].finish == "length"
    # Once they are there, they are weighed instead of guessed.
    first = is_cached(wanted.source, tmp_path)
    assert first is not None and first.name == names[0].rpartition("/")[2]
    assert gguf_header(read(first))["bytes"] > 6_000_000
    assert asked(tmp_path, quantization="Q8_0", cache_gb=0.01, slots=1).claim_bytes < guess
    with pytest.raises(errors.BadRequest, match="OpenVINO reads no GGUF file that is in parts.*model_engine=llamacpp"):
        asked(tmp_path, quantization="Q8_0", model_engine="openvino")
    first.with_name(names[1].rpartition("/")[2]).unlink()
    with pytest.raises(errors.LoadFailed, match="has 2 of the 3 parts of Qwen3-0.6B-Q8_0: fetch the others"):
        gguf_header(read(first))


def test_parts_that_a_hub_lacks_are_told(hub: Hub, parts: list[bytes], tmp_path: Path) -> None:
    hub.add("unsloth/Qwen3-0.6B-GGUF", {"Qwen3-0.6B-Q8_0-00001-of-00003.gguf": parts[0]})
    with pytest.raises(errors.DownloadFailed, match=r"lacks parts of Qwen3-0\.6B-Q8_0\.gguf"):
        locate(asked(tmp_path, quantization="Q8_0").source, home=tmp_path)


@pytest.mark.parametrize(
    ("fields", "family"),
    [
        ({}, "LlamaCpp"),
        ({"model_format": "ggufv2"}, "LlamaCpp"),
        ({"model_format": "pytorch"}, "TransformersLanguage"),
        ({"model_engine": "auto"}, "OpenvinoLanguage"),
        ({"model_engine": "auto", "model_size_in_billions": 8}, "LlamaCpp"),
        ({"model_engine": "auto", "model_size_in_billions": 30}, "LlamaCpp"),
        ({"model_engine": "auto", "model_format": "pytorch"}, "TransformersLanguage"),
        ({"model_engine": "transformers"}, "TransformersLanguage"),
        ({"model_engine": "openvino", "model_size_in_billions": 8}, "OpenvinoLanguage"),
    ],
)
def test_the_engine_is_one_that_reads_the_weights(fields: dict[str, Any], family: str, tmp_path: Path) -> None:
    wanted = asked(tmp_path, **fields)
    assert wanted.family.endswith(f":{family}")
    assert load_family(wanted.family).reads(wanted.source)


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"model_format": "fp8"}, "model_engine", "vLLM is not installed here"),
        ({"model_format": "awq", "model_engine": "auto"}, "model_engine", "vLLM is not installed here"),
        ({"model_format": "gptq", "model_engine": "llamacpp"}, "model_format", "there are huggingface ggufv2"),
        ({"model_engine": "openvino", "model_size_in_billions": 30}, "model_size_in_billions", "there are 0.6B, 1.7B"),
        ({"model_engine": "vllm", "quantization": "Q4_K_M"}, "quantization", "there are huggingface pytorch"),
    ],
)
def test_weights_that_the_engine_does_not_read_are_refused_at_once(
    fields: dict[str, Any], param: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(errors.BadOption, match=says) as refused:
        asked(tmp_path, **fields)
    assert refused.value.param == param and refused.value.status == 400


def test_an_engine_that_reads_nothing_of_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(errors.BadOption, match="gpt-oss has no weights that the engine 'llamacpp' reads; there are"):
        asked(tmp_path, model_name="gpt-oss", model_engine="llamacpp")


def test_a_model_that_is_not_there_yet_is_planned_by_its_size(tmp_path: Path) -> None:
    def weights(**fields: Any) -> float:
        plan = plan_of(asked(tmp_path, **fields), Settings(home=tmp_path), on_card=False)
        assert plan is not None
        return plan.parts[0].bytes / 1e9

    assert 0.3 < weights() < 0.5
    assert 4 < weights(model_size_in_billions=8) < 6
    assert 15 < weights(model_size_in_billions=8, quantization="BF16") < 17
    assert 130 < weights(model_size_in_billions="235B-A22B", quantization="Q4_0") < 160
    assert 15 < weights(model_size_in_billions=8, model_format="pytorch", torch_dtype="bfloat16") < 17
