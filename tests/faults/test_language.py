"""Language models whose processes end or hang, while many have answers under way."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import errors
from cluster.status import ModelState
from tests.deployments.llm.checkpoints import save_language
from tests.deployments.llm.test_vllm import Engine
from tests.faults.talkers import Talkers, talkers
from tests.faults.test_faults import alive, kill
from tests.live import LiveCluster, until

pytestmark = pytest.mark.ray

PATIENCE_S = 120
#: Answers under way when something ends; that many at most may have had a piece.
CALLERS = 6


@pytest.fixture
def engine(breakable: LiveCluster) -> Iterator[Engine]:
    """The one that stands in for vLLM there."""
    engine = Engine(breakable.home / "engine.json")
    engine.write(step_s=0.002)
    yield engine
    breakable.terminate_all()
    until(lambda: not engine.processes(), within=30, why="engines of models that were ended are left")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_language(tmp_path_factory.mktemp("llama"))


def launch(cluster: LiveCluster, folder: Path, uid: str, **fields: Any) -> str:
    with cluster.client() as client:
        return client.launch_model(
            model_name=uid, model_type="llm", model_path=str(folder), model_engine="vllm", model_uid=uid, **fields
        )


def check(seen: Talkers) -> None:
    assert seen.before == [], seen.before
    assert len(seen.after) <= CALLERS
    assert all(any(word in said for word in ("lost", "gone", "broken")) for _, said in seen.after), seen.after
    # What is promised is half a second; who measures beside others allows for more.
    assert all(seconds < 5 for seconds, _ in seen.after), seen.after


@pytest.mark.parametrize("kind", ["core", "server", "guard"])
def test_an_engine_that_is_killed_costs_only_answers_that_had_begun(
    kind: str, breakable: LiveCluster, engine: Engine, folder: Path
) -> None:
    uid = launch(breakable, folder, f"killed-{kind}")
    (pid,) = breakable.worker_pids(uid)
    before = engine.processes()
    with talkers(breakable.url, uid, CALLERS, 24) as seen:
        killed = kill(engine.process(kind).pid)
        until(lambda: breakable.worker_pids(uid) not in ([], [pid]), within=PATIENCE_S, why="no other worker")
        back = time.monotonic() - killed
    print(f"\n{kind} killed: {seen}, READY again after {back:.1f} s")
    check(seen)
    until(lambda: not set(before) & set(engine.processes()), within=30, why="something of the old engine is left")


def test_a_worker_that_is_killed_takes_its_engine_along(breakable: LiveCluster, engine: Engine, folder: Path) -> None:
    uid = launch(breakable, folder, "orphaned")
    (pid,) = breakable.worker_pids(uid)
    before = engine.processes()
    assert len(before) == 3
    with talkers(breakable.url, uid, CALLERS, 24) as seen:
        kill(pid)
        until(lambda: not set(before) & set(engine.processes()), within=PATIENCE_S)
        until(lambda: breakable.worker_pids(uid) not in ([], [pid]), within=PATIENCE_S, why="no other worker")
    print(f"\nits worker killed: {seen}")
    check(seen)
    with breakable.client() as client:
        client.terminate_model(uid)
    until(lambda: not engine.processes(), within=30, why="the engine of a model that was ended is left")


def test_a_killed_worker_costs_no_answer_that_had_not_begun(breakable: LiveCluster) -> None:
    with breakable.client() as client:
        uid = client.launch_model("smollm2-135m-instruct", "llm", model_engine="llamacpp", cache_gb=0.1, slots=2)
    (pid,) = breakable.worker_pids(uid)
    # Two are written at a time, the others wait for their first piece.
    with talkers(breakable.url, uid, CALLERS, 32) as seen:
        kill(pid)
        until(lambda: breakable.worker_pids(uid) not in ([], [pid]), within=PATIENCE_S, why="no other worker")
    print(f"\na worker of llama.cpp killed: {seen}")
    check(seen)
    assert len(seen.after) <= 2


def test_a_worker_that_falls_silent_while_it_loads_is_replaced(breakable: LiveCluster) -> None:
    body = {"model_name": "echo", "model_type": "echo", "model_uid": "silent", "load_seconds": 5}
    breakable.post("/v1/models?wait_ready=false", body).raise_for_status()
    with breakable.client() as client:
        until(lambda: client.status("silent").stage == "loading", within=30)
        (worker,) = client.status("silent").workers
        pid = int(worker.pid or 0)
        os.kill(pid, signal.SIGSTOP)
        until(lambda: client.status("silent").state == ModelState.READY, within=PATIENCE_S, why="nobody replaced it")
        (other,) = client.status("silent").workers
    assert other.pid != pid
    until(lambda: not alive(pid), within=30, why="the silent process keeps its memory")


def test_an_engine_that_is_silent_while_it_loads_says_so(breakable: LiveCluster, engine: Engine, folder: Path) -> None:
    engine.file.write_text(json.dumps({"load": "silent"}))
    with pytest.raises(errors.LoadFailed, match="neither answered nor written to its log for 2. s: it is loaded"):
        launch(breakable, folder, "quiet")
    until(lambda: not engine.processes(), within=30, why="it is left")


def test_rays_node_process_takes_the_engines_along_and_they_come_back(
    breakable: LiveCluster, engine: Engine, folder: Path
) -> None:
    uid = launch(breakable, folder, "whole-node")
    before = engine.processes()
    assert len(before) == 3
    with talkers(breakable.url, uid, CALLERS, 24) as seen:
        breakable.named("raylet/raylet")[0].kill()
        until(lambda: not set(before) & set(engine.processes()), within=30, why="an engine outlives its node")
        until(lambda: len(engine.processes()) == 3, within=PATIENCE_S, why="no other engine")
        answered = seen.whole
        until(lambda: seen.whole > answered, within=PATIENCE_S, why="nobody is answered any more")
    print(f"\nraylet killed: {seen}")
    assert seen.before == [], seen.before
