"""The sockets that callers connect to, held by a process that does nothing else with them.

Every ingress gets a copy of them. When all ingresses end at once, the sockets stay open: the kernel goes on taking
connections, and callers wait for the next ingress instead of being refused. An ingress that hangs takes none.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster import errors

#: Connections that the kernel holds until an ingress accepts them.
BACKLOG = 2048
#: How long either side may keep the other waiting while sockets are handed over.
TIMEOUT_S = 5.0
#: A host name may stand for several addresses, but hardly for more than these.
MOST_SOCKETS = 16


def listen(host: str, port: int) -> list[socket.socket]:
    """A listening socket for every address of the host name."""
    try:
        rows: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        places = dict.fromkeys((family, address) for family, _, _, _, address in rows)
        return [
            socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=True) for family, address in places
        ]
    except OSError as error:
        reason = str(error.strerror or error).partition(" (")[0]
        raise errors.Conflict(f"Port {port} of {host} cannot be served on: {reason}.") from None


class Holder:
    """Keeps the sockets, and hands a copy to every process of this user that asks at the path."""

    def __init__(self, host: str, port: int, path: Path, held: Sequence[socket.socket] = ()) -> None:
        """`held`: the sockets of an earlier holder. Callers may be waiting in those."""
        self._path = path
        self._sockets = list(held) or listen(host, port)
        path.unlink(missing_ok=True)
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(path))
        path.chmod(0o600)
        self._door.listen()
        threading.Thread(target=self._hand_over, name="handover", daemon=True).start()

    def _hand_over(self) -> None:
        while True:
            try:
                asking, _ = self._door.accept()
            except OSError:
                return  # closed
            with asking:
                asking.settimeout(TIMEOUT_S)
                try:
                    socket.send_fds(asking, [b"."], [held.fileno() for held in self._sockets])
                except OSError:
                    continue

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        # Closing alone does not wake a thread that waits in accept.
        self._door.shutdown(socket.SHUT_RDWR)
        for held in (self._door, *self._sockets):
            held.close()


def sockets_for(host: str, port: int, path: Path) -> list[socket.socket]:
    """Copies of the sockets that the watchdog holds for this address, or new ones without a watchdog."""
    handed = handed_over(path)
    if handed and all(held.getsockname()[1] == port for held in handed):
        return handed
    for held in handed:
        held.close()
    return listen(host, port)


def handed_over(path: Path) -> list[socket.socket]:
    """Copies of the sockets that are held at the path; none if nobody holds any."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(TIMEOUT_S)
        try:
            asking.connect(str(path))
            _, numbers, _, _ = socket.recv_fds(asking, 1, MOST_SOCKETS)
        except OSError:
            return []
    return [socket.socket(fileno=number) for number in numbers]
