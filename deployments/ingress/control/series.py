"""What models did of late, in numbers, for charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from typing_extensions import TypedDict

from cluster import errors, keys
from cluster.names import quoted
from deployments.ingress.bodies import Json
from deployments.ingress.model_history import ModelHistory
from deployments.ingress.openapi import described
from deployments.ingress.rings import COARSE_S, FINE_S, SERIES, Series, Steps
from deployments.ingress.routing import RouteTable

Second = Annotated[float, Query(ge=0, le=1e11, allow_inf_nan=False)]


class ModelSeries(TypedDict):
    """The numbers of each series, one for each step; none where it is not known."""

    #: Null for all models together.
    model: str | None
    step_s: int
    #: When the first step begins; seconds since 1970.
    begin: int
    series: dict[str, list[float | None]]
    #: The ingress that tells it, and since when it knows what models do. Each asks all workers, and knows all of it.
    ingress: str
    since: int


def watching(history: ModelHistory, table: RouteTable) -> APIRouter:
    routes = APIRouter(tags=["watch"])

    @routes.get("/v1/history")
    @described(
        "What a model, or all together, did of late: every second for 10 minutes, every 15 for a day", ModelSeries
    )
    async def told(
        request: Request,
        model: str | None = None,
        series: str = "",
        since: Second | None = None,
        step_s: int | None = None,
    ) -> Json:
        """`series`: some of requests, errors (a second), p50, p99 (seconds in the worker), waiting, batch, tokens (a
        second) and memory (bytes), with commas between them; all where none is named. `since`: seconds since 1970.
        `step_s`: 1 or 15; by itself the finest that reaches back so far. Without a model it is of all models that the
        key is for."""
        chosen = chosen_series(series)
        key = request.state.key
        first = 0 if since is None else int(since)
        if step_s not in (None, FINE_S, COARSE_S):
            raise errors.BadRequest(f"step_s takes {FINE_S} or {COARSE_S}, not {step_s}.", "step_s")
        step = step_s or (FINE_S if since is None or history.is_fine(first) else COARSE_S)
        if model is None:
            return Json(body_of(history, None, history.all_steps(key, first, step), chosen))
        uid = table.uid_of(model, key)
        keys.check_model(key, uid)
        if uid not in table.models:
            raise errors.UnknownUid(f"Model not found in the model list, uid: {quoted(model)}", "model")
        return Json(body_of(history, uid, history.steps(uid, first, step), chosen))

    return routes


def chosen_series(text: str) -> list[Series]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in SERIES:
            raise errors.BadRequest(f"There is no series {quoted(name)}; there are {', '.join(SERIES)}.", "series")
    return [name for name in SERIES if name in names or not names]


def body_of(history: ModelHistory, uid: str | None, steps: Steps, chosen: Sequence[Series]) -> ModelSeries:
    return {
        "model": uid,
        "step_s": steps.step_s,
        "begin": steps.begin,
        "series": {name: numbers_of(steps.rows[:, SERIES.index(name)]) for name in chosen},
        "ingress": history.ingress,
        "since": history.since,
    }


def numbers_of(column: Any) -> list[float | None]:
    return [None if number != number else number for number in np.round(column.astype(np.float64), 6).tolist()]
