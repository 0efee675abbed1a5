"""The socket between two processes: what arrives, what is lost when a process ends, and which errors hurt only one
call."""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import errors
from cluster.calls import Answer, Call, View
from cluster.runtime import inbox, local_rpc
from cluster.runtime.local_rpc import HEAD, Listener, WorkerConnection, connect, own_path

PATIENCE_S = 10.0
ROOT = Path(__file__).parents[3]
MOST = 10_000_000


class Worker:
    """Answers in the other process. An item can be an order."""

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Future[None]] = {}
        #: Answers in pieces whose reader has left.
        self.ended = 0

    async def respond(self, name: str, arguments: Sequence[Any]) -> Any:
        if name == "watch":
            owner, seen, _ = arguments
            return View(seen + 1, "running") if owner in self.waiting else None
        if name == "cancel":
            return any([self.drop(owner) for owner in arguments[0]])
        if name == "ended":
            return self.ended
        return await asyncio.gather(*map(self.answer, arguments[0])), len(self.waiting)

    async def speak(self, name: str, arguments: Sequence[Any], send: Callable[[object], None]) -> Any:
        """Counts: `count` at once, `on` for ever."""
        match arguments:
            case ["count", number]:
                for each in range(number):
                    send(each)
                return Answer(None, number)
            case ["on"]:
                try:
                    for each in itertools.count():
                        send(each)
                        await asyncio.sleep(0.001)
                except asyncio.CancelledError:
                    self.ended += 1
                    raise
            case ["refuse"]:
                return errors.InvalidBody("It does not fit.", "items")
            case ["odd"]:
                send(lambda: None)
        raise ValueError("told to raise")

    def drop(self, owner: str) -> bool:
        found = self.waiting.pop(owner, None)
        if found is not None:
            found.set_result(None)
        return found is not None

    async def answer(self, call: Call) -> Any:
        match call.items:
            case ["refuse"]:
                return errors.InvalidBody("It does not fit.", "items")
            case ["raise"]:
                raise ValueError("told to raise")
            case ["wait"]:
                self.waiting[call.id] = asyncio.get_running_loop().create_future()
                try:
                    await self.waiting[call.id]
                except asyncio.CancelledError:
                    del self.waiting[call.id]
                    raise
                return errors.RequestCancelled("It has been cancelled.")
            case ["nothing that pickles"]:
                return Answer(lambda: None, 1)
            case ["much"]:
                return Answer("x" * MOST, 1)
            case ["rows"]:
                return Answer(np.ones((32, 384), dtype=np.float32), 1)
            case ["pid"]:
                return Answer(os.getpid(), 1)
        return Answer(call.items, len(call.items))


async def work(path: str) -> None:
    """What the other process runs."""
    worker = Worker()
    listener = Listener(worker.respond, worker.speak, MOST)
    await listener.start(Path(path))
    print("ready", flush=True)
    await asyncio.Event().wait()


def call(*items: Any, id: str = "a") -> Call:
    return Call(id, list(items), {}, 60.0)


@asynccontextmanager
async def worker(path: Path) -> AsyncIterator[tuple[subprocess.Popen[str], WorkerConnection]]:
    program = f"import asyncio; from tests.cluster.runtime.test_local_rpc import work; asyncio.run(work({str(path)!r}))"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
        found = await connect(str(path), MOST)
        yield process, found
        found.retire()
    finally:
        process.kill()
        process.communicate()


