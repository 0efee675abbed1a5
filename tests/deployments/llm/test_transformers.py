"""Language models by transformers: tiny ones with random weights, whose answers must be those of its own `generate`."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cluster import errors
from cluster.launch import LaunchSpec
from cluster.settings import Settings
from cluster.worker.family import Prospect
from deployments import catalog_with, resolve
from deployments.llm.language import LEAST_TEMPERATURE, Order, TokenSampling
from deployments.llm.requests import Query
from deployments.llm.transformers import TransformersLanguage
from deployments.llm.writing import TokenOdds
from tests import tiny
from tests.deployments.llm.checkpoints import CONTEXT, KINDS, generated, save_language
from tests.deployments.llm.letters import Told
from tests.live import until

TOKENS = 16
PATIENCE_S = 60
GREEDY = TokenSampling(0.0, 1.0, 0, 0.0, None)
WARM = TokenSampling(1.0, 1.0, 0, 0.0, 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def family(folder: Path) -> TransformersLanguage:
    return loaded(folder)


def loaded(folder: Path, **options: Any) -> TransformersLanguage:
    family: TransformersLanguage = tiny.launched(TransformersLanguage, folder, "llm", **{"cache_gb": 0.01, **options})
    return family


def prompt_of(length: int, seed: int = 0) -> list[int]:
    return [int(id) for id in np.random.default_rng(seed).integers(5, 300, length)]


class Heard:
    """One answer of the engine, as tokens."""

    def __init__(
        self,
        family: TransformersLanguage,
        prompt: list[int],
        sampling: TokenSampling = GREEDY,
        tokens: int = TOKENS,
        signal_at: int = 1,
        **query: Any,
    ) -> None:
        """`signal_at`: how many tokens there are when `has_begun` is set."""
        self.ids: list[int] = []
        self.odds: list[TokenOdds] = []
        self.end: str | Exception | None = None
        self.steps = 0
        self.has_begun, self._is_done = threading.Event(), threading.Event()
        self._signal_at = signal_at
        order = Order(prompt, Query(prompt=prompt, ignore_eos=True, **query), tokens)
        self.stop = family.engine.write(order, sampling, self._hear)

    def _hear(
        self, ids: Sequence[int], odds: Sequence[TokenOdds], end: str | Exception | None, cached: int = 0, /
    ) -> None:
        assert self.end is None, "nothing comes after the end"
        self.ids += ids
        self.odds += odds
        self.end = end
        self.steps += 1
        if len(self.ids) >= self._signal_at:
            self.has_begun.set()
        if end is not None:
            self._is_done.set()

    def whole(self) -> list[int]:
        assert self._is_done.wait(PATIENCE_S)
        assert self.end == "length", self.end
        return self.ids


class Awaited(Told):
    """The answer of the family to a request."""

    def __init__(self, family: TransformersLanguage, **request: Any) -> None:
        self._is_done = threading.Event()
        super().__init__(family, request)
        assert self._is_done.wait(PATIENCE_S)

    def take(self, piece: object) -> None:
        super().take(piece)
        if self.outcome is not None:
            self._is_done.set()


# ------------------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_generate_alone_and_beside_others(kind: str, tmp_path: Path) -> None:
    folder = save_language(tmp_path, kind)
    family = loaded(folder)
    # Shorter and longer than a window of the layers that have one; two of them begin alike, and share their blocks.
    prompts = [prompt_of(length, seed) for seed, length in enumerate((1, 40, 90, 7, 19, 20, 21, 65, 33))]
    prompts += [prompts[2] + [9], prompts[2] + prompt_of(50)]
    expected = [generated(folder, prompt, TOKENS) for prompt in prompts]
    assert Heard(family, prompts[1]).whole() == expected[1]
    together = [Heard(family, prompt) for prompt in (*prompts, *prompts[:6])]
    assert [heard.whole() for heard in together] == [*expected, *expected[:6]]
    assert together[0].steps == TOKENS


def test_a_prompt_of_several_steps_is_read_whole(folder: Path, family: TransformersLanguage) -> None:
    prompt = prompt_of(1200)
    others = [Heard(family, prompt_of(30, seed), tokens=40) for seed in range(4)]
    assert Heard(family, prompt).whole() == generated(folder, prompt, TOKENS)
    assert [heard.whole() for heard in others] == [generated(folder, prompt_of(30, seed), 40) for seed in range(4)]


def test_more_answers_than_slots_are_all_written(folder: Path) -> None:
    family = loaded(folder, slots=2)
    heard = [Heard(family, prompt_of(20, seed)) for seed in range(5)]
    assert [each.whole() for each in heard] == [generated(folder, prompt_of(20, seed), TOKENS) for seed in range(5)]


def test_answers_without_room_for_their_tokens_wait_and_are_the_same(folder: Path) -> None:
    family = loaded(folder, cache_gb=0.001, slots=8)
    assert 900 < family.facts.kept_tokens < 1000  # type: ignore[attr-defined]
    prompts = [prompt_of(150, seed) for seed in range(12)]
    heard = [Heard(family, prompt, tokens=40) for prompt in prompts]
    assert [each.whole() for each in heard] == [generated(folder, prompt, 40) for prompt in prompts]


def test_an_answer_that_gave_way_goes_on_when_the_other_is_stopped(folder: Path) -> None:
    family = loaded(folder, cache_gb=0.001, slots=2)
    # There is room for one of them.
    first, second = (Heard(family, prompt_of(150, seed), tokens=700, signal_at=600) for seed in range(2))
    assert first.has_begun.wait(PATIENCE_S)
    assert len(second.ids) < 600
    first.stop()
    assert second.whole() == generated(folder, prompt_of(150, 1), 700)


def test_what_was_written_may_cost_something(folder: Path, family: TransformersLanguage) -> None:
    # A model with random weights soon repeats itself.
    prompt, tokens = prompt_of(30), 80
    expected = generated(folder, prompt, tokens, repetition_penalty=1.5)
    plain = Heard(family, prompt, tokens=tokens)
    assert Heard(family, prompt, tokens=tokens, repetition_penalty=1.5).whole() == expected != plain.whole()
    varied = Heard(family, prompt, tokens=tokens, presence_penalty=2.0, frequency_penalty=2.0).whole()
    assert len(set(varied)) > len(set(plain.ids))


def test_tokens_of_a_prompt_that_were_kept_are_told(folder: Path) -> None:
    family = loaded(folder)
    prompt = prompt_of(100)

    def cached(ids: list[int]) -> int:
        return Awaited(family, prompt=ids, max_tokens=2).reply.usage.cached

    assert cached(prompt) == 0
    # Whole blocks of 32.
    assert cached(prompt) == cached([*prompt[:96], 7, 8]) == 96
    assert cached([*prompt[:40], *prompt_of(60, 1)]) == 32 and cached(prompt_of(100, 2)) == 0


# -------------------------------------------------------------------------------------------------- sampling


def test_a_seed_repeats_an_answer_whoever_is_beside_it(family: TransformersLanguage) -> None:
    prompt = prompt_of(25)
    alone = Heard(family, prompt, WARM).whole()
    others = [Heard(family, prompt_of(25, seed), WARM._replace(seed=None)) for seed in range(6)]
    again, other = Heard(family, prompt, WARM), Heard(family, prompt, WARM._replace(seed=8))
    assert again.whole() == alone != other.whole()
    assert all(each.whole() for each in others)
    # Without a seed each has its own.
    unseeded = [Heard(family, prompt, WARM._replace(seed=None)).whole() for _ in range(2)]
    assert unseeded[0] != unseeded[1]


@pytest.mark.parametrize(
    "narrow", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 0.999999}, {"temperature": LEAST_TEMPERATURE}]
)
def test_the_narrowest_sampling_takes_the_likeliest(family: TransformersLanguage, narrow: dict[str, Any]) -> None:
    prompt = prompt_of(25)
    assert Heard(family, prompt, WARM._replace(**narrow)).whole() == Heard(family, prompt).whole()


def test_chances_are_the_models_own(folder: Path, family: TransformersLanguage) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    prompt = prompt_of(25)
    for sampling in (GREEDY, WARM._replace(temperature=0.7, top_k=5)):
        heard = Heard(family, prompt, sampling, logprobs=True, top_logprobs=3)
        ids = [*prompt, *heard.whole()]
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.inference_mode():
            chances = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        rows = range(len(prompt) - 1, len(ids) - 1)
        expected = [float(chances[row, id]) for row, id in zip(rows, heard.ids, strict=True)]
        np.testing.assert_allclose([each.logprob for each in heard.odds], expected, atol=1e-4)
        likeliest = chances[list(rows)].topk(3)
        assert [[id for id, _ in each.top] for each in heard.odds] == likeliest.indices.tolist()
        np.testing.assert_allclose([[p for _, p in each.top] for each in heard.odds], likeliest.values, atol=1e-4)


# --------------------------------------------------------------------------------------------- begin and end


def test_what_is_stopped_leaves_the_engine(folder: Path, family: TransformersLanguage) -> None:
    long = Heard(family, prompt_of(30), tokens=CONTEXT - 40)
    assert long.has_begun.wait(PATIENCE_S)
    long.stop()
    assert long._is_done.wait(PATIENCE_S)
    assert long.end == "cancelled" and len(long.ids) < CONTEXT - 40
    long.stop()
    # Its blocks are free for others.
    prompt = prompt_of(30, 5)
    assert Heard(family, prompt).whole() == generated(folder, prompt, TOKENS)
    assert not family._engine._writing and not family._engine._processor.scheduler.active_requests


def test_an_engine_that_fails_fails_all_and_says_so(folder: Path) -> None:
    family = loaded(folder)
    heard = [Heard(family, prompt_of(30, seed), tokens=CONTEXT - 40) for seed in range(2)]
    assert all(each.has_begun.wait(PATIENCE_S) for each in heard)

    def fail(model: object) -> None:
        raise ValueError("out of luck")

    family._engine._processor._generation_step = fail
    for each in heard:
        assert each._is_done.wait(PATIENCE_S)
        assert isinstance(each.end, errors.InferenceFailed) and "out of luck" in each.end.message
    with pytest.raises(errors.InferenceFailed, match="out of luck"):
        Heard(family, prompt_of(3))


def test_a_request_is_answered(family: TransformersLanguage) -> None:
    messages = [{"role": "user", "content": "Tea and bread"}]
    asked = {"max_tokens": 5, "temperature": 0, "ignore_eos": True, "logprobs": True, "top_logprobs": 2}
    told = Awaited(family, messages=messages, n=2, **asked)
    assert [choice.finish for choice in told.reply.choices] == ["length"] * 2
    assert told.reply.choices[0].text == told.reply.choices[1].text
    assert told.reply.usage.completion == 10
    for chance in told.reply.choices[0].chances:
        assert chance.top[0] == (chance.text, chance.logprob, chance.bytes) and len(chance.top) == 2
    assert (family.facts.engine, family.facts.dtype, family.facts.context_length) == (  # type: ignore[attr-defined]
        ("transformers", "float32", CONTEXT)
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"format": {"type": "xml"}}, "response_format takes"),
        ({"echo": True}, "send no echo"),
        ({"prompt": "tea " * 3000}, "room for"),
    ],
)
def test_what_it_cannot_do_is_refused(family: TransformersLanguage, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.BadRequest, match=said):
        Awaited(family, **{"prompt": "Tea", **asked})
    Awaited(family, prompt="Tea", format={"type": "text"}, max_tokens=1)


# ------------------------------------------------------------------------------------------- packed weights


@pytest.mark.parametrize(
    ("packing", "layer", "dtype"),
    [
        ({"load_in_8bit": True}, "Linear8bitLt", "int8"),
        ({"load_in_4bit": True}, "Linear4bit", "fp4"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}, "Linear4bit", "nf4"),
    ],
)
def test_weights_are_packed(folder: Path, packing: dict[str, Any], layer: str, dtype: str) -> None:
    family = loaded(folder, quantization_config=packing)
    model = family._engine._model
    assert type(model.model.layers[0].mlp.up_proj).__name__ == layer
    assert type(model.lm_head).__name__ == "Linear"
    assert family.facts.dtype == dtype  # type: ignore[attr-defined]
    prompt = prompt_of(30)
    assert Heard(family, prompt).whole() == Heard(family, prompt).whole()


def test_four_bit_layers_may_have_any_width(tmp_path: Path) -> None:
    """The fast code for CPUs takes multiples of 64 and 32 only."""
    folder = save_language(tmp_path, hidden_size=72, intermediate_size=100)
    family = loaded(folder, quantization_config={"load_in_4bit": True})
    assert type(family._engine._model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    assert len(Heard(family, prompt_of(30)).whole()) == TOKENS


def test_bitsandbytes_asks_no_hub_for_code(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text("def get_kernel(*names, **more):\n    print('asked for', names)\n")
    script = """
