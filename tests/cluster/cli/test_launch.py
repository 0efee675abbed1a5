"""`cluster launch`: what it sends, what it shows, how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result

from cluster import errors
from cluster.cli.output import local_time
from cluster.launch import LaunchSpec
from tests.cluster.cli.terminal import Terminal
from tests.cluster.client.fake_server import FakeServer
from tests.cluster.statuses import make_status, make_worker

Run = Callable[..., Result]

LAUNCHED = {"model_uid": "m", "generation": 1}
LOADING = make_status(version=1, workers=(make_worker(stage="loading", progress=0.5),))
READY = make_status(state="READY", version=2, workers=(make_worker(state="READY"),))


def test_help_lists_every_field_of_the_spec(cluster: Run) -> None:
    done = cluster("launch", "--help")
    assert done.exit_code == 0
    for name in LaunchSpec.model_fields.keys() - {"options"}:
        assert f"--{name.replace('_', '-')}" in done.stdout


def test_a_launch_that_becomes_ready(cluster: Run, server: FakeServer) -> None:
    server.on("POST /v1/models", LAUNCHED)
    server.on("GET /v1/models/m/status", LOADING, READY)
    done = cluster("launch", "--model-name", "m", "-t", "embedding")
    assert done.exit_code == 0
    uid_line, curl_line = done.stdout.splitlines()
    assert uid_line == "Model uid: m"
    assert curl_line.startswith(f"curl {server.url}/v1/embeddings ")
    assert '{"model":"m","input":"hello"}' in curl_line
    assert done.stderr == "m: loading (50%)\nm: ready (100%)\n"


def test_what_is_written_is_what_is_sent(cluster: Run, server: FakeServer) -> None:
    server.on("POST /v1/models", LAUNCHED)
    server.on("GET /v1/models/m/status", READY)
    words = "-n m -t image -en torch -u m -s 1_8 -f pytorch -q none -r 2 -mp /w --n_gpu none --env A=1"
    family = "--cpu_offload True --torch-dtype=bf16 --n-worker 1"
    assert cluster("launch", *words.split(), *family.split(), "--no-wait").exit_code == 0
    [launch] = server.of("POST /v1/models")
    assert launch.query == {"wait_ready": "false"}
    assert launch.body == {
        "model_name": "m",
        "model_type": "image",
        "model_engine": "torch",
        "model_uid": "m",
        "model_size_in_billions": "1_8",
        "model_format": "pytorch",
        "quantization": "none",
        "replica": 2,
        "model_path": "/w",
        "n_gpu": None,
        "envs": {"A": "1"},
        "cpu_offload": True,
        "torch_dtype": "bf16",
        # Xinference's command line sends this with every launch, and the ingress removes it.
        "n_worker": 1,
    }


def test_no_wait_returns_at_once(cluster: Run, server: FakeServer) -> None:
    server.on("POST /v1/models", LAUNCHED)
    server.on("GET /v1/models/m/status", LOADING)
    done = cluster("launch", "-n", "m", "--no-wait")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "Model uid: m\n", "")


def test_json_is_the_status(cluster: Run, server: FakeServer) -> None:
    server.on("POST /v1/models", LAUNCHED)
    server.on("GET /v1/models/m/status", LOADING, READY)
    done = cluster("launch", "-n", "m", "--json")
    assert json.loads(done.stdout) == READY.model_dump(mode="json")


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("rerank", "/v1/rerank"),
        ("image", "/v1/images/generations"),
        ("ocr", "/v1/images/ocr"),
        ("LLM", "/v1/chat/completions"),
    ],
)
def test_the_first_call_fits_the_type(cluster: Run, server: FakeServer, kind: str, path: str) -> None:
    server.on("POST /v1/models", LAUNCHED)
    server.on("GET /v1/models/m/status", make_status(state="READY", type=kind))
    done = cluster("launch", "-n", "m", "--api-key", "s3cret")
    curl = done.stdout.splitlines()[1]
    assert curl.startswith(f'curl {server.url}{path} -H "Authorization: Bearer $CLUSTER_API_KEY"')
    assert "s3cret" not in done.output


# Ends


REFUSED = [
    (errors.BadOption("m takes no option 'zoom'."), 2),
    (errors.UnknownModel("There is no model 'm'."), 3),
    (errors.Conflict("m is taken by another spec."), 11),
    (errors.NotAuthenticated("A key is needed."), 10),
    (errors.NotPermitted("The key may not launch."), 10),
    (errors.DoesNotFit("m fits on no node (a: 0 of 1 GPUs free)."), 4),
    (errors.Unavailable("The supervisor does not answer."), 9),
]


@pytest.mark.parametrize(("error", "exit_code"), REFUSED, ids=lambda value: getattr(value, "message", None))
def test_a_refused_launch_says_why(
    cluster: Run, server: FakeServer, error: errors.ClusterError, exit_code: int
) -> None:
    server.on("POST /v1/models", error)
    done = cluster("launch", "-n", "m")
    assert (done.exit_code, done.stdout, done.stderr) == (exit_code, "", f"Error: {error.message}\n")


FAILED = {
    "load_failed": 6,
    "download_failed": 5,
    "does_not_fit": 4,
    "launch_cancelled": 7,
    "bad_option": 2,
    "unknown_model": 3,
    "": 6,
}


@pytest.mark.parametrize(("code", "exit_code"), FAILED.items())
def test_a_failed_launch_ends_with_the_code_of_its_error(
    cluster: Run, server: FakeServer, code: str, exit_code: int
) -> None:
    server.on("POST /v1/models", LAUNCHED)
    server.on("GET /v1/models/m/status", LOADING, make_status(state="FAILED", error_code=code, reason="It broke."))
    done = cluster("launch", "-n", "m", "--json")
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert done.stderr.endswith("Error: It broke.\n")


def test_a_failed_load_shows_how_its_log_ended(cluster: Run, server: FakeServer) -> None:
    server.on("POST /v1/models", LAUNCHED)
    failed = make_status(
        state="FAILED", error_code="load_failed", reason="m could not be loaded.", log_tail=("reading", "KeyError: 'x'")
    )
    server.on("GET /v1/models/m/status", failed)
    done = cluster("launch", "-n", "m")
    assert done.stderr.endswith("Error: m could not be loaded.\nThe log ended with:\n  reading\n  KeyError: 'x'\n")


def test_a_launch_cancelled_elsewhere(cluster: Run, server: FakeServer) -> None:
    server.on("POST /v1/models", LAUNCHED)
    server.on("GET /v1/models/m/status", LOADING, errors.UnknownUid("m is not launched."))
    done = cluster("launch", "-n", "m")
    assert done.exit_code == 7
    assert done.stderr.endswith("Error: The launch of m was cancelled before it was READY.\n")


def test_time_is_up(cluster: Run, server: FakeServer) -> None:
    server.on("POST /v1/models", LAUNCHED)
    server.on("GET /v1/models/m/status", LOADING)
    done = cluster("launch", "-n", "m", "--timeout", "0.1")
    assert (done.exit_code, done.stdout) == (8, "")
    assert "The launch of m goes on" in done.stderr
    assert "cluster terminate m" in done.stderr


def test_nobody_answers(cluster: Run) -> None:
    done = cluster("launch", "-n", "m", "-e", "http://127.0.0.1:9")
    assert done.exit_code == 9
    assert done.stderr == "Error: Nothing answers at http://127.0.0.1:9; start a cluster with `cluster up`.\n"


BAD_USAGE = {
    "": "Missing option '-n'",
    "-n m --replica x": "'x' is not a valid integer",
    "-n m --replica 0": "replica cannot be 0",
    "-n m --download-hub x": "'x' is not one of",
    "-n m -lm sketch": "-lm needs a name and a path",
    "bge-m3 -n m": "name the model with --model-name",
    "-n m --gpu-idx 0,1,2 -r 2": "Allocated gpu must be a multiple of replica.",
}


@pytest.mark.parametrize(("words", "said"), BAD_USAGE.items())
def test_bad_usage_is_2_and_asks_no_server(cluster: Run, server: FakeServer, words: str, said: str) -> None:
    done = cluster("launch", *words.split())
    assert done.exit_code == 2
    assert said in done.stderr
    assert server.seen == []


def test_a_misspelt_flag_gets_its_name(cluster: Run, server: FakeServer) -> None:
    server.on("POST /v1/models", errors.BadOption("m takes no option 'replcas'; it takes normalize.", "replcas"))
    done = cluster("launch", "-n", "m", "--replcas", "2")
    assert done.exit_code == 2
    assert done.stderr == "Error: m takes no option 'replcas'; it takes normalize. Did you mean --replica?\n"


def test_what_the_server_suggests_is_left_as_it_is(cluster: Run, server: FakeServer) -> None:
    said = "m takes no option 'replcas'. Did you mean 'replicas_per_batch'?"
    server.on("POST /v1/models", errors.BadOption(said, "replcas"))
    assert cluster("launch", "-n", "m", "--replcas", "2").stderr == f"Error: {said}\n"


def test_a_family_option_that_looks_like_a_flag_is_the_servers_to_judge(cluster: Run, server: FakeServer) -> None:
    server.on("POST /v1/models", LAUNCHED)
    server.on("GET /v1/models/m/status", READY)
    assert cluster("launch", "-n", "m", "--replicas", "2").exit_code == 0
    assert server.of("POST /v1/models")[0].body == {"model_name": "m", "replicas": 2}


# Dry run


def test_a_dry_run_launches_nothing(cluster: Run, server: FakeServer) -> None:
    server.on("POST /v1/models", {"fits": True, "reason": "", "claim_bytes": 2 * 2**30})
    done = cluster("launch", "-n", "m", "--dry-run")
    assert (done.exit_code, done.stdout) == (0, "m fits and would claim 2.0 GiB per replica.\n")
    assert server.of("POST /v1/models")[0].query == {"dry_run": "true"}


def test_a_dry_run_shows_the_parts_of_a_pipeline_and_what_would_make_them_fit(cluster: Run, server: FakeServer) -> None:
    part = {"component": "transformer", "class": "FluxTransformer2DModel", "dtype": "bfloat16", "quantization": "nf4"}
    plan = {
        "components": [{**part, "bytes": 5 * 2**30, "lives_on": "card"}],
        "activation_bytes": 3 * 2**30,
        "fixed_bytes": 2**29,
        "spare_bytes": 2**28,
        "peak_bytes": 35 * 2**28,
        "advice": "m needs 9.1 GB, and the card has 8.0 GB; with cpu_offload=model it needs 6.4 GB.",
    }
    server.on("POST /v1/models", {"fits": True, "reason": "", "claim_bytes": 9 * 2**30, "plan": plan})
    done = cluster("launch", "-n", "m", "--dry-run")
    assert done.stdout == (
        "COMPONENT    CLASS                   DTYPE     QUANTISATION  SIZE     LIVES ON\n"
        "transformer  FluxTransformer2DModel  bfloat16  nf4           5.0 GiB  card\n"
        "Peak 8.8 GiB, of which 3.0 GiB for computing, 512.0 MiB for the process and 256.0 MiB to spare.\n"
        "m needs 9.1 GB, and the card has 8.0 GB; with cpu_offload=model it needs 6.4 GB.\n"
        "m fits and would claim 9.0 GiB per replica.\n"
    )
    assert json.loads(cluster("launch", "-n", "m", "--dry-run", "--json").stdout)["plan"] == plan


def test_a_dry_run_on_a_card_tells_the_card_the_node_and_what_was_measured(cluster: Run, server: FakeServer) -> None:
    measured = {"memory_bytes": 2**30, "card_bytes": 3 * 2**30, "at": 0.0}
    fit = {"fits": True, "reason": "", "claim_bytes": 2**30, "card_bytes": 3 * 2**30, "nodes": ["n0", "n0", "n1"]}
    server.on("POST /v1/models", {**fit, "measured": measured})
    assert cluster("launch", "-n", "m", "--dry-run").stdout == (
        "m fits and would claim 3.0 GiB of a card and 1.0 GiB of main memory per replica on n0, n1. "
        f"Such a launch was measured to take 3.0 GiB of a card and 1.0 GiB of main memory on {local_time(0.0)}.\n"
    )


def test_a_dry_run_of_what_does_not_fit_shows_the_flags_that_would_make_it_smaller(
    cluster: Run, server: FakeServer
) -> None:
    ladder = [
        {"changes": {"vae_tiling": True}, "claim_bytes": 2**30, "card_bytes": 9 * 2**30, "fits": False},
        {"changes": {"n_gpu": None}, "claim_bytes": 3 * 2**30, "card_bytes": 0, "fits": True},
    ]
    fit = {"fits": False, "reason": "m fits on no node (a: too small).", "claim_bytes": 5, "ladder": ladder}
    server.on("POST /v1/models", fit)
    done = cluster("launch", "-n", "m", "--dry-run")
    assert done.exit_code == 4
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["WITH", "CLAIMS", "FITS"],
        "--vae-tiling true 9.0 GiB of a card and 1.0 GiB of main memory no".split(),
        "--n-gpu none 3.0 GiB yes".split(),
    ]


def test_a_dry_run_of_what_does_not_fit(cluster: Run, server: FakeServer) -> None:
    fit = {"fits": False, "reason": "m fits on no node (a: 0 of 1 GPUs free; b: draining).", "claim_bytes": 5}
    server.on("POST /v1/models", fit)
    done = cluster("launch", "-n", "m", "--dry-run", "--json")
    assert done.exit_code == 4
    assert json.loads(done.stdout) == fit
    assert done.stderr == "Error: m fits on no node (a: 0 of 1 GPUs free; b: draining).\n"


# At a terminal


DOWNLOADING = make_status(
    version=1,
    workers=(make_worker(stage="downloading", progress=0.25, done_bytes=2**28, total_bytes=2**30),),
)


def test_bars_show_stage_bytes_and_percent(at_terminal: Callable[..., Terminal], server: FakeServer) -> None:
    server.on("POST /v1/models", LAUNCHED)
    # The pause between two equal answers gives the progress bars time to be drawn.
    server.on("GET /v1/models/m/status", DOWNLOADING, DOWNLOADING, DOWNLOADING, READY)
    terminal = at_terminal("launch", "-n", "m")
    terminal.read_until("m  downloading")
    terminal.read_until("25%")
    terminal.read_until("256.0 MiB of 1.0 GiB")
    code, stdout = terminal.end()
    assert code == 0
    assert stdout.startswith("Model uid: m\n")


@pytest.mark.parametrize(("reply", "is_cancelled"), [("y\n", True), ("n\n", False)])
def test_ctrl_c_asks_whether_to_cancel(
    at_terminal: Callable[..., Terminal], server: FakeServer, reply: str, is_cancelled: bool
) -> None:
    server.on("POST /v1/models", LAUNCHED)
    server.on("GET /v1/models/m/status", DOWNLOADING)
    server.on("POST /v1/models/m/cancel", None)
    terminal = at_terminal("launch", "-n", "m")
    terminal.read_until("downloading")
    terminal.interrupt()
    terminal.read_until("Cancel the launch of m?")
    terminal.answer(reply)
    terminal.read_until("is cancelled" if is_cancelled else "goes on")
    assert terminal.end() == (130, "")
    assert len(server.of("POST /v1/models/m/cancel")) == is_cancelled


def test_a_question_nobody_answers_leaves_the_launch(at_terminal: Callable[..., Terminal], server: FakeServer) -> None:
    server.on("POST /v1/models", LAUNCHED)
    server.on("GET /v1/models/m/status", DOWNLOADING)
    terminal = at_terminal("launch", "-n", "m")
    terminal.read_until("downloading")
    terminal.interrupt()
    terminal.read_until("Cancel the launch of m?")
    # This is Ctrl-D. A second Ctrl-C does the same, but Python misses one that arrives just before it begins to read.
    terminal.answer("\x04")
    terminal.read_until("The launch of m goes on")
    assert terminal.end() == (130, "")


def test_ctrl_c_with_nobody_to_ask_leaves_the_launch(at_terminal: Callable[..., Terminal], server: FakeServer) -> None:
    server.on("POST /v1/models", LAUNCHED)
    server.on("GET /v1/models/m/status", DOWNLOADING)
    terminal = at_terminal("launch", "-n", "m", is_terminal=False)
    terminal.read_until("downloading")
    terminal.interrupt()
    terminal.read_until("The launch of m goes on")
    assert terminal.end() == (130, "")
    assert "Cancel" not in terminal.text