def run(test: Awaitable[None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(4 * PATIENCE_S):
            await test

    asyncio.run(limited())


async def outcome(there: WorkerConnection, *items: Any, id: str = "a", timeout_s: float = PATIENCE_S) -> Any:
    outcomes, _ = await there.call("infer", ([call(*items, id=id)],), timeout_s)
    return outcomes[0]


def test_answers_and_errors_arrive_as_they_were_given(tmp_path: Path) -> None:
    async def test() -> None:
        async with worker(tmp_path / "s") as (process, there):
            calls = [call("a", 1), call("refuse"), call("rows"), call("pid")]
            (echo, refusal, rows, pid), working = await there.call("infer", (calls,), PATIENCE_S)
            assert echo == Answer(["a", 1], 2) and working == 0
            assert isinstance(refusal, errors.InvalidBody) and refusal.param == "items"
            assert rows.outputs.shape == (32, 384) and rows.outputs.dtype == np.float32
            assert pid.outputs == process.pid
            with pytest.raises(errors.InferenceFailed, match="ValueError: told to raise"):
                await there.call("infer", ([call("raise")],), PATIENCE_S)

    run(test())


def test_calls_overtake_each_other_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    async def test() -> None:
        async with worker(tmp_path / "s") as (_, there):
            slow = asyncio.create_task(outcome(there, "wait", id="slow"))
            many = await asyncio.gather(*(outcome(there, number) for number in range(500)))
            assert [answer.outputs for answer in many] == [[number] for number in range(500)]
            assert not slow.done()
            assert await there.call("watch", ("slow", 3, 0.0), PATIENCE_S) == View(4, "running")
            assert await there.call("cancel", (["slow"], 0.0), PATIENCE_S) is True
            assert await there.call("watch", ("slow", 3, 0.0), PATIENCE_S) is None
            assert await there.call("cancel", (["slow"], 0.0), PATIENCE_S) is False
            assert isinstance(await slow, errors.RequestCancelled)

    run(test())


def test_kill_9_is_seen_at_once_by_every_open_call(tmp_path: Path) -> None:
    async def test() -> None:
        async with worker(tmp_path / "s") as (process, there):
            waiting = [asyncio.create_task(outcome(there, "wait", id=str(number))) for number in range(3)]
            await outcome(there, "the others have arrived")
            killed = time.monotonic()
            os.kill(process.pid, signal.SIGKILL)
            lost = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(error) for error in lost] == [errors.WorkerLost] * 3
            assert time.monotonic() - killed < 1
            assert not there.is_open
            with pytest.raises(errors.WorkerLost):
                await outcome(there, "late")
            await asyncio.to_thread(process.wait)
            with pytest.raises(ConnectionRefusedError):
                await connect(str(tmp_path / "s"))

    run(test())


def test_what_does_not_answer_in_time_is_unavailable_and_its_late_answer_is_nobodys(tmp_path: Path) -> None:
    async def test() -> None:
        async with worker(tmp_path / "s") as (_, there):
            with pytest.raises(errors.Unavailable):
                await outcome(there, "wait", id="slow", timeout_s=0.05)
            assert await there.call("cancel", (["slow"], 0.0), PATIENCE_S)
            assert (await outcome(there, "next")).outputs == ["next"]

    run(test())


async def whole(there: WorkerConnection, *arguments: Any) -> list[Any]:
    return [piece async for pieces in there.pieces("talk", arguments, PATIENCE_S) for piece in pieces]


def test_pieces_come_in_order_and_those_of_a_moment_in_one_frame(tmp_path: Path) -> None:
    async def test() -> None:
        async with worker(tmp_path / "s") as (_, there):
            frames: list[int] = []
            receive = there.frame
            there.frame = lambda number, payload: (frames.append(number), receive(number, payload))  # type: ignore
            answers = await asyncio.gather(*(whole(there, "count", 100) for _ in range(16)))
            assert answers == [[*range(100), Answer(None, 100)]] * 16
            assert set(frames) == {local_rpc.PIECES} and len(frames) <= 16

    run(test())


@pytest.mark.parametrize(
    ("order", "error"),
    [("refuse", errors.InvalidBody), ("raise", errors.InferenceFailed), ("odd", errors.InferenceFailed)],
)
def test_an_error_in_pieces_ends_one_answer_alone(order: str, error: type[errors.ClusterError], tmp_path: Path) -> None:
    async def test() -> None:
        async with worker(tmp_path / "s") as (_, there):
            good = asyncio.create_task(whole(there, "count", 5))
            with pytest.raises(error):
                await whole(there, order)
            assert await good == [0, 1, 2, 3, 4, Answer(None, 5)]

    run(test())


async def ended(there: WorkerConnection) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await there.call("ended", (), PATIENCE_S):
            await asyncio.sleep(0.01)


def test_an_answer_ends_when_its_reader_leaves(tmp_path: Path) -> None:
    async def test() -> None:
        async with worker(tmp_path / "s") as (_, there):
            coming = there.pieces("talk", ("on",), PATIENCE_S)
            assert (await anext(coming))[0] == 0
            await coming.aclose()
            await ended(there)

    run(test())


def test_a_reader_that_is_too_far_behind_loses_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with worker(tmp_path / "s") as (_, there):
            coming = there.pieces("talk", ("on",), PATIENCE_S)
            await anext(coming)
            await ended(there)
            with pytest.raises(errors.RequestCancelled, match="read too slowly"):
                await anext(coming)

    monkeypatch.setattr(inbox, "MOST_UNREAD", 20)
    run(test())


def test_kill_9_is_seen_by_answers_in_pieces(tmp_path: Path) -> None:
    async def test() -> None:
        async with worker(tmp_path / "s") as (process, there):
            coming = there.pieces("talk", ("on",), PATIENCE_S)
            await anext(coming)
            os.kill(process.pid, signal.SIGKILL)
            with pytest.raises(errors.WorkerLost):
                async for _ in coming:
                    pass

    run(test())


def test_what_cannot_be_sent_fails_alone(tmp_path: Path) -> None:
    async def test() -> None:
        async with worker(tmp_path / "s") as (_, there):
            with pytest.raises((pickle.PicklingError, AttributeError)):
                await outcome(there, lambda: None)
            with pytest.raises(ValueError, match="10000000 are allowed"):
                await outcome(there, "x" * MOST)
            calls = [call("before"), call("nothing that pickles"), call("much"), call("after")]
            (before, lost, large, after), _ = await there.call("infer", (calls,), PATIENCE_S)
            assert before == Answer(["before"], 1) and after == Answer(["after"], 1)
            assert isinstance(lost, errors.InferenceFailed) and "cannot be sent" in lost.message
            assert isinstance(large, errors.InferenceFailed) and "bytes" in large.message

    run(test())


def test_large_and_small_frames_follow_each_other(tmp_path: Path) -> None:
    async def test() -> None:
        async with worker(tmp_path / "s") as (_, there):
            sizes = [1, 100_000, local_rpc.BUFFER_BYTES - 40, local_rpc.BUFFER_BYTES, MOST - 1000, 7]
            answers = await asyncio.gather(*(outcome(there, "x" * size) for size in sizes))
            assert [len(answer.outputs[0]) for answer in answers] == sizes
            assert len(there._buffer) == local_rpc.BUFFER_BYTES, "the buffer of a large frame is given back"

    run(test())


def test_a_frame_that_is_no_call_harms_nobody_else(tmp_path: Path) -> None:
    async def test() -> None:
        async with worker(tmp_path / "s") as (_, there):
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
            writer.write(HEAD.pack(3, 7) + b"abc")
            size, number = HEAD.unpack(await asyncio.wait_for(reader.readexactly(HEAD.size), PATIENCE_S))
            answer = pickle.loads(await reader.readexactly(size))
            assert number == 7 and isinstance(answer, errors.InferenceFailed)
            writer.write(HEAD.pack(2**60, 8))
            assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b"", "a frame beyond all bounds ends it"
            writer.close()
            assert (await outcome(there, "next")).outputs == ["next"]

    run(test())


def test_a_retired_connection_answers_what_is_open_and_closes(tmp_path: Path) -> None:
    async def test() -> None:
        async with worker(tmp_path / "s") as (_, there):
            slow = asyncio.create_task(outcome(there, "wait", id="slow"))
            while await there.call("watch", ("slow", 0, 0.0), PATIENCE_S) is None:
                await asyncio.sleep(0.005)
            there.retire()
            assert there.is_open
            assert await there.call("cancel", (["slow"], 0.0), PATIENCE_S)
            assert isinstance(await slow, errors.RequestCancelled)
            assert not there.is_open

    run(test())


def test_what_was_asked_by_a_process_that_is_gone_is_dropped(tmp_path: Path) -> None:
    async def test() -> None:
        async with worker(tmp_path / "s") as (_, there):
            gone = await connect(str(tmp_path / "s"), MOST)
            waiting = asyncio.create_task(outcome(gone, "wait", id="slow"))
            while await there.call("watch", ("slow", 0, 0.0), PATIENCE_S) is None:
                await asyncio.sleep(0.01)
            gone._abort()
            with pytest.raises(errors.WorkerLost):
                await waiting
            while await there.call("watch", ("slow", 0, 0.0), PATIENCE_S) is not None:
                await asyncio.sleep(0.01)

    run(test())


# ------------------------------------------------------------------------------------------------ who and where


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become another user")
def test_another_user_gets_nothing(tmp_path: Path) -> None:
    program = (
        "import os, socket, sys; os.setuid(65534); there = socket.socket(socket.AF_UNIX);"
        "there.connect(sys.argv[1]); there.sendall(bytes(16)); print(there.recv(1))"
    )

    async def ask(path: Path) -> tuple[str, str]:
        asked = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await asyncio.wait_for(asked.communicate(), PATIENCE_S)
        return out.decode(), err.decode()

    async def test() -> None:
        home = Path("/tmp") / f"pipe-{os.getpid()}"
        path = own_path(home)
        try:
            async with worker(path) as (_, there):
                out, err = await ask(path)
                assert out == "" and "PermissionError" in err, "the folder keeps them out"
                for opened in (home, home / "run", path.parent, path):
                    opened.chmod(0o777)
                out, err = await ask(path)
                assert out == "b''\n" or "ConnectionReset" in err or "BrokenPipe" in err, "and the worker does as well"
                assert (await outcome(there, "mine")).outputs == ["mine"]
        finally:
            path.unlink(missing_ok=True)
            for folder in (path.parent, home / "run", home):
                folder.rmdir()

    run(test())


def test_the_folder_is_private_and_swept(tmp_path: Path) -> None:
    first = own_path(tmp_path)
    assert first.parent.stat().st_mode & 0o777 == 0o700
    assert len(os.fsencode(first)) < local_rpc.PATH_BYTES
    machine = first.name.partition("-")[0]
    alive, dead, young = (first.parent / f"{machine}-{name}.sock" for name in ("alive", "dead", "young"))
    elsewhere = first.parent / "0123abcd-1.sock"
    sockets = []
    for path in (alive, dead, young, elsewhere):
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[-1].bind(str(path))
        if path != young:
            os.utime(path, (0, 0))
    sockets[0].listen()
    assert own_path(tmp_path) == first
    assert alive.exists() and young.exists() and elsewhere.exists() and not dead.exists()
    for one in sockets:
        one.close()


def test_a_home_too_deep_for_a_socket_gets_a_private_folder_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    path = own_path(deep)
    assert len(os.fsencode(path)) < local_rpc.PATH_BYTES and not path.is_relative_to(deep)
    assert path.parent.stat().st_mode & 0o777 == 0o700 and path.parent.stat().st_uid == os.getuid()
    other = own_path(deep.with_name("y" * 100))
    assert other.parent != path.parent
    for folder in (path.parent, other.parent):
        folder.rmdir()


def test_a_folder_of_somebody_else_is_not_used() -> None:
    # Short enough for the path of a socket, which the folder of a test may not be.
    with tempfile.TemporaryDirectory(prefix="p") as name:
        home = Path(name)
        (home / "run").mkdir()
        (home / "run" / "workers").symlink_to(home)
        with pytest.raises(PermissionError):
            own_path(home)