import torch, transformers
from deployments.bits import config_for
config_for(transformers.PreTrainedModel, "4-bit", torch.float32)
import bitsandbytes, kernels
print(bitsandbytes.__name__, kernels.get_kernel.__name__)
"""
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    run = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert run.stdout.split() == ["bitsandbytes", "get_kernel"], run.stdout + run.stderr


# --------------------------------------------------------------------------------------- before it is loaded


def wanted(path: Path, **fields: Any) -> Any:
    settings = Settings(home=path.parent / "home")
    asked = {"model_name": "mine", "model_type": "llm", "model_path": str(path), **fields}
    return resolve(LaunchSpec.model_validate(asked), catalog_with([], settings), settings)


def test_a_folder_of_safetensors_is_for_transformers(folder: Path) -> None:
    assert wanted(folder).family == "deployments.llm.transformers:TransformersLanguage"


def test_other_weights_are_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    gguf = tmp_path / "a" / "model.gguf"
    gguf.parent.mkdir()
    gguf.write_bytes(b"GGUF")
    for place in (gguf, gguf.parent):
        assert_refused(place, "is GGUF, which transformers does not read: launch it with model_engine=llamacpp or")
    pickled = tmp_path / "b"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    assert_refused(pickled, "only as pickles")
    empty = tmp_path / "c"
    empty.mkdir()
    assert_refused(empty, "has no safetensors")
    with pytest.raises(errors.BadOption, match="Unknown model_engine 'transformer' for llm models; use one of: "):
        wanted(folder, model_engine="transformer")
    with pytest.raises(errors.BadRequest, match="from one GGUF file, .*: launch it with model_engine=transformers"):
        wanted(folder, model_engine="openvino")


def assert_refused(place: Path, said: str) -> None:
    with pytest.raises(errors.ClusterError) as caught:
        wanted(place, model_engine="transformers")
    assert said in caught.value.message and caught.value.status < 500, caught.value.message


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_is_refused(missing: str, folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.name != missing:
            (tmp_path / file.name).symlink_to(file)
    assert_refused(tmp_path, f"has no {missing}")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"layer_types": ["full_attention", "linear_attention"]}, "has linear_attention, which"),
        ({"kv_lora_rank": 512}, "has kv_lora_rank in its config"),
        ({"attn_logit_softcapping": 50.0}, "has attn_logit_softcapping in its config"),
        ({"is_encoder_decoder": True}, "has an encoder beside its decoder"),
    ],
)
def test_models_that_cannot_be_batched_are_refused(
    config: dict[str, Any], said: str, folder: Path, tmp_path: Path
) -> None:
    for file in folder.iterdir():
        if file.name != "config.json":
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").write_text(json.dumps({**json.loads((folder / "config.json").read_text()), **config}))
    assert_refused(tmp_path, said)


def test_weights_that_are_missing_fail_the_launch(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).symlink_to(file)
    save_file({"model.norm.weight": np.ones(64, "float32")}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(errors.LoadFailed, match="lacks weights of its model: .*layers"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("packing", "said"),
    [
        ({"load_in_2bit": True}, "load_in_2bit"),
        ({"load_in_8bit": True, "load_in_4bit": True}, "exclude each other"),
        ("load_in_8bit", "dictionary"),
    ],
)
def test_odd_packing_is_refused(folder: Path, packing: Any, said: str) -> None:
    with pytest.raises(errors.BadOption, match=said):
        wanted(folder, quantization_config=packing)


def test_the_plan_counts_weights_and_kept_tokens(folder: Path) -> None:
    def bytes_of(on_card: bool = False, **options: Any) -> tuple[int, int]:
        given = TransformersLanguage.Options.model_validate({"slots": 1, **options})
        launch = wanted(folder)
        settings = Settings(home=folder.parent / "home")
        prospect = Prospect(launch.spec, launch.entry, launch.source, given, settings, on_card)
        plan = TransformersLanguage.plan(prospect)
        assert plan.peak_bytes == sum(part.bytes for part in plan.parts) + plan.activation_bytes + plan.fixed_bytes
        assert {part.lives_on for part in plan.parts} == {"card" if on_card else "main memory"}
        weights, kept = plan.parts
        return weights.bytes, kept.bytes

    weights, kept = bytes_of()
    #: Keys and values of 4 layers with 2 heads of 16 numbers.
    assert kept == (CONTEXT + 3 * 32) * 2 * 4 * 2 * 16 * 4
    assert bytes_of(torch_dtype="bfloat16") == bytes_of(on_card=True) == (weights // 2, kept // 2)
    packed = [bytes_of(quantization_config={name: True})[0] for name in ("load_in_8bit", "load_in_4bit")]
    assert weights > packed[0] > packed[1] > 0
    assert bytes_of(context_length=256)[1] < kept


def test_what_was_dropped_is_let_go(folder: Path) -> None:
    family = loaded(folder)
    Heard(family, prompt_of(8)).whole()
    model, threads = weakref.ref(family._engine._model), {thread.name for thread in threading.enumerate()}
    family.unload()
    del family
    until(lambda: gc.collect() >= 0 and model() is None, within=PATIENCE_S)
    assert "transformers" in threads
