"""Every command except launch, apply, diff and export: what it asks the server and what it prints."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from cluster import errors
from cluster.cli import main
from cluster.cli.models import overlap
from cluster.settings import Settings
from cluster.status import CanaryStatus, VersionFigures
from tests.cluster.client.fake_server import FakeServer
from tests.cluster.statuses import make_status, make_worker

Run = Callable[..., Result]

MODELS = [
    make_status(
        "bge",
        "READY",
        workers=(make_worker(0, "READY", node="n0", cards=(1, 0), claim_bytes=2 * 2**30),),
    ),
    make_status("flux", "FAILED", type="image", reason="out of memory", error_code="load_failed"),
]
NODES = [{"node_type": "Worker", "ip_address": "10.0.0.2", "cpu_count": 8, "mem_total": 16 * 2**30, "gpu_count": 0}]
UNKNOWN = errors.UnknownUid("m is not launched; launched are bge.")

#: Listings: what the server says, and the words in the table's first line and rows.
LISTINGS = {
    "list": ("GET /v1/statuses", MODELS, ["UID", "bge", "n0:0,1", "2.0 GiB", "FAILED", "out of memory"]),
    "describe m": (
        "GET /v1/models/m",
        {
            "model_name": "bge-m3",
            "prompts": ["query", "passage"],
            "quantization": None,
            "engine": "onnx-int8",
            "engines": [
                {
                    "engine": "onnx-int8",
                    "short_ms": 1.94,
                    "tokens_per_s": 7711.6,
                    "cosine": 0.99271,
                    "rank": 0.98421,
                    "verdict": "chosen",
                }
            ],
        },
        ["FIELD", "bge-m3", "query, passage", "1.9 ms", "7712", "0.9927", "chosen"],
    ),
    "events m": (
        "GET /v1/models/m/events",
        [{"event_type": "INFO", "event_ts": 1_700_000_000, "event_content": "Launch model"}],
        ["TIME", "2023-11-1", "INFO", "Launch model"],
    ),
    "events --all": (
        "GET /v1/events",
        [
            {"id": 2, "event_type": "INFO", "event_ts": 1_700_000_000, "event_content": "later", "model_uid": "m"},
            {"id": 1, "event_type": "WARNING", "event_ts": 1_700_000_000, "event_content": "first", "model_uid": None},
        ],
        ["TIME", "MODEL", "first", "m", "later"],
    ),
    "registrations -t embedding": (
        "GET /v1/model_registrations/embedding",
        [{"model_name": "bge-m3", "is_builtin": True}],
        ["NAME", "bge-m3", "yes"],
    ),
    "nodes": (
        "GET /v1/cluster/info",
        [
            {
                **{"name": "gpu-1", "ip_address": "10.0.0.2", "state": "cordoned", "workers": 2, "version": "0.1.0"},
                **{"cpu_count": 8.0, "mem_total": 2**34, "mem_claimed": 2**30, "gpu_count": 4, "gpu_claimed": 1.5},
                "labels": {"zone": "b"},
                "cards": [
                    {
                        **{"number": 0, "name": "NVIDIA H200", "uuid": "GPU-1", "total": 141 * 2**30, "load": 0.4},
                        **{
                            "claimed": 9 * 2**30,
                            "used": 12 * 2**30,
                            "foreign": 3 * 2**30,
                            "foreign_by": "pid 7, python",
                        },
                        "processes": [
                            {"pid": 5, "name": "ray", "bytes": 9 * 2**30, "is_ours": True, "model": "m", "replica": 1},
                            {
                                "pid": 7,
                                "name": "python",
                                "bytes": None,
                                "is_ours": False,
                                "model": None,
                                "replica": None,
                            },
                        ],
                    },
                    {
                        **{"number": 1, "name": "", "uuid": "", "total": None, "load": None, "claimed": None},
                        **{"used": None, "foreign": 0, "foreign_by": "", "processes": []},
                    },
                    {
                        **{"number": 2, "name": "L4", "uuid": "", "total": 2**34, "load": None, "claimed": 0},
                        **{"used": 2**33, "foreign": 2**33, "foreign_by": ""},
                        "processes": [
                            {
                                **{"pid": None, "name": "", "bytes": 2**33},
                                **{"is_ours": False, "model": None, "replica": None},
                            }
                        ],
                    },
                ],
            }
        ],
        [
            *("NODE", "gpu-1", "10.0.0.2", "cordoned", "16.0 GiB", "1.5", "zone=b", "0.1.0"),
            *("NVIDIA H200", "141.0 GiB", "3.0 GiB (pid 7, python)", "40%", "m/1 (5) 9.0 GiB", "python (7) unknown"),
            "gpu-1  1     unknown      unknown    unknown  unknown   unknown                  unknown",
            "gpu-1  2     L4           16.0 GiB            8.0 GiB   8.0 GiB                  unknown  others 8.0 GiB",
        ],
    ),
    "keys list": (
        "GET /v1/keys",
        [{"id": "k1", "name": "ci", "scopes": ["list", "infer"], "models": None, "created": 1_700_000_000}],
        ["ID", "k1", "list infer", "any"],
    ),
}


@pytest.mark.parametrize("words", LISTINGS)
def test_a_listing_is_a_table_or_json(cluster: Run, server: FakeServer, words: str) -> None:
    route, answer, expected = LISTINGS[words]
    server.on(route, answer)
    table = cluster(*words.split())
    assert (table.exit_code, table.stderr) == (0, "")
    for word in expected:
        assert word in table.stdout
    assert "\x1b" not in table.stdout and "│" not in table.stdout
    as_json = cluster(*words.split(), "--json")
    assert (as_json.exit_code, as_json.stderr) == (0, "")
    plain = (
        answer
        if isinstance(answer, dict)
        else [part if isinstance(part, dict) else part.model_dump(mode="json") for part in answer]  # type: ignore[attr-defined]
    )
    assert json.loads(as_json.stdout) == plain


def test_list_of_a_type(cluster: Run, server: FakeServer) -> None:
    server.on("GET /v1/statuses", MODELS)
    assert [model["uid"] for model in json.loads(cluster("list", "-t", "image", "--json").stdout)] == ["flux"]


def test_an_empty_table_still_names_its_columns(cluster: Run, server: FakeServer) -> None:
    server.on("GET /v1/statuses", [])
    assert cluster("list").stdout.startswith("UID  TYPE")
    assert json.loads(cluster("list", "--json").stdout) == []


def test_nothing_is_cut_in_a_pipe(cluster: Run, server: FakeServer) -> None:
    reason = "m fits on no node (" + "; ".join(f"node{i}: 0 of 1 GPUs free" for i in range(20)) + ")"
    server.on("GET /v1/statuses", [make_status("m", "WAITING", reason=reason)])
    assert reason in cluster("list").stdout.splitlines()[1]


def test_status_shows_nodes_and_models(cluster: Run, server: FakeServer) -> None:
    server.on("GET /v1/cluster/version", {"version": "1.2"})
    server.on("GET /v1/cluster/info", NODES)
    server.on("GET /v1/statuses", MODELS)
    shown = cluster("status")
    assert shown.exit_code == 0
    for word in ("1.2", "10.0.0.2", "16.0 GiB", "bge", "out of memory"):
        assert word in shown.stdout
    told = json.loads(cluster("status", "--json").stdout)
    assert told["version"] == "1.2" and told["nodes"] == NODES and len(told["models"]) == 2


def test_status_of_one_model_shows_its_replicas_and_log(cluster: Run, server: FakeServer) -> None:
    workers = (make_worker(0, "READY", node="n0"), make_worker(1, "FAILED", node="n1", reason="CUDA out of memory"))
    server.on(
        "GET /v1/models/m/status", make_status("m", "DEGRADED", replica=2, ready=1, workers=workers, log_tail=("bye",))
    )
    shown = cluster("status", "m")
    for word in ("1/2", "n0 n1", "CUDA out of memory", "  bye"):
        assert word in shown.stdout


def test_status_shows_a_version_on_trial_beside_the_old_one(cluster: Run, server: FakeServer) -> None:
    new, old = VersionFigures(requests=4, failed=1, median_s=0.25), VersionFigures(requests=90, slowest_s=1.5)
    trial = CanaryStatus(generation=2, old_generation=1, percent=10, next="It goes on.", new=new, old=old)
    server.on("GET /v1/models/m/status", make_status("m", "READY", canary=trial))
    lines = [line.split() for line in cluster("status", "m").stdout.splitlines()]
    assert ["2", "10", "%", "4", "1", "250", "ms"] in lines
    assert ["1", "90", "%", "90", "0", "1500", "ms"] in lines
    assert ["It", "goes", "on."] in lines


def test_status_follows_until_ready(cluster: Run, server: FakeServer) -> None:
    server.on(
        "GET /v1/models/m/status", make_status(version=1), make_status(version=1), make_status(state="READY", version=2)
    )
    done = cluster("status", "m", "--follow", "--json")
    assert (done.exit_code, json.loads(done.stdout)["state"]) == (0, "READY")


@pytest.mark.parametrize("words", ["terminate a b", "terminate --model-uid a -u b", "terminate a --model-uid b"])
def test_terminate_takes_several(cluster: Run, server: FakeServer, words: str) -> None:
    server.on("DELETE /v1/models/a", None)
    server.on("DELETE /v1/models/b", None)
    done = cluster(*words.split())
    assert (done.exit_code, done.stdout) == (0, "a is terminated.\nb is terminated.\n")


def test_terminate_all(cluster: Run, server: FakeServer) -> None:
    server.on("GET /v1/statuses", MODELS)
    server.on("DELETE /v1/models/bge", None)
    server.on("DELETE /v1/models/flux", None)
    assert cluster("terminate", "--all").stdout == "bge is terminated.\nflux is terminated.\n"


def test_an_unknown_uid_does_not_save_the_others(cluster: Run, server: FakeServer) -> None:
    server.on("DELETE /v1/models/m", UNKNOWN)
    server.on("DELETE /v1/models/b", None)
    done = cluster("terminate", "m", "b")
    assert (done.exit_code, done.stdout, done.stderr) == (3, "b is terminated.\n", f"Error: {UNKNOWN}\n")


@pytest.mark.parametrize("words", [["terminate"], ["terminate", "--all", "m"]], ids=" ".join)
def test_terminate_is_told_what(cluster: Run, words: list[str]) -> None:
    assert cluster(*words).exit_code == 2


def test_scale(cluster: Run, server: FakeServer) -> None:
    server.on("POST /v1/models/m/scale", {"model_uid": "m", "replica": 3})
    assert cluster("scale", "m", "3").exit_code == 0
    assert server.seen[0].body == {"replica": 3}
    server.on("POST /v1/models/m/scale", {"model_uid": "m", "replica": 2})
    done = cluster("scale", "m", "--min", "0", "--max", "4", "--target-queue-s", "0.5")
    assert done.stdout == "m will have 2 replicas, and follows its load from there.\n"
    assert server.seen[1].body == {"min": 0, "max": 4, "target_queue_s": 0.5}
    assert cluster("scale", "m", "-1").exit_code == 2


def test_scale_without_a_number_says_how_many_there_are(cluster: Run, server: FakeServer) -> None:
    why = "Scaled from 2 to 3: requests waited 2.3 s, target 1 s"
    bounds = {"min": 0, "max": 4, "target_queue_s": 1.0}
    numbers = {"replica": 3, "ready": 2, "queue_s": 0.25, "requests": 12.0, "why": why}
    server.on("GET /v1/models/m/scale", bounds | numbers)
    assert cluster("scale", "m").stdout.splitlines() == [
        "m has 2 of 0–4 replicas, 3 wanted.",
        "12 requests, which wait 0.25 s.",
        "Scaled from 2 to 3: requests waited 2.3 s, target 1 s.",
    ]


def test_doze_sleep_and_wake(cluster: Run, server: FakeServer) -> None:
    rest = {"model_uid": "m", "state": "DOZING", "reason": "somebody let it doze; the next request wakes it"}
    server.on("POST /v1/models/m/doze", rest)
    assert cluster("doze", "m").stdout == "m dozes: somebody let it doze; the next request wakes it.\n"
    server.on("POST /v1/models/m/doze", rest | {"state": "ASLEEP"})
    assert cluster("doze", "m").stdout.startswith("m sleeps: ")
    rest = {"model_uid": "m", "state": "ASLEEP", "reason": "somebody sent it to sleep; the next request wakes it"}
    server.on("POST /v1/models/m/sleep", rest)
    assert cluster("sleep", "m").stdout == "m sleeps: somebody sent it to sleep; the next request wakes it.\n"
    server.on("POST /v1/models/m/wake", {"model_uid": "m", "state": "READY", "reason": ""})
    assert cluster("wake", "m").stdout.startswith("m is READY after ")


def test_restart(cluster: Run, server: FakeServer) -> None:
    server.on("POST /v1/models/m/restart", {"model_uid": "m", "generation": 2, "state": "READY"})
    assert cluster("restart", "m", "--reason", "stuck").stdout.startswith("m is READY with new processes after ")
    assert server.seen[0].body == {"reason": "stuck"} and server.seen[0].query == {"wait_ready": "true"}


def test_logs(cluster: Run, server: FakeServer) -> None:
    server.on("GET /v1/models/m/logs", {"lines": ["a", "b"]})
    assert cluster("logs", "m", "-l", "2").stdout == "a\nb\n"
    assert server.seen[0].query == {"lines": "2"}
    assert json.loads(cluster("logs", "m", "--json").stdout) == ["a", "b"]


def test_logs_are_followed_until_the_model_is_gone(cluster: Run, server: FakeServer) -> None:
    server.on("GET /v1/models/m/logs", {"lines": ["a", "b"]}, {"lines": ["b", "c"]}, UNKNOWN)
    done = cluster("logs", "m", "-f", "-l", "1")
    assert (done.exit_code, done.stdout) == (0, "b\nc\n")


@pytest.mark.parametrize(
    ("before", "after", "known"),
    [
        ("", "ab", 0),
        ("ab", "ab", 2),
        ("ab", "abc", 2),
        ("abc", "bcd", 2),
        ("ab", "cd", 0),
        ("aa", "aab", 2),
        ("ab", "", 0),
    ],
)
def test_lines_already_shown(before: str, after: str, known: int) -> None:
    assert overlap(list(before), list(after)) == known


def test_cached(cluster: Run, server: FakeServer) -> None:
    model = {"model_name": "bge-m3", "model_type": "embedding", "model_hub": "huggingface", "model_version": "v1"}
    there = {"path": "/w", "size_bytes": 2048, "used_by": ["m"], "actor_ip_address": "n0"}
    server.on("GET /v1/cache/models", {"list": [{**model, **there}]})
    assert cluster("cached", "-n", "bge-m3").stdout.splitlines()[1].split() == [
        *("bge-m3", "embedding", "huggingface", "v1", "2.0", "KiB", "m", "n0", "/w")
    ]
    assert server.seen[0].query == {"model_name": "bge-m3"}
    assert json.loads(cluster("cached", "--json").stdout)[0]["path"] == "/w"
    server.on("DELETE /v1/cache/models", {"result": True})
    assert cluster("cached", "--delete", "v1").exit_code == 0
    assert server.seen[-2].query == {"model_version": "v1"}


def test_engine_shows_what_runs_and_why_the_rest_does_not(cluster: Run, server: FakeServer) -> None:
    variants = [
        {"model_name": "bge-m3", "model_format": "pytorch", "quantization": "none"},
        {"model_name": "bge-m3", "model_format": "gguf", "quantization": "q4"},
    ]
    server.on("GET /v1/engines/bge-m3", {"torch": variants, "vllm": "vllm is not installed"})
    shown = cluster("engine", "-n", "bge-m3").stdout
    assert "gguf" in shown and "vllm is not installed" in shown
    assert json.loads(cluster("engine", "-n", "bge-m3", "-en", "Torch", "-f", "gguf", "--json").stdout) == {
        "torch": variants[1:]
    }


def test_register_and_unregister(cluster: Run, server: FakeServer, tmp_path: Path) -> None:
    server.on("POST /v1/model_registrations/embedding", None)
    server.on("DELETE /v1/model_registrations/embedding/mine", None)
    file = tmp_path / "mine.yaml"
    file.write_text("model_name: mine\ndimensions: 4\n")
    assert cluster("register", "-t", "embedding", "-f", str(file), "--persist").exit_code == 0
    sent = server.seen[0].body
    assert (json.loads(sent["model"]), sent["persist"]) == ({"model_name": "mine", "dimensions": 4}, True)
    assert cluster("unregister", "-t", "embedding", "-n", "mine").exit_code == 0


@pytest.mark.parametrize("text", ["{", "[]", "dimensions: 4"])
def test_a_file_that_describes_no_model(cluster: Run, tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.json"
    file.write_text(text)
    done = cluster("register", "-t", "embedding", "-f", str(file))
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "mine.json" in done.stderr


# Keys


def test_a_saved_key_is_used_and_is_nobody_elses_to_read(cluster: Run, server: FakeServer, tmp_path: Path) -> None:
    server.on("GET /v1/cluster/auth", {"auth": True})
    server.on("GET /v1/models", {"object": "list", "data": []})
    server.on("GET /v1/statuses", [])
    done = cluster("login", input="s3cret\n")
    assert done.exit_code == 0
    assert "s3cret" not in done.output
    [file] = (tmp_path / "home" / "auth").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    cluster("list")
    cluster("list", CLUSTER_API_KEY="other")
    cluster("list", "--api-key", "third", CLUSTER_API_KEY="other")
    cluster("list", "-e", server.url + "/")
    keys = [seen.key for seen in server.of("GET /v1/statuses")]
    assert keys == ["Bearer s3cret", "Bearer other", "Bearer third", "Bearer s3cret"]


def test_a_key_that_does_not_open_is_not_saved(cluster: Run, server: FakeServer, tmp_path: Path) -> None:
    server.on("GET /v1/cluster/auth", {"auth": True})
    server.on("GET /v1/models", errors.NotAuthenticated("The key is not known."))
    done = cluster("login", "--api-key", "wrong")
    assert (done.exit_code, done.stderr) == (10, "Error: The key is not known.\n")
    assert not (tmp_path / "home").exists()


def test_login_where_no_key_is_needed(cluster: Run, server: FakeServer) -> None:
    server.on("GET /v1/cluster/auth", {"auth": False})
    assert cluster("login").stdout == f"{server.url} does not ask for keys.\n"


def test_a_new_key_is_alone_on_stdout(cluster: Run, server: FakeServer) -> None:
    server.on("POST /v1/keys", {"id": "k1", "key": "sk-1", "name": "ci", "scopes": ["infer"], "models": ["m"]})
    done = cluster("keys", "create", "ci", "--scope", "infer", "--model", "m")
    assert (done.exit_code, done.stdout) == (0, "sk-1\n")
    assert server.seen[0].body == {"name": "ci", "scopes": ["infer"], "models": ["m"]}
    cluster("keys", "create", "ci")
    assert server.seen[1].body == {"name": "ci", "scopes": ["list", "infer"], "models": None}


def test_revoke(cluster: Run, server: FakeServer) -> None:
    server.on("DELETE /v1/keys/k1", None)
    assert cluster("keys", "revoke", "k1").exit_code == 0


# Where commands go, and how they fail


def test_the_endpoint_is_the_flag_or_the_environment(cluster: Run, server: FakeServer) -> None:
    server.on("GET /v1/statuses", [])
    nowhere = "http://127.0.0.1:9"
    assert cluster("list", "-e", server.url, CLUSTER_ENDPOINT=nowhere).exit_code == 0
    assert cluster("list", CLUSTER_ENDPOINT="", XINFERENCE_ENDPOINT=server.url).exit_code == 0
    assert cluster("list", CLUSTER_ENDPOINT=nowhere, XINFERENCE_ENDPOINT=server.url).exit_code == 9


#: A call of each command that talks.
TALKING = [
    *(
        "status",
        "status m",
        "list",
        "terminate m",
        "scale m 2",
        "events m",
        "events --all",
        "logs m",
        "cached",
        "engine -n m",
        "export",
    ),
    *(
        "registrations -t embedding",
        "unregister -t embedding -n m",
        "login",
        "keys list",
        "keys create k",
        "keys revoke k",
    ),
]


@pytest.mark.parametrize("words", TALKING)
def test_when_nobody_answers_it_is_9_and_one_sentence(cluster: Run, words: str) -> None:
    done = cluster(*words.split(), CLUSTER_ENDPOINT="http://127.0.0.1:9")
    assert done.exit_code == 9
    assert done.stderr == "Error: Nothing answers at http://127.0.0.1:9; start a cluster with `cluster up`.\n"
    assert done.stdout == ""


def test_every_error_ends_with_its_exit_code(cluster: Run, server: FakeServer) -> None:
    for kind in errors.every_error().values():
        server.on("GET /v1/statuses", kind("It is so."))
        done = cluster("list")
        assert (done.exit_code, done.stderr) == (kind.exit_code, "Error: It is so.\n")


def test_a_bad_setting_is_one_sentence(cluster: Run) -> None:
    done = cluster("list", CLUSTER_PORT="many")
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: port cannot be 'many'") and done.stderr.count("\n") == 1


# The command itself


@pytest.mark.parametrize("command", ["up", "down"])
def test_settings_are_flags(cluster: Run, command: str) -> None:
    done = cluster(command, "--help")
    fields = Settings.model_fields if command == "up" else ("home", "host", "port")
    for name in fields:
        assert f"--{name.replace('_', '-')}" in done.stdout


@pytest.mark.parametrize("words", ["--port 99999", "--port x", "--auth maybe", "-f /nowhere.yaml", "--prot 3"])
def test_up_refuses_what_it_does_not_take(cluster: Run, words: str) -> None:
    assert cluster("up", *words.split()).exit_code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script(cluster: Run, shell: str) -> None:
    assert "_CLUSTER_COMPLETE" in cluster("completion", shell).stdout
    assert cluster("completion", SHELL=f"/bin/{shell}").stdout == cluster("completion", shell).stdout


def complete(environment: dict[str, str], words: str) -> list[str]:
    variables = {**environment, "_CLUSTER_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "2"}
    command = [sys.executable, "-m", "cluster.cli"]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=True)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("command", ["terminate", "scale", "sleep", "wake", "events", "logs", "status"])
def test_uids_are_completed(environment: dict[str, str], server: FakeServer, command: str) -> None:
    models = [{"id": uid, "model_type": "embedding"} for uid in ("bge", "bert", "flux")]
    server.on("GET /v1/models", {"object": "list", "data": models})
    assert complete(environment, f"cluster {command} b") == ["bge", "bert"]


def test_completion_never_fails(environment: dict[str, str], server: FakeServer) -> None:
    server.on("GET /v1/models", errors.NotAuthenticated("A key is needed."))
    assert complete(environment, "cluster terminate b") == []
    assert complete({**environment, "CLUSTER_ENDPOINT": "http://127.0.0.1:9"}, "cluster terminate b") == []
    assert complete({**environment, "CLUSTER_PORT": "many"}, "cluster terminate b") == []


def test_version_says_both(cluster: Run, server: FakeServer) -> None:
    assert cluster("--version").stdout.strip()
    server.on("GET /v1/cluster/version", {"version": "1.2"})
    assert json.loads(cluster("version", "--json").stdout)["server"] == "1.2"
    assert f"server 1.2 at {server.url}" in cluster("version").stdout
    alone = cluster("version", CLUSTER_ENDPOINT="http://127.0.0.1:9")
    assert alone.exit_code == 0 and "server unknown: Nothing answers" in alone.stdout


def test_the_fast_path_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "cluster.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "cluster" in imported
    assert imported & {"ray", "torch", "fastapi", "transformers", "numpy"} == set()


def test_every_command_has_help_of_one_line() -> None:
    for name, command in main.commands.items():
        assert command.help and command.help.splitlines()[0].endswith("."), name
