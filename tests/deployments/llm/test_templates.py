"""Chat templates are programs of strangers."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from cluster import errors
from deployments.llm.templates import ChatTemplate, plain
from deployments.llm.time_limit import OutOfTime, time_limit

HELLO = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("{{ ''.__class__.__mro__[1].__subclasses__() }}", id="reaches for classes"),
        pytest.param("{% include '/etc/passwd' %}", id="reaches for files"),
        pytest.param("{{ cycler.__init__.__globals__.os.popen('id').read() }}", id="reaches for the system"),
        pytest.param("{% for i in range(10**9) %}x{% endfor %}", id="counts for ever"),
        pytest.param(
            "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", id="counts in loops"
        ),
        pytest.param("{{ 'x' * 10**10 }}", id="asks for memory"),
        pytest.param("{{ 10**(10**9) }}", id="computes for ever"),
        pytest.param("{% set x = messages.append(1) %}", id="changes what it is given"),
        pytest.param("{{ raise_exception('no system messages') }}", id="refuses"),
        pytest.param("{{ messages[7].content.missing.more }}", id="fails"),
    ],
)
def test_a_template_that_misbehaves_refuses_the_request(source: str) -> None:
    with pytest.raises(errors.BadRequest, match="The model's chat template"):
        ChatTemplate(source, {}).written(HELLO, [])


def test_a_template_that_takes_too_long_is_ended() -> None:
    turns = "{% for m in messages %}" * 5 + "{% endfor %}" * 5
    template = ChatTemplate(turns, {})
    template.most_seconds = 0.05
    started = time.monotonic()
    with pytest.raises(errors.BadRequest, match="it takes too long"):
        template.written(HELLO * 300, [])
    assert time.monotonic() - started < 2
    assert template.written(HELLO, []) == "", "the next one has its own time"


def test_what_is_done_in_time_is_not_ended_later() -> None:
    for _ in range(50):
        with suppress(OutOfTime):
            with time_limit(0.0005):
                sum(range(10_000))
    assert sum(range(100_000)) == 4_999_950_000


def test_variables_of_a_request_do_not_take_the_place_of_its_messages() -> None:
    template = ChatTemplate("{{ messages[0].content }}{{ eos }}{{ self_ }}{{ enable }}", {"eos": "."})
    variables = {"messages": [], "tools": [1], "self": 1, "eos": "no", "add_generation_prompt": 7, "enable": True}
    assert template.written(HELLO, [], variables) == "hi.True"


def test_a_template_that_cannot_be_read_fails_the_load() -> None:
    with pytest.raises(errors.LoadFailed, match="chat template cannot be read"):
        ChatTemplate("{% for %}", {})


def test_templates_have_what_those_of_transformers_have() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}{% endfor %}"
        "{% generation %}!{% endgeneration %}{{ {'a': 'é'} | tojson }}{{ strftime_now('%Y') | length }}"
    )
    messages = [{"role": "user", "content": letter} for letter in "abc"]
    assert ChatTemplate(source, {"bos_token": "<s>"}).written(messages, []) == '<s>ab!{"a": "é"}4'


def test_arguments_of_calls_become_objects() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}
    odd = {"id": "2", "function": {"name": "f", "arguments": "no JSON"}}
    (message,) = plain([{"role": "assistant", "content": None, "tool_calls": [call, odd]}])
    assert message["content"] == ""
    assert [each["function"]["arguments"] for each in message["tool_calls"]] == [{"a": 1}, "no JSON"]


def test_a_template_that_reads_only_parts_is_given_parts() -> None:
    source = (
        "{% for message in messages %}{{ message.role }}:"
        "{% for part in message.content | selectattr('type', 'equalto', 'text') %} {{ part.text }}{% endfor %};"
        "{% endfor %}"
    )
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    assert ChatTemplate(source, {}).written(messages, []) == "user: hi;assistant: ho;"
    plainly = "{% for message in messages %}{{ message.role }}: {{ message.content }};{% endfor %}"
    assert ChatTemplate(plainly, {}).written(messages, []) == "user: hi;assistant: ho;"
