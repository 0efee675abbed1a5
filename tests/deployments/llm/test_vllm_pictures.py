"""Pictures into models by vLLM, for which a scripted engine stands in: what its server is asked, and what is read of
its answers."""

from __future__ import annotations

import base64
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from threading import Event
from typing import Any

import pytest
from tokenizers import Tokenizer

from cluster import errors
from deployments.llm.language import Order, TokenSampling
from deployments.llm.picture_tokens import MARKS, PictureGrid, picture_tokens_of, stand_ins_of
from deployments.llm.pictures import picture_part, pixmap
from deployments.llm.requests import Query
from deployments.llm.vllm import VllmLanguage
from deployments.llm.vllm_engine import SOCKET, VllmEngine
from tests import seeing
from tests.deployments.llm.checkpoints import CONTEXT, save_language
from tests.deployments.llm.test_vllm import PATIENCE_S, Engine, Talk, engine, loaded

__all__ = ["engine"]

IDS = [21, 22, 23]
TEXT = {"type": "text", "text": "What is it?"}
PAD, START = "<|image_pad|>", "<|vision_start|>"
VISION = {"image_size": 32, "patch_size": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = save_language(tmp_path_factory.mktemp("seeing"))
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "vision_config": VISION}))
    return place


@pytest.fixture
def family(engine: Engine, folder: Path) -> Iterator[VllmLanguage]:
    family = loaded(engine, folder)
    yield family
    family.unload()


def talk(family: VllmLanguage, *parts: Any, **request: Any) -> Talk:
    messages = [{"role": "system", "content": "See."}, {"role": "user", "content": list(parts)}]
    return Talk(family, prompt=None, messages=messages, **request).ended()


def test_its_server_writes_the_prompt_and_is_given_pixels(engine: Engine, family: VllmLanguage) -> None:
    engine.write(ids=IDS)
    data = seeing.half("red", "blue")
    answered = talk(family, TEXT, picture_part(data), max_tokens=3, template={"enable_thinking": False})
    assert answered.reply.choices[0].text == family.vocabulary.text_of(IDS)
    assert tuple(answered.reply.usage[:3]) == (40, 3, 2), "of the prompt as many as the engine has counted"
    (asked,) = engine.asked
    url = "data:image/x-portable-pixmap;base64," + base64.b64encode(pixmap(data, 1, 10**6)).decode()
    assert asked["messages"] == [
        {"role": "system", "content": "See."},
        {"role": "user", "content": [TEXT, {"type": "image_url", "image_url": {"url": url}}]},
    ]
    assert "prompt" not in asked and asked["max_completion_tokens"] == 3 and asked["return_token_ids"]
    assert asked["chat_template_kwargs"] == {"enable_thinking": False} and asked["tool_choice"] == "none"


def test_pictures_are_counted_where_a_stop_string_comes_before_the_engine_has_counted(
    engine: Engine, family: VllmLanguage
) -> None:
    engine.write(ids=IDS * 100, step_s=0.02)
    word = family.vocabulary.text_of(IDS[1:2])
    parts = TEXT, picture_part(seeing.picture("red"))
    talked = talk(family, *parts, stop=[word])
    messages = [{"role": "system", "content": "See."}, {"role": "user", "content": list(parts)}]
    (counted,) = family.prepare("chat", [{"messages": messages}], {}).tokens
    assert talked.reply.choices[0].finish == "stop" and talked.reply.usage.prompt == counted


def test_an_answer_without_a_limit_ends_where_the_engine_has_no_room(engine: Engine, family: VllmLanguage) -> None:
    engine.write(ids=IDS)
    talk(family, TEXT, picture_part(seeing.picture("red")), max_tokens=None)
    assert "max_completion_tokens" not in engine.asked[0] and "max_tokens" not in engine.asked[0]


def test_several_answers_are_asked_for_with_the_same_pixels(engine: Engine, family: VllmLanguage) -> None:
    engine.write(ids=IDS)
    data = seeing.picture("red", (350, 350))
    reply = talk(family, TEXT, picture_part(data), max_tokens=3, n=3, seed=5).reply
    assert len(reply.choices) == 3 and sorted(asked["seed"] for asked in engine.asked) == [5, 6, 7]
    url = "data:image/x-portable-pixmap;base64," + base64.b64encode(pixmap(data, 1, 10**6)).decode()
    assert [asked["messages"][1]["content"][1]["image_url"]["url"] == url for asked in engine.asked] == [True] * 3


def test_an_answer_that_is_being_written_keeps_no_pictures_from_others(engine: Engine) -> None:
    engine.write(ids=IDS * 1000, step_s=0.05)
    running = VllmEngine(
        [*shlex.split(engine.command), "--uds", SOCKET], os.environ, frozenset(), Event().set, pixels=1
    )
    running.load(lambda _: None, PATIENCE_S)
    try:
        content = [picture_part(seeing.picture("red"))]
        query = Query(messages=[{"role": "user", "content": content}])
        told: Queue[str | Exception | None] = Queue()
        stops = [
            running.write(
                Order([], query, 1000, picture_tokens=1, pixels=1),
                TokenSampling(0.0, 1.0, 0, 0.0, None),
                lambda *step, name=name: told.put(step[2] or name),
            )
            for name in ("first", "second")
        ]
        heard = set(iter(lambda: told.get(timeout=PATIENCE_S), "second"))
        assert heard == {"first"}, "it has not ended when the second begins"
        for stop in stops:
            stop()
    finally:
        running.close()


