"""Guessing the next tokens changes how fast answers come, and nothing of what they say; with the real llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.catalog.entry import Entry, Source
from cluster.launch import LaunchSpec, Wanted
from cluster.settings import Settings
from cluster.worker.family import Setup
from cluster.worker.planning import plan_of
from deployments import resolve
from deployments.llm.http.talks import usage_body
from deployments.llm.llamacpp import LlamaCpp, _refuse_idle_draft
from deployments.llm.pieces import Reply, TalkUsage
from deployments.llm.vllm import VllmOptions, _speculation
from tests import tiny_gguf
from tests.deployments.llm.letters import Told
from tests.live import until

ITEM = {"prompt": "one two three one two three one two", "max_tokens": 24, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    tiny_gguf.write(folder / "model.gguf")
    tiny_gguf.write(folder / "other.gguf", seed=1)
    tiny_gguf.write(folder / "strange.gguf", words=1000)
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Callable[..., LlamaCpp]:
    source = Source(hub="local", id=str(folder), format="ggufv2")
    entry = Entry(name="m", type="llm", family="llamacpp", sources=(source,))

    def load(place: Path = folder / "model.gguf", **options: Any) -> LlamaCpp:
        family = LlamaCpp()
        asked = LlamaCpp.Options.model_validate({"slots": 4, "cache_gb": 0.01, **options})
        family.load(Setup(entry=entry, source=source, options=asked, folder=place, device="cpu", threads=1))
        return family

    return load


@pytest.fixture(scope="module")
def plain(loaded: Callable[..., LlamaCpp]) -> Reply:
    return answers(loaded())[0]


def answers(family: LlamaCpp, count: int = 1, item: Any = ITEM) -> list[Reply]:
    several = [Told(family, item) for _ in range(count)]
    until(lambda: all(told.outcome is not None for told in several), within=60)
    return [told.reply for told in several]


@pytest.mark.parametrize("guess", ["model", "other"])
def test_greedy_answers_are_the_same_alone_and_beside_others(
    loaded: Callable[..., LlamaCpp], plain: Reply, folder: Path, guess: str
) -> None:
    family = loaded(draft_model=str(folder / f"{guess}.gguf"))
    for reply in (*answers(family), *answers(family, 4)):
        assert reply.choices == plain.choices
        assert (reply.usage.prompt, reply.usage.completion) == (plain.usage.prompt, plain.usage.completion)
        if guess == "model":
            assert reply.usage.right == reply.usage.guessed > 0
        if guess == "other":
            assert reply.usage.right < reply.usage.guessed


def test_what_stood_there_before_is_a_guess_that_changes_nothing(loaded: Callable[..., LlamaCpp]) -> None:
    """Alone: beside others a real model may choose the other of two tokens that are all but equally likely, with
    guesses as without."""
    fox = "The quick brown fox jumps over the lazy dog. "
    item = {**ITEM, "prompt": f"Repeat: {fox * 2}The quick brown fox", "max_tokens": 30}
    (without,) = answers(loaded(tiny_gguf.smollm2()), item=item)
    family = loaded(tiny_gguf.smollm2(), prompt_lookup=True)
    (reply,) = answers(family, item=item)
    assert reply.choices == without.choices
    assert reply.usage.right > 0 == without.usage.guessed


def test_a_plain_launch_guesses_nothing(plain: Reply) -> None:
    assert plain.usage.guessed == 0
    assert "accepted_prediction_tokens" not in usage_body(plain.usage)["completion_tokens_details"]
    details = usage_body(TalkUsage(5, 9, guessed=7, right=4))["completion_tokens_details"]
    assert (details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]) == (4, 3)


def test_a_draft_of_another_vocabulary_is_refused(loaded: Callable[..., LlamaCpp], folder: Path) -> None:
    says = r"strange.gguf has another vocabulary than the model \(1000 tokens, and the model 49152\)"
    with pytest.raises(errors.LoadFailed, match=says):
        loaded(draft_model=str(folder / "strange.gguf"))


def test_what_else_keeps_it_from_guessing_is_told_as_it_is(folder: Path) -> None:
    class Refusing:
        def handle_completions(self, body: Any, take: Callable[[Any], bool]) -> None:
            assert take([{"error": {"code": 503, "message": "no slot is free"}}]), "nothing else is waited for"

    refusing: Any = Refusing()
    with pytest.raises(errors.LoadFailed, match="does not write with draft_model .*: no slot is free"):
        _refuse_idle_draft(refusing, folder / "model.gguf", folder / "other.gguf")


def asked(folder: Path, *, roots: tuple[Path, ...] = (), **fields: Any) -> Wanted:
    spec = {"model_name": "mine", "model_type": "llm", "model_path": str(folder / "model.gguf"), **fields}
    spec.setdefault("model_engine", "llamacpp")
    return resolve(LaunchSpec.model_validate(spec), Catalog.builtin(), Settings(home=folder, model_roots=roots))


def test_its_weights_and_its_tokens_are_claimed(folder: Path) -> None:
    without, with_draft = asked(folder), asked(folder, draft_model=str(folder / "other.gguf"))
    plan = plan_of(with_draft, Settings(home=folder), on_card=False)
    assert plan is not None
    draft, tokens = plan.parts[-2:]
    assert draft.slot == "draft model" and draft.bytes > 6_000_000
    assert tokens.bytes == plan.parts[1].bytes > 0
    assert with_draft.claim_bytes - without.claim_bytes == draft.bytes + tokens.bytes


def test_a_draft_from_elsewhere_and_what_is_none_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.BadOption, match="draft_model .* is outside of the folders that may be used") as refused:
        asked(folder, roots=(folder,), draft_model=str(tmp_path / "secret.gguf"))
    assert refused.value.param == "draft_model"
    with pytest.raises(errors.BadOption, match="draft_model takes one GGUF file, and .* has 3: name a file"):
        asked(folder, draft_model=str(folder))
    with pytest.raises(errors.BadOption, match="draft_model takes one GGUF file, and there is none at .*away.gguf"):
        asked(folder, draft_model=str(folder / "away.gguf"))
    with pytest.raises(errors.BadOption, match="two ways to guess: give one of them"):
        asked(folder, draft_model=str(folder / "other.gguf"), prompt_lookup=True)


def test_a_draft_may_be_in_parts_or_have_its_projector_beside_it(folder: Path, tmp_path: Path) -> None:
    for name, parts in (("whole", 1), ("split", 3)):
        (tmp_path / name).mkdir()
        tiny_gguf.write(tmp_path / name / "draft.gguf", parts=parts)
        (tmp_path / name / "mmproj-F16.gguf").write_bytes(b"GGUF")
        wanted = asked(folder, draft_model=str(tmp_path / name))
        plan = plan_of(wanted, Settings(home=folder), on_card=False)
        assert plan is not None and plan.parts[-2].slot == "draft model" and plan.parts[-2].bytes > 6_000_000


def test_a_draft_is_not_looked_for_where_the_model_is_not(folder: Path) -> None:
    wanted = resolve(
        LaunchSpec(model_name="qwen3", options={"draft_model": str(folder / "away.gguf")}),
        Catalog.builtin(),
        Settings(home=folder / "home"),
    )
    assert wanted.spec.options["draft_model"] == str(folder / "away.gguf")


@pytest.mark.parametrize("engine", ["openvino", "transformers"])
def test_engines_that_cannot_say_why(folder: Path, engine: str) -> None:
    with pytest.raises(errors.BadOption, match=r"The engine has no option prompt_lookup: .*model_engine=llamacpp\."):
        asked(folder, model_engine=engine, prompt_lookup=True)


def test_vllm_gets_it_as_its_own_configuration() -> None:
    def config(**options: Any) -> Any:
        words = _speculation(VllmOptions.model_validate(options))
        return json.loads(str(words["speculative-config"])) if words else None

    assert config() is None
    drafting = config(draft_model="/models/small", draft_tokens=5)
    assert drafting == {"method": "draft_model", "model": "/models/small", "num_speculative_tokens": 5}
    assert config(prompt_lookup=True)["method"] == "ngram"
