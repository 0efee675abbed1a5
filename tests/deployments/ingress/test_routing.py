from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest

from cluster import errors
from cluster.keys import Key
from cluster.routes import ModelName, ModelRoutes, NameKind, Route
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


def hub(text: str) -> ModelName:
    return ModelName(text, NameKind.HUB)


def alias(text: str, weight: float | None = None) -> ModelName:
    return ModelName(text, NameKind.ALIAS, weight)


@pytest.mark.parametrize("name", ["my-bge", "MY-BGE", "bge-m3", "BGE-M3", "BAAI/bge-m3", "baai/BGE-m3"])
def test_a_model_is_found_by_uid_name_and_hub_id(name: str) -> None:
    names = (ModelName("bge-m3", NameKind.ENTRY), hub("baai/bge-m3"))
    found = table(model("my-bge", "a", names=names), model("other", "b"))
    assert found.find(name).uid == "my-bge"


def test_a_uid_wins_over_every_other_name() -> None:
    found = table(model("a", names=(alias("bge-m3"),)), model("bge-m3", names=(hub("bge-m3"),)))
    assert found.find("bge-m3").uid == "bge-m3"
    assert found.find("BGE-M3").uid == "bge-m3"


def test_an_alias_wins_over_a_name_and_a_name_over_a_hub_id() -> None:
    by_name = model("b", names=(ModelName("m", NameKind.ENTRY),))
    by_hub = model("c", names=(hub("m"),))
    assert table(by_name, by_hub).find("m").uid == "b"
    assert table(by_hub, by_name, model("a", names=(alias("m"),))).find("m").uid == "a"


def test_of_models_of_one_name_the_one_that_can_do_it_is_found() -> None:
    found = table(
        model("a", abilities=("embed",), names=(alias("org/m"),)),
        model("b", abilities=("rerank",), names=(hub("org/m"),)),
    )
    assert found.find("org/m", "rerank").uid == "b"
    assert found.find("org/m", "embed").uid == "a"
    assert found.find("org/m").uid == "a"


def test_a_model_is_managed_by_any_of_its_names_that_no_other_has() -> None:
    found = table(
        model("a", names=(hub("org/m"), alias("shared", 1))), model("b", names=(alias("org/m"), alias("shared", 1)))
    )
    assert [found.uid_of(name) for name in ("a", "org/M", "A", "gone", "gone/too")] == [
        "a",
        "b",
        "a",
        "gone",
        "gone/too",
    ]
    assert found.uid_of("org/m", key_for("a")) == "a"
    # Requests may be shared by weight, but no order is meant for either.
    with pytest.raises(errors.BadRequest, match=r"2 models answer to shared: \['a', 'b'\]. Ask for one by its uid.$"):
        found.uid_of("shared")


def test_several_equal_models_of_a_name_are_named() -> None:
    found = table(model("b", "w", names=(hub("org/m"),)), model("a", names=(hub("org/m"),)))
    with pytest.raises(errors.BadRequest) as caught:
        found.find("org/M")
    assert caught.value.message == (
        "2 models answer to org/M: ['a', 'b']. Ask for one by its uid, or launch them with aliases=org/M=<weight> to "
        "share it."
    )
    assert caught.value.param == "model"


def test_an_alias_with_weights_is_shared_by_them() -> None:
    found = table(model("a", "x", names=(alias("m", 3),)), model("b", "y", names=(alias("m", 1),)))
    chosen = Counter(found.find("m", request=f"request-{number}").uid for number in range(2000))
    assert 0.72 < chosen["a"] / 2000 < 0.78
    # A request that looks several times finds the same.
    assert len({found.find("m", "embed", request="request-7").uid for _ in range(20)}) == 1


def test_a_model_without_workers_leaves_its_share_to_the_others() -> None:
    found = table(model("a", names=(alias("m", 1000),)), model("b", "y", names=(alias("m", 1),)))
    assert {found.find("m", request=str(number)).uid for number in range(50)} == {"b"}
    found.avoided.add("y")
    assert "a" in {found.find("m", request=str(number)).uid for number in range(50)}


def test_one_alias_without_a_weight_leaves_it_open() -> None:
    found = table(model("a", "x", names=(alias("m", 1),)), model("b", "y", names=(alias("m"),)))
    with pytest.raises(errors.BadRequest, match="2 models answer to m"):
        found.find("m")


def key_for(*models: str) -> Key:
    return Key(id="k", name="k", digest="", scopes=("infer",), models=models)


def test_an_alias_does_not_widen_a_key() -> None:
    found = table(model("mine", "a"), model("other", "b", names=(alias("shared", 1), alias("gone"))))
    assert found.find("mine", key=key_for("mine", "gone")).uid == "mine"
    for name in ("shared", "gone", "other", "OTHER"):
        with pytest.raises(errors.NotPermitted, match=f"does not have access to model: {name}. It is for.*'mine'"):
            found.find(name, key=key_for("mine", "gone"))


def test_of_models_that_share_a_name_a_key_gets_its_own() -> None:
    shared = [model(uid, uid, names=(alias("m", 1), hub("org/m"))) for uid in ("a", "b", "c")]
    found = table(*shared)
    assert {found.find("m", key=key_for("b"), request=str(number)).uid for number in range(50)} == {"b"}
    assert found.find("org/m", key=key_for("b")).uid == "b"
    with pytest.raises(errors.BadRequest, match=r"2 models answer to org/m: \['a', 'b'\]"):
        found.find("org/m", key=key_for("a", "b"))


def test_any_name_means_the_only_model_that_can_where_that_is_set() -> None:
    models = [model("a", "x", abilities=("embed",)), model("b", "y", abilities=("rerank",))]
    found = RouteTable(any_name=True)
    found.update(1, {m.uid: m for m in models})
    assert found.find("gpt-4o", "embed").uid == "a"
    assert found.find("b", "rerank").uid == "b"
    for name, ability, key in (
        ("gpt-4o", "", None),
        ("gpt-4o", "text2image", None),
        ("gpt-4o", "rerank", key_for("a")),
    ):
        with pytest.raises(errors.NotPermitted if key else errors.ModelNotFound):
            found.find(name, ability, key)
    with pytest.raises(errors.ModelNotFound):
        table(*models).find("gpt-4o", "embed")


def test_names_follow_the_table() -> None:
    found = table(model("a", names=(alias("m"),)))
    found.update(2, {"b": model("b", names=(alias("m"), alias("n")))})
    assert found.find("m").uid == found.find("n").uid == "b"
    found.update(3, {"b": model("b", "w", names=(alias("n"),), abilities=("rerank",))})
    assert found.find("n", "rerank").workers and found.able(None, ["rerank"]) and not found.able(None, ["embed"])
    with pytest.raises(errors.ModelNotFound):
        found.find("m")
    with pytest.raises(errors.ModelNotFound):
        found.latest(model("a"))


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
