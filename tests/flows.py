"""Traces which of our files a request passes, in every process of a real cluster: `make flows` prints what
docs/architecture.md lists.

A file counts if one of its functions is called between the request and its answer, and is not called while there are no
requests.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw

from tests.live import ROOT, LiveCluster
from tests.pipelines import saved

#: Python runs this first in each process. It records each function of ours that is called, once per window.
TRACER = """
import os, sys, threading, time
FOLDER, ROOT = os.environ["FLOWS_FOLDER"], os.environ["FLOWS_ROOT"]
OURS = (ROOT + "/cluster/", ROOT + "/deployments/")
WINDOW = FOLDER + "/window"
seen, window, log = set(), "", None

def trace(frame, event, argument):
    global window, log
    code = frame.f_code
    # Bodies of modules and classes have no locals of their own.
    if event != "call" or not code.co_flags & 2 or not code.co_filename.startswith(OURS):
        return
    try:
        now = os.readlink(WINDOW)
    except OSError:
        return
    if now != window:
        window = now
        seen.clear()
    if code not in seen and not is_importing(frame):
        seen.add(code)
        if log is None:
            log = open(f"{FOLDER}/{os.getpid()}.calls", "a", buffering=1)
        words = (window, str(time.monotonic()), code.co_filename[len(ROOT) + 1:], code.co_qualname)
        log.write("\\t".join(words) + "\\n")

def is_importing(frame):
    while frame := frame.f_back:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
    return False

def started_anew():
    global log
    log = None

os.register_at_fork(after_in_child=started_anew)
threading.settrace(trace)
sys.settrace(trace)
"""
#: As long as the longest flow, so that the calls that happen all the time are seen without any request.
IDLE_S = 12.0


@dataclass(frozen=True)
class Called:
    at: float
    pid: int
    file: str
    function: str


class TracedCluster(LiveCluster):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "sitecustomize.py").write_text(TRACER)
        super().__init__(
            folder / "home",
            PYTHONPATH=f"{folder}:{ROOT}",
            FLOWS_FOLDER=str(folder),
            FLOWS_ROOT=str(ROOT),
            CLUSTER_HOLD_S="120",
            # A probe runs the example through the model, which would look like the request.
            CLUSTER_PROBE_S="3600",
        )

    @contextmanager
    def window(self, name: str) -> Iterator[None]:
        (self.folder / "window").symlink_to(name)
        try:
            yield
        finally:
            (self.folder / "window").unlink()
            time.sleep(0.5)

    def called(self, name: str) -> list[Called]:
        calls = []
        for log in self.folder.glob("*.calls"):
            for line in log.read_text().splitlines():
                window, at, file, function = line.split("\t")
                if window == name:
                    calls.append(Called(float(at), int(log.stem), file, function))
        return sorted(calls, key=lambda call: call.at)


def a_page() -> bytes:
    image = Image.new("RGB", (600, 300), "white")
    ImageDraw.Draw(image).text((40, 40), "Invoice 12", "black", font_size=48)
    body = io.BytesIO()
    image.save(body, "PDF", resolution=100)
    return body.getvalue()


def flows(cluster: LiveCluster, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each flow with the function that causes it. All except the launch are traced at the second request."""
    pipeline = saved("sd15", folder)
    text = {"model": "flow-text", "input": "hello"}
    picture = {"model": "flow-image", "prompt": "a boat", "size": "64x64", "response_format": "b64_json"}
    pages = {"files": {"file": ("page.pdf", a_page(), "application/pdf")}, "data": {"model": "flow-ocr"}}

    def launch(name: str, type: str, *words: str) -> None:
        done = cluster.command("launch", "--model-name", name, "--model-type", type, *words, timeout=300)
        assert done.returncode == 0, done.stderr

    def ask(path: str, **body: Any) -> None:
        answer = httpx.post(cluster.url + path, timeout=120, **body)
        assert answer.status_code == 200, answer.text

    yield "launch", lambda: launch("all-MiniLM-L6-v2", "embedding", "--model-uid", "flow-text")
    ask("/v1/embeddings", json=text)
    yield "embedding", lambda: ask("/v1/embeddings", json={**text, "input": "something else"})
    launch("sd15", "image", "--model-uid", "flow-image", "--model-path", str(pipeline))
    ask("/v1/images/generations", json=picture)
    yield "image", lambda: ask("/v1/images/generations", json={**picture, "prompt": "a tree"})
    launch("ppocr-v6", "ocr", "--model-uid", "flow-ocr")
    ask("/v1/images/ocr", **pages)
    yield "ocr", lambda: ask("/v1/images/ocr", **pages)


def trace() -> dict[str, list[Called]]:
    with tempfile.TemporaryDirectory() as folder:
        cluster = TracedCluster(Path(folder))
        cluster.up()
        try:
            names = []
            for name, act in flows(cluster, Path(folder) / "pipeline"):
                with cluster.window(name):
                    act()
                names.append(name)
            with cluster.window("idle"):
                time.sleep(IDLE_S)
            always = {(call.file, call.function) for call in cluster.called("idle")}
            return {
                name: [call for call in cluster.called(name) if (call.file, call.function) not in always]
                for name in names
            }
        finally:
            cluster.down()


def files_of(calls: list[Called]) -> dict[str, list[str]]:
    """Each file with those of its functions that were called, in the order of their first calls."""
    files: dict[str, list[str]] = {}
    for call in calls:
        functions = files.setdefault(call.file, [])
        if call.function not in functions:
            functions.append(call.function)
    return files


if __name__ == "__main__":
    for name, calls in trace().items():
        files = files_of(calls)
        print(f"\n{name}: {len(files)} files")
        for file, functions in files.items():
            pids = sorted({str(call.pid) for call in calls if call.file == file})
            print(f"  {file}  ({', '.join(pids)}): {', '.join(functions)}")
