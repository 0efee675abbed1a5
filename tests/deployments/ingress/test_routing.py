from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest

from cluster import errors
from cluster.routes import ModelRoutes, Route
from cluster.status import ModelState
from deployments.ingress.routing import RouteTable


def model(
    uid: str = "m", *workers: str, limit: int | None = None, abilities: tuple[str, ...] = ("embed",), **fields: Any
) -> ModelRoutes:
    routes = tuple(Route(worker, limit) for worker in workers)
    fields.setdefault("state", ModelState.READY)
    return ModelRoutes(uid, abilities, routes, **fields)


def table(*models: ModelRoutes) -> RouteTable:
    found = RouteTable()
    found.update(1, {m.uid: m for m in models})
    return found


def ask(found: RouteTable, uid: str = "m", stack: ExitStack | None = None, avoiding: tuple[str, ...] = ()) -> str:
    """The chosen worker. It stays busy until the stack is closed, or is free again at once."""
    choice = found.choose(found.find(uid), avoiding)
    if stack is not None:
        return stack.enter_context(choice).worker
    with choice as route:
        return route.worker


# --------------------------------------------------------------------------------------------------- choosing


def test_the_worker_with_the_least_in_flight_is_chosen() -> None:
    found = table(model("m", "a", "b", "c"))
    with ExitStack() as stack:
        chosen = Counter(ask(found, stack=stack) for _ in range(9))
        assert chosen == {"a": 3, "b": 3, "c": 3}
        assert found.in_flight == {"a": 3, "b": 3, "c": 3}


def test_idle_workers_take_turns() -> None:
    found = table(model("m", "a", "b", "c"))
    assert Counter(ask(found) for _ in range(9)) == {"a": 3, "b": 3, "c": 3}


def test_a_worker_is_given_back_when_the_call_fails() -> None:
    found = table(model("m", "a"))
    with pytest.raises(ZeroDivisionError), found.choose(found.find("m")):
        assert found.in_flight == {"a": 1}
        raise ZeroDivisionError
    assert found.in_flight == {}


def test_a_worker_is_given_back_after_the_table_changed() -> None:
    found = table(model("m", "a"))
    with found.choose(found.find("m")):
        found.update(2, {"m": model("m", "b")})
    assert found.in_flight == {}


def test_what_others_have_queued_at_a_worker_counts() -> None:
    found = table(model("m", "a", "b"))
    found.queued["a"] = 5
    with ExitStack() as stack:
        assert [ask(found, stack=stack) for _ in range(5)] == ["b"] * 5


def test_workers_to_avoid_are_not_chosen() -> None:
    found = table(model("m", "a", "b"))
    assert {ask(found, avoiding=("a",)) for _ in range(4)} == {"b"}
    found.avoided.add("b")
    assert {ask(found) for _ in range(4)} == {"a"}
    assert not found.is_usable(found.find("m"), ("a",))
    with pytest.raises(errors.ModelLoading):
        ask(found, avoiding=("a",))


def test_what_is_avoided_is_forgotten_with_the_worker() -> None:
    found = table(model("m", "a", "b"))
    found.avoided |= {"a", "b"}
    found.queued.update(a=1, b=2)
    found.update(2, {"m": model("m", "b", "c")})
    assert (found.avoided, found.queued) == ({"b"}, {"b": 2})


# ----------------------------------------------------------------------------------------------------- limits


def test_more_requests_at_once_than_a_replica_takes_are_refused() -> None:
    found = table(model("m", "a", "b", limit=2))
    with ExitStack() as stack:
        assert Counter(ask(found, stack=stack) for _ in range(4)) == {"a": 2, "b": 2}
        with pytest.raises(errors.Overloaded) as caught:
            ask(found)
        assert caught.value.message == "Rate limit reached for the model: m takes 2 requests at once per replica."
        assert caught.value.retry_after_s == 1.0
    ask(found)


def test_a_limit_of_none_at_all_refuses_everything() -> None:
    with pytest.raises(errors.Overloaded):
        ask(table(model("m", "a", limit=0)))


def test_a_full_worker_does_not_stop_a_free_one() -> None:
    found = table(model("m", "a", "b", limit=1))
    with ExitStack() as stack:
        first = ask(found, stack=stack)
        assert ask(found) != first


# ----------------------------------------------------------------------------------------------------- tables


