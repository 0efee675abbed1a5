"""One attack of each known class. What it would run is harmless: it makes a file, which shows that it ran."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import shutil
import socket
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import httpx

from benchmarks.faults.rows import Bench, Outcome, must, resident, row
from benchmarks.workloads import EMBEDDING, RERANK, WEIGHTS
from cluster.runtime.launcher import Place
from cluster.runtime.listening import open_ports, sockets_of
from cluster.status import ModelState
from tests.attacks.test_exposure import answers, own_addresses
from tests.hub import Hub
from tests.live import LiveCluster, until

FAILED, READY = ModelState.FAILED, ModelState.READY


@contextmanager
def guarded(bench: Bench) -> Iterator[tuple[LiveCluster, str]]:
    """A cluster that asks for keys, and its admin key."""
    with bench.own("--host", "0.0.0.0") as cluster:
        yield cluster, admin_key(cluster)


def admin_key(cluster: LiveCluster) -> str:
    done = cluster.command("keys", "create", "driver", "--scope", "admin")
    must(done.returncode == 0, done.stderr)
    found = re.search(r"ck-[\w-]+", done.stdout + done.stderr)
    assert found is not None
    return found[0]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def refused(outcome: Outcome, answer: httpx.Response) -> None:
    outcome.ok += 1
    must(400 <= answer.status_code < 500 or answer.status_code == 503, f"{answer.status_code} {answer.text[:200]}")


@row("a1", "Ray's jobs, dashboard and agents from outside")
def ray_from_outside(bench: Bench, outcome: Outcome) -> None:
    sockets = sockets_of(bench.cluster.processes())
    reached = [found for found in sockets for address in own_addresses() if answers(address, found.port)]
    must(not reached, f"answer on the network: {reached}")
    job = {"entrypoint": "touch /tmp/pwned"}
    for found in sockets:
        if found.port == bench.cluster.port:
            continue
        for path in ("/api/jobs/", "/api/job_agent/jobs/"):
            with suppress(httpx.HTTPError):
                answer = httpx.post(f"http://127.0.0.1:{found.port}{path}", json=job, timeout=3)
                must(answer.status_code in (401, 403, 404, 405), f"port {found.port}: {answer.status_code}")
                outcome.ok += 1
    must(outcome.ok, "nothing was asked")


@row("a2", "served on the network without a key")
def open_by_default(bench: Bench, outcome: Outcome) -> None:
    with guarded(bench) as (cluster, key):
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/models"), ("GET", "/metrics"), ("POST", "/v1/infer")):
            answer = httpx.request(method, cluster.url + path, json={}, timeout=10)
            must(answer.status_code == 401, f"{method} {path}: {answer.status_code}")
            outcome.ok += 1
        must(httpx.get(cluster.url + "/health").status_code == 200, "no health")
        must(cluster.get("/v1/models", headers=bearer(key)).status_code == 200, "the key does not open it")


def launch_folder(bench: Bench, folder: Path, name: str, type: str, **fields: Any) -> Any:
    """Launches the folder and terminates it again; returns its status at the end, or the text of the refusal."""
    body = {"model_name": name, "model_type": type, "model_uid": "attack", "model_path": str(folder), **fields}
    answer = bench.cluster.post("/v1/models?wait_ready=false", body)
    if answer.status_code != 200:
        return answer.text
    with bench.cluster.client() as client:
        status = until(lambda: (s := client.status("attack")).state in (FAILED, READY) and s, within=90)
        client.terminate_model("attack")
        return status


class Touch:
    """Makes a file when it is unpickled, which shows that its code ran."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@row("a3", "pickled weights that run code")
def pickled(bench: Bench, outcome: Outcome) -> None:
    folder = Path(mkdtemp(dir=bench.folder))
    marker = folder / "ran"
    copy = folder / "model"
    shutil.copytree(WEIGHTS[EMBEDDING], copy)
    (copy / "model.safetensors").unlink()
    with zipfile.ZipFile(copy / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Touch(marker)))
        archive.writestr("archive/version", "3\n")
    result = launch_folder(bench, copy, "all-MiniLM-L6-v2", "embedding")
    must(not marker.exists(), "it ran")
    must(isinstance(result, str) or result.state == FAILED, "it was loaded")
    outcome.ok = 1


