"""Statuses like those that a server returns, with everything a test does not care about filled in."""

from __future__ import annotations

from typing import Any

from cluster.status import ModelState, ModelStatus, WorkerState, WorkerStatus
from tests.make import make_wanted


def make_worker(index: int = 0, state: str = "LOADING", generation: int = 1, **fields: Any) -> WorkerStatus:
    return WorkerStatus(id=f"w{index}", index=index, generation=generation, state=WorkerState(state), **fields)


def make_status(
    uid: str = "m", state: str = "LOADING", *, type: str = "embedding", generation: int = 1, **fields: Any
) -> ModelStatus:
    replica = fields.pop("replica", 1)
    wanted = make_wanted(uid, replica=replica, generation=generation)
    wanted = wanted.model_copy(update={"entry": wanted.entry.model_copy(update={"type": type})})
    fields.setdefault("ready", replica if state == "READY" else 0)
    return ModelStatus(
        uid=uid, state=ModelState(state), replica=replica, generation=generation, wanted=wanted, **fields
    )
