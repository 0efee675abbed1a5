"""Dry runs of missing files and of files made to harm whoever reads them: over HTTP, while the ingress serves
others."""

from __future__ import annotations

import statistics
import struct
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.live import LiveCluster

#: One list of 2^60 numbers in 49 bytes.
HUGE = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 4, 2**60)


def dry_run(live: LiveCluster, **fields: object) -> tuple[int, dict[str, object]]:
    answer = live.post("/v1/models?dry_run=true", fields)
    return answer.status_code, answer.json()


def test_a_folder_that_is_not_there_is_the_error_that_the_launch_would_end_with(live: LiveCluster) -> None:
    body = {"model_name": "mine", "model_type": "embedding", "model_uid": "missing", "model_path": "/not/here"}
    status, answer = dry_run(live, **body)
    launched = live.post("/v1/models", body)
    live.client().terminate_model("missing")
    assert status == launched.status_code == 503
    assert "/not/here does not exist on" in str(answer["error"]) and answer["error"] == launched.json()["error"]
    assert dry_run(live, model_name="ce-tiny", model_type="rerank")[1]["fits"] is True


def test_a_plan_is_the_answer_of_a_dry_run_for_every_type(live: LiveCluster) -> None:
    first = {row["type"]: row["name"] for row in reversed(live.get("/v1/catalog").json())}
    assert {"embedding", "rerank", "image", "ocr", "llm", "classify"} <= set(first)
    for type, name in first.items():
        body = {"model_name": name, "model_type": type, "model_uid": "planned", "replica": 2}
        plan = live.post("/v1/plan", body)
        assert (plan.status_code, plan.json()) == dry_run(live, **body), (type, name)
    assert "planned" not in live.client().list_models()
    assert live.post("/v1/plan", {"model_type": "embedding"}).status_code == 400


def test_a_hostile_file_costs_the_ingress_no_memory_and_its_callers_no_time(live: LiveCluster, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(HUGE)
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(500_000_000)
    ingress = next(process for process in live.processes() if "ServeReplica" in " ".join(process.cmdline()))
    before, slowest, stop = ingress.memory_info().rss, [0.0], threading.Event()

    def others() -> None:
        while not stop.is_set():
            begun = time.monotonic()
            assert live.get("/health").status_code == 200
            slowest.append(time.monotonic() - begun)

    other = threading.Thread(target=others)
    other.start()
    most = before
    try:
        for _ in range(10):
            status, answer = dry_run(
                live, model_name="FLUX.1-dev", model_type="image", gguf_model_path=str(tmp_path / "m.gguf")
            )
            assert status == 500 and "not a complete GGUF file" in str(answer), answer
            status, answer = dry_run(live, model_name="m", model_type="embedding", model_path=str(tmp_path))
            most = max(most, ingress.memory_info().rss)
    finally:
        stop.set()
        other.join()
    print(f"\nthe ingress took {(most - before) / 1e6:.0f} MB more, others waited {max(slowest) * 1000:.0f} ms at most")
    assert most - before < 100_000_000


@pytest.mark.slow
def test_what_a_dry_run_costs(live: LiveCluster) -> None:
    seconds = []
    for _ in range(20):
        begun = time.perf_counter()
        assert dry_run(live, model_name="ce-tiny", model_type="rerank")[0] == 200
        seconds.append(time.perf_counter() - begun)
    print(f"\na dry run takes {statistics.median(seconds) * 1000:.0f} ms, load {psutil.getloadavg()[0]:.1f}")
    assert statistics.median(seconds) < 1