@row("a4", "code in a model's folder, under a trusted name")
def remote_code(bench: Bench, outcome: Outcome) -> None:
    folder = Path(mkdtemp(dir=bench.folder))
    marker = folder / "ran"
    copy = folder / "model"
    shutil.copytree(WEIGHTS[EMBEDDING], copy)
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    (copy / "config.json").write_text(json.dumps(config))
    code = f"open({str(marker)!r}, 'w')\nfrom transformers import BertConfig as Config, BertModel as Model\n"
    (copy / "code.py").write_text(code)
    with bench.own(CLUSTER_REMOTE_CODE="all-MiniLM-L6-v2") as cluster:
        body = {"model_name": "all-MiniLM-L6-v2", "model_uid": "attack", "model_path": str(copy)}
        answer = cluster.post("/v1/models", {**body, "model_type": "embedding"}, timeout=120)
        outcome.say(f"launch answered {answer.status_code}")
    must(not marker.exists(), "it ran")
    outcome.ok = 1


@row("a5", "a chat template that reaches for code")
def template(bench: Bench, outcome: Outcome) -> None:
    folder = Path(mkdtemp(dir=bench.folder))
    marker = folder / "ran"
    copy = folder / "model"
    shutil.copytree(WEIGHTS[RERANK], copy)
    config = json.loads((copy / "tokenizer_config.json").read_text())
    reach = f"{{{{ cycler.__init__.__globals__.os.popen('touch {marker}').read() }}}}"
    (copy / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": reach}))
    body = {"model_name": "ce-tiny", "model_type": "rerank", "model_uid": "attack", "model_path": str(copy)}
    answer = bench.cluster.post("/v1/models", body, timeout=120)
    asked = bench.cluster.post("/v1/rerank", {"model": "attack", "query": "a", "documents": [reach]})
    must(not marker.exists(), "it ran")
    outcome.ok = int(asked.status_code == 200)
    outcome.say(f"launch {answer.status_code}, rerank {asked.status_code}")


@row("a6", "internal addresses in place of pictures")
def ssrf(bench: Bench, outcome: Outcome) -> None:
    asked: list[str] = []

    class Inside(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Inside)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_port
    hosts = (
        f"127.0.0.1:{port}",
        f"0.0.0.0:{port}",
        f"[::ffff:127.0.0.1]:{port}",
        f"2130706433:{port}",
        f"localhost:{port}",
    )
    try:
        with bench.own(CLUSTER_FETCH_URLS="true") as cluster:
            bench.launch("painter", cluster, model_name="painting")
            bench.launch("letters", cluster, model_name="letters")
            for host in (*hosts, "169.254.169.254/latest/meta-data"):
                url = f"http://{host}/secret"
                body = {"model": "letters", "input": [{"image": url}]}
                refused(outcome, cluster.post("/v1/embeddings", body, timeout=30))
    finally:
        server.shutdown()
    must(not asked, f"the inside was asked: {asked}")


def bomb(side: int) -> str:
    """A black PNG with that many pixels on each side, which is small as a file and large in memory."""
    row_of = b"\0" * (1 + side // 8)
    packed = zlib.compressobj(9)
    data = b"".join(packed.compress(row_of) for _ in range(side)) + packed.flush()
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))  # noqa: E731
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()


