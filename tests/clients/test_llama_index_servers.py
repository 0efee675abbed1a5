"""LlamaIndex's classes for text-embeddings-inference and for servers that speak as OpenAI's does."""

from __future__ import annotations

import asyncio

from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

from tests.clients.conftest import TEXTS, assert_same
from tests.clients.packages import answer_of
from tests.clients.test_language_clients import ANSWER, QUESTION
from tests.live import LiveCluster


def test_the_class_for_tei_gets_the_same(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    model = TextEmbeddingsInference(model_name=embedder, base_url=live.url, endpoint=f"/embed?model={embedder}")
    assert_same(model.get_text_embedding_batch(TEXTS), vectors)
    assert_same(asyncio.run(model.aget_text_embedding_batch(TEXTS)), vectors)


def test_the_class_for_openai_gets_the_same(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    model = OpenAILikeEmbedding(model_name=embedder, api_base=f"{live.url}/v1", api_key="none", max_retries=0)
    assert_same(model.get_text_embedding_batch(TEXTS), vectors)
    assert_same(model.get_query_embedding(TEXTS[2]), vectors[2])
    assert_same(asyncio.run(model.aget_text_embedding_batch(TEXTS)), vectors)


#: Its own packages need an openai package below 3, so they run in a process of their own, with one that they take.
OPENAI_LIKE = ("llama-index-llms-openai-like==0.8.1", "llama-index-llms-openai==0.8.3", "openai==2.54.0")
TALK = """
import asyncio, json, sys
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

url, uid, question = sys.argv[1:]
model = OpenAILike(
    model=uid, api_base=f"{url}/v1", api_key="fake", context_window=8192, is_chat_model=True,
    is_function_calling_model=False, temperature=0, max_tokens=32,
)
chat = [ChatMessage(role="user", content=question)]
plain = OpenAILike(
    model=uid, api_base=f"{url}/v1", api_key="fake", is_chat_model=False, temperature=0, max_tokens=3
)
print(json.dumps([
    model.complete(question).text,
    model.chat(chat).message.content,
    "".join(part.delta or "" for part in model.stream_chat(chat)),
    asyncio.run(model.achat(chat)).message.content,
    plain.complete("The capital of France is").text,
]))
"""


def test_the_language_class_for_openai_talks(live: LiveCluster, talker: str) -> None:
    *said, plain = answer_of(TALK, OPENAI_LIKE, live.url, talker, QUESTION, dependencies=False)
    assert said == [ANSWER] * 4 and plain.startswith(" Paris")
