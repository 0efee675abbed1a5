"""The openai package's chats and completions against a real language model."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import openai
import psutil
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.deployments.llm.forms import FORMS
from tests.live import LiveCluster, until

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."


@pytest.fixture
def client(live: LiveCluster) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def strict(client: openai.OpenAI) -> openai.OpenAI:
    """An answer that is not all that the package describes is an error."""
    return client.with_options(_extra_kwargs={"_strict_response_validation": True})


def test_a_chat_is_answered(strict: openai.OpenAI, talker: str) -> None:
    answer = strict.chat.completions.create(model=talker, messages=QUESTION, temperature=0)
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (ANSWER, "assistant", "stop")
    assert answer.usage is not None and answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    assert (answer.object, answer.model) == ("chat.completion", talker)


def test_a_stream_adds_up_to_the_same(strict: openai.OpenAI, talker: str) -> None:
    stream = strict.chat.completions.create(
        model=talker, messages=QUESTION, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert last.choices == [] and last.usage is not None and last.usage.completion_tokens == 8
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    assert all(isinstance(delta.content, str) for delta in deltas)
    assert "".join(delta.content or "" for delta in deltas) == ANSWER and len(deltas) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]


def test_a_stream_ends_with_done(live: LiveCluster, talker: str) -> None:
    body = {"model": talker, "messages": QUESTION, "stream": True, "max_tokens": 2}
    with httpx.stream("POST", f"{live.url}/v1/chat/completions", json=body, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line for line in answer.iter_lines() if line]
    assert events[-1] == "data: [DONE]"
    assert all(isinstance(json.loads(event[6:])["choices"][0]["delta"]["content"], str) for event in events[:-1])


def test_what_an_answer_may_be_is_heeded(strict: openai.OpenAI, talker: str) -> None:
    def ask(**more: Any) -> Any:
        return strict.chat.completions.create(model=talker, messages=QUESTION, **{"temperature": 0, **more})

    short = ask(max_tokens=3).choices[0]
    assert (short.message.content, short.finish_reason) == ("The capital of", "length")
    stopped = ask(stop=[" Paris", "never"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("The capital of France is", "stop")
    several = ask(n=3, temperature=1.5, seed=5, max_tokens=8)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in several.choices]
    assert len(set(texts)) > 1
    again = ask(n=3, temperature=1.5, seed=5, max_tokens=8)
    assert [choice.message.content for choice in again.choices] == texts
    chances = ask(logprobs=True, max_tokens=3).choices[0].logprobs.content
    assert [chance.token for chance in chances] == ["The", " capital", " of"]
    assert all(chance.logprob < 0 for chance in chances)


def test_an_answer_follows_its_schema(strict: openai.OpenAI, talker: str) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
    answer = strict.chat.completions.create(
        model=talker, messages=QUESTION, response_format=form, max_tokens=200, seed=1, temperature=0.3
    )
    content = json.loads(answer.choices[0].message.content or "")
    assert isinstance(content["city"], str) and isinstance(content["people"], int)


@pytest.mark.parametrize("temperature", [0, 1])
def test_answers_of_twenty_forms_at_once_are_whole_and_fit(live: LiveCluster, talker: str, temperature: int) -> None:
    async def fill(client: openai.AsyncOpenAI, number: int, schema: dict[str, Any]) -> Any:
        form: Any = {"type": "json_schema", "json_schema": {"name": "form", "schema": schema, "strict": True}}
        answer = await client.chat.completions.create(
            model=talker, messages=QUESTION, response_format=form, max_tokens=400, temperature=temperature, seed=number
        )
        return json.loads(answer.choices[0].message.content or "")

    async def play() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(fill(client, number, form) for number, (form, _) in enumerate(FORMS)))

    for (form, _), value in zip(FORMS, asyncio.run(play()), strict=True):
        jsonschema.validate(value, form)


def test_responses(strict: openai.OpenAI, talker: str) -> None:
    answer = strict.responses.create(model=talker, input="What is the capital of France?", temperature=0)
    assert (answer.output_text, answer.status) == (ANSWER, "completed")
    assert answer.usage is not None and answer.usage.output_tokens == 8
    conversation: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "What is the capital of France?"}]},
    ]
    with strict.responses.stream(model=talker, input=conversation, temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == ANSWER
    assert [event.type for event in events][:2] == ["response.created", "response.in_progress"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    cut = strict.responses.create(model=talker, input="Tell a story.", max_output_tokens=3)
    assert cut.status == "incomplete" and cut.incomplete_details is not None
    with pytest.raises(openai.BadRequestError, match="nothing is kept"):
        strict.responses.create(model=talker, input="hi", previous_response_id="resp_1")


def test_prompts_are_gone_on_with(client: openai.OpenAI, strict: openai.OpenAI, talker: str) -> None:
    answer = strict.completions.create(
        model=talker, prompt=["The capital of France is", "Two and two are"], temperature=0, max_tokens=4, logprobs=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].text.startswith(" Paris")
    assert answer.choices[0].logprobs is not None
    assert "".join(answer.choices[0].logprobs.tokens or []) == answer.choices[0].text
    # To the strict one, OpenAI's own pieces would be wrong: it wants each to say why it is the last.
    stream = client.completions.create(
        model=talker, prompt="The capital of France is", temperature=0, max_tokens=4, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def test_answers_are_the_same_beside_others(live: LiveCluster, talker: str) -> None:
    questions = [f"What is {number} and {number}?" for number in range(16)]

    async def ask(client: openai.AsyncOpenAI, question: str) -> str:
        answer = await client.chat.completions.create(
            model=talker, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=16
        )
        return answer.choices[0].message.content or ""

    async def play() -> tuple[list[str], list[str]]:
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
            together = await asyncio.gather(*(ask(client, question) for question in questions))
            return together, [await ask(client, question) for question in questions]

    together, alone = asyncio.run(play())
    # Rounding depends on the shape of the batch, and a small model is often undecided.
    assert sum(a == b for a, b in zip(together, alone, strict=True)) >= 10
    assert all(together)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, "context_length_exceeded"),
        ({"messages": []}, "invalid_body"),
        ({"stop": ["x"] * 17}, "invalid_body"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "bad_request"),
        ({"top_logprobs": 3, "logprobs": True}, "bad_request"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "objec"}}}}, "invalid_body"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_before_it_begins(
    changes: dict[str, Any], code: str, stream: bool, client: openai.OpenAI, talker: str
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(**{"model": talker, "messages": QUESTION, "stream": stream, **changes})
    assert (refused.value.status_code, refused.value.code) == (422 if code == "invalid_body" else 400, code)


def test_a_chat_with_another_kind_of_model_is_refused(client: openai.OpenAI, embedder: str) -> None:
    with pytest.raises(openai.BadRequestError, match="cannot"):
        client.chat.completions.create(model=embedder, messages=QUESTION)


def test_whoever_leaves_ends_the_work_on_his_answer(live: LiveCluster, talker: str, client: openai.OpenAI) -> None:
    (pid,) = live.worker_pids(talker)
    worker = psutil.Process(pid)

    def seconds() -> float:
        times = worker.cpu_times()
        return times.user + times.system

    with client.chat.completions.create(
        model=talker, messages=QUESTION, stream=True, max_tokens=4000, extra_body={"ignore_eos": True}
    ) as stream:
        for _ in zip(range(5), stream, strict=False):
            pass
        before = seconds()
        until(lambda: seconds() > before + 0.1, within=10, why="it is not writing")

    def is_idle() -> bool:
        before = seconds()
        time.sleep(0.3)
        return seconds() - before < 0.05

    until(is_idle, within=5, why="it goes on writing")


def test_a_worker_that_dies_within_an_answer_is_told_of_and_is_back_for_the_next(
    live: LiveCluster, talker: str, client: openai.OpenAI
) -> None:
    (pid,) = live.worker_pids(talker)
    stream = client.chat.completions.create(
        model=talker, messages=QUESTION, stream=True, max_tokens=4000, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    with pytest.raises(openai.APIError, match="gone"):
        for _ in stream:
            pass
    told = time.monotonic() - killed
    until(lambda: live.worker_pids(talker) not in ([], [pid]), within=120, why="no other worker")
    back = time.monotonic() - killed
    print(f"\nkilled within a stream: the error after {told:.2f} s, READY again after {back:.1f} s")
    assert told < 5
    answer = client.chat.completions.create(model=talker, messages=QUESTION, temperature=0)
    assert answer.choices[0].message.content == ANSWER