def test_a_newer_table_replaces_the_last() -> None:
    found = table(model("m", "a"))
    assert found.update(2, {"n": model("n", "b")})
    assert set(found.models) == {"n"}


@pytest.mark.parametrize("version", [0, 1])
def test_an_older_table_that_arrives_late_is_dropped(version: int) -> None:
    found = table(model("m", "a"))
    assert not found.update(version, {})
    assert set(found.models) == {"m"}


# ------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize("name", ["my-bge", "MY-BGE", "bge-m3", "BGE-M3", "BAAI/bge-m3", "baai/BGE-m3"])
def test_a_model_is_found_by_uid_name_and_hub_id(name: str) -> None:
    found = table(model("my-bge", "a", aliases=("bge-m3", "baai/bge-m3")), model("other", "b"))
    assert found.find(name).uid == "my-bge"


def test_a_uid_wins_over_an_alias() -> None:
    found = table(model("a", aliases=("bge-m3",)), model("bge-m3", aliases=("bge-m3",)))
    assert found.find("bge-m3").uid == "bge-m3"


def test_of_models_of_one_name_the_one_that_can_do_it_is_found() -> None:
    found = table(
        model("a", abilities=("embed",), aliases=("org/m",)), model("b", abilities=("rerank",), aliases=("org/m",))
    )
    assert found.find("org/m", "rerank").uid == "b"
    assert found.find("org/m", "embed").uid == "a"


def test_of_equals_always_the_same_is_found() -> None:
    models = [model("b", aliases=("m",)), model("a", aliases=("m",))]
    assert table(*models).find("m").uid == table(*reversed(models)).find("m").uid == "a"


def test_an_unknown_model_is_told_with_those_there_are() -> None:
    with pytest.raises(errors.ModelNotFound) as caught:
        table(model("b"), model("a")).find("c")
    assert caught.value.message == "Model not found in the model list, uid: c. Available model uids: ['a', 'b']"
    assert caught.value.param == "model"


def test_without_a_name_the_only_model_that_can_is_meant() -> None:
    found = table(model("a", abilities=("embed",)), model("b", abilities=("rerank",)))
    assert found.find(None, "rerank").uid == "b"
    assert found.find("", "embed").uid == "a"


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ([], "The request names no model and 0 running models can embed: []."),
        ([model("b"), model("a")], "The request names no model and 2 running models can embed: ['a', 'b']."),
    ],
)
def test_without_a_name_it_must_be_clear_which(models: list[ModelRoutes], says: str) -> None:
    with pytest.raises(errors.BadRequest, match="names no model") as caught:
        table(*models).find(None, "embed")
    assert caught.value.message == says


def test_a_model_says_what_it_can_do_instead() -> None:
    with pytest.raises(errors.BadRequest) as caught:
        table(model("m", abilities=("embed", "tokens"))).find("m", "rerank")
    assert caught.value.message == "Model m cannot rerank; it can embed, tokens."


# ------------------------------------------------------------------------------------------ no worker to be had


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        pytest.param(
            {"state": ModelState.LOADING}, errors.ModelLoading, "Model is loading, please retry later: m.", id="loading"
        ),
        pytest.param(
            {"state": ModelState.WAITING, "reason": "m fits on no node (a: draining)."},
            errors.ModelLoading,
            "Model is loading, please retry later: m: m fits on no node (a: draining).",
            id="waiting",
        ),
        pytest.param(
            {"state": ModelState.FAILED, "reason": "bad weights"},
            errors.Unavailable,
            "Model m could not be loaded: bad weights",
            id="failed",
        ),
        pytest.param(
            {"state": ModelState.LOADING, "recovering": True},
            errors.WorkerLost,
            "Model m has no worker at the moment and is being restarted.",
            id="recovering",
        ),
        pytest.param(
            {"state": ModelState.FAILED, "recovering": True}, errors.Unavailable, "", id="failed, though it has served"
        ),
    ],
)
def test_a_model_without_workers_says_why(fields: dict[str, Any], error: type[errors.ClusterError], says: str) -> None:
    with pytest.raises(error) as caught:
        ask(table(model("m", **fields)))
    assert type(caught.value) is error
    assert says in caught.value.message
    if error.retryable and error is not errors.Unavailable:
        assert caught.value.retry_after_s
