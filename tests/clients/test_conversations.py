"""Conversations with several replicas of a language model, which says how much of each prompt it had in its cache."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.live import LiveCluster

TOWNS = ("Oslo", "Lima", "Rome", "Cairo")
TURNS = 3


@pytest.fixture(scope="module")
def twins(live: LiveCluster) -> Iterator[str]:
    with live.client() as client:
        options = {"model_engine": "llamacpp", "cache_gb": 0.2, "slots": 4}
        uid = client.launch_model("smollm2-135m-instruct", "llm", model_uid="twins", replica=2, **options)
        yield uid
        client.terminate_model(uid)


def test_each_turn_reaches_the_replica_that_has_the_ones_before(live: LiveCluster, twins: str) -> None:
    chats: dict[str, list[ChatCompletionMessageParam]] = {town: [] for town in TOWNS}
    before = dict.fromkeys(TOWNS, 0)
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        for turn in range(TURNS):
            for town, messages in chats.items():
                messages.append({"role": "user", "content": f"What should I see in {town}? " * 10})
                answer = client.chat.completions.create(model=twins, messages=messages, temperature=0, max_tokens=8)
                messages.append({"role": "assistant", "content": answer.choices[0].message.content})
                usage = answer.usage
                cached = usage.prompt_tokens_details.cached_tokens or 0
                assert cached >= 0.9 * before[town], f"{town}, turn {turn}: {cached} of {before[town]}"
                before[town] = usage.prompt_tokens
