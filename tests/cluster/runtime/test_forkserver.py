"""Tests with real processes, which preload libraries that are imported quickly."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.runtime import forkserver, ray_head
from cluster.runtime.forkserver import PATH, UNFORKED, ForkServer, command
from cluster.worker.preload import Preload
from tests.live import ROOT, is_alive, until

#: Writes into a file what a program sees of its own process.
TELLS = """
import json, os, sys
seen = {"words": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ), "parent": os.getppid(),
        "nice": os.nice(0),
        "leads": os.getpgrp() == os.getpid(), "name": __name__,
        "path": sys.path[0], "imported": "wave" in sys.modules}
open(sys.argv[1] + ".new", "w").write(json.dumps(seen))
os.rename(sys.argv[1] + ".new", sys.argv[1])
print("told")
"""


#: Of a wing that needs nothing of its own.
FAMILY = "wings.plain:Plain"


@pytest.fixture
def raylet() -> Iterator[subprocess.Popen[bytes]]:
    """A process in the place of the raylet, for as long as which the server runs."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def server(tmp_path: Path, raylet: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    process = start(tmp_path / "fork.sock", raylet.pid)
    yield process
    process.kill()
    process.wait()


def start(path: Path, raylet: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command(str(path), raylet, ["wave", "there_is_no_such_module"]), cwd=ROOT)
    until(path.exists, within=20)
    return process


