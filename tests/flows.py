"""Traces which of our files a request passes, in every process of a real cluster: `make flows` prints what
docs/architecture.md lists.

A file counts if one of its functions is called between the request and its answer, and is not called while there are no
requests. It passes the request on if such a function calls one of another file, or is called by none of ours (but by an
event loop, a thread or Ray); a file that only answers what it is asked may be read as a name.
"""

from __future__ import annotations

import ast
import io
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw

from tests.live import ROOT, LiveCluster
from tests.pipelines import saved

#: Python runs this first in each process. In each window it records once every place where it calls a function of ours.
TRACER = """
import opcode, os, sys, threading, time
FOLDER, ROOT = os.environ["FLOWS_FOLDER"], os.environ["FLOWS_ROOT"]
OURS = (ROOT + "/cluster/", ROOT + "/deployments/")
WINDOW = FOLDER + "/window"
seen, window, log = set(), "", None

def trace(frame, event, argument):
    global window, log
    code = frame.f_code
    # Bodies of modules and classes have no locals of their own. Coroutines and generators that go on are not called.
    if event != "call" or not code.co_flags & 2 or not code.co_filename.startswith(OURS) or goes_on(frame):
        return
    try:
        now = os.readlink(WINDOW)
    except OSError:
        return
    if now != window:
        window = now
        seen.clear()
    caller = frame.f_back
    while caller and not caller.f_code.co_filename.startswith(OURS):
        caller = caller.f_back
    place = f"{named(caller)}:{caller.f_lineno}" if caller else ""
    if (code, place) not in seen and not is_importing(frame):
        seen.add((code, place))
        if log is None:
            log = open(f"{FOLDER}/{os.getpid()}.calls", "a", buffering=1)
        log.write("\\t".join((window, str(time.monotonic()), named(frame), code.co_qualname, place)) + "\\n")

def named(frame):
    return frame.f_code.co_filename[len(ROOT) + 1:]

def goes_on(frame):
    "The argument of RESUME is 0 where a function begins."
    code, at = frame.f_code.co_code, frame.f_lasti
    return opcode.opname[code[at]] == "RESUME" and code[at + 1] & 3 != 0

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
#: What a request leaves behind, such as its line of the log, is over after so long.
SETTLING_S = 0.5
#: The processes, by a file that runs in no other.
PROCESSES = {
    "cluster/cli/__init__.py": "command",
    "deployments/ingress/server.py": "ingress",
    "cluster/control/supervisor.py": "supervisor",
    "cluster/runtime/worker_actor.py": "worker",
}
TITLES = {
    "embedding": "An embedding request",
    "launch": "A launch",
    "image": "A request for a picture",
    "ocr": "A PDF",
}
#: As long as the longest flow, so that the calls that happen all the time are seen without any request.
IDLE_S = 12.0


@dataclass(frozen=True)
class Called:
    at: float
    pid: int
    file: str
    function: str
    #: Where it was called, as `file:line`; empty if by nothing of ours.
    place: str

    @property
    def caller(self) -> str:
        return self.place.partition(":")[0]


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
        time.sleep(SETTLING_S)
        (self.folder / "window").symlink_to(name)
        try:
            yield
        finally:
            (self.folder / "window").unlink()
            time.sleep(SETTLING_S)

    def called(self, name: str) -> list[Called]:
        calls = []
        for log in self.folder.glob("*.calls"):
            for line in log.read_text().splitlines():
                window, at, file, function, place = line.split("\t")
                if window == name:
                    calls.append(Called(float(at), int(log.stem), file, function, place))
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


def folder_of(file: str) -> str:
    return file.rpartition("/")[0]


def passing_on(calls: list[Called]) -> set[str]:
    """Files with a function that calls one of another file, or that nothing of ours calls."""
    callers = {call.caller for call in calls if call.caller != call.file}
    return {call.file for call in calls if call.file in callers or not call.place}


def by_process(calls: list[Called]) -> dict[str, list[str]]:
    """The files in the order of their first calls, each where it was called first."""
    names = {call.pid: name for file, name in PROCESSES.items() for call in calls if call.file == file}
    files: dict[str, list[str]] = {}
    for call in calls:
        if not any(call.file in others for others in files.values()):
            files.setdefault(names.get(call.pid, "another process"), []).append(call.file)
    return files


def subject_of(file: str) -> str:
    """The beginning of its first sentence."""
    text = " ".join((ast.get_docstring(ast.parse((ROOT / file).read_text())) or "").split())
    beginning = re.split(r"[.:;] |[.:]$", text)[0]
    is_name = any(letter.isupper() for letter in beginning.split(" ")[0][1:])
    return beginning if is_name else beginning[:1].lower() + beginning[1:]


def section(title: str, calls: list[Called]) -> Iterator[str]:
    """As it stands in docs/architecture.md."""
    passing = passing_on(calls)
    files = by_process(calls)
    yield f"### {title}: {len(passing)} files, and {sum(map(len, files.values())) - len(passing)} that are asked"
    for process, group in files.items():
        way = [file for file in group if file in passing]
        folders = [f"`{folder}/`" for folder, _ in groupby(way, folder_of)]
        yield f"\nIn the {process}, by way of {', '.join(folders)}:\n"
        yield from (f"* `{file}`: {subject_of(file)}" for file in way)
        yield f"* asked: {', '.join(f'`{file}`' for file in group if file not in passing)}"
    yield ""


if __name__ == "__main__":
    for name, calls in trace().items():
        print("\n".join(section(TITLES[name], calls)))
