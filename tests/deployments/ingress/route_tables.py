"""The kinds of routes, and a body that each inference route answers."""

from __future__ import annotations

from typing import Any

#: Tags of the routes that send a request to a text model.
SERVING = {"embeddings", "rerank", "classify", "text-embeddings-inference", "vllm", "ollama", "generic"}
#: Tags of routes for pictures, whose bodies have tests of their own.
DRAWING = {"images", "sdapi"}
#: Tags of routes that read pages, which have tests of their own too.
READING = {"ocr", "chat"}
#: Tags of routes of language models, which have tests of their own too.
TALKING = {"completions", "responses", "messages", "ollama-llm"}
#: Tags of routes by which callers stop what they have asked for.
STOPPING = {"requests"}
#: Tags of the examples, which are plugins here.
EXAMPLES = {"language"}
#: How a route that asks for no key refuses a request that proves nothing, where it is not 401.
REFUSALS = {"/v1/files/{name}.{format}": 404, "/v1/cluster/join": 422, "/v1/cluster/leave": 422, "/v1/login": 422}
#: A body that each inference route answers.
GOOD: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"model": "minilm", "input": "a"},
    "/embeddings": {"model": "minilm", "input": "a"},
    "/embeddings_image": {"model": "letters", "input": "AAEC"},
    "/embeddings_audio": {"model": "letters", "input": "AAEC"},
    "/v1/embed": {"model": "minilm", "texts": ["a"]},
    "/v2/embed": {"model": "minilm", "texts": ["a"]},
    "/v1/convert_ids_to_tokens": {"model": "minilm", "input": [101]},
    "/rerank": {"model": "reranker", "query": "a", "documents": ["a", "b"]},
    "/v1/rerank": {"model": "reranker", "query": "a", "documents": ["a", "b"]},
    "/v2/rerank": {"model": "reranker", "query": "a", "documents": ["a", "b"]},
    "/vllm/rerank": {"model": "reranker", "query": "a", "documents": ["a", "b"]},
    "/classify": {"model": "letters", "input": ["a"]},
    "/v1/classify": {"model": "letters", "input": ["a"]},
    "/score": {"model": "reranker", "text_1": "a", "text_2": ["a", "b"]},
    "/v1/score": {"model": "minilm", "queries": ["a", "b"], "documents": ["a", "b"]},
    "/pooling": {"model": "minilm", "input": "a"},
    "/embed": {"model": "minilm", "inputs": "a"},
    "/embed_all": {"model": "letters", "inputs": "a"},
    "/embed_sparse": {"model": "letters", "inputs": "a"},
    "/predict": {"model": "letters", "inputs": "a"},
    "/similarity": {"model": "minilm", "inputs": {"source_sentence": "a", "sentences": ["a"]}},
    "/tokenize": {"model": "letters", "inputs": "a"},
    "/decode": {"model": "letters", "ids": [97]},
    "/": {"model": "minilm", "inputs": "a"},
    "/invocations": {"model": "letters", "inputs": ["a", "b"]},
    "/vertex": {"model": "minilm", "instances": [{"inputs": "a"}]},
    "/detokenize": {"model": "letters", "tokens": [97]},
    "/api/show": {"model": "minilm"},
    "/api/embed": {"model": "minilm", "input": "a"},
    "/api/embeddings": {"model": "minilm", "prompt": "a"},
    "/v1/infer": {"model": "routes", "items": ["a"]},
    "/v1/flexible/infers": {"model": "routes", "args": ["a"]},
}


ABORT = "/v1/models/{uid}/requests/{request_id}/abort"
