"""Answers in pieces from a worker of another machine, which come by Ray's calls."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from cluster.runtime.connection import variables_for
from cluster.runtime.place import Place
from tests.live import ROOT, LiveCluster

#: What an ingress of another machine does; `{scene}` is the body of a function that has a client.
PROGRAM = """
import asyncio, sys, time
import ray
from cluster import errors
from cluster.calls import Answer, Call
from cluster.runtime.worker_client import WorkerClient

def call(text, seconds=30.0, id="r#1"):
    return Call(id, [text], {{}}, seconds, "speak")

async def main():
    ray.init(address=sys.argv[1], namespace=sys.argv[2], log_to_driver=False, logging_level="error")
    client = WorkerClient(ray.get_actor(sys.argv[3]))
{scene}

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def worker(live: LiveCluster) -> Iterator[str]:
    """The name of a worker that says a word in 2 ms."""
    with live.client() as client:
        client.launch_model("speaking", model_uid="speaking", step_seconds=0.002)
        (status,) = (worker.id for worker in client.status("speaking").workers)
        yield status
        client.terminate_model("speaking")


def play(live: LiveCluster, worker: str, scene: str) -> str:
    state = Place(live.settings).read()
    assert state is not None
    lines = "\n".join(f"    {line}" for line in scene.strip().splitlines())
    words = [state["address"], live.settings.namespace, worker]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(scene=lines), *words],
        env={**live.ray_environment(), **variables_for(state["address"])},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_pieces_come_in_order_in_few_frames_and_the_answer_last(live: LiveCluster, worker: str) -> None:
    scene = """
frames = [pieces async for pieces in client.talk(call("word " * 100), 30.0)]
pieces = [piece for frame in frames for piece in frame]
assert pieces[:-1] == ["word"] * 100 and isinstance(pieces[-1], Answer), pieces
print(len(frames))
"""
    assert 2 <= int(play(live, worker, scene)) < 40


def test_whoever_leaves_ends_the_work_and_errors_arrive_as_they_were(live: LiveCluster, worker: str) -> None:
    scene = """
talk = client.talk(call("word " * 100_000), 300.0)
assert (await anext(talk))[0] == "word"
await talk.aclose()
assert not await client.cancel(["r"]), "nothing of it is left"
for text, kind in (("so fail", errors.InferenceFailed), ("refused", errors.BadRequest)):
    try:
        async for _ in client.talk(call(text), 30.0):
            pass
    except kind as error:
        print(type(error).__name__)
try:
    async for _ in client.talk(call("word " * 100_000, seconds=0.3), 30.0):
        pass
except errors.DeadlineExceeded:
    print("late")
"""
    assert play(live, worker, scene).split() == ["InferenceFailed", "BadRequest", "late"]
