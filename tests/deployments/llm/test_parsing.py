"""What models write besides their answers, cut at every place."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.llm.parsing import Reader

WEATHER = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days": [1, 2]}}\n</tool_call>'
TIME = '<tool_call>\n{"name": "time", "parameters": {}}\n</tool_call>'
ALL: dict[str, Any] = {"reasons": True, "calls": True}


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
    reader = Reader(calls=True)
    first, second = reader.add(WEATHER + TIME).calls
    assert first.id != second.id and first.id.startswith("call_")
