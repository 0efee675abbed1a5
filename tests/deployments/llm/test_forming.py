"""Answers that are held to a form by their tokens: what may be written, and what models write that know nothing."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from llguidance import LLMatcher, LLTokenizer

from cluster import errors
from cluster.value import JsonObject
from deployments.llm.forming import MOST_WAITING, FormingEngine
from deployments.llm.json_grammars import json_grammar
from deployments.llm.language import Order, TokenSampling
from deployments.llm.requests import Query
from deployments.llm.schemas import grammar_of
from deployments.llm.token_masks import MOST_KEPT, TokenForm, TokenForms, lark
from deployments.llm.transformers import TransformersLanguage
from deployments.llm.writing import TokenOdds
from tests import tiny
from tests.deployments.llm.checkpoints import save_language
from tests.deployments.llm.forms import FORMS, OPEN_FORMS
from tests.deployments.llm.letters import Script, Told

PATIENCE_S = 60.0
GREEDY = TokenSampling(0.0, 1.0, 0, 0.0, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that can end an answer, and whose template knows tools."""
    folder = save_language(tmp_path_factory.mktemp("llama"))
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "[SEP]"}), "utf-8")
    (folder / "chat_template.jinja").write_text(
        "{{ tools }}{% for message in messages %}{{ message.content }}{% endfor %}"
    )
    return folder


@pytest.fixture(scope="module")
def family(folder: Path) -> TransformersLanguage:
    family: TransformersLanguage = tiny.launched(TransformersLanguage, folder, "llm", cache_gb=0.05)
    return family


@pytest.fixture(scope="module")
def words(folder: Path) -> LLTokenizer:
    return LLTokenizer((folder / "tokenizer.json").read_text("utf-8"), eos_token=0)


def takes(words: LLTokenizer, grammar: str, text: str) -> bool:
    matcher = LLMatcher(words, LLMatcher.grammar_from_lark(lark(grammar)), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher.consume_tokens(words.tokenize_str(text)) and matcher.is_accepting()


def answers(family: TransformersLanguage, *requests: dict[str, Any]) -> list[Told]:
    """All at once."""
    left = threading.Semaphore(0)

    class Awaited(Told):
        def take(self, piece: object) -> None:
            super().take(piece)
            if self.outcome is not None:
                left.release()

    begun: list[Told] = [Awaited(family, {"prompt": "Tea and bread", **request}) for request in requests]
    for _ in begun:
        assert left.acquire(timeout=PATIENCE_S)
    return begun


def form_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "schema": schema}


@pytest.mark.parametrize(("schema", "values"), [*FORMS, *OPEN_FORMS])
def test_the_grammar_of_a_schema_takes_what_fits_it(
    schema: dict[str, Any], values: list[Any], words: LLTokenizer
) -> None:
    grammar = json_grammar(schema)
    assert grammar is not None
    for value in values:
        for indent in (None, 2):
            written = json.dumps(value, ensure_ascii=False, indent=indent)
            assert takes(words, grammar, written), written
            assert not takes(words, grammar, written + "]")
    assert not takes(words, grammar, "[1,")


@pytest.mark.parametrize(
    ("format", "good", "bad"),
    [
        ({"type": "regex", "regex": r"[a-z]{2,5}-\d+( x|y\.)?"}, ["ab-12 x", "abc-9"], ["a-1", "ab-"]),
        ({"type": "regex", "regex": r"[^/a]{1,3}\/[\]\-x]"}, ["bcd/]", "ü/-"], ["a/x", "b/y"]),
        ({"type": "choice", "choice": ['a"b', "été", "x/y", "x\\n"]}, ['a"b', "été", "x/y", "x\\n"], ["x", "x\n"]),
    ],
)
def test_patterns_and_choices_mean_what_they_say(
    format: dict[str, Any], good: list[str], bad: list[str], words: LLTokenizer
) -> None:
    grammar = grammar_of(format)
    assert grammar is not None
    assert [text for text in (*good, *bad) if takes(words, grammar, text)] == good


def test_every_answer_of_many_forms_at_once_parses_and_fits(family: TransformersLanguage) -> None:
    schemas = [schema for schema, _ in FORMS] * 2
    asked = [
        {"format": form_of(schema), "temperature": number % 2, "seed": number, "max_tokens": 400}
        for number, schema in enumerate(schemas)
    ]
    for schema, told in zip(schemas, answers(family, *asked), strict=True):
        choice = told.reply.choices[0]
        assert choice.finish == "stop"
        jsonschema.validate(json.loads(choice.text), schema)


