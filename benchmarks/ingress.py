"""What the whole stack costs per request, beside the same ingress without a hop, with a plain hop, and bare uvicorn.

    python -m benchmarks.ingress [--seconds 4] [--rounds 3]

One run, one machine, the variants interleaved round by round; the median round of each is printed. The model does
nothing, so everything that is seen is HTTP, routing, the hop and the encoding of the answer. All but (i) are replicas
of Ray Serve with web servers of their own; what its proxies cost is in the log, and cannot be measured beside them: a
cluster has them or not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import orjson
import psutil
from fastapi import FastAPI, Request, Response

from benchmarks.load import Load, drive
from tests.families import Vectors
from tests.live import LiveCluster, free_port, until

CONNECTIONS = (1, 32, 256)
TEXT = "x" * 960
ECHO = orjson.dumps({"model": "echo", "items": [TEXT], "ability": "infer"})
EMBED = orjson.dumps({"model": "vectors", "input": ["hello"]})
EMBED_64 = orjson.dumps({"model": "vectors", "input": ["hello"], "encoding_format": "base64"})


def plain() -> FastAPI:
    """(i): FastAPI and uvicorn alone, giving back bytes that were made before."""
    app = FastAPI()
    echo, floats = _answers()

    @app.get("/health")
    async def health() -> Response:
        return Response(b'{"status":"ok"}', media_type="application/json")

    @app.post("/echo")
    async def answer_echo(request: Request) -> Response:
        await request.body()
        return Response(echo, media_type="application/json")

    @app.post("/floats")
    async def answer_floats(request: Request) -> Response:
        await request.body()
        return Response(floats, media_type="application/json")

    return app


def _answers() -> tuple[bytes, bytes]:
    option = orjson.OPT_SERIALIZE_NUMPY
    rows = [{"index": i, "object": "embedding", "embedding": row} for i, row in enumerate(Vectors.rows)]
    return orjson.dumps({"results": [TEXT], "usage": {"total_tokens": 1}}), orjson.dumps({"data": rows}, option=option)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cluster = LiveCluster(Path(folder), CLUSTER_LOG_LEVEL="WARNING")
        bare = None
        try:
            cluster.up()
            port = free_port()
            bare = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "uvicorn",
                    "--factory",
                    "benchmarks.ingress:plain",
                    "--port",
                    str(port),
                    "--log-level",
                    "warning",
                ],
                env=cluster.environment,
            )
            with cluster.client() as client:
                client.launch_model(model_name="echo", model_type="echo")
                client.launch_model(model_name="vectors", model_type="echo")
            own_port = free_port()
            environment = {**_inside(cluster), "BENCH_PORT": str(own_port)}
            deploy = "from benchmarks.variants import deploy; deploy()"
            subprocess.run([sys.executable, "-c", deploy], env=environment, check=True, capture_output=True)
            variants = f"http://127.0.0.1:{own_port}"
            until(lambda: httpx.get(f"{variants}/ready").json()["models"] == 2, within=10)
            answer = httpx.post(f"{variants}/nohop/v1/infer", content=ECHO)
            assert answer.status_code == 200, answer.text
            _compare(cluster.url, variants, f"http://127.0.0.1:{port}", asked)
        finally:
            if bare is not None:
                bare.terminate()
            cluster.down()


def _inside(cluster: LiveCluster) -> dict[str, str]:
    """The environment that `cluster up` gave to Ray, token included."""
    from cluster.runtime.place import Place

    head = cluster.named("gcs_server")[0]
    given = {name: value for name, value in head.environ().items() if name.startswith("RAY_")}
    state = Place(cluster.settings).read()
    assert state is not None
    return {**cluster.environment, **given, "BENCH_ADDRESS": state["address"]}


def _compare(url: str, own: str, bare: str, asked: argparse.Namespace) -> None:
    variants = {
        "/health": {
            "(i) uvicorn alone": (f"{bare}/health", None),
            "ours": (f"{url}/health", None),
        },
        "1 KB JSON": {
            "(i) uvicorn alone": (f"{bare}/echo", ECHO),
            "(ii) ingress, no hop": (f"{own}/nohop/v1/infer", ECHO),
            "(iii) ingress, plain actor call": (f"{own}/hop/v1/infer", ECHO),
            "ours": (f"{url}/v1/infer", ECHO),
        },
        "32 x 384 floats as JSON": {
            "(i) uvicorn alone": (f"{bare}/floats", EMBED),
            "(ii) ingress, no hop": (f"{own}/nohop/v1/embeddings", EMBED),
            "(iii) ingress, plain actor call": (f"{own}/hop/v1/embeddings", EMBED),
            "ours": (f"{url}/v1/embeddings", EMBED),
        },
        "32 x 384 floats as base64": {
            "(ii) ingress, no hop": (f"{own}/nohop/v1/embeddings", EMBED_64),
            "(iii) ingress, plain actor call": (f"{own}/hop/v1/embeddings", EMBED_64),
            "ours": (f"{url}/v1/embeddings", EMBED_64),
        },
    }
    print(
        f"{psutil.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}; {asked.rounds} rounds of {asked.seconds} s"
    )
    for payload, rows in variants.items():
        if asked.only and asked.only not in payload:
            continue
        for connections in CONNECTIONS:
            found: dict[str, list[Load]] = {name: [] for name in rows}
            for target, body in rows.values():
                drive(target, body, connections, 0.5)
            for _ in range(asked.rounds):
                for name, (target, body) in rows.items():
                    found[name].append(drive(target, body, connections, asked.seconds))
            _print(payload, connections, {name: _median(loads) for name, loads in found.items()})


def _median(loads: list[Load]) -> Load:
    rates = statistics.median(load.requests_per_s for load in loads)
    p50 = statistics.median(load.p50_ms for load in loads)
    p99 = statistics.median(load.p99_ms for load in loads)
    failure = next((load.first_failure for load in loads if load.first_failure), "")
    return Load(rates, p50, p99, sum(load.failed for load in loads), failure)


def _print(payload: str, connections: int, rows: dict[str, Load]) -> None:
    print(f"\n{payload}, {connections} connection(s)")
    print(f"  {'':34}{'requests/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'failed':>8}")
    for name, load in rows.items():
        print(f"  {name:34}{load.requests_per_s:11.0f}{load.p50_ms:9.2f}{load.p99_ms:9.2f}{load.failed:8}")
        if load.first_failure:
            print(f"    {load.first_failure[:200]}")
    if "(ii) ingress, no hop" not in rows:
        return
    ours, nohop, plain_hop = rows["ours"], rows["(ii) ingress, no hop"], rows["(iii) ingress, plain actor call"]
    print(
        f"  ours / (ii) {ours.requests_per_s / nohop.requests_per_s:.2f}   "
        f"ours / (iii) {ours.requests_per_s / plain_hop.requests_per_s:.2f}   "
        f"added to the p50 of (ii) {ours.p50_ms - nohop.p50_ms:.2f} ms"
    )


if __name__ == "__main__":
    main()
