"""Where one installation keeps its files on this machine, and the lock that says whether it runs."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from cluster import errors
from cluster.paths import make_private
from cluster.settings import Settings

#: On a machine that has joined, in the environment of its Ray: the home folder there, which need not be the head's.
NODE_HOME = "CLUSTER_NODE_HOME"


def settings_here(settings: Settings) -> Settings:
    """Settings that came from the head, with the home folder of the machine that this process is on."""
    home = os.environ.get(NODE_HOME)
    return settings.model_copy(update={"home": Path(home)}) if home else settings


class Place:
    """Short paths, readable by their owner only."""

    def __init__(self, settings: Settings) -> None:
        self.home = settings.home
        self.store = settings.store
        self.run = settings.home / "run"
        #: The run that is under way, or was: its id, its address, its URL.
        self.state = self.run / "cluster.json"
        self.lock = self.run / "cluster.lock"
        self.log = settings.home / "logs" / "ray.log"
        self.token = self.run / "ray.token"
        #: One file for each process that must show that it lives.
        self.beats = self.run / "beats"
        # Sockets live deep below it and their paths have 107 bytes at most; a home folder may be anywhere.
        name = hashlib.sha256(str(settings.home).encode()).hexdigest()[:8]
        root = Path("/tmp") if sys.platform == "linux" else Path(tempfile.gettempdir())
        self.private = root / f"cluster-{os.getuid()}-{name}"
        # Ray opens the folder that it is given to everybody, so it gets one inside of ours.
        self.temp = self.private / "r"
        #: Where the ingress is handed the sockets that it accepts connections on.
        self.listeners = self.private / "listen.sock"

    def prepare(self) -> None:
        try:
            for folder in (self.run, self.beats, self.log.parent):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not make_private(self.private):
                raise errors.BadRequest(f"{self.private} is not a folder of this user; remove it, then start again.")
            self.temp.mkdir(exist_ok=True, mode=0o700)
            if not self.token.exists():
                _write_private(self.token, secrets.token_hex(32))
        except OSError as error:
            raise cannot_write(self.home, error) from None

    @property
    def id(self) -> str:
        """Tells this home from every other; made once."""
        path = self.home / "id"
        try:
            _write_private(path, secrets.token_hex(16))
        except FileExistsError:
            pass
        return path.read_text()

    def read(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self.state.read_text()))
        except (OSError, ValueError):
            return None

    def take(self) -> IO[str]:
        """The lock, held until what is returned is closed or its process ends; refused while a cluster lives here."""
        try:
            file = self.lock.open("a")
        except OSError as error:
            raise cannot_write(self.lock, error) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            if (state := self.read()) and state.get("joined"):
                raise errors.Conflict(
                    f"This machine has joined the cluster at {state['url']} already, with the home {self.home}: leave "
                    "it with `cluster down`, or give CLUSTER_HOME another folder."
                ) from None
            where = f"at {state['url']}" if (state := self.read()) else "and is just being started or stopped"
            raise errors.Conflict(
                f"The cluster of {self.home} runs already, {where}: use that, stop it with `cluster down`, or give "
                "another one a CLUSTER_HOME of its own."
            ) from None
        try:
            file.truncate(0)
            # Not by the file itself, which would try again when it is closed.
            os.write(file.fileno(), str(os.getpid()).encode())
        except OSError as error:
            file.close()
            raise cannot_write(self.lock, error) from None
        return file

    def holder(self) -> int | None:
        """The process that has the lock, if any has."""
        try:
            with self.lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = self.lock.read_text()
            if not text:
                raise errors.Conflict(f"The cluster of {self.home} is just being started; try again.") from None
            return int(text)
        except FileNotFoundError:
            pass
        return None


def cannot_write(path: Path, error: OSError) -> errors.Unavailable:
    return errors.Unavailable(
        f"{error.filename or path} cannot be written: {error.strerror}; make room there, or choose another folder with "
        "CLUSTER_HOME."
    )


def _write_private(path: Path, text: str) -> None:
    """A new file that nobody else may read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