def test_whoever_has_no_form_writes_as_without_those_who_have(family: TransformersLanguage) -> None:
    plain = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
    (alone,) = answers(family, plain)
    held = {**plain, "format": {"type": "regex", "regex": "[0-9]{4}"}, "n": 2}
    beside, formed = answers(family, plain, held)
    assert beside.reply.choices[0].text == alone.reply.choices[0].text
    for choice in formed.reply.choices:
        # One that is held to a form ends with it, also where it was asked to go on.
        assert re.fullmatch("[0-9]{4}", choice.text) and choice.finish == "stop"


def test_a_number_between_fractions_is_held_to_them(family: TransformersLanguage) -> None:
    schema = {"type": "number", "minimum": 0.5, "maximum": 1.5}
    told = answers(family, {"format": form_of(schema), "temperature": 1, "seed": 3, "max_tokens": 100})[0]
    assert told.reply.choices[0].finish in ("stop", "length")
    if told.reply.choices[0].finish == "stop":
        jsonschema.validate(json.loads(told.reply.choices[0].text), schema)


def test_a_tool_that_must_be_called_is_called(family: TransformersLanguage) -> None:
    asked = {
        "prompt": None,
        "messages": [{"role": "user", "content": "Tea"}],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": FORMS[0][0]}}],
        "tool_choice": "required",
        "temperature": 0,
        "max_tokens": 200,
    }
    (choice,) = answers(family, asked)[0].reply.choices
    assert choice.finish == "tool_calls" and [call.name for call in choice.calls] == ["weather"]
    jsonschema.validate(json.loads(choice.calls[0].arguments), FORMS[0][0])


def test_one_that_is_left_before_its_form_is_compiled_is_not_written(folder: Path) -> None:
    compiling, goes_on, is_over = threading.Event(), threading.Event(), threading.Event()

    class Slow(TokenForms):
        def compiled(self, format: JsonObject) -> TokenForm:
            compiling.set()
            assert goes_on.wait(PATIENCE_S)
            return super().compiled(format)

    ends: list[object] = []

    def hear(ids: Sequence[int], odds: Sequence[TokenOdds], end: object) -> None:
        ends.append(end)
        is_over.set()

    engine = Script()
    forming = FormingEngine(engine, Slow(folder, [0], 400))
    query = Query(prompt="Tea", format={"type": "choice", "choice": ["left"]})
    stop = forming.write(Order([5, 6], query, 20), GREEDY, hear)
    assert compiling.wait(PATIENCE_S)
    stop()
    goes_on.set()
    assert is_over.wait(PATIENCE_S)
    assert ends == ["cancelled"] and not engine.orders
    forming.close()


def test_more_forms_than_can_wait_are_refused(folder: Path) -> None:
    goes_on = threading.Event()

    class Slow(TokenForms):
        def compiled(self, format: JsonObject) -> TokenForm:
            assert goes_on.wait(PATIENCE_S)
            return super().compiled(format)

    forming = FormingEngine(Script(), Slow(folder, [0], 400))

    def ask(number: int) -> None:
        query = Query(prompt="Tea", format={"type": "choice", "choice": [str(number)]})
        forming.write(Order([5, 6], query, 20), GREEDY, lambda ids, odds, end: None)

    for number in range(MOST_WAITING):
        ask(number)
    with pytest.raises(errors.Overloaded, match="other forms"):
        ask(MOST_WAITING)
    goes_on.set()
    forming.close()


def test_forms_that_are_not_used_any_more_are_forgotten(folder: Path) -> None:
    forms = TokenForms(folder, [0], 400)
    for number in range(MOST_KEPT + 1):
        forms.compiled({"type": "choice", "choice": [str(number)]})
    assert forms.begun({"type": "choice", "choice": ["0"]}) is None
    assert forms.begun({"type": "choice", "choice": ["1"]}) is not None


def test_a_model_whose_answers_never_end_is_held_to_no_form(folder: Path) -> None:
    with pytest.raises(ValueError, match="no token that ends"):
        TokenForms(folder, [], 400).compiled({"type": "json_object"})
