"""Which ports the processes of one installation listen on, who can reach them, and what they ask for."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import psutil

Asks = Literal["key", "token", "nothing"]


@dataclass(frozen=True)
class Socket:
    """A listening socket, with the name and the environment of its process as far as they matter."""

    process: str
    pid: int
    address: str
    port: int
    #: The process was told to answer only those who have Ray's token.
    has_token: bool = False


@dataclass(frozen=True)
class OpenPort:
    process: str
    pid: int
    address: str
    port: int
    #: What a caller must have to be answered.
    asks: Asks

    @property
    def is_local(self) -> bool:
        """Only processes of this machine can reach it."""
        address = ipaddress.ip_address(self.address.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return bool((mapped or address).is_loopback)

    def __str__(self) -> str:
        asks = "no key and no token" if self.asks == "nothing" else f"a {self.asks}"
        return f"{self.process} (pid {self.pid}) listens on {self.address} port {self.port} and asks for {asks}"


def open_ports(sockets: Iterable[Socket], *, port: int, asks_for_keys: bool) -> list[OpenPort]:
    """Who listens where; `port` is the one that models are served on."""

    def asks(socket: Socket) -> Asks:
        if socket.port == port:
            return "key" if asks_for_keys else "nothing"
        is_ray = socket.process in ("gcs_server", "raylet") or socket.process.startswith("ray::")
        return "token" if is_ray and socket.has_token else "nothing"

    rows = {OpenPort(socket.process, socket.pid, socket.address, socket.port, asks(socket)) for socket in sockets}
    return sorted(rows, key=lambda row: (row.is_local, row.process, row.pid, row.port))


def exposed(rows: Iterable[OpenPort], *, is_loopback: bool) -> list[OpenPort]:
    """What should not be: a port that other machines reach and that asks for nothing; on an installation for this
    machine alone, every port that they reach."""
    return [row for row in rows if not row.is_local and (is_loopback or row.asks == "nothing")]


def sockets_of(processes: Sequence[psutil.Process]) -> list[Socket]:
    sockets = []
    for process in processes:
        try:
            has_token = _was_told_the_token(process)
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    address, port = connection.laddr
                    sockets.append(Socket(process.name(), process.pid, address, port, has_token))
        except psutil.Error:
            continue  # it ended meanwhile
    return sockets


def _was_told_the_token(process: psutil.Process) -> bool:
    """By its environment or its parent's: those of Ray that write a title over their own have none to read."""
    family = [process, *process.parents()[:1]]
    return any(member.environ().get("RAY_AUTH_MODE") == "token" for member in family)
