"""Runs a command as if a person sat at the terminal."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys


class Terminal:
    """A command whose standard input and error are a terminal."""

    def __init__(self, environment: dict[str, str], *words: str, is_terminal: bool = True) -> None:
        self._ours, theirs = pty.openpty()
        variables = {**os.environ, **environment, "TERM": "xterm", "COLUMNS": "120"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", *words],
            stdin=theirs if is_terminal else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=variables,
            text=True,
        )
        os.close(theirs)
        self.text = ""

    def read_until(self, expected: str) -> None:
        while expected not in self.text:
            assert self._read(), f"{expected!r} was never said, but: {self.text!r}"

    def _read(self) -> bool:
        try:
            part = os.read(self._ours, 4096).decode(errors="replace")
        except OSError:
            # Linux says so when the other side is closed.
            return False
        self.text += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", part)
        return bool(part)

    def answer(self, line: str) -> None:
        os.write(self._ours, line.encode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, str]:
        while self._read():
            pass
        stdout, _ = self.process.communicate(timeout=20)
        return self.process.returncode, stdout

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        os.close(self._ours)
