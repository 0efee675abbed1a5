"""`cluster apply --cells`: one list over several clusters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from cluster.status import ModelStatus
from tests.cluster.client.fake_server import FakeServer, Running
from tests.cluster.statuses import make_status

Run = Callable[..., Result]
GIB = 2**30
APPLY, CHECK, INFO = "POST /v1/models/apply", "POST /v1/models", "GET /v1/cluster/info"


@pytest.fixture
def other() -> Iterator[FakeServer]:
    running = Running()
    yield running.fake
    running.stop()
    assert running.fake.unexpected == []


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "models.yaml"
    path.write_text("models: [{model_name: m, replica: 3}]")
    return str(path)


def ready(uid: str) -> ModelStatus:
    return make_status(uid, "READY")


def cell(server: FakeServer, free_gib: int, present: int = 0) -> None:
    """A cluster with so much free memory, where so many replicas of m are wanted."""
    before = {"model_name": "m", "replica": present} if present else None
    row = {"uid": "m", "change": "scale" if present else "launch", "before": before, "after": {"model_name": "m"}}
    server.on(APPLY, {"changes": [{**row, "fields": []}]})
    fit: dict[str, Any] = {"fits": True, "claim_bytes": GIB, "card_bytes": 0, "nodes": [], "reason": ""}
    server.on(CHECK, fit)
    node = {"state": "ready", "gpu_count": 0, "gpu_claimed": 0.0, "gpu_vram_total": 0, "mem_claimed": 0}
    server.on(INFO, [{**node, "mem_total": free_gib * GIB}])
    server.on("GET /v1/models/m/status", ready("m"))


def applied(server: FakeServer) -> list[int]:
    """How many replicas of each model were declared in the end."""
    last = server.of(APPLY)[-1].body
    assert last["dry_run"] is False and last["prune"] is True
    return [model.get("replica", 1) for model in last["models"]]


def test_replicas_are_split_by_free_room_and_it_says_who_got_what(
    cluster: Run, server: FakeServer, other: FakeServer, file: str
) -> None:
    cell(server, 10)
    cell(other, 9)
    done = cluster("apply", "-f", file, "--cells", f"east={server.url},west={other.url}")
    assert done.exit_code == 0, done.output
    assert (applied(server), applied(other)) == ([2], [1])
    assert done.stdout == "east:\n+ m (m)\nwest:\n+ m (m)\n" and "m: 2 in east, 1 in west" in done.stderr


def test_what_was_applied_before_stays_where_it_is(
    cluster: Run, server: FakeServer, other: FakeServer, file: str
) -> None:
    cell(server, 1, present=2)
    cell(other, 100, present=1)
    done = cluster("apply", "-f", file, "--json", "--cells", f"east={server.url},west={other.url}")
    assert json.loads(done.stdout)["replicas"] == {"m": {"east": 2, "west": 1}}
    assert (applied(server), applied(other)) == ([2], [1])
    assert not server.of(CHECK) and not other.of(CHECK), "nothing is missing, so nobody is asked for room"


def test_a_model_that_a_cell_gets_nothing_of_is_not_declared_there(
    cluster: Run, server: FakeServer, other: FakeServer, file: str
) -> None:
    cell(server, 100)
    cell(other, 1)
    assert cluster("apply", "-f", file, "--cells", f"{server.url},{other.url}").exit_code == 0
    assert (applied(server), applied(other)) == ([3], [])


def test_a_cell_that_cannot_be_reached_is_one_sentence_and_the_others_get_its_share(
    cluster: Run, server: FakeServer, file: str
) -> None:
    cell(server, 10)
    done = cluster("apply", "-f", file, "--cells", f"east={server.url},west=http://127.0.0.1:1")
    assert done.exit_code == 9 and applied(server) == [3]
    first, *_, last = done.stderr.splitlines()
    assert first == (
        "Error: west is left out: Nothing answers at http://127.0.0.1:1; start a cluster with `cluster up`."
    )
    assert last.startswith("Error: west left out; ") and last.endswith("apply again for it.")


def test_with_no_cell_at_all_nothing_is_done(cluster: Run, server: FakeServer, file: str) -> None:
    done = cluster("apply", "-f", file, "--cells", "http://127.0.0.1:1")
    assert done.exit_code == 9 and "as declared" not in done.stderr


def test_all_are_those_of_the_gateway(cluster: Run, server: FakeServer, file: str) -> None:
    rows = [{"cell": "a", "live": True, "reason": ""}, {"cell": "b", "live": False, "reason": "it is away"}]
    server.on("GET /v1/cluster/cells", rows)
    cell(server, 10)
    done = cluster("apply", "-f", file, "--cells", "all")
    assert done.exit_code == 9 and applied(server) == [3]
    assert "b is left out: The gateway cannot reach it: it is away." in done.stderr


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ("ftp://x", "A cell is the address of a cluster"),
        ("a=http://x,a=http://y", "2 cells are called a"),
        (",", "at least one"),
    ],
)
def test_what_names_no_cells_is_refused(cluster: Run, file: str, cells: str, says: str) -> None:
    done = cluster("apply", "-f", file, "--cells", cells)
    assert done.exit_code == 2 and says in done.stderr


def test_a_model_with_a_place_belongs_to_one_cell(cluster: Run, server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("models: [{model_name: m, gpu_idx: 0}]")
    done = cluster("apply", "-f", str(path), "--cells", server.url)
    assert done.exit_code == 2 and "m names a node or cards, which are those of one cell" in done.stderr


def test_diff_shows_it_and_changes_nothing(cluster: Run, server: FakeServer, other: FakeServer, file: str) -> None:
    cell(server, 10)
    cell(other, 9)
    done = cluster("diff", "-f", file, "--cells", f"east={server.url},west={other.url}")
    assert done.exit_code == 1 and done.stdout == "east:\n+ m (m)\nwest:\n+ m (m)\n"
    assert all(seen.body["dry_run"] for seen in (*server.of(APPLY), *other.of(APPLY)))
    assert [model["replica"] for model in server.of(APPLY)[-1].body["models"]] == [2]
    assert cluster("diff", "-f", file, "--cells", f"{server.url},http://127.0.0.1:1").exit_code == 9
