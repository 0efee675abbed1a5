"""Other clients of language models, opened as their own documentation shows."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import Any

import anthropic
import litellm
import ollama
import pytest
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.ollama import Ollama
from pydantic import SecretStr
from xinference_client import AsyncRESTfulClient, RESTfulClient

from cluster import AsyncClient, errors
from cluster.client import LanguageModel
from tests.live import LiveCluster

QUESTION = "What is the capital of France?"
MESSAGES = [{"role": "user", "content": QUESTION}]
ANSWER = "The capital of France is Paris."


@pytest.fixture
def claude(live: LiveCluster) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0)


# ------------------------------------------------------------------------------------------------------- anthropic


def test_anthropic_messages(claude: anthropic.Anthropic, talker: str) -> None:
    answer = claude.messages.create(
        model=talker,
        max_tokens=16_000,
        messages=[{"role": "user", "content": QUESTION}],
        extra_body={"temperature": 0},
    )
    assert [block.type for block in answer.content] == ["text"] and answer.content[0].text == ANSWER
    assert (answer.role, answer.stop_reason, answer.usage.output_tokens) == ("assistant", "end_turn", 8)
    counted = claude.messages.count_tokens(model=talker, messages=[{"role": "user", "content": QUESTION}])
    assert counted.input_tokens == answer.usage.input_tokens


def test_anthropic_streams(claude: anthropic.Anthropic, talker: str) -> None:
    with claude.messages.stream(
        model=talker,
        max_tokens=50,
        extra_body={"temperature": 0},
        system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        stop_sequences=["Paris"],
        messages=[{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
    ) as stream:
        texts = list(stream.text_stream)
        message = stream.get_final_message()
    assert len(texts) > 2 and "".join(texts) == message.content[0].text and "Paris" not in "".join(texts)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "Paris")
    assert message.usage.output_tokens > 0


def test_anthropic_reads_errors(claude: anthropic.Anthropic, talker: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match="room for") as refused:
        claude.messages.create(model=talker, max_tokens=5, messages=[{"role": "user", "content": "word " * 9000}])
    assert refused.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="nobody", max_tokens=5, messages=[{"role": "user", "content": "hi"}])


# ---------------------------------------------------------------------------------------------------------- ollama


def test_ollama_chats_and_generates(live: LiveCluster, talker: str) -> None:
    client = ollama.Client(host=live.url)
    exact = {"temperature": 0}
    answer = client.chat(model=talker, messages=MESSAGES, options=exact)
    assert (answer.message.content, answer.done_reason, answer.eval_count) == (ANSWER, "stop", 8)
    parts = list(client.chat(model=f"{talker}:latest", messages=MESSAGES, options=exact, stream=True))
    assert "".join(part.message.content or "" for part in parts) == ANSWER
    assert [part.done for part in parts][-2:] == [False, True] and (parts[-1].total_duration or 0) > 0
    assert client.generate(model=talker, prompt=QUESTION, options=exact).response == ANSWER
    raw = client.generate(
        model=talker, prompt="The capital of France is", raw=True, options={**exact, "num_predict": 3}
    )
    assert raw.response.startswith(" Paris") and raw.done_reason == "length"
    as_json = client.chat(model=talker, messages=MESSAGES, format="json", options={"num_predict": 60, "seed": 1})
    assert (as_json.message.content or "").lstrip().startswith("{")


def test_ollama_lists_and_shows(live: LiveCluster, talker: str) -> None:
    client = ollama.Client(host=live.url)
    assert talker in {model.model for model in client.ps().models}
    shown = client.show(talker)
    assert shown.capabilities == ["completion"] and 8192 in (shown.modelinfo or {}).values()
    with pytest.raises(ollama.ResponseError, match="nobody") as missing:
        client.chat(model="nobody", messages=MESSAGES)
    assert missing.value.status_code == 404


def test_llama_index_through_ollama(live: LiveCluster, talker: str) -> None:
    model = Ollama(model=talker, base_url=live.url, temperature=0.0, request_timeout=60)
    assert model.complete(QUESTION).text == ANSWER
    chat = [ChatMessage(role="user", content=QUESTION)]
    assert model.chat(chat).message.content == ANSWER
    assert "".join(part.delta or "" for part in model.stream_chat(chat)) == ANSWER


# ------------------------------------------------------------------------------------------------ langchain, litellm


def test_langchain(live: LiveCluster, talker: str) -> None:
    by_openai = ChatOpenAI(model=talker, base_url=f"{live.url}/v1", api_key=SecretStr("none"), temperature=0)
    assert by_openai.invoke(QUESTION).content == ANSWER
    assert "".join(str(part.content) for part in by_openai.stream(QUESTION)) == ANSWER
    by_ollama = ChatOllama(model=talker, base_url=live.url, temperature=0)
    assert by_ollama.invoke(QUESTION).content == ANSWER
    assert "".join(str(part.content) for part in by_ollama.stream(QUESTION)) == ANSWER


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "xinference", "lm_studio", "ollama_chat", "anthropic"])
def test_litellm(provider: str, live: LiveCluster, talker: str) -> None:
    base = live.url if provider in ("ollama_chat", "anthropic") else f"{live.url}/v1"

    def ask(**more: Any) -> Any:
        return litellm.completion(
            model=f"{provider}/{talker}", messages=MESSAGES, api_base=base, api_key="none", temperature=0, **more
        )

    assert ask().choices[0].message.content == ANSWER
    assert "".join(chunk.choices[0].delta.content or "" for chunk in ask(stream=True)) == ANSWER


# ------------------------------------------------------------------------------------------------------ xinference


def test_xinferences_client(live: LiveCluster, talker: str) -> None:
    client = RESTfulClient(live.url)
    model = client.get_model(talker)
    exact = {"temperature": 0, "max_tokens": 32}
    assert model.chat(MESSAGES, generate_config=exact)["choices"][0]["message"]["content"] == ANSWER
    chunks = list(model.chat(MESSAGES, generate_config={**exact, "stream": True}))
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == ANSWER
    going_on = model.generate("The capital of France is", generate_config={**exact, "max_tokens": 3})
    assert going_on["choices"][0]["text"].startswith(" Paris")
    parts = list(model.generate("The capital of France is", generate_config={**exact, "max_tokens": 3, "stream": True}))
    assert "".join(part["choices"][0]["text"] for part in parts) == going_on["choices"][0]["text"]
    described = client.describe_model(talker)
    assert (described["context_length"], described["model_type"]) == (8192, "LLM")


def test_xinferences_client_awaited(live: LiveCluster, talker: str) -> None:
    async def play() -> tuple[str, str]:
        client = AsyncRESTfulClient(live.url)
        model = await client.get_model(talker)
        answer = await model.chat(MESSAGES, generate_config={"temperature": 0})
        stream = await model.chat(MESSAGES, generate_config={"temperature": 0, "stream": True})
        text = "".join([chunk["choices"][0]["delta"]["content"] async for chunk in stream])
        await model.close()
        await client.close()
        return answer["choices"][0]["message"]["content"], text

    assert asyncio.run(play()) == (ANSWER, ANSWER)


# ------------------------------------------------------------------------------------------------------ vllm, ours


def test_tokens_as_vllm_tells_them(live: LiveCluster, talker: str) -> None:
    told = live.post("/tokenize", {"model": talker, "prompt": "The capital"}).json()
    assert (told["count"], told["max_model_len"]) == (2, 8192)
    assert live.post("/detokenize", {"model": talker, "tokens": told["tokens"]}).json()["prompt"] == "The capital"
    written = live.post("/tokenize", {"model": talker, "messages": MESSAGES}).json()
    assert written["count"] == len(written["tokens"]) > 30


def test_our_own_client(live: LiveCluster, talker: str) -> None:
    with live.client() as client:
        model: LanguageModel = client.get_model(talker)
        assert model.chat(QUESTION, temperature=0)["choices"][0]["message"]["content"] == ANSWER
        chunks = model.chat(MESSAGES, temperature=0, stream=True)
        assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == ANSWER
        assert (
            model.generate("The capital of France is", max_tokens=2, temperature=0)["choices"][0]["text"] == " Paris."
        )
        with pytest.raises(errors.ContextLengthExceeded, match="room for 8192"):
            model.chat("word " * 9000)

    async def play() -> str:
        async with AsyncClient(live.url) as client:
            model = await client.get_model(talker)
            stream = model.chat(QUESTION, temperature=0, stream=True)
            return "".join([chunk["choices"][0]["delta"]["content"] async for chunk in stream])

    assert asyncio.run(play()) == ANSWER


def test_a_conversation_on_the_command_line(live: LiveCluster, talker: str) -> None:
    done = subprocess.run(
        live.command_line("chat", talker, "--temperature", "0", "--max-tokens", "16"),
        input=f"{QUESTION}\n/clear\n/nonsense\n{QUESTION}\n/exit\nnever asked\n",
        env={**os.environ, **live.environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [ANSWER, ANSWER]
    assert "There is no /nonsense" in done.stderr
