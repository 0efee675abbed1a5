from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import errors
from cluster.runtime.handover import Holder, listen, sockets_for
from tests.live import free_port


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    port, path = free_port(), tmp_path / "listen.sock"
    holder = Holder("127.0.0.1", port, path)
    yield port, path
    holder.close()


def answer_once(sockets: list[socket.socket]) -> None:
    connection, _ = sockets[0].accept()
    with connection:
        connection.sendall(b"here")


def test_who_connects_while_nobody_answers_waits_for_the_next(held: tuple[int, Path]) -> None:
    port, path = held
    first = sockets_for("127.0.0.1", port, path)
    for each in first:
        each.close()  # as happens when its process ends
    with socket.create_connection(("127.0.0.1", port), 5) as caller:
        caller.settimeout(5)
        second = sockets_for("127.0.0.1", port, path)
        threading.Thread(target=answer_once, args=(second,)).start()
        assert caller.recv(4) == b"here"
    second[0].close()


def test_two_accept_from_the_same_socket(held: tuple[int, Path]) -> None:
    port, path = held
    hung, other = sockets_for("127.0.0.1", port, path), sockets_for("127.0.0.1", port, path)
    with socket.create_connection(("127.0.0.1", port), 5) as caller:
        caller.settimeout(5)
        threading.Thread(target=answer_once, args=(other,)).start()
        assert caller.recv(4) == b"here"
    for each in (*hung, *other):
        each.close()


def test_where_nobody_holds_any_they_are_made(tmp_path: Path) -> None:
    port = free_port()
    (made,) = sockets_for("127.0.0.1", port, tmp_path / "nobody.sock")
    assert made.getsockname() == ("127.0.0.1", port)
    made.close()


def test_those_of_another_port_are_not_taken(held: tuple[int, Path]) -> None:
    _, path = held
    other = free_port()
    (made,) = sockets_for("127.0.0.1", other, path)
    assert made.getsockname()[1] == other
    made.close()


def test_an_address_that_is_not_here_is_told() -> None:
    with pytest.raises(errors.Conflict, match=r"Port \d+ of 203.0.113.7 cannot be served on: "):
        listen("203.0.113.7", free_port())
