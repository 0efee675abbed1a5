"""From the bodies of OpenAI's and Ollama's routes to the inner request."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import errors
from cluster.settings import Settings
from deployments.ingress.bodies import checked
from deployments.llm.http.chat import ChatFields
from deployments.llm.http.completions import CompletionFields
from deployments.llm.http.ollama import OllamaChat, OllamaGenerate
from deployments.llm.http.talks import Talks
from deployments.llm.requests import Query

TALKS = Talks(SimpleNamespace(serving=None, settings=Settings(_env_file=None, max_text_bytes=4_000_000)))  # type: ignore[call-arg]
HELLO = [{"role": "user", "content": "hi"}]


def chat(**body: Any) -> Query:
    fields: ChatFields = checked(ChatFields, {"model": "m", "messages": HELLO, **body})
    return asyncio.run(fields.query(TALKS))


def prompts(**body: Any) -> list[Query]:
    fields: CompletionFields = checked(CompletionFields, {"model": "m", **body})
    return fields.query(TALKS)


def test_only_what_is_asked_for_is_said() -> None:
    assert chat().model_dump(exclude_unset=True) == {"messages": HELLO}
    assert chat(temperature=None, stop=None, tools=[], user="u", metadata={}).model_dump(exclude_unset=True) == {
        "messages": HELLO
    }


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"max_tokens": 5}, "max_tokens", 5),
        ({"max_tokens": 5, "max_completion_tokens": 7}, "max_tokens", 7),
        ({"stop": "END"}, "stop", ["END"]),
        ({"repeat_penalty": 1.5}, "repetition_penalty", 1.5),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "template", {"enable_thinking": False}),
        ({"lora_name": "tea"}, "adapter", "tea"),
        ({"continue_final_message": True}, "continues", True),
        ({"response_format": {"type": "text"}}, "format", None),
        ({"response_format": {"type": "json_object"}}, "format", {"type": "json_object"}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}},
            "format",
            {"type": "json_schema", "schema": {"type": "object"}},
        ),
        ({"guided_json": {"type": "object"}}, "format", {"type": "json_schema", "schema": {"type": "object"}}),
        ({"guided_regex": "a+"}, "format", {"type": "regex", "regex": "a+"}),
        ({"guided_choice": ["a", "b"]}, "format", {"type": "choice", "choice": ["a", "b"]}),
        ({"structured_outputs": {"choice": ["a"]}}, "format", {"type": "choice", "choice": ["a"]}),
        ({"structured_outputs": {"json_object": True}}, "format", {"type": "json_object"}),
    ],
)
def test_each_field_has_its_place(body: dict[str, Any], field: str, value: object) -> None:
    assert getattr(chat(**body), field) == value


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        pytest.param({"messages": [{"role": "user", "content": "word " * 1_000_000}]}, errors.TooLarge, id="5 MB"),
        pytest.param({"stop": ["x"] * 10**6}, errors.TooLarge, id="a million stops"),
        pytest.param({"stop": ["x" * 10_000]}, errors.InvalidBody, id="a long stop"),
        pytest.param({"messages": HELLO * 5000}, errors.InvalidBody, id="5000 messages"),
        pytest.param({"logit_bias": {"1": 5}}, errors.BadRequest, id="logit_bias"),
        pytest.param({"top_logprobs": 2}, errors.InvalidBody, id="top_logprobs alone"),
        pytest.param({"guided_grammar": "root ::= 'a'"}, errors.BadRequest, id="grammar"),
        pytest.param({"structured_outputs": {"regex": "a", "choice": ["a"]}}, errors.BadRequest, id="two structures"),
        pytest.param({"guided_regex": "a", "guided_choice": ["a"]}, errors.InvalidBody, id="two formats"),
        pytest.param({"n": 10**9}, errors.InvalidBody, id="n"),
        pytest.param({"seed": 2**70}, errors.InvalidBody, id="seed"),
        pytest.param({"temperature": float("nan")}, errors.InvalidBody, id="nan"),
    ],
)
def test_what_would_cost_too_much_or_means_nothing_is_refused(body: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        chat(**body)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_prompts_come_as_texts_and_ids(prompt: Any, expected: Any) -> None:
    assert [query.prompt for query in prompts(prompt=prompt)] == expected


def test_logprobs_count_the_token_that_was_taken() -> None:
    (query,) = prompts(prompt="a", logprobs=3)
    assert (query.logprobs, query.top_logprobs) == (True, 2)
    (query,) = prompts(prompt="a", logprobs=0)
    assert (query.logprobs, query.top_logprobs) == (True, 0)


@pytest.mark.parametrize(
    "body", [{"prompt": []}, {"prompt": ["a"] * 65}, {"prompt": "a", "suffix": "b"}, {"prompt": "a", "best_of": 3}]
)
def test_completions_that_cannot_be_made_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(errors.BadRequest):
        prompts(**body)


def test_ollamas_options() -> None:
    options = {"num_predict": 9, "temperature": 0.0, "repeat_penalty": 1.1, "stop": "END", "num_ctx": 4096}
    fields: OllamaChat = checked(
        OllamaChat, {"model": "m:latest", "messages": HELLO, "options": options, "format": {"type": "object"}}
    )
    query = asyncio.run(fields.query(TALKS))
    assert (fields.name, query.max_tokens, query.temperature, query.stop) == ("m", 9, 0.0, ["END"])
    assert (query.repetition_penalty, query.format) == (1.1, {"type": "json_schema", "schema": {"type": "object"}})
    without_end: OllamaChat = checked(OllamaChat, {"messages": HELLO, "options": {"num_predict": -1}, "format": "json"})
    assert asyncio.run(without_end.query(TALKS)).max_tokens is None
    assert asyncio.run(without_end.query(TALKS)).format == {"type": "json_object"}


def test_ollamas_prompts_are_messages_unless_they_are_raw() -> None:
    def query(**body: Any) -> Query:
        fields: OllamaGenerate = checked(OllamaGenerate, {"model": "m", "prompt": "go", **body})
        return asyncio.run(fields.query(TALKS))

    assert query(system="be").messages == [{"role": "system", "content": "be"}, {"role": "user", "content": "go"}]
    assert query(raw=True).prompt == "go"
