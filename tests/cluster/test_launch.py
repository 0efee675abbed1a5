from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster import errors
from cluster.launch import LaunchSpec, ReplicaBounds, ReplicaPlace, Wanted, parse_bytes
from cluster.paths import folder_under
from cluster.status import WorkerName
from tests.make import make_wanted


def spec(**fields: Any) -> LaunchSpec:
    return LaunchSpec.model_validate({"model_name": "m", **fields})


def refusal(**fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        spec(**fields)
    return caught.value.errors()[0]["msg"].removeprefix("Value error, ")


# ------------------------------------------------------------------------------------------------ options


def test_other_keys_become_options_of_the_family() -> None:
    found = spec(torch_dtype="float16", options={"dimensions": 64}, normalize=None)
    assert found.options == {"torch_dtype": "float16", "dimensions": 64, "normalize": None}


def test_a_key_at_the_top_wins_over_the_same_one_in_options() -> None:
    assert spec(dimensions=32, options={"dimensions": 64}).options == {"dimensions": 32}


@pytest.mark.parametrize("options", ["steps=4", ["steps"], 5])
def test_options_of_another_shape_are_refused(options: object) -> None:
    refusal(options=options)


def test_a_null_model_type_is_none_given() -> None:
    assert spec(model_type=None).model_type == ""


def test_a_spec_survives_its_stored_form() -> None:
    asked = spec(replica=2, gpu_idx="0,1", n_gpu=0.5, envs={"A": "1"}, memory="2GiB", steps=4)
    assert LaunchSpec.model_validate(json.loads(asked.model_dump_json())) == asked


@pytest.mark.parametrize(
    ("device", "means"),
    [
        ("cpu", {"n_gpu": None}),
        ("CPU", {"n_gpu": None}),
        (None, {}),
        ("auto", {}),
        ("cuda", {}),
        ("cuda:1", {"gpu_idx": (1,)}),
    ],
)
def test_a_device_is_where_it_runs(device: object, means: dict[str, object]) -> None:
    for asked in (spec(device=device), spec(options={"device": device}), spec(device=device, n_gpu="auto")):
        assert asked == spec(**means)


def test_a_device_that_is_none_stays_an_option_to_be_refused() -> None:
    assert spec(device="tpu").options == {"device": "tpu"}
    assert spec(device="cpu:1").options == {"device": "cpu:1"}


# -------------------------------------------------------------------------------------------------- GPUs


@pytest.mark.parametrize(
    ("given", "means"),
    [
        pytest.param("auto", "auto", id="auto"),
        pytest.param(None, None, id="null is CPU"),
        pytest.param("none", None, id="none is CPU"),
        pytest.param("None", None, id="None is CPU"),
        pytest.param("cpu", None, id="cpu"),
        pytest.param("", None, id="empty is CPU"),
        pytest.param(1, 1.0, id="whole"),
        pytest.param("2", 2.0, id="text"),
        pytest.param(0.25, 0.25, id="fraction"),
        pytest.param("0.5", 0.5, id="fraction as text"),
    ],
)
def test_n_gpu_is_a_number_a_fraction_auto_or_none(given: object, means: object) -> None:
    assert spec(n_gpu=given).n_gpu == means


@pytest.mark.parametrize(
    ("given", "says"),
    [
        pytest.param(-1, "above 0", id="minus one"),
        pytest.param("-1", "above 0", id="minus one as text"),
        pytest.param(0, "above 0", id="zero"),
        pytest.param(0.0, "above 0", id="zero fraction"),
        pytest.param(1.5, "whole number", id="one and a half"),
        pytest.param(True, "a number, 'auto' or null", id="bool"),
        pytest.param("two", "", id="word"),
        pytest.param("inf", "", id="infinity"),
        pytest.param("-inf", "", id="minus infinity"),
        pytest.param("nan", "", id="not a number"),
        pytest.param([1], "", id="list"),
    ],
)
def test_n_gpu_that_means_nothing_is_refused(given: object, says: str) -> None:
    assert says in refusal(n_gpu=given)


@pytest.mark.parametrize(
    ("given", "means"),
    [
        pytest.param(None, None, id="none"),
        pytest.param("", None, id="empty"),
        pytest.param(3, (3,), id="number"),
        pytest.param("3", (3,), id="text"),
        pytest.param("0,1", (0, 1), id="command line"),
        pytest.param("0, 1,", (0, 1), id="spaces"),
        pytest.param([0, 1], (0, 1), id="list"),
        pytest.param(["0", "1"], (0, 1), id="list of texts"),
    ],
)
def test_gpu_idx_is_read_in_every_form(given: object, means: object) -> None:
    assert spec(gpu_idx=given).gpu_idx == means


@pytest.mark.parametrize("given", ["a,b", [None], [[0]], {"0": 1}, 1.5])
def test_gpu_idx_that_names_no_card_is_refused(given: object) -> None:
    refusal(gpu_idx=given)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"gpu_idx": [0, 0]}, id="one replica"),
        pytest.param({"gpu_idx": [0, 0, 1, 1], "replica": 2}, id="each of two"),
        pytest.param({"replica_config": [{"gpu_idx": [0, 0]}]}, id="replica_config"),
    ],
)
def test_a_replica_that_names_a_card_twice_is_refused(fields: dict[str, Any]) -> None:
    """It would claim two cards where there is one."""
    refusal(**fields)


