"""The commands and programs in the README are run here, so that they stay true."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.live import ROOT, LiveCluster
from tests.pipelines import saved

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
SHELL = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if line]
#: Commands that need weights from a hub, or a GPU.
ELSEWHERE = [line[2:] for kind, text in BLOCKS if kind == "console" for line in text.splitlines() if line[:2] == "$ "]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]


@pytest.mark.ray
def test_every_command_of_the_readme_works(live: LiveCluster, embedder: str, tmp_path: Path) -> None:
    with live.client() as client:
        client.launch_model(model_name="ce-tiny", model_type="rerank")
    (tmp_path / "models.yaml").write_text(next(text for kind, text in BLOCKS if kind == "yaml" and "models:" in text))
    seen = set()
    for line in SHELL:
        words = shlex.split(line)
        if words[0] in ("make", "source"):
            continue  # the tests already run in the environment that one of them makes and the other activates
        if words[0] == "curl":
            line = line.replace("http://127.0.0.1:9997", live.url)
            answer = json.loads(subprocess.run(line, shell=True, capture_output=True, check=True, timeout=30).stdout)
            assert answer["results"][0]["index"] == 1
            continue
        assert words[0] == "cluster", line
        done = subprocess.run(
            live.command_line(*words[1:]),
            env=live.environment,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
        )
        # `diff` exits with 1 when there are differences.
        assert done.returncode == (1 if words[1] == "diff" else 0), f"{line}\n{done.stdout}\n{done.stderr}"
        seen.add(words[1])
    assert {"launch", "list", "apply", "keys", "scale"} <= seen
    with live.client() as client:
        for key in client.list_keys():
            client.revoke_key(key["id"])


@pytest.mark.ray
def test_the_python_of_the_readme_runs(live: LiveCluster, capsys: pytest.CaptureFixture[str]) -> None:
    with live.client() as client:
        client.launch_model(model_name="ce-tiny", model_type="rerank")
    exec(PYTHON[0].replace("http://127.0.0.1:9997", live.url), {})
    assert capsys.readouterr().out == "2 1\n"


@pytest.fixture(scope="module")
def flux(live: LiveCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tiny model of the same kind and under the same uid as the large one in the README."""
    folder = saved("flux", tmp_path_factory.mktemp("models") / "flux")
    with live.client() as client:
        yield client.launch_model("tiny-flux", "image", model_uid="flux", model_path=str(folder))
        client.terminate_model("flux")


@pytest.mark.ray
def test_a_scan_is_read_as_the_readme_says(live: LiveCluster, tmp_path: Path) -> None:
    page = Image.new("RGB", (800, 300), "white")
    ImageDraw.Draw(page).text((40, 100), "The moon pulls the sea", fill="black", font_size=48)
    page.save(tmp_path / "scan.pdf")
    lines = [shlex.split(line) for line in ELSEWHERE if " ocr" in line]
    assert [words[1] for words in lines] == ["launch", "ocr"]
    for words in lines:
        done = subprocess.run(
            live.command_line(*words[1:]),
            env=live.environment,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
    with live.client() as client:
        text = client.get_model("ppocr-v6").ocr(tmp_path / "scan.searchable.pdf")
        client.terminate_model("ppocr-v6")
    assert "moon pulls" in str(text)


@pytest.mark.ray
def test_pictures_are_drawn_as_the_readme_says(
    live: LiveCluster, flux: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in ELSEWHERE:
        words = shlex.split(line)
        if words[1] == "launch" and "image" in words:
            # All files that it needs are there; whether it fits depends on the machine.
            words = [*words, "--dry-run"]
            assert live.command(*words[1:]).returncode in (0, 4), line
        if words[1] == "generate":
            done = live.command(*words[1:-1], str(tmp_path / words[-1]))
            assert done.returncode == 0, done.stderr
            assert Image.open(tmp_path / words[-1]).size == (512, 512)
    exec(PYTHON[1].replace("http://127.0.0.1:9997", live.url), {})
    assert capsys.readouterr().out == "iVBORw0K\n"


@pytest.mark.ray
def test_a_language_model_answers_as_the_readme_says(
    live: LiveCluster, talker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(PYTHON[2].replace("http://127.0.0.1:9997", live.url), {})
    assert capsys.readouterr().out == "The capital of France is Paris."


#: The test that breaks what each row of the table of deaths names; the tests of k8s also lose nodes and heads.
DEATHS = {
    "one of several workers, `kill -9`": "test_a_killed_worker_costs_no_request_and_comes_back",
    "the only worker of a model": "test_the_only_worker_killed_holds_requests_until_it_is_back",
    "a worker that hangs": "test_a_worker_that_is_stopped_is_replaced_and_costs_nobody_his_answer",
    "workers, by one request that no worker survives": "test_poison_that_is_repeated_under_traffic_fails_nobody_else",
    "a request in which workers hang": (
        "test_a_request_that_hangs_every_worker_is_found_and_costs_nobody_else_his_answer"
    ),
    "a worker whose model fails every call": (
        "test_a_worker_that_fails_everything_costs_nobody_else_his_answer_and_is_replaced"
    ),
    "the supervisor": "test_a_killed_supervisor_costs_no_request_and_adopts_the_workers",
    "an ingress, of several": "test_a_killed_ingress_is_replaced_while_the_other_serves",
    "an ingress or the supervisor that hangs": "test_an_ingress_and_the_supervisor_that_hang_are_found_and_replaced",
    "Ray's control process, or its agent": "test_rays_control_process_killed_costs_no_request_and_no_worker",
    "Ray's node process, and so all that runs on it": "test_rays_node_process_killed_takes_all_along_and_callers_wait",
    "the watchdog that does all this": "test_the_watchdog_killed_costs_nothing_and_the_next_start_watches_on",
    "a machine that has joined, or Ray on it": "test_machines_join_come_back_and_leave_under_traffic",
    "memory, to another process": "test_the_model_above_its_claim_gives_way_and_nobody_else_notices",
    "one of several clusters behind a gateway, `kill -9` of everything": (
        "test_models_of_both_cells_serve_under_one_address_and_a_dead_cell_costs_no_request"
    ),
    "everything, the watchdog too": "test_everything_killed_and_started_again_serves_what_was_wished",
    "a bad update": "test_a_bad_update_leaves_the_old_serving",
    "a full disk": "test_on_a_full_disk_what_dies_is_replaced_the_supervisor_included",
    "a damaged store": "test_after_down_the_file_alone_is_whole_and_damaged_it_is_salvaged_by_up",
    "a step back to an older version": "test_a_wish_that_cannot_be_read_keeps_its_workers_and_its_route",
}


def test_each_row_of_the_table_of_deaths_is_broken_by_a_test() -> None:
    table = README.partition("## What happens when something dies")[2].partition("\n\n`python")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows == list(DEATHS)
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__))
    assert [name for name in DEATHS.values() if f"def {name}(" not in tests] == []


def test_every_file_the_readme_names_is_there() -> None:
    for name in re.findall(r"`((?:cluster|deployments|benchmarks|tests)/[\w/.]+)`", README):
        assert (ROOT / name).exists(), name
