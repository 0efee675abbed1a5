"""Pictures into a model of llama.cpp: a small one with random weights, which llama.cpp itself loads and runs."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cluster import errors
from cluster.worker.family import Finished
from deployments.llm.llamacpp import LlamaCpp
from deployments.llm.pictures import picture_part
from deployments.llm.pieces import Reply
from deployments.llm.projector import PIXELS_AT_ONCE
from tests import seeing, tiny

PATIENCE_S = 60.0
TEXT = {"type": "text", "text": "hi"}
COLOURS = ("red", "blue", "green", "white")


class Asked(NamedTuple):
    ended: threading.Event
    outcome: list[Any]
    #: As the request was weighed.
    tokens: int

    def take(self, piece: object) -> None:
        if isinstance(piece, Finished):
            self.outcome.append(piece.outcome)
            self.ended.set()

    @property
    def reply(self) -> Reply:
        assert self.ended.wait(PATIENCE_S)
        (outcome,) = self.outcome
        if isinstance(outcome, Exception):
            raise outcome
        assert isinstance(outcome, Reply)
        return outcome

    @property
    def text(self) -> str:
        return self.reply.choices[0].text


def ask(family: LlamaCpp, *parts: Any, **fields: Any) -> Asked:
    item = {"messages": [{"role": "user", "content": list(parts)}], "max_tokens": 12, "temperature": 0, **fields}
    prepared = family.prepare("chat", [item], {})
    asked = Asked(threading.Event(), [], prepared.tokens[0])
    family.begin(prepared.values[0], asked.take)
    return asked


def shown(colour: str) -> dict[str, Any]:
    return picture_part(seeing.picture(colour))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeing.save_seeing(tmp_path_factory.mktemp("seeing"))


@pytest.fixture(scope="module")
def family(folder: Path) -> Iterator[LlamaCpp]:
    yield tiny.launched(LlamaCpp, folder, "llm", cache_gb=0.01, slots=8)


def test_the_file_to_see_with_is_found_and_told(family: LlamaCpp) -> None:
    facts: Any = family.facts  # type: ignore[attr-defined]
    assert facts.sees and facts.context_length == seeing.CONTEXT


def test_different_pictures_have_different_answers(family: LlamaCpp) -> None:
    answers = {colour: ask(family, TEXT, shown(colour)).text for colour in COLOURS}
    assert len(set(answers.values())) == len(COLOURS), answers
    assert ask(family, TEXT).text not in answers.values()
    assert ask(family, shown("red"), TEXT).text != answers["red"], "it stands elsewhere"
    halves = {ask(family, TEXT, picture_part(seeing.half(*pair))).text for pair in (("red", "blue"), ("blue", "red"))}
    assert len(halves) == 2


def test_answers_are_those_of_llama_cpps_own_reader(family: LlamaCpp) -> None:
    """It is given the files themselves there, and here their pixels."""
    for data in (seeing.picture("red"), seeing.half("blue", "red"), seeing.picture("green", (90, 50))):
        chunks: list[Any] = []
        url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        parts = [TEXT, {"type": "image_url", "image_url": {"url": url}}]
        body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 12, "temperature": 0, "stream": True}

        def take(told: Any, chunks: list[Any] = chunks) -> bool:
            chunks.extend(told if isinstance(told, list) else [told])
            return False

        family._server.handle_chat_completions(body, take)
        own = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))
        assert own and ask(family, TEXT, picture_part(data)).text == own


def test_answers_stay_what_they_are_beside_others(family: LlamaCpp) -> None:
    requests: list[list[Any]] = [[TEXT], *([TEXT, shown(colour)] for colour in COLOURS)]
    requests += [[{"type": "text", "text": letters}] for letters in ("abc", "x y z", "Tell me more.")]
    alone = [ask(family, *parts).text for parts in requests]
    for _ in range(3):
        asked = [ask(family, *parts) for parts in requests]
        assert [each.text for each in asked] == alone


def test_a_picture_that_comes_again_keeps_its_tokens(family: LlamaCpp) -> None:
    data = picture_part(seeing.picture("yellow"))
    first, second = ask(family, TEXT, data).reply.usage, ask(family, TEXT, data).reply.usage
    assert first.prompt == second.prompt and second.prompt - second.cached == 1
    assert first.cached < first.prompt - seeing.PICTURE_TOKENS


def test_pictures_count_as_tokens(family: LlamaCpp) -> None:
    without, one = ask(family, TEXT), ask(family, TEXT, shown("red"))
    assert 0 <= one.tokens - without.tokens - seeing.PICTURE_TOKENS <= 2
    assert one.reply.usage.prompt - without.reply.usage.prompt == seeing.PICTURE_TOKENS


def test_pictures_wait_for_room_and_texts_do_not(family: LlamaCpp) -> None:
    messages = [{"role": "user", "content": [TEXT, shown("red"), shown("blue")]}]
    asked = family.prepare("chat", [{"messages": messages}, {"messages": [{"role": "user", "content": "a"}]}], {})
    assert list(asked.luggage) == [2 * seeing.SIDE**2, 0] and family.pace.luggage == PIXELS_AT_ONCE


def test_pictures_that_do_not_fit_are_refused_with_both_numbers(family: LlamaCpp, folder: Path) -> None:
    few = tiny.launched(LlamaCpp, folder, "llm", cache_gb=0.01, slots=1, context_length=256)
    with pytest.raises(errors.ContextLengthExceeded, match="pictures have 256 tokens, .* has room for 256 with"):
        ask(few, *[shown("red")] * 16)
    text = {"type": "text", "text": "x" * 240}
    assert ask(few, {"type": "text", "text": "x" * 220}).text
    with pytest.raises(errors.ContextLengthExceeded, match=r"The prompt has 2\d\d tokens, .* has room for 256"):
        _ = ask(few, text, shown("red")).reply


def test_the_mark_that_stands_for_a_picture_is_plain_text_in_a_message(family: LlamaCpp) -> None:
    marked = {"type": "text", "text": "<__media__> <__image__>"}
    assert ask(family, marked).reply.usage.prompt > 10
    assert ask(family, marked, shown("red")).text != ask(family, marked, shown("blue")).text


def test_the_mark_that_stands_for_a_picture_is_plain_text_in_a_prompt(family: LlamaCpp) -> None:
    marked = {"prompt": "<__media__> <|vision_start|><|image_pad|><|vision_end|>", "max_tokens": 4}
    prepared = family.prepare("generate", [marked], {})
    asked = Asked(threading.Event(), [], prepared.tokens[0])
    family.begin(prepared.values[0], asked.take)
    assert asked.reply.usage.prompt > 10


def test_prompts_of_token_ids_are_refused_with_what_to_send(family: LlamaCpp) -> None:
    with pytest.raises(errors.BadRequest, match="send the text of these tokens"):
        family.prepare("generate", [{"prompt": [1, 2], "max_tokens": 2}], {})


def test_a_picture_that_cannot_be_unpacked_disturbs_nobody(family: LlamaCpp) -> None:
    before = ask(family, TEXT, shown("red")).text
    broken = picture_part(seeing.picture("red", (300, 300), "JPEG")[:-200])
    bad, good = ask(family, TEXT, shown("red"), broken), ask(family, TEXT, shown("red"))
    with pytest.raises(errors.BadRequest, match=r"Picture 2 of the request is a picture that cannot be read"):
        _ = bad.reply
    assert good.text == before


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (7, 1000), (3000, 2500)])
def test_odd_shapes_are_seen(family: LlamaCpp, size: tuple[int, int]) -> None:
    assert ask(family, TEXT, picture_part(seeing.picture("red", size))).reply.usage.completion > 0


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats_that_llama_cpp_does_not_read_are_seen_too(family: LlamaCpp, format: str) -> None:
    """A single colour is the same in all of them, or nearly."""
    data = picture_part(seeing.picture("white", format=format))
    assert ask(family, TEXT, data).text == ask(family, TEXT, shown("white")).text


def test_the_file_of_another_model_fails_the_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeing, "HIDDEN", seeing.HIDDEN // 2)
    seeing.save_projector(tmp_path / "mmproj.gguf")
    monkeypatch.undo()
    seeing.save_text(tmp_path / "model.gguf")
    with pytest.raises(errors.LoadFailed, match=r"mmproj\.gguf: the mmproj file has to be that of this very model"):
        tiny.launched(LlamaCpp, tmp_path, "llm", cache_gb=0.01, slots=1)


def test_a_model_without_the_file_reads_texts_only(folder: Path) -> None:
    blind = tiny.launched(LlamaCpp, folder, "llm", cache_gb=0.01, slots=1, mmproj="none")
    assert not blind.facts.sees
    with pytest.raises(errors.BadRequest, match="reads texts only: launch a model that sees, with the mmproj file"):
        ask(blind, TEXT, shown("red"))
    assert ask(blind, TEXT).text
