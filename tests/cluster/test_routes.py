from __future__ import annotations

import pickle
import random
from dataclasses import replace

import pytest

from cluster.routes import NOTHING_TOLD, ModelName, ModelRoutes, NameKind, Route, Snapshot, amended, difference
from cluster.status import ModelState
from deployments.ingress.routing import RouteTable


def a_model(uid: str, dice: random.Random) -> ModelRoutes:
    workers = tuple(Route(f"{uid}-w{dice.randint(0, 4)}-{number}") for number in range(dice.randint(0, 3)))
    names = {name: ModelName(name, NameKind.ENTRY) for name in dice.sample(["minilm", "flux", "gte"], 2)}
    abilities = tuple(sorted(dice.sample(["embed", "rerank", "image"], 2)))
    return ModelRoutes(uid, abilities, workers, ModelState.READY, names=tuple(names.values()))


def a_table(version: int, before: Snapshot, dice: random.Random) -> Snapshot:
    models = dict(before.models)
    for uid in dice.sample("abcdefgh", 3):
        if dice.random() < 0.3:
            models.pop(uid, None)
        else:
            models[uid] = a_model(uid, dice)
    handles = {route.worker: f"actor of {route.worker}" for model in models.values() for route in model.workers}
    return Snapshot(version, models, handles, (), version % 3, (("m", str(version)),))


@pytest.mark.parametrize("seed", range(20))
def test_a_table_that_is_told_what_changed_is_the_one_that_is_told_all(seed: int) -> None:
    dice = random.Random(seed)
    table, told = NOTHING_TOLD, NOTHING_TOLD
    by_changes, as_a_whole = RouteTable(), RouteTable()
    for version in range(30):
        table = a_table(version, table, dice)
        if dice.random() < 0.3:
            continue  # several versions at once
        change = pickle.loads(pickle.dumps(difference(told, table)))
        told = amended(told, change)
        assert told == table
        by_changes.amend(change.version, change.models, change.gone)
        fresh = RouteTable()
        fresh.update(version, table.models)
        as_a_whole.update(version, table.models)
        for ours in (by_changes, as_a_whole):
            assert ours == fresh


def test_a_change_holds_only_what_changed() -> None:
    dice = random.Random(1)
    models = {f"m{number}": a_model(f"m{number}", dice) for number in range(500)}
    before = Snapshot(1, models, {}, ())
    after = replace(before, version=2, models={**models, "m7": replace(models["m7"], reason="new")})
    change = difference(before, after)
    assert list(change.models) == ["m7"]
    assert not change.gone and change.keys is None
    assert len(pickle.dumps(change)) < len(pickle.dumps(after)) / 50


def test_models_stay_in_the_order_of_their_launches() -> None:
    dice = random.Random(1)
    before = Snapshot(1, {uid: a_model(uid, dice) for uid in "cab"}, {}, ())
    models = {**before.models, "a": replace(before.models["a"], reason="new"), "0": a_model("0", dice)}
    change = difference(before, replace(before, version=2, models=models))
    table = RouteTable()
    table.update(1, before.models)
    table.amend(2, change.models, change.gone)
    assert list(table.models) == list(amended(before, change).models) == ["c", "a", "b", "0"]
