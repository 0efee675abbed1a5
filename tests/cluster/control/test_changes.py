from __future__ import annotations

from typing import Any

import pytest

from cluster.control.changes import difference, differences, is_same_launch
from cluster.launch import Wanted
from tests.make import make_wanted


def declared(uid: str = "m", **fields: Any) -> Wanted:
    return make_wanted(uid, **fields).model_copy(update={"declared": True})


def with_entry(wanted: Wanted, **fields: Any) -> Wanted:
    return wanted.model_copy(update={"entry": wanted.entry.model_copy(update=fields)})


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        pytest.param(make_wanted(), "", id="nothing"),
        pytest.param(make_wanted(generation=7), "", id="a later generation"),
        pytest.param(make_wanted(claim_gib=3), "", id="another estimate"),
        pytest.param(make_wanted(model_uid="m"), "", id="its uid said aloud"),
        pytest.param(make_wanted(options={"steps": None}), "", id="an option that is not set"),
        pytest.param(make_wanted(replica=2), "replica", id="replica"),
        pytest.param(make_wanted(n_gpu=0.5), "n_gpu", id="n_gpu"),
        pytest.param(make_wanted(envs={"A": "1"}), "envs", id="envs"),
        pytest.param(make_wanted(options={"steps": 2}), "steps", id="an option"),
        pytest.param(make_wanted(replica=2, options={"b": 1, "a": 1}), "replica, a, b", id="several"),
        pytest.param(with_entry(make_wanted(), name="other"), "model_name", id="another model"),
        pytest.param(with_entry(make_wanted(), max_tokens=5), "entry", id="another row of the catalogue"),
        pytest.param(make_wanted().model_copy(update={"family": "a:B"}), "entry", id="another family"),
    ],
)
def test_what_differs_is_named(asked: Wanted, fields: str) -> None:
    assert is_same_launch(make_wanted(), asked) is not bool(fields)
    assert difference(make_wanted(), asked) == f"{fields} differ"


@pytest.mark.parametrize(
    ("wanted", "list", "prune", "expected"),
    [
        pytest.param([], [make_wanted()], True, {"m": "launch"}, id="new"),
        pytest.param([make_wanted()], [make_wanted()], True, {"m": "same"}, id="there already"),
        pytest.param([make_wanted()], [make_wanted(replica=2)], True, {"m": "scale"}, id="more of it"),
        pytest.param([make_wanted()], [make_wanted(n_cpu=2)], True, {"m": "update"}, id="otherwise"),
        pytest.param([make_wanted()], [make_wanted(aliases="a")], True, {"m": "rename"}, id="under another name"),
        pytest.param([make_wanted()], [make_wanted(aliases="a", replica=2)], True, {"m": "scale"}, id="both"),
        pytest.param(
            [make_wanted()], [make_wanted(replica=2, n_cpu=2)], True, {"m": "update"}, id="more and otherwise"
        ),
        pytest.param([declared()], [], True, {"m": "terminate"}, id="gone from the list"),
        pytest.param([declared()], [], False, {}, id="gone from the list, and kept"),
        pytest.param([make_wanted()], [], True, {}, id="launched by hand"),
    ],
)
def test_a_list_is_compared_with_what_is_wished(
    wanted: list[Wanted], list: list[Wanted], prune: bool, expected: dict[str, str]
) -> None:
    found = differences({wish.uid: wish for wish in wanted}, list, prune)
    assert {change.uid: change.change for change in found} == expected
    assert all((change.before is None) == (change.change == "launch") for change in found)
    assert all((change.after is None) == (change.change == "terminate") for change in found)
