"""Runs a command, and sees to it that nothing of it is left when the command or its owner has ended, however they did.

A program of its own, with nothing but the standard library: `python engine_guard.py FD COMMAND ...`. The owner holds
the other end of standard input and writes nothing: its end is the owner's. To the descriptor go this process's id and
that of the command's, which is also that of its group, and when nothing is left of it, `done`: its end without that is
the guard's.

It is nobody's child: Ray has a worker kill its children before it ends, and a guard that is killed guards nothing. The
kernel gives it the orphans of the command, which no group holds once they have left it; elsewhere than on Linux there
is only the group.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time

#: Options of prctl(2).
DEATH_SIGNAL, ADOPT_ORPHANS = 1, 36
#: How long the command may take to end by itself when its owner has: it has shared memory to remove.
GRACE_S = 2.0
PAUSE_S = 0.02


def main(said: int, command: list[str]) -> None:
    if os.fork():
        os._exit(0)
    os.setsid()
    os.set_inheritable(said, False)
    is_linux = sys.platform == "linux"
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    if is_linux:
        libc = ctypes.CDLL(None)
        libc.prctl(ADOPT_ORPHANS, 1, 0, 0, 0)

    def end_with_guard() -> None:
        libc.prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)

    try:
        # One thread only, so that code may run between fork and exec.
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=end_with_guard if is_linux else None
        )
    except OSError as error:
        print(f"error: {error}", flush=True)
        os.write(said, b"0 0\ndone\n")
        return
    os.write(said, f"{os.getpid()} {child.pid}\n".encode())
    # Only the command may keep them open: they end with the last of its processes.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    has_ended = is_ordered = False
    while not (has_ended or is_ordered):
        ready, _, _ = select.select([0, woken], [], [])
        signals = os.read(woken, 512) if woken in ready else b""
        has_ended = _reaped(child.pid)
        is_ordered = 0 in ready or bool(set(signals) - {signal.SIGCHLD})
    if not has_ended:
        _let_end(child.pid)
    _end_all(child.pid)
    try:
        os.write(said, b"done\n")
    except OSError:
        return  # nobody hears it any more


def _reaped(pid: int) -> bool:
    """Collects what has ended; whether that process is one of them."""
    has_ended = False
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if not ended:
            return has_ended
        has_ended |= ended == pid


def _let_end(group: int) -> None:
    """Waits for the first of its processes only: the others are its own."""
    deadline = time.monotonic() + GRACE_S
    _signal(group, signal.SIGTERM)
    while time.monotonic() < deadline and not _reaped(group):
        time.sleep(PAUSE_S)


def _end_all(group: int) -> None:
    """Returns when there is nothing left."""
    while True:
        _signal(group, signal.SIGKILL)
        for pid in _descendants():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        _reaped(group)
        if not _has_children():
            return
        time.sleep(PAUSE_S)


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except OSError:
        return  # nobody is left in it


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _descendants() -> list[int]:
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        try:
            with open(f"/proc/{int(name)}/stat") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sorted(family - {os.getpid()})


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
