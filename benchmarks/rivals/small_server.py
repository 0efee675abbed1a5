"""An embedding server as a careful person writes it in an afternoon: FastAPI before a library, calls in threads.

    python small_server.py LIBRARY KIND FOLDER PORT

Runs in the environment of the library: sentence-transformers or fastembed.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response


def sentence_transformers(kind: str, folder: str) -> Any:
    import torch
    from sentence_transformers import CrossEncoder, SentenceTransformer

    # A call on each core is faster than one call on all of them, whose threads wait for one another.
    torch.set_num_threads(1)
    arguments: dict[str, Any] = {"device": "cpu", "model_kwargs": {"dtype": "float32"}}
    if kind == "rerank":
        reranker = CrossEncoder(folder, max_length=512, **arguments)
        return lambda query, texts: reranker.predict([(query, text) for text in texts])
    return SentenceTransformer(folder, **arguments).encode


def fastembed(kind: str, folder: str) -> Any:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    # One call on all cores, which suits onnxruntime.
    source = {"model": "local", "sources": ModelSource(hf="local/local"), "model_file": "model.onnx"}
    if kind == "rerank":
        TextCrossEncoder.add_custom_model(**source)
        reranker = TextCrossEncoder("local", specific_model_path=folder)
        return lambda query, texts: np.array(list(reranker.rerank(query, texts)))
    TextEmbedding.add_custom_model(**source, pooling=PoolingType.MEAN, normalization=True, dim=384)
    embedder = TextEmbedding("local", specific_model_path=folder)
    return lambda texts: np.array(list(embedder.embed(texts)))


def application(library: str, kind: str, folder: str) -> FastAPI:
    compute = {"sentence-transformers": sentence_transformers, "fastembed": fastembed}[library](kind, folder)
    pool = ThreadPoolExecutor(os.cpu_count() if library == "sentence-transformers" else 1)
    app = FastAPI()

    @app.get("/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    async def asked(request: Request, *names: str) -> tuple[dict[str, Any], Any]:
        body = orjson.loads(await request.body())
        return body, await asyncio.get_running_loop().run_in_executor(pool, compute, *(body[name] for name in names))

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        body, vectors = await asked(request, "input")
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        encoded = rows if body.get("encoding_format") != "base64" else [base64.b64encode(row).decode() for row in rows]
        data = [{"index": index, "object": "embedding", "embedding": one} for index, one in enumerate(encoded)]
        found = {"object": "list", "data": data, "model": body["model"]}
        return Response(orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")

    @app.post("/v1/rerank")
    async def rerank(request: Request) -> Response:
        _, scores = await asked(request, "query", "documents")
        results = [{"index": int(i), "relevance_score": float(scores[i])} for i in np.argsort(-np.asarray(scores))]
        return Response(orjson.dumps({"results": results}), media_type="application/json")

    return app


if __name__ == "__main__":
    app = application(*sys.argv[1:4])
    # While a library computes, the event loop may not see for seconds that the next request is there.
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[4]), log_level="error", timeout_keep_alive=75)