def test_two_replicas_may_share_a_card() -> None:
    assert spec(gpu_idx=[0, 0], replica=2, n_gpu=0.5).place_of(1).gpu_idx == (0,)


@pytest.mark.parametrize(("gpu_idx", "replica"), [([0, 1, 2], 2), ([0], 2)])
def test_cards_that_cannot_be_shared_out_are_refused(gpu_idx: list[int], replica: int) -> None:
    assert refusal(gpu_idx=gpu_idx, replica=replica) == "Allocated gpu must be a multiple of replica."


def test_cards_are_shared_out_in_order() -> None:
    asked = spec(gpu_idx=[0, 1, 2, 3], replica=2)
    assert [asked.place_of(index).gpu_idx for index in range(2)] == [(0, 1), (2, 3)]


def test_replicas_added_later_have_no_cards_of_their_own() -> None:
    assert spec(gpu_idx=[0, 1], replica=2, worker_ip="a").place_of(2) == ReplicaPlace(worker_ip="a", n_gpu="auto")


# ----------------------------------------------------------------------------------------------- replicas


@pytest.mark.parametrize("replica", [0, -1, 1001, "2", 1.5, True, None])
def test_replica_is_a_whole_number_of_at_least_one(replica: object) -> None:
    refusal(replica=replica)


def test_replica_config_places_each_replica() -> None:
    placed = spec(replica=2, replica_config=[{"worker_ip": "a:1", "n_gpu": 1, "gpu_idx": "1"}, {"worker_ip": "b:1"}])
    assert [placed.place_of(index) for index in range(3)] == [
        ReplicaPlace(worker_ip="a:1", n_gpu=1, gpu_idx=(1,)),
        ReplicaPlace(worker_ip="b:1"),
        ReplicaPlace(),
    ]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        pytest.param({"replica_config": [{}, {}]}, "one place per replica", id="more places than replicas"),
        pytest.param({"replica_config": [{}], "worker_ip": "a"}, "together", id="with worker_ip"),
        pytest.param({"replica_config": [{}], "gpu_idx": 0}, "together", id="with gpu_idx"),
        pytest.param({"replica_config": [{}], "n_gpu": 1}, "together", id="with n_gpu"),
        pytest.param({"replica_config": [{}], "node_labels": "a=b"}, "each place has its own", id="with node_labels"),
        pytest.param({"replica_config": [{"gpu_idx": [None]}]}, "", id="null card"),
        pytest.param({"replica_config": [{"card": 1}]}, "Extra inputs", id="unknown key"),
        pytest.param({"replica_config": [{"n_gpu": -1}]}, "", id="minus one GPU"),
        pytest.param({"replica_config": {"n_gpu": 1}}, "", id="not a list"),
    ],
)
def test_replica_config_that_cannot_be_carried_out_is_refused(fields: dict[str, Any], says: str) -> None:
    assert says in refusal(**fields)


def test_labels_are_asked_of_every_node_or_of_the_node_of_one_replica() -> None:
    everywhere = spec(replica=2, node_labels="zone=b")
    assert [everywhere.place_of(index).node_labels for index in range(3)] == [("zone=b",)] * 3
    apart = spec(replica=2, replica_config=[{"node_labels": {"zone": "a"}}, {}])
    assert [apart.place_of(index).node_labels for index in range(2)] == [("zone=a",), ()]


# --------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("uid", ["m", "bge-m3", "a.b_c-d", "x" * 100, "m-rep", "rep1"])
def test_uids_that_can_be_used(uid: str) -> None:
    assert spec(model_uid=uid).model_uid == uid


def test_an_empty_uid_is_none_given() -> None:
    assert spec(model_uid="").model_uid is None


@pytest.mark.parametrize("uid", ["-m", "a b", "a/b", "a:1", "ü", "x" * 101, ".m", "m\n", "bge-m3-rep0", "m-rep12"])
def test_uids_that_would_break_names_are_refused(uid: str) -> None:
    refusal(model_uid=uid)


@pytest.mark.parametrize("uid", ["m", "bge-m3", "a.b_c-d"])
def test_a_workers_name_says_all_that_adoption_needs(uid: str) -> None:
    name = WorkerName(uid, 12, 3, "4f00ab12")
    assert str(name) == f"worker:{uid}:12:3-4f00ab12"
    assert WorkerName.parse(str(name)) == name