def ray_python(path: Path, *words: str, first: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Starts a process the way the raylet does."""
    folder = path.parent / "ray" / "_private" / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "default_worker.py"
    program.write_text(TELLS)
    environment = {"PATH": os.environ["PATH"], "CLUSTER_PYTHON": sys.executable, PATH: str(path), **variables}
    return subprocess.run(
        [ray_head.RAY_PYTHON, *filter(None, [first]), program, *words],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
    )


def told_by(path: Path) -> dict[str, object]:
    until(path.exists, within=20)
    seen: dict[str, object] = json.loads(path.read_text())
    return seen


def test_a_forked_process_finds_all_as_if_it_had_been_started(server: subprocess.Popen[bytes], tmp_path: Path) -> None:
    done = ray_python(tmp_path / "fork.sock", str(tmp_path / "seen"), "--node=a b", GIVEN="yes")
    assert (done.returncode, done.stderr) == (0, "")
    seen = told_by(tmp_path / "seen")
    program = tmp_path / "ray" / "_private" / "workers" / "default_worker.py"
    assert seen["words"] == [str(program), str(tmp_path / "seen"), "--node=a b"]
    assert (seen["folder"], seen["path"], seen["name"]) == (str(program.parent), str(program.parent), "__main__")
    assert isinstance(seen["environment"], dict)
    assert seen["environment"]["GIVEN"] == "yes" and "OMP_WAIT_POLICY" not in seen["environment"]
    assert (seen["parent"], seen["imported"], seen["nice"]) == (server.pid, True, os.nice(0))
    assert seen["leads"], "whoever ends its process group ends the fork server, and all others"


def test_what_a_forked_process_prints_goes_where_the_raylet_wants_it(
    server: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert ray_python(tmp_path / "fork.sock", str(tmp_path / "seen")).stdout == "told\n"


def test_a_program_that_fails_fails_alone(server: subprocess.Popen[bytes], tmp_path: Path) -> None:
    for _ in range(3):
        assert "IndexError" in ray_python(tmp_path / "fork.sock").stderr
    ray_python(tmp_path / "fork.sock", str(tmp_path / "seen"))
    assert told_by(tmp_path / "seen")["parent"] == server.pid
    until(lambda: not psutil.Process(server.pid).children(), within=10, why="processes that ended are left")


def test_an_actor_may_be_forked_by_another_than_the_usual_one(server: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Ray would run `setup_worker.py` with these words, which sets the variable and takes them out."""
    context = json.dumps({"command_prefix": [], "env_vars": {PATH: str(tmp_path / "fork.sock")}, "py_executable": "p"})
    seen = str(tmp_path / "seen")
    words = [seen, "--node=a b", "--language=PYTHON", f"--serialized-runtime-env-context={context}"]
    done = ray_python(tmp_path / "usual.sock", *words, first=str(tmp_path / "setup_worker.py"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "told\n", "")
    told = told_by(tmp_path / "seen")
    assert isinstance(told["words"], list) and told["words"][1:] == [seen, "--node=a b"]
    assert told["imported"] and told["parent"] == server.pid
    assert isinstance(told["environment"], dict) and told["environment"][PATH] == str(tmp_path / "fork.sock")


@pytest.mark.parametrize("what", ["nobody", "dead", "unforked"])
def test_where_there_is_no_fork_server_a_process_is_started_as_usual(
    what: str, tmp_path: Path, raylet: subprocess.Popen[bytes]
) -> None:
    path = tmp_path / "fork.sock"
    if what != "nobody":
        server = start(path, raylet.pid)
        if what == "dead":
            server.send_signal(signal.SIGKILL)
            server.wait()
            assert path.exists()
    done = ray_python(path, str(tmp_path / "seen"), **(UNFORKED if what == "unforked" else {}))
    assert (done.returncode, done.stdout, done.stderr) == (0, "told\n", "")
    assert told_by(tmp_path / "seen")["imported"] is False
    if what == "unforked":
        server.kill()
        server.wait()


def test_what_it_forked_outlives_it_and_another_takes_its_place(
    tmp_path: Path, raylet: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fork.sock"
    monkeypatch.setenv(PATH, str(path))
    monkeypatch.setenv("RAY_RAYLET_PID", str(raylet.pid))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(forkserver, "PRELOADED", ())
    preload = Preload(("wave",))
    ours = ForkServer(preload)
    ours.ensure(FAMILY)
    until(path.exists, within=20)
    first = ours._process
    assert first is not None
    # No second one is started, by the same supervisor or by another.
    ours.ensure(FAMILY)
    other = ForkServer(preload)
    other.ensure(FAMILY)
    assert ours._process is first and other._process is None
    first.kill()
    first.wait()
    other.ensure(FAMILY)
    second = other._process
    assert second is not None
    until(
        lambda: ray_python(path, str(tmp_path / "seen")).returncode == 0 and told_by(tmp_path / "seen")["imported"],
        within=20,
    )
    second.kill()
    second.wait()


def test_the_first_worker_is_started_at_once_and_others_wait_for_what_they_share(
    server: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATH, str(tmp_path / "coming.sock"))
    ours = ForkServer(Preload(of_wing={"wings.toys": ("wave",)}))
    assert ours.may_fork(FAMILY, 100.0)
    assert not ours.may_fork(FAMILY, 101.0) and ours.may_fork("wings.toys:Ball", 101.0)
    # Should it never come, they do without.
    assert ours.may_fork(FAMILY, 100.0 + forkserver.IMPORTED_S)
    (tmp_path / "coming.sock").symlink_to(tmp_path / "fork.sock")
    assert ours.may_fork(FAMILY, 102.0) and not ours.may_fork("wings.toys:Ball", 102.0)
    # When it has died, it is awaited as before.
    (tmp_path / "coming.sock").unlink()
    assert ours.may_fork(FAMILY, 103.0) and not ours.may_fork(FAMILY, 104.0)


def test_a_wing_has_a_process_of_its_own_once_it_has_a_worker(
    tmp_path: Path, raylet: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATH, str(tmp_path / "fork.sock"))
    monkeypatch.setenv("RAY_RAYLET_PID", str(raylet.pid))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(forkserver, "PRELOADED", ())
    server = ForkServer(Preload(of_wing={"wings.toys": ("wave",), "wings.tools": ("sched",)}))
    # It comes by itself after the common one, or when the first worker of its wing is started beside that.
    for family in ("wings.toys.ball:Ball", "wings.tools:Saw"):
        assert server.ensure(family) == ""
        until(lambda family=family: server.ensure(family), within=20)  # type: ignore[misc]
    path = Path(server.ensure("wings.toys.ball:Ball"))
    assert path == tmp_path / "fork-toys.sock" and server.ensure("wings.others:Other") == ""
    for number, (at, has_it) in enumerate([(path, True), (tmp_path / "fork-tools.sock", False)]):
        assert ray_python(at, str(tmp_path / f"seen{number}")).stdout == "told\n"
        assert told_by(tmp_path / f"seen{number}")["imported"] is has_it
    assert told_by(tmp_path / "seen0")["nice"] == os.nice(0)
    # One that has died is replaced by the common one.
    assert server._process is not None
    common = psutil.Process(server._process.pid)
    templates = common.children()
    for template in templates:
        template.kill()
    psutil.wait_procs(templates, timeout=10)
    until(lambda: server.ensure("wings.toys:Ball") == str(path) and path.exists(), within=20)
    raylet.kill()
    raylet.wait()
    server._process.wait(10)
    until(lambda: not path.exists(), within=10)


def test_it_ends_with_its_raylet(tmp_path: Path, raylet: subprocess.Popen[bytes]) -> None:
    server = start(tmp_path / "fork.sock", raylet.pid)
    raylet.kill()
    raylet.wait()
    server.wait(10)
    assert not (tmp_path / "fork.sock").exists()


def test_a_second_one_of_a_path_gives_way(server: subprocess.Popen[bytes], tmp_path: Path) -> None:
    second = subprocess.run(command(str(tmp_path / "fork.sock"), os.getpid(), []), cwd=ROOT, timeout=30)
    assert second.returncode == 0 and is_alive(psutil.Process(server.pid))


def test_what_is_no_request_disturbs_nobody(server: subprocess.Popen[bytes], tmp_path: Path) -> None:
    for message in (b"", b"no JSON", b'{"words": []}'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
            caller.connect(str(tmp_path / "fork.sock"))
            if message:
                caller.send(message)
    ray_python(tmp_path / "fork.sock", str(tmp_path / "seen"))
    assert told_by(tmp_path / "seen")["parent"] == server.pid
