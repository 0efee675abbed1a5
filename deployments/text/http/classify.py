"""Classification: Infinity's shape at /classify, vLLM's at /v1/classify."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request

from cluster.value import JsonObject
from deployments.ingress.bodies import Json, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.openapi import described
from deployments.ingress.serving import Served
from deployments.text.http import schemas
from deployments.text.http.fields import flag, model_of, texts_of, truncation


def router(services: Services) -> APIRouter:
    serving = services.serving
    routes = APIRouter(tags=["classify"])

    async def classified(request: Request, is_raw: Callable[[JsonObject], bool]) -> Served:
        body = await json_body(request)
        params: JsonObject = {"raw_scores": is_raw(body)}
        if (cut := truncation(body)) is not None:
            params["truncate"] = cut
        return await serving.ask(request, model_of(body), "classify", texts_of(body.get("input"), "input"), params)

    @routes.post("/classify")
    @described("Classify texts, as Infinity does", schemas.InfinityClassified, body=schemas.ClassifyBody)
    async def infinity_classify(request: Request) -> Json:
        """Each input's labels, best first."""
        served = await classified(request, lambda body: flag(body.get("raw_scores"), "raw_scores"))
        answer = {
            "object": "classify",
            "data": best_first(served.answer.outputs),
            "model": served.model.uid,
            "usage": served.usage,
            "id": served.id("classify"),
            "created": int(time.time()),
        }
        return Json(answer, headers=served.headers)

    @routes.post("/v1/classify")
    @described("Classify texts, as vLLM does", schemas.VllmClassified, body=schemas.ClassifyBody)
    async def vllm_classify(request: Request) -> Json:
        """Each input's best label, and how probable each is in the model's own order."""
        served = await classified(request, is_raw)
        scores, labels = scores_of(served.answer.outputs)
        best = scores.argmax(axis=1) if len(scores) else []
        rows = [
            {"index": i, "label": labels[i][best[i]], "probs": scores[i], "num_classes": len(labels[i])}
            for i in range(len(labels))
        ]
        answer = {
            "id": served.id("classify"),
            "object": "list",
            "created": int(time.time()),
            "model": served.model.uid,
            "data": rows,
            "usage": served.usage,
        }
        return Json(answer, headers=served.headers)

    return routes


def is_raw(body: JsonObject) -> bool:
    """Whether scores are wanted as the model has them: vLLM's `use_activation` is false then, `activation` of old."""
    for name in ("use_activation", "activation"):
        if body.get(name) is not None:
            return not flag(body[name], name)
    return flag(body.get("raw_scores"), "raw_scores")


def scores_of(outputs: Any) -> tuple[Any, Sequence[Sequence[str]]]:
    return np.asarray(outputs["scores"], dtype=np.float32), outputs["labels"]


def best_first(outputs: Any) -> list[list[JsonObject]]:
    scores, labels = scores_of(outputs)
    orders = np.argsort(-scores, axis=1, kind="stable")
    return [
        [{"score": row[position], "label": names[position]} for position in order]
        for row, names, order in zip(scores, labels, orders.tolist(), strict=True)
    ]