@row("a7", "pictures, bodies and names that are small until they are read")
def bombs(bench: Bench, outcome: Outcome) -> None:
    bench.launch("served")
    bench.launch("letters", model_name="letters")
    bench.launch("reads", model_name="reading", model_type="reading")
    pids = [process.pid for process in bench.cluster.named("ray::ServeReplica")]
    before = sum(map(resident, pids))
    nested = b'{"model":"letters","input":' + b"[" * 5_000_000 + b"]" * 5_000_000 + b"}"
    with bench.traffic("served", outcome, callers=4) as seen:
        picture = {"type": "image_url", "image_url": bomb(40_000)}
        bodies: list[tuple[str, bytes]] = [
            ("/v1/ocr", json.dumps({"model": "reads", "document": picture}).encode()),
            ("/v1/embeddings", nested),
            ("/v1/embeddings", json.dumps({"model": "x" * 20_000_000, "input": "a"}).encode()),
            ("/v1/embeddings", json.dumps({"model": "letters", "input": ["a"] * 100_000}).encode()),
        ]
        for path, body in bodies:
            head = {"content-type": "application/json"}
            answer = httpx.post(bench.cluster.url + path, content=body, headers=head, timeout=60)
            refused(outcome, answer)
            must(len(answer.content) < 10_000, "the answer repeats it")
    grown = (sum(map(resident, pids)) - before) / 1e6
    outcome.say(f"ingress grew by {grown:.0f} MB, longest call of others {seen.longest_s:.2f} s")
    must(grown < 500, f"the ingress grew by {grown:.0f} MB")
    must(seen.longest_s < 2, f"others waited {seen.longest_s:.1f} s")


@row("a8", "paths that lead outside")
def traversal(bench: Bench, outcome: Outcome) -> None:
    cluster = bench.cluster
    for uid in ("../../etc", "a/b", "..", "a\0b", "x" * 300):
        body = {"model_name": "echo", "model_type": "echo", "model_uid": uid}
        refused(outcome, cluster.post("/v1/models?wait_ready=false", body))
    for path in ("/v1/files/../../cluster.db", "/v1/files/%2e%2e%2fcluster.db", "/v1/files/..%2f..%2fetc%2fpasswd"):
        with socket.create_connection(("127.0.0.1", cluster.port)) as raw:
            raw.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            must(raw.recv(4096).split()[1] in (b"404", b"400", b"403"), path)
            outcome.ok += 1
    with bench.own(CLUSTER_MODEL_ROOTS=str(bench.folder)) as rooted:
        link = bench.folder / "link"
        link.unlink(missing_ok=True)
        link.symlink_to("/etc")
        for path in ("/etc", f"{bench.folder}/../../etc", str(link)):
            body = {"model_name": "ce-tiny", "model_type": "rerank", "model_uid": "attack", "model_path": path}
            answer = rooted.post("/v1/models", body, timeout=60)
            refused(outcome, answer) if answer.status_code != 500 else must("outside" in answer.text, answer.text)


@row("a9", "a registration that names code or commands")
def registration(bench: Bench, outcome: Outcome) -> None:
    base = {"version": 2, "model_name": "evil", "model_type": "rerank", "max_tokens": 512, "language": ["en"]}
    specs = [{"model_format": "pytorch", "model_uri": f"file://{WEIGHTS[RERANK]}", "quantization": "none"}]
    for more in ({"family": "os:system"}, {"model_family": "subprocess:Popen"}, {"options": {"command": "id"}}):
        entry = {**base, "model_specs": specs, **more}
        answer = bench.cluster.post("/v1/model_registrations/rerank", {"model": json.dumps(entry), "persist": False})
        if answer.status_code == 200:
            body = {"model_name": "evil", "model_type": "rerank", "model_uid": "attack"}
            answer = bench.cluster.post("/v1/models", body, timeout=60)
            httpx.delete(f"{bench.cluster.url}/v1/model_registrations/rerank/evil")
            if answer.status_code == 200:
                httpx.delete(f"{bench.cluster.url}/v1/models/attack")
                must("options" in more or "model_family" in more, f"it is launched with {more}")
                outcome.ok += 1
            else:
                refused(outcome, answer)
        else:
            refused(outcome, answer)
    for envs in ({"PYTHONWARNINGS": "x"}, {"LD_PRELOAD": "/x"}):
        body = {"model_name": "echo", "model_type": "echo", "model_uid": "attack", "envs": envs}
        refused(outcome, bench.cluster.post("/v1/models?wait_ready=false", body))