def test_chances_are_read_of_a_chat_too(engine: Engine, family: VllmLanguage) -> None:
    engine.write(ids=IDS)
    (choice,) = talk(
        family, TEXT, picture_part(seeing.picture("red")), max_tokens=3, logprobs=True, top_logprobs=2
    ).reply.choices
    assert [chance.logprob for chance in choice.chances] == [-0.5] * 3
    assert all(len(chance.top) == 2 for chance in choice.chances)
    assert engine.asked[0]["logprobs"] is True and engine.asked[0]["top_logprobs"] == 2


def test_chats_without_pictures_go_in_as_tokens(engine: Engine, family: VllmLanguage) -> None:
    talk(family, TEXT, max_tokens=3)
    assert "messages" not in engine.asked[0] and engine.asked[0]["prompt"]


def test_pictures_count_and_are_refused_with_both_numbers(engine: Engine, family: VllmLanguage) -> None:
    picture, large = picture_part(seeing.picture("red")), picture_part(seeing.picture("red", (800, 800)))

    def prepared(*parts: Any) -> Any:
        return family.prepare("chat", [{"messages": [{"role": "user", "content": list(parts)}]}], {})

    assert prepared(TEXT, picture).tokens[0] - prepared(TEXT).tokens[0] == 16 + MARKS
    with pytest.raises(errors.ContextLengthExceeded, match=rf"has 4\d\d\d tokens, .* has room for {CONTEXT}"):
        prepared(TEXT, large)
    with pytest.raises(errors.BadRequest, match="is not a readable picture"):
        prepared(TEXT, picture_part(b"<svg/>"))
    with pytest.raises(errors.BadRequest, match="a message has a picture"):
        family.prepare("tokenize_prompt", [{"messages": [{"role": "user", "content": [picture]}]}], {})


def test_a_picture_that_cannot_be_unpacked_is_the_callers_fault(engine: Engine, family: VllmLanguage) -> None:
    engine.write(ids=IDS)
    broken = picture_part(seeing.picture("red", (40, 40), "JPEG")[:-150])
    with pytest.raises(errors.BadRequest, match="cannot be read"):
        raise talk(family, TEXT, broken, max_tokens=3).outcome
    assert talk(family, TEXT, picture_part(seeing.picture("red")), max_tokens=3).reply


def test_its_server_is_told_how_many_pictures_there_may_be(engine: Engine, family: VllmLanguage) -> None:
    assert json.loads(engine.words[engine.words.index("--limit-mm-per-prompt") + 1]) == {"image": 32, "video": 0}
    assert family.facts.sees  # type: ignore[attr-defined]


@pytest.fixture
def marked(engine: Engine, tmp_path: Path) -> Iterator[VllmLanguage]:
    """One whose config names the tokens that stand for pictures."""
    place = save_language(tmp_path / "marked")
    words = Tokenizer.from_file(str(place / "tokenizer.json"))
    words.add_special_tokens([PAD, START])
    words.save(str(place / "tokenizer.json"))
    config = json.loads((place / "config.json").read_text())
    inner = {**config, "vision_start_token_id": words.token_to_id(START)}
    outer = {"text_config": inner, "vision_config": VISION, "image_token_id": words.token_to_id(PAD)}
    (place / "config.json").write_text(json.dumps(outer))
    family = loaded(engine, place)
    yield family
    family.unload()


def test_a_text_that_says_there_is_a_picture_reaches_no_engine(engine: Engine, marked: VllmLanguage) -> None:
    engine.write(ids=IDS)
    red, apart = picture_part(seeing.picture("red")), [{"type": "text", "text": text} for text in (PAD[:5], PAD[5:])]
    contents: list[Any] = [f"What is {PAD}?", [red, {"type": "text", "text": START}], [red, *apart]]
    asked: list[dict[str, Any]] = [{"messages": [{"role": "user", "content": content}]} for content in contents]
    asked += [{"prompt": f"What is {PAD}?"}, {"prompt": marked.vocabulary.ids_of(START, True)}]
    for request in asked:
        with pytest.raises(
            errors.BadRequest, match=r"has the token <\|(image_pad|vision_start)\|>, which stands for a"
        ):
            marked.prepare("chat", [request], {})
    assert talk(marked, TEXT, red, max_tokens=3).reply and talk(marked, TEXT, max_tokens=3).reply


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"eos_token_id": 1, "hidden_size": 2, "image_seq_length": 3, "vision_config": {"pad_token_id": 4}}, set()),
        ({"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "bos_token_id": 1}, {5, 6, 7}),
        ({"image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7, "mm_tokens_per_image": 8}, {5, 6, 7}),
        ({"thinker_config": {"audio_token_index": 5, "text_config": {"audio_end_token_id": [6]}}}, {5, 6}),
    ],
)
def test_the_config_says_which_tokens_stand_for_files(config: dict[str, Any], expected: set[int]) -> None:
    assert stand_ins_of(config) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"vision_config": {"image_size": 336, "patch_size": 14}, "model_type": "llava"}, (336, 14, 1, True)),
        (
            {"vision_config": {"patch_size": 14, "spatial_merge_size": 2}, "model_type": "qwen2_5_vl"},
            (560, 14, 2, False),
        ),
        ({"vision_config": {"image_size": 896}, "mm_tokens_per_image": 256, "model_type": "gemma3"}, (16, 1, 1, True)),
    ],
)
def test_the_config_says_what_a_picture_takes(config: dict[str, Any], expected: Any) -> None:
    assert picture_tokens_of(config) == (expected and PictureGrid(*expected))
