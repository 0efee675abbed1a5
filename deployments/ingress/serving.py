"""What the inference routes of all dialects share: one way to ask a model, one way to say how long it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from cluster import errors, keys
from cluster.settings import Settings
from cluster.spec import Answer, ModelRoutes
from deployments.ingress.dispatch import Dispatcher


@dataclass(frozen=True)
class Served:
    model: ModelRoutes
    answer: Answer
    worker: str

    @property
    def headers(self) -> dict[str, str]:
        return {
            "x-queue-time-ms": f"{self.answer.queue_ms:.1f}",
            "x-inference-time-ms": f"{self.answer.run_ms:.1f}",
            "x-compute-tokens": str(self.answer.tokens),
        }

    @property
    def replica(self) -> str:
        """Xinference's name for it: the uid and the number of the replica."""
        index = self.worker.rpartition(":")[2].partition("-")[0]
        return f"{self.model.uid}-rep{index}"


@dataclass(frozen=True)
class Serving:
    dispatcher: Dispatcher
    settings: Settings

    async def ask(
        self, request: Request, model: str | None, ability: str, items: Sequence[Any], params: Mapping[str, Any]
    ) -> Served:
        if len(items) > self.settings.max_items:
            raise errors.BadRequest(f"The request has {len(items)} inputs, {self.settings.max_items} are allowed.")
        found = self.dispatcher.table.find(model, ability)
        request.state.model = found.uid
        keys.check_model(request.state.key, found.uid)
        answer, worker = await self.dispatcher.ask(
            found, ability, items, params, request.state.request_id, self._timeout(request)
        )
        return Served(found, answer, worker)

    def _timeout(self, request: Request) -> float:
        """The caller's own deadline, if he gave one, within what the server allows."""
        most = self.settings.request_timeout_s
        given = request.headers.get("x-request-timeout")
        if given is None:
            return most
        try:
            seconds = float(given)
        except ValueError:
            raise errors.BadRequest(f"x-request-timeout takes seconds, not {given!r}.") from None
        if not seconds > 0:
            raise errors.BadRequest(f"x-request-timeout must be above 0, not {given!r}.")
        return min(seconds, most)


def flag(value: Any, name: str) -> bool:
    """A boolean, or null for false, as Xinference's client sends it."""
    if value is None or isinstance(value, bool):
        return bool(value)
    raise errors.InvalidBody(f"{name} takes true or false, not {value!r}.", None, name)


def count(body: Mapping[str, Any], *names: str) -> int | None:
    """The first of these names that is given, as a number above 0."""
    for name in names:
        value = body.get(name)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise errors.InvalidBody(f"{name} takes a whole number above 0, not {value!r}.", None, name)
            return value
    return None