@row("a10", "weight files whose headers lie")
def lying_headers(bench: Bench, outcome: Outcome) -> None:
    folder = Path(mkdtemp(dir=bench.folder))
    pids = [process.pid for process in bench.cluster.named("ray::ServeReplica")]
    before = sum(map(resident, pids))
    gguf = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 4, 2**60)
    files = {"many.gguf": gguf, "long.safetensors": struct.pack("<Q", 2**62) + b"{}"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
        body = {"model_name": "FLUX.1-dev", "model_type": "image", "model_uid": "attack", "dry_run": True}
        body |= {"gguf_model_path": str(folder / name)} if name.endswith("gguf") else {"model_path": str(folder / name)}
        started = time.monotonic()
        answer = bench.cluster.post("/v1/models?wait_ready=false&dry_run=true", body)
        refused(outcome, answer)
        must(time.monotonic() - started < 10, "it took long")
    damaged = folder / "model"
    shutil.copytree(WEIGHTS[EMBEDDING], damaged)
    (damaged / "model.safetensors").write_bytes(files["long.safetensors"])
    result = launch_folder(bench, damaged, "all-MiniLM-L6-v2", "embedding")
    must(isinstance(result, str) or result.state == FAILED, "it was loaded")
    grown = (sum(map(resident, pids)) - before) / 1e6
    must(grown < 300, f"the ingress grew by {grown:.0f} MB")
    outcome.say(f"ingress grew by {grown:.0f} MB")


@row("a11", "keys: none, wrong, revoked, in the URL, of another scope")
def keys(bench: Bench, outcome: Outcome) -> None:
    with guarded(bench) as (cluster, key):
        paths = [path for path in cluster.get("/openapi.json", headers=bearer(key)).json().get("paths", {})] or [
            "/v1/models",
            "/v1/cluster/info",
            "/metrics",
        ]
        for path in paths:
            for headers in ({}, bearer("ck-wrong"), {"authorization": "Basic x"}):
                answer = httpx.get(cluster.url + path.replace("{", "").replace("}", ""), headers=headers, timeout=10)
                must(answer.status_code in (401, 404, 405) or path in ("/health", "/ready", "/ping"), path)
                outcome.ok += 1
        must(httpx.get(f"{cluster.url}/v1/models?api_key={key}").status_code == 401, "a key in the URL opens")
        made = cluster.command("keys", "create", "short", "--scope", "infer", "--json")
        text = re.search(r"ck-[\w-]+", made.stdout + made.stderr)
        must(text is not None, made.stderr)
        assert text is not None
        listed = json.loads(cluster.command("keys", "list", "--json").stdout)
        (id,) = [row_of["id"] for row_of in listed if row_of["name"] == "short"]
        body = {"model": "absent", "input": "a"}
        must(cluster.post("/v1/embeddings", body, headers=bearer(text[0])).status_code != 401, "the key does not open")
        launch = {"model_name": "echo", "model_type": "echo", "model_uid": "not-theirs"}
        must(cluster.post("/v1/models", launch, headers=bearer(text[0])).status_code == 403, "it launches")
        revoked = time.monotonic()
        cluster.command("keys", "revoke", id)
        asked = lambda: cluster.post("/v1/embeddings", body, headers=bearer(text[0])).status_code  # noqa: E731
        bench.back(outcome, lambda: asked() == 401, within=10, since=revoked)


@row("a12", "a foreign web page in a user's browser")
def browser(bench: Bench, outcome: Outcome) -> None:
    launch = json.dumps({"model_name": "echo", "model_type": "echo", "model_uid": "page"})
    for headers in (
        {"origin": "http://stranger.example", "content-type": "text/plain"},
        {"host": f"stranger.example:{bench.cluster.port}"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
    ):
        answer = httpx.post(f"{bench.cluster.url}/v1/models?wait_ready=false", content=launch, headers=headers)
        must(answer.status_code == 403, f"{headers}: {answer.status_code}")
        must("access-control-allow-origin" not in answer.headers, "any page may read it")
        outcome.ok += 1


@row("a13", "sockets between processes, for other users of the machine")
def internal(bench: Bench, outcome: Outcome) -> None:
    bench.launch("near")
    place = Place(bench.cluster.settings)
    for folder in (place.run, place.private):
        must(folder.stat().st_mode & 0o077 == 0, f"{folder} is open to others")
        outcome.ok += 1
    must(place.token.stat().st_mode & 0o077 == 0, "the token is open to others")
    rows = open_ports(sockets_of(bench.cluster.processes()), port=bench.cluster.port, asks_for_keys=False)
    unguarded = [found for found in rows if found.asks == "nothing" and found.port != bench.cluster.port]
    must(not unguarded, f"processes without a token: {unguarded}")


@row("a14", "weights that are not what their hash says")
def supply(bench: Bench, outcome: Outcome) -> None:
    from benchmarks.faults.wishes import FILES, register, submit

    with Hub() as hub:
        hub.add("org/tiny", FILES)
        hub.damage("model.safetensors")
        with bench.own(HF_ENDPOINT=hub.url) as cluster:
            register(cluster, "tiny", "org/tiny")
            submit(cluster, "tiny", "tiny")
            with cluster.client() as client:
                status = until(lambda: (s := client.status("tiny")).reason and s, within=90)
            must(status.state != READY, "it is served")
            outcome.say(status.reason[:160])
    outcome.ok = 1


@row("a15", "what one key can see of another's")
def tenants(bench: Bench, outcome: Outcome) -> None:
    with guarded(bench) as (cluster, key):
        admin = bearer(key)
        for uid in ("mine", "secret"):
            body = {"model_name": "echo", "model_type": "echo", "model_uid": uid}
            must(cluster.post("/v1/models", body, headers=admin).status_code == 200, "no launch")
        made = cluster.command("keys", "create", "limited", "--scope", "infer", "--scope", "list", "--model", "mine")
        found = re.search(r"ck-[\w-]+", made.stdout + made.stderr)
        assert found is not None, made.stderr
        mine = bearer(found[0])
        for path in ("/v1/models", "/models", "/metrics", "/v1/models/x", "/v1/cluster/info"):
            answer = cluster.get(path, headers=mine)
            must("secret" not in answer.text, f"{path} tells of it: {answer.text[:200]}")
            outcome.ok += 1
        for path in ("/v1/models/{}", "/v1/models/{}/events", "/v1/models/{}/logs"):
            there, absent = (cluster.get(path.format(uid), headers=mine) for uid in ("secret", "absent"))
            must(there.text.replace("secret", "absent") == absent.text, f"{path} tells that it is there: {there.text}")
            outcome.ok += 1
        answer = cluster.post("/v1/infer", {"model": "secret", "items": ["x"]}, headers=mine)
        must(answer.status_code in (403, 404), str(answer.status_code))
        slow = {"model": "mine", "items": [{"sleep": 3}]}

        def ask() -> None:
            answer = cluster.post("/v1/infer", slow, headers={**admin, "x-request-id": "theirs"})
            outcome.say(f"the other's call: {answer.status_code}")

        worker = threading.Thread(target=ask)
        worker.start()
        time.sleep(1)
        answer = cluster.post("/v1/models/mine/requests/theirs/abort", {}, headers=mine)
        worker.join()
        must("200" in outcome.note, f"aborted by another key: {outcome.note}")


@row("a16", "unfinished bodies and many connections")
def abuse(bench: Bench, outcome: Outcome) -> None:
    bench.launch("served")
    pids = [process.pid for process in bench.cluster.named("ray::ServeReplica")]
    before = sum(map(resident, pids))
    head = b"POST /v1/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 90000000\r\n\r\n"
    open_ones = []
    with bench.traffic("served", outcome, callers=4) as seen:
        for number in range(1200):
            with suppress(OSError):
                raw = socket.create_connection(("127.0.0.1", bench.cluster.port), timeout=5)
                raw.sendall(head + b"x" * (4_000_000 if number < 20 else 1000))
                open_ones.append(raw)
        time.sleep(3)
    for raw in open_ones:
        raw.close()
    grown = (sum(map(resident, pids)) - before) / 1e6
    outcome.say(f"ingress grew by {grown:.0f} MB, longest call of others {seen.longest_s:.2f} s")
    must(grown < 500, f"the ingress grew by {grown:.0f} MB")
    must(seen.longest_s < 5, f"others waited {seen.longest_s:.1f} s")
