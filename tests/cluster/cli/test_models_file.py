"""models.yaml: apply, diff and export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from cluster import errors
from tests.cluster.cli.terminal import Terminal
from tests.cluster.client.fake_server import FakeServer
from tests.cluster.statuses import make_status

Run = Callable[..., Result]

APPLY = "POST /v1/models/apply"
CHANGES = [
    {"uid": "new", "change": "launch", "before": None, "after": {"model_name": "bge-m3"}, "fields": []},
    {"uid": "old", "change": "terminate", "before": {"model_name": "x"}, "after": None, "fields": []},
    {"uid": "big", "change": "scale", "before": {}, "after": {"replica": 3}, "fields": ["replica"]},
    {"uid": "kept", "change": "same", "before": {}, "after": {}, "fields": []},
]
SAME = CHANGES[-1:]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "models.yaml"
    path.write_text(
        "models:\n- model_name: bge-m3\n  model_uid: new\n  normalize: true\n- model_name: big\n  replica: 3\n"
    )
    return str(path)


def ready(server: FakeServer, *uids: str) -> None:
    for uid in uids:
        server.on(f"GET /v1/models/{uid}/status", make_status(uid, "READY"))


def test_apply_shows_the_difference_applies_it_and_waits(cluster: Run, server: FakeServer, file: str) -> None:
    server.on(APPLY, {"changes": CHANGES})
    ready(server, "new", "big", "kept")
    done = cluster("apply", "-f", file)
    assert done.exit_code == 0
    assert done.stdout == "+ new (bge-m3)\n- old\n~ big\n    replica: 1 -> 3\n"
    planned, applied = server.of(APPLY)
    assert planned.body["models"] == [
        {"model_name": "bge-m3", "model_uid": "new", "normalize": True},
        {"model_name": "big", "replica": 3},
    ]
    assert (planned.body["dry_run"], planned.body["prune"]) == (True, True)
    assert applied.body == {**planned.body, "dry_run": False}


def test_apply_without_waiting_and_without_pruning(cluster: Run, server: FakeServer, file: str) -> None:
    server.on(APPLY, {"changes": CHANGES})
    done = cluster("apply", "-f", file, "--no-wait", "--no-prune", "--json")
    assert json.loads(done.stdout) == CHANGES
    assert [seen.body["prune"] for seen in server.of(APPLY)] == [False, False]


def test_apply_reads_standard_input(cluster: Run, server: FakeServer) -> None:
    server.on(APPLY, {"changes": SAME})
    done = cluster("apply", "-f", "-", "--no-wait", input="models: [{model_name: kept}]")
    assert (done.exit_code, done.stdout) == (0, "Nothing to change.\n")


@pytest.mark.parametrize(("reply", "exit_code", "calls"), [("y\n", 0, 2), ("n\n", 1, 1)])
def test_apply_asks_at_a_terminal(
    at_terminal: Callable[..., Terminal], server: FakeServer, file: str, reply: str, exit_code: int, calls: int
) -> None:
    server.on(APPLY, {"changes": CHANGES})
    ready(server, "new", "big", "kept")
    terminal = at_terminal("apply", "-f", file)
    terminal.read_until("Apply? [y/N]")
    terminal.answer(reply)
    code, stdout = terminal.end()
    assert (code, len(server.of(APPLY))) == (exit_code, calls)
    assert stdout.startswith("+ new")


@pytest.mark.parametrize(("words", "changes"), [(["--yes"], CHANGES), ([], SAME)], ids=["yes", "nothing to change"])
def test_apply_does_not_ask_without_need(
    at_terminal: Callable[..., Terminal], server: FakeServer, file: str, words: list[str], changes: list[dict[str, Any]]
) -> None:
    server.on(APPLY, {"changes": changes})
    ready(server, "new", "big", "kept")
    assert at_terminal("apply", "-f", file, *words).end()[0] == 0


def test_apply_follows_the_others_when_one_fails(cluster: Run, server: FakeServer, file: str) -> None:
    server.on(APPLY, {"changes": CHANGES})
    ready(server, "big", "kept")
    server.on(
        "GET /v1/models/new/status", make_status("new", "FAILED", error_code="download_failed", reason="No weights.")
    )
    done = cluster("apply", "-f", file, "--yes")
    assert done.exit_code == 5
    assert done.stderr.endswith("Error: No weights.\n")
    assert len(server.of("GET /v1/models/kept/status")) == 1


def test_apply_stops_waiting_when_the_time_is_up(cluster: Run, server: FakeServer, file: str) -> None:
    server.on(APPLY, {"changes": CHANGES[:1]})
    server.on("GET /v1/models/new/status", make_status("new", version=1))
    assert cluster("apply", "-f", file, "--timeout", "0.1").exit_code == 8


@pytest.mark.parametrize(("changes", "exit_code"), [(SAME, 0), (CHANGES, 1)], ids=["same", "different"])
def test_diff_tells_by_its_exit_code(
    cluster: Run, server: FakeServer, file: str, changes: list[dict[str, Any]], exit_code: int
) -> None:
    server.on(APPLY, {"changes": changes})
    assert cluster("diff", "-f", file).exit_code == exit_code
    done = cluster("diff", "-f", file, "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (exit_code, changes)
    assert all(seen.body["dry_run"] for seen in server.of(APPLY))


def test_what_is_exported_can_be_applied(cluster: Run, server: FakeServer) -> None:
    models = [{"model_name": "bge-m3", "n_gpu": None, "options": {"prompt": "查询"}}]
    server.on("GET /v1/models/export", {"models": models})
    server.on(APPLY, {"changes": SAME})
    exported = cluster("export").stdout
    assert yaml.safe_load(exported) == {"models": models}
    assert json.loads(cluster("export", "--json").stdout) == {"models": models}
    assert cluster("diff", "-f", "-", input=exported).exit_code == 0
    assert server.of(APPLY)[0].body["models"] == [{"model_name": "bge-m3", "n_gpu": None, "prompt": "查询"}]


BAD_FILES = {
    "models: [": "is not YAML",
    "- model_name: x": "has no list of models",
    "models: {a: 1}": "has no list of models",
    "": "has no list of models",
    "models: [bge]": "Model 1 of - is not a mapping: 'bge'",
    "models: [{model_name: a}, {model_uid: b}]": "Model b of -: model_name is missing.",
    "models: [{model_name: a, replica: none}]": "Model a of -: replica cannot be 'none'",
}


@pytest.mark.parametrize(("text", "said"), BAD_FILES.items())
@pytest.mark.parametrize("command", ["apply", "diff"])
def test_a_bad_file_is_one_sentence_and_asks_no_server(
    cluster: Run, server: FakeServer, command: str, text: str, said: str
) -> None:
    done = cluster(command, "-f", "-", input=text)
    assert done.exit_code == 2
    assert said.replace("of -", "of <stdin>") in done.stderr
    assert done.stderr.count("\n") == 1
    assert server.seen == []


def test_the_server_may_refuse_a_file(cluster: Run, server: FakeServer, file: str) -> None:
    server.on(APPLY, errors.BadOption("bge-m3 takes no option 'normalise'. Did you mean 'normalize'?"))
    assert cluster("apply", "-f", file).exit_code == 2
    assert cluster("apply", "-f", "/nowhere.yaml").exit_code == 2