@pytest.mark.parametrize("text", ["supervisor", "worker:m", "worker:m:1", "worker:m:x:0-a", "worker:m:1:0-a b", ""])
def test_names_of_others_are_not_taken_for_workers(text: str) -> None:
    assert WorkerName.parse(text) is None


# ---------------------------------------------------------------------------------------------- other values


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("2GiB", 2 * 2**30),
        ("500 MB", 500_000_000),
        ("1.5gib", 3 * 2**29),
        ("1073741824", 2**30),
        (1024, 1024),
        ("10 K", 10_000),
        ("1TiB", 2**40),
        ("1Ti", 2**40),
        ("7b", 7),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str | int, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "much", "GiB", "2 GiB free", "-1GiB", "1.2.3GiB", ".", -1])
def test_sizes_that_are_none_are_refused(text: str | int) -> None:
    with pytest.raises(errors.BadOption):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (None, {}),
        ("", {}),
        ("a", {"a": None}),
        ("a, BAAI/bge-m3=0.5", {"a": None, "BAAI/bge-m3": 0.5}),
        (["a", {"name": "b", "weight": 2}], {"a": None, "b": 2.0}),
        (["text-embedding-3:small@2024+x"], {"text-embedding-3:small@2024+x": None}),
    ],
)
def test_aliases_are_read_as_people_write_them(written: Any, names: dict[str, float | None]) -> None:
    spec = LaunchSpec(model_name="m", aliases=written)
    assert {alias.name: alias.weight for alias in spec.aliases} == names


@pytest.mark.parametrize(
    "written", ["a,,b", "a b", "/a", "a=", "a=0", "a=-1", "a=inf", "a=nan", "a" * 201, 5, ["a"] * 101, [["a"]]]
)
def test_aliases_that_cannot_be_names_are_refused(written: Any) -> None:
    with pytest.raises(ValidationError, match="aliases"):
        LaunchSpec(model_name="m", aliases=written)


def test_a_wish_survives_its_stored_form() -> None:
    wanted = make_wanted("m", replica=2, n_gpu=0.5, options={"steps": 4}, aliases="a,org/b=2")
    assert Wanted.model_validate(json.loads(json.dumps(wanted.model_dump(mode="json")))) == wanted


def test_values_refuse_fields_they_do_not_know() -> None:
    with pytest.raises(ValidationError):
        Wanted.model_validate({**make_wanted().model_dump(mode="json"), "colour": "red"})


def test_a_folder_under_a_root_stays_there(tmp_path: Path) -> None:
    assert folder_under(tmp_path, "a/../b") == (tmp_path / "b").resolve()
    for outside in ("..", "../b", "a/../../b", "/etc"):
        with pytest.raises(errors.BadRequest):
            folder_under(tmp_path, outside)


@pytest.mark.parametrize(
    ("fields", "bounds", "replica"),
    [
        ({"replica": 2}, None, 2),
        ({}, None, 1),
        ({"max_replica": 4}, ReplicaBounds(min=1, max=4, target_queue_s=1.0), 1),
        ({"replica": {"min": 0, "max": 4, "target_queue_s": 0.5}}, ReplicaBounds(min=0, max=4, target_queue_s=0.5), 1),
        ({"replica": {"min": 2, "max": 4}}, ReplicaBounds(min=2, max=4), 2),
        ({"replica": 3, "max_replica": 4}, ReplicaBounds(min=1, max=4), 3),
    ],
)
def test_replicas_are_a_number_or_bounds_between_which_they_follow_the_load(
    fields: dict[str, Any], bounds: ReplicaBounds | None, replica: int
) -> None:
    spec = LaunchSpec.model_validate({"model_name": "m", **fields})
    assert (spec.bounds, spec.replica) == (bounds, replica)
    assert LaunchSpec.model_validate(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"min_replica": 0}, "need max_replica"),
        ({"replica": {"min": 0}}, "need max_replica"),
        ({"replica": {"least": 0}}, "not 'least'"),
        ({"replica": {"min": 3, "max": 2}}, "min_replica 3 is above max_replica 2"),
        ({"replica": 5, "max_replica": 4}, "replica 5 is not between 1 and max_replica 4"),
        ({"max_replica": 2, "gpu_idx": [0]}, "together with gpu_idx"),
        ({"max_replica": 2, "idle_sleep_s": 5}, "min_replica 1 keeps it awake"),
        ({"max_replica": 2, "min_replica": 0, "pinned": True}, "min_replica 0 lets it sleep"),
    ],
)
def test_bounds_that_contradict_something_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        LaunchSpec.model_validate({"model_name": "m", **fields})
