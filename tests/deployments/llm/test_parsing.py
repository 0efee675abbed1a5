"""What models write besides their answers, cut at every place."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.llm.calls import JsonEnd, format_in
from deployments.llm.parsing import Reader

WEATHER = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days": [1, 2]}}\n</tool_call>'
TIME = '<tool_call>\n{"name": "time", "parameters": {}}\n</tool_call>'
PARIS = '{"name": "weather", "parameters": {"city": "Par}is"}}'
NOW = '{"name": "time", "arguments": {}}'
ALL: dict[str, Any] = {"reasons": True, "calls": "hermes"}
LLAMA: dict[str, Any] = {"calls": "llama3"}
GEMMA: dict[str, Any] = {"reasons": True, "marks": ("<|channel>thought\n", "<channel|>")}
MISTRAL: dict[str, Any] = {"calls": "mistral"}


def read(parts: list[str], **marks: Any) -> tuple[str, str, list[tuple[int, str, str]]]:
    reader = Reader(**marks)
    told = [*(reader.add(part) for part in parts), reader.end()]
    calls = [(call.place, call.name, call.arguments) for each in told for call in each.calls]
    return "".join(each.text for each in told), "".join(each.reasoning for each in told), calls


@pytest.mark.parametrize(
    ("answer", "marks", "text", "reasoning", "calls"),
    [
        ("Just text.", ALL, "Just text.", "", []),
        (WEATHER, ALL, "", "", [(0, "weather", '{"city": "Paris", "days": [1, 2]}')]),
        (
            f"Let me see.\n{WEATHER}\n{TIME}",
            ALL,
            "Let me see.\n\n",
            "",
            [(0, "weather", '{"city": "Paris", "days": [1, 2]}'), (1, "time", "{}")],
        ),
        (f"<think>\nHm <b>.\n</think>\n\nYes. {TIME}", ALL, "Yes. ", "\nHm <b>.\n", [(0, "time", "{}")]),
        ("Hm.</think>Yes.", {**ALL, "thinks_first": True}, "Yes.", "Hm.", []),
        ("<think>for ever", ALL, "", "for ever", []),
        ("A <think> in the middle </think>", ALL, "A <think> in the middle </think>", "", []),
        ("1 < 2 <tool", ALL, "1 < 2 <tool", "", []),
        ("<tool_call>no JSON</tool_call>", ALL, "<tool_call>no JSON</tool_call>", "", []),
        ('<tool_call>{"name": "time", "arguments": {}}', ALL, "", "", [(0, "time", "{}")]),
        ('<tool_call>{"name": "ti', ALL, '<tool_call>{"name": "ti', "", []),
        (f"<think>x</think>{WEATHER}", {}, f"<think>x</think>{WEATHER}", "", []),
        # Llama's: an object, behind a mark or bare.
        (PARIS, LLAMA, "", "", [(0, "weather", '{"city": "Par}is"}')]),
        (f"\n\n{PARIS}", LLAMA, "", "", [(0, "weather", '{"city": "Par}is"}')]),
        (f"<|python_tag|>{PARIS}; {NOW}", LLAMA, "", "", [(0, "weather", '{"city": "Par}is"}'), (1, "time", "{}")]),
        (f"Well. <|python_tag|>{NOW}", LLAMA, "Well. ", "", [(0, "time", "{}")]),
        (f"{NOW}\nThat is it.", LLAMA, "That is it.", "", [(0, "time", "{}")]),
        (f"<think>hm</think>\n{NOW}", {**LLAMA, "reasons": True}, "", "hm", [(0, "time", "{}")]),
        (f"I call {NOW}", LLAMA, f"I call {NOW}", "", []),
        ('{"name": "Bob"}', LLAMA, '{"name": "Bob"}', "", []),
        (f'{{"a": 1}}{NOW}', LLAMA, f'{{"a": 1}}{NOW}', "", []),
        ('{"name": "time", "para', LLAMA, '{"name": "time", "para', "", []),
        ("<|python_tag|>print(1)", LLAMA, "<|python_tag|>print(1)", "", []),
        ("  ", LLAMA, "  ", "", []),
        # Mistral's: a list, or a name and its arguments.
        (f"[TOOL_CALLS] [{NOW}, {PARIS}]", MISTRAL, "", "", [(0, "time", "{}"), (1, "weather", '{"city": "Par}is"}')]),
        (
            'Well.[TOOL_CALLS]time[ARGS]{"zone": "a\\"]"}[TOOL_CALLS]now[CALL_ID]a1B2c3D4e[ARGS]{}',
            MISTRAL,
            "Well.",
            "",
            [(0, "time", '{"zone": "a\\"]"}'), (1, "now", "{}")],
        ),
        ('[TOOL_CALLS]time{"zone": 1}', MISTRAL, "", "", [(0, "time", '{"zone": 1}')]),
        ("[TOOL_CALLS] [1, 2] then", MISTRAL, "[TOOL_CALLS] [1, 2] then", "", []),
        ("[TOOL_CALLS]time[ARGS]{", MISTRAL, "[TOOL_CALLS]time[ARGS]{", "", []),
        (f"[TOOL_CALLS]{'a word ' * 90}", MISTRAL, f"[TOOL_CALLS]{'a word ' * 90}", "", []),
        ("[TOOL", MISTRAL, "[TOOL", "", []),
        # Other marks around what it thinks.
        ("<|channel>thought\nhm<channel|>Yes.", GEMMA, "Yes.", "hm", []),
        ("hm</s>Yes.", {"reasons": True, "marks": ("<s>", "</s>"), "thinks_first": True}, "Yes.", "hm", []),
        ("<think>hm</think>Yes.", GEMMA, "<think>hm</think>Yes.", "", []),
        # Held by a grammar to being a call.
        (PARIS, {"calls": "forced"}, "", "", [(0, "weather", '{"city": "Par}is"}')]),
        (PARIS[:-4], {"calls": "forced"}, PARIS[:-4], "", []),
    ],
)
def test_an_answer_reads_the_same_wherever_it_is_cut(
    answer: str, marks: dict[str, Any], text: str, reasoning: str, calls: list[Any]
) -> None:
    expected = (text, reasoning, calls)
    assert read([answer], **marks) == expected
    assert read(list(answer), **marks) == expected
    for place in range(1, len(answer)):
        assert read([answer[:place], answer[place:]], **marks) == expected, place


def test_each_call_has_an_id_of_its_own() -> None:
    reader = Reader(calls="hermes")
    first, second = reader.add(WEATHER + TIME).calls
    assert first.id != second.id and first.id.startswith("call_")


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ '<tool_call>' }}{{ '<|start_header_id|>' }}", "hermes"),
        ("{{ '[TOOL_CALLS]' }}", "mistral"),
        ("{{ '<|start_header_id|>' }}", "llama3"),
        ("{{ messages }}", "hermes"),
    ],
)
def test_a_template_tells_how_its_model_calls(template: str, name: str) -> None:
    assert format_in(template) == name


def test_a_long_call_is_read_in_one_pass() -> None:
    end = JsonEnd()
    text = '{"a": "' + "\\\\" * 1000 + '"}'
    assert [end.of(text[:length], 0) for length in range(len(text))] == [None] * len(text)
    assert end.of(text, 0) == len(text)
