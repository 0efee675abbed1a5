from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cluster import errors
from cluster.runtime.supervisor_client import SupervisorClient


class Actor:
    """Behaves like Ray's handle of an actor, and fails the first `restarts` calls."""

    def __init__(self, answers: dict[str, Any], restarts: int = 0) -> None:
        self._answers = answers
        self._restarts = restarts
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        class Method:
            remote = staticmethod(self._method(name))

        return Method

    def _method(self, name: str) -> Callable[..., Any]:
        async def answer(*args: Any) -> Any:
            self.calls.append((name, args))
            if len(self.calls) <= self._restarts:
                raise errors.WorkerLost("The process is gone.")
            answer = self._answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return answer


def test_calls_the_method_of_the_same_name_with_the_same_arguments() -> None:
    actor = Actor({"logs": ["a line"]})
    assert asyncio.run(SupervisorClient(actor).logs("m", 5)) == ["a line"]
    assert actor.calls == [("logs", ("m", 5))]


def test_a_call_that_may_be_made_twice_outlives_a_restart() -> None:
    actor = Actor({"uptime": 7.0}, restarts=1)
    assert asyncio.run(SupervisorClient(actor).uptime()) == 7.0
    assert [name for name, _ in actor.calls] == ["uptime", "uptime"]


def test_a_call_that_may_not_be_made_twice_is_made_once() -> None:
    actor = Actor({"terminate": None}, restarts=1)
    with pytest.raises(errors.Unavailable, match="control plane does not answer"):
        asyncio.run(SupervisorClient(actor).terminate("m"))
    assert [name for name, _ in actor.calls] == ["terminate"]


def test_one_who_waits_for_news_of_a_model_asks_again_himself() -> None:
    actor = Actor({}, restarts=1)
    with pytest.raises(errors.Unavailable):
        asyncio.run(SupervisorClient(actor).status("m", 3, 0.0))
    assert actor.calls == [("status", ("m", 3, 0.0))]


def test_what_the_supervisor_refuses_is_not_asked_again() -> None:
    actor = Actor({"scale": errors.BadOption("replica must be at least 1, not 0.", "replica")})
    with pytest.raises(errors.BadOption):
        asyncio.run(SupervisorClient(actor).scale("m", 0))
    assert len(actor.calls) == 1
