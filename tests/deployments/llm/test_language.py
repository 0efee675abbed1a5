"""From a request to the engine and from its tokens to pieces, with an engine that the test steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster import errors
from cluster.catalog.entry import Entry, Source
from deployments.llm.habits import Habits
from deployments.llm.pictures import picture_part
from deployments.llm.pieces import TalkUsage
from deployments.llm.tool_choice import call_schema
from tests.deployments.llm.letters import TEMPLATE, Told, ids_of, say, scripted

HELLO = {"messages": [{"role": "user", "content": "hi"}]}


def test_messages_are_written_by_the_models_template(tmp_path: Path) -> None:
    family, engine = scripted(tmp_path)
    Told(family, {"messages": [{"role": "developer", "content": [{"type": "text", "text": "be"}]}, *HELLO["messages"]]})
    (order, _) = engine.orders[0]
    assert family.vocabulary.text_of(order.ids, False) == "<system>be</s><user>hi</s><assistant>"


def test_a_prompt_is_taken_as_it_is_and_ids_too(tmp_path: Path) -> None:
    family, engine = scripted(tmp_path)
    for prompt in ("go on", ids_of("go on")):
        Told(family, {"prompt": prompt})
    assert [order.ids for order, _ in engine.orders] == [ids_of("go on")] * 2


def test_pieces_add_up_to_the_whole(tmp_path: Path) -> None:
    family, engine = scripted(tmp_path)
    told = Told(family, HELLO)
    say(engine.hears[0], "Hello!", "stop")
    assert [piece.text for piece in told.pieces] == list("Hello!")
    (choice,) = told.reply.choices
    assert (choice.text, choice.finish) == ("Hello!", "stop")
    assert told.pieces[-1].usage == told.reply.usage == TalkUsage(len(engine.orders[0][0].ids), 6)


def test_a_letter_of_several_tokens_comes_whole(tmp_path: Path) -> None:
    family, engine = scripted(tmp_path)
    told = Told(family, HELLO)
    say(engine.hears[0], "aé🌍b", "length")
    assert [piece.text for piece in told.pieces] == ["a", "é", "🌍", "b"]
    assert told.reply.choices[0].finish == "length"


@pytest.mark.parametrize(
    ("stops", "text", "seen", "met"),
    [
        (["END"], "one END two", "one ", "END"),
        (["END"], "one EN two", "one EN two", None),
        (["ab", "abc"], "xabc", "x", "ab"),
        (["aab"], "aaab", "a", "aab"),
        (["."], "no stop", "no stop", None),
        (["never"], "it is nev", "it is nev", None),
    ],
)
def test_an_answer_ends_before_its_stop_string(
    stops: list[str], text: str, seen: str, met: str | None, tmp_path: Path
) -> None:
    family, engine = scripted(tmp_path)
    told = Told(family, {**HELLO, "stop": stops})
    say(engine.hears[0], text)
    if met:
        assert engine.stopped == [0]
        engine.hears[0]([], [], "cancelled")
    else:
        engine.hears[0]([], [], "stop")
    assert told.text == told.reply.choices[0].text == seen
    assert (told.reply.choices[0].finish, told.reply.choices[0].stop) == ("stop", met)


def test_several_answers_are_written_apart_and_end_together(tmp_path: Path) -> None:
    family, engine = scripted(tmp_path)
    told = Told(family, {**HELLO, "n": 2, "seed": 7})
    assert [sampling.seed for _, sampling in engine.orders] == [7, 8]
    say(engine.hears[1], "two", "stop")
    assert told.outcome is None
    say(engine.hears[0], "one", "length")
    assert [(choice.text, choice.finish) for choice in told.reply.choices] == [("one", "length"), ("two", "stop")]
    assert told.reply.usage.completion == 6
    assert [piece.usage is None for piece in told.pieces] == [True] * 5 + [False]


def test_chances_are_told_where_they_are_asked_for(tmp_path: Path) -> None:
    family, engine = scripted(tmp_path)
    told = Told(family, {**HELLO, "logprobs": True})
    say(engine.hears[0], "ab", "stop")
    assert [(chance.text, chance.logprob, chance.bytes) for chance in told.reply.choices[0].chances] == [
        ("a", -0.5, (97,)),
        ("b", -0.5, (98,)),
    ]


def test_what_is_stopped_is_cancelled_once_the_engine_is_done_with_it(tmp_path: Path) -> None:
    family, engine = scripted(tmp_path)
    told = Told(family, {**HELLO, "n": 2})
    say(engine.hears[0], "some")
    told.stop()
    assert engine.stopped == [0, 1] and told.outcome is None
    for hear in engine.hears:
        hear([], [], "cancelled")
    assert isinstance(told.outcome, errors.RequestCancelled)


def test_an_engine_that_fails_ends_all_answers_to_a_request(tmp_path: Path) -> None:
    family, engine = scripted(tmp_path)
    told = Told(family, {**HELLO, "n": 2})
    engine.hears[0]([], [], errors.InferenceFailed("It broke."))
    assert engine.stopped == [0, 1]
    engine.hears[1]([], [], "cancelled")
    assert isinstance(told.outcome, errors.InferenceFailed)


# ------------------------------------------------------------------------------------------------------ limits


def test_a_prompt_without_room_for_an_answer_is_refused_with_both_numbers(tmp_path: Path) -> None:
    family, _ = scripted(tmp_path, context=16)
    with pytest.raises(errors.ContextLengthExceeded, match="16 tokens, .* room for 16") as refused:
        family.prepare("generate", [{"prompt": "x" * 16}], {})
    assert refused.value.code() == "context_length_exceeded"
    assert family.prepare("generate", [{"prompt": "x" * 15}], {}).values[0].max_tokens == 1


def test_a_text_that_cannot_fit_is_not_even_read(tmp_path: Path) -> None:
    family, _ = scripted(tmp_path, context=16)
    family.vocabulary.ids_of = None  # type: ignore[method-assign, assignment]
    with pytest.raises(errors.ContextLengthExceeded, match="tokens at least"):
        family.prepare("generate", [{"prompt": "x" * 5_000_000}], {})


@pytest.mark.parametrize(("query", "most"), [(5, 5), (1_000_000, 62), (None, 62)])
def test_an_answer_gets_no_more_tokens_than_fit(query: int | None, most: int, tmp_path: Path) -> None:
    family, _ = scripted(tmp_path)
    prepared = family.prepare("generate", [{"prompt": "ab", "max_tokens": query}], {})
    assert prepared.values[0].max_tokens == most
    assert prepared.costs == [most + 2]
    several = family.prepare("generate", [{"prompt": "ab", "n": 16, "max_tokens": query}], {})
    assert several.costs[0] <= 4 * 64, "all answers of a request fit at once"


def test_what_a_launch_says_holds_for_requests_that_do_not(tmp_path: Path) -> None:
    family, engine = scripted(tmp_path, temperature=0.2, top_k=5, max_tokens=9)
    Told(family, HELLO)
    Told(family, {**HELLO, "temperature": 0, "max_tokens": 3})
    (first, drawn), (second, exact) = engine.orders
    assert (first.max_tokens, drawn.temperature, drawn.top_k) == (9, 0.2, 5)
    assert (second.max_tokens, exact.temperature) == (3, 0)


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({}, "either messages or a prompt"),
        ({"messages": []}, "nothing to answer"),
        ({"prompt": "a", "messages": [{"role": "user"}]}, "either messages or a prompt"),
        ({"prompt": [9_999]}, "token ids that the model does not have"),
        ({"messages": [{"content": "no role"}]}, "no role"),
        ({"messages": [{"role": "user", "content": 7}]}, "content must be a text"),
        ({"messages": [{"role": "user", "content": [picture_part(b"")]}]}, "this model reads texts only"),
        ({**HELLO, "tools": [{"type": "function"}]}, "it can call none"),
        ({**HELLO, "n": 17}, "n: "),
        ({**HELLO, "stop": ["x"] * 17}, "stop: "),
        ({**HELLO, "stop": [""]}, "1 to 200 characters"),
        ({**HELLO, "temperature": 3}, "temperature: "),
        ({**HELLO, "temperature": float("nan")}, "temperature: "),
        ({**HELLO, "min_p": 1}, "min_p: "),
        ({**HELLO, "repetition_penalty": 1e-300}, "repetition_penalty: "),
        ({**HELLO, "top_k": 2**40}, "top_k: "),
        ({**HELLO, "surprise": 1}, "surprise: "),
        (7, "valid dictionary"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(item: Any, says: str, tmp_path: Path) -> None:
    family, _ = scripted(tmp_path)
    with pytest.raises(errors.BadRequest, match=says):
        family.prepare("chat", [item], {})


def test_a_model_without_a_template_goes_on_with_prompts_only(tmp_path: Path) -> None:
    family, _ = scripted(tmp_path, template=None)
    with pytest.raises(errors.BadRequest, match="no chat template"):
        family.prepare("chat", [HELLO], {})
    assert family.prepare("generate", ["go on"], {}).tokens == [5]


def test_the_last_message_of_the_assistant_can_be_continued(tmp_path: Path) -> None:
    family, engine = scripted(tmp_path)
    Told(family, {"messages": [*HELLO["messages"], {"role": "assistant", "content": "Well"}], "continues": True})
    assert family.vocabulary.text_of(engine.orders[0][0].ids, False) == "<user>hi</s><assistant>Well"


# ------------------------------------------------------------------------------------------------------- tools

TOOL = {"type": "function", "function": {"name": "time", "parameters": {"type": "object"}}}
WITH_TOOLS = (
    "{% if tools %}[{% for tool in tools %}{{ tool.function.name }}{% endfor %}]{% endif %}{{ messages[0].content }}"
)


def test_the_call_of_a_tool_is_told_as_one(tmp_path: Path) -> None:
    family, engine = scripted(tmp_path, template=WITH_TOOLS, context=256)
    told = Told(family, {**HELLO, "tools": [TOOL]})
    assert family.vocabulary.text_of(engine.orders[0][0].ids) == "[time]hi"
    say(engine.hears[0], 'Well. <tool_call>{"name": "time", "arguments": {"zone": "UTC"}}</tool_call>', "stop")
    (choice,) = told.reply.choices
    assert (choice.text, choice.finish) == ("Well. ", "tool_calls")
    assert [(call.name, call.arguments) for call in choice.calls] == [("time", '{"zone": "UTC"}')]
    assert told.pieces[-1].finish == "tool_calls"


def test_marks_of_calls_are_read_where_they_are_special_tokens(tmp_path: Path) -> None:
    family, engine = scripted(tmp_path, template=WITH_TOOLS, context=256, special=["[TOOL_CALLS]", "[ARGS]"])
    family._calls = "mistral"
    ids = family.vocabulary.ids_of("[TOOL_CALLS]time[ARGS]{}", True)
    assert len(ids) == 8
    told = Told(family, {**HELLO, "tools": [TOOL]})
    engine.hears[0](ids, [], "stop")
    (call,) = told.reply.choices[0].calls
    assert (call.name, call.arguments, told.text) == ("time", "{}", "")


def test_an_answer_that_has_to_call_is_held_to_a_call(tmp_path: Path) -> None:
    family, engine = scripted(tmp_path, template=WITH_TOOLS, context=256)
    named = {"type": "function", "function": {"name": "time"}}
    other = {"type": "function", "function": {"name": "other"}}
    told = Told(family, {**HELLO, "tools": [other, TOOL], "tool_choice": named})
    (order, _) = engine.orders[0]
    assert family.vocabulary.text_of(order.ids) == "[time]hi"
    assert order.query.format == {"type": "json_schema", "schema": call_schema([TOOL])}
    say(engine.hears[0], '{"name": "time", "arguments": {}}', "stop")
    (choice,) = told.reply.choices
    assert ([call.name for call in choice.calls], choice.text, choice.finish) == (["time"], "", "tool_calls")


def test_an_engine_without_grammars_says_that_it_can_force_no_call(tmp_path: Path) -> None:
    family, _ = scripted(tmp_path, template=WITH_TOOLS)
    family.has_grammars = False  # type: ignore[misc]
    with pytest.raises(errors.BadRequest, match="can hold no answer to being a call"):
        family.prepare("chat", [{**HELLO, "tools": [TOOL], "tool_choice": "required"}], {})


def test_without_tools_a_call_is_text(tmp_path: Path) -> None:
    family, engine = scripted(tmp_path, template=WITH_TOOLS, context=256)
    for query in ({}, {"tools": [TOOL], "tool_choice": "none"}):
        Told(family, {**HELLO, **query})
        assert family.vocabulary.text_of(engine.orders[-1][0].ids) == "hi"
    told = Told(family, HELLO)
    say(engine.hears[-1], "<tool_call>{}</tool_call>", "stop")
    assert told.reply.choices[0].text == "<tool_call>{}</tool_call>"


def test_what_a_model_thinks_is_told_apart(tmp_path: Path) -> None:
    family, engine = scripted(tmp_path, template="{{ messages[0].content }}<think>", context=128)
    told = Told(family, HELLO)
    say(engine.hears[0], "hm</think>yes", "stop")
    assert (told.reply.choices[0].reasoning, told.reply.choices[0].text) == ("hm", "yes")


# ------------------------------------------------------------------------------------------------------ tokens


def test_tokens_of_texts_and_messages_and_back(tmp_path: Path) -> None:
    family, _ = scripted(tmp_path)
    (row,) = family.prepare("tokenize_prompt", ["ab"], {}).answers
    assert (row["ids"], row["tokens"], row["start"]) == (ids_of("ab"), ["a", "b"], [0, 1])
    (written,) = family.prepare("tokenize_prompt", [HELLO], {}).answers
    assert family.prepare("detokenize", [written["ids"]], {"skip_special_tokens": False}).answers == [
        "<user>hi</s><assistant>"
    ]


def test_what_the_catalogue_says_of_thoughts_calls_and_ends_is_kept(tmp_path: Path) -> None:
    facts = {
        "reasoning_start_tag": "(",
        "reasoning_end_tag": ")",
        "tool_parser": "llama3",
        "stop": ["|", "never"],
        "stop_token_ids": [7, 10**6, "x"],
        "temperature": 0.3,
        "top_p": "much",
    }
    entry = Entry(name="m", type="llm", family="openvino", sources=(Source(hub="local", id="/m"),), facts=facts)
    family, engine = scripted(tmp_path, TEMPLATE + "{% set _ = tools %}", habits=Habits.of(entry))
    assert family.vocabulary.ends == {0, ids_of("|")[0], 7}
    assert family.facts_of("scripted", "int8").reasons
    tools = [{"type": "function", "function": {"name": "time", "parameters": {}}}]
    told = Told(family, {**HELLO, "tools": tools})
    say(engine.hears[0], '(hm){"name": "time", "parameters": {}}', "stop")
    (choice,) = told.reply.choices
    assert (choice.reasoning, choice.text, [call.name for call in choice.calls]) == ("hm", "", ["time"])
    Told(family, {**HELLO, "temperature": 0.9})
    assert [(sampling.temperature, sampling.top_p) for _, sampling in engine.orders] == [(0.3, 1.0), (0.9, 1.0)]


@pytest.mark.parametrize("facts", [{}, {"stop": "x", "reasoning_start_tag": 1, "tool_parser": ["a"]}])
def test_facts_that_say_nothing_change_nothing(facts: dict[str, Any]) -> None:
    entry = Entry(name="m", type="llm", family="openvino", sources=(Source(hub="local", id="/m"),), facts=facts)
    assert Habits.of(entry) == Habits()
