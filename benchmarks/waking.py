"""How long a request takes that wakes its model, from ASLEEP and from DOZING, and what a dozing model takes.

python -m benchmarks.waking [--times 5] [--only all-MiniLM-L6-v2]
"""

from __future__ import annotations

import argparse
import base64
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from cluster import Client
from cluster.status import ModelStatus, WorkerState
from deployments.ocr.ppocr.family import drawn_page
from tests.live import LiveCluster

#: Longest that a model may take to wake.
PATIENCE_S = 120.0
#: By its name and type: the route, and what is asked there.
ASKED: dict[tuple[str, str], tuple[str, Callable[[], dict[str, Any]]]] = {
    ("all-MiniLM-L6-v2", "embedding"): ("/v1/embeddings", lambda: {"input": "the weather is lovely"}),
    ("ce-tiny", "rerank"): ("/v1/rerank", lambda: {"query": "rain", "documents": ["it rains", "salt"]}),
    ("ppocr-v6", "ocr"): (
        "/v1/images/ocr",
        lambda: {"image": "data:image/png;base64," + base64.b64encode(drawn_page()).decode()},
    ),
    ("smollm2-135m-instruct", "llm"): ("/v1/completions", lambda: {"prompt": "One, two,", "max_tokens": 1}),
}


def status_of(client: Client, uid: str) -> ModelStatus:
    return next(status for status in client.statuses() if status.uid == uid)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it does not come to rest"
        time.sleep(0.1)


def woken_s(live: LiveCluster, uid: str, route: str, body: dict[str, Any]) -> float:
    began = time.monotonic()
    httpx.post(f"{live.url}{route}", json={"model": uid, **body}, timeout=PATIENCE_S).raise_for_status()
    return time.monotonic() - began


def measure(live: LiveCluster, client: Client, name: str, type: str, times: int) -> str:
    route, body_of = ASKED[name, type]
    body = body_of()
    began = time.monotonic()
    client.launch_model(name, type, model_uid="woken")
    launch_s = time.monotonic() - began
    whole = status_of(client, "woken").workers[0].claim_bytes
    woken_s(live, "woken", route, body)
    asleep, dozing, kept = [], [], 0
    for _ in range(times):
        client.sleep_model("woken")
        until(lambda: not status_of(client, "woken").workers)
        asleep.append(woken_s(live, "woken", route, body))
    for _ in range(times):
        client.doze_model("woken")
        until(lambda: [worker.state for worker in status_of(client, "woken").workers] == [WorkerState.DOZING])
        kept = status_of(client, "woken").workers[0].claim_bytes
        dozing.append(woken_s(live, "woken", route, body))
    client.terminate_model("woken")
    return (
        f"| {name} | {launch_s:.1f} | {statistics.median(asleep):.2f} | {statistics.median(dozing):.2f} "
        f"| {max(dozing):.2f} | {whole / 1e6:.0f} | {kept / 1e6:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", choices=[name for name, _ in ASKED])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        live = LiveCluster(Path(folder), CLUSTER_LOG_LEVEL="WARNING")
        try:
            live.up()
            print("| model | launch, s | from ASLEEP | from DOZING | longest | claims awake, MB | dozing, MB |")
            print("|---|---|---|---|---|---|---|")
            with live.client() as client:
                for name, type in ASKED:
                    if asked.only in (None, name):
                        print(measure(live, client, name, type, asked.times), flush=True)
        finally:
            live.down()


if __name__ == "__main__":
    main()
