from __future__ import annotations

from cluster.runtime.listening import OpenPort, Socket, exposed, open_ports


def rows(*sockets: Socket, asks_for_keys: bool = False) -> list[OpenPort]:
    return open_ports(sockets, port=9997, asks_for_keys=asks_for_keys)


def test_only_loopback_addresses_are_local_whatever_their_spelling() -> None:
    def is_local(address: str) -> bool:
        return OpenPort("raylet", 1, address, 1, "token").is_local

    assert all(map(is_local, ("127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1")))
    assert not any(map(is_local, ("0.0.0.0", "::", "192.0.2.2", "::ffff:192.0.2.2", "fe80::1%eth0")))


def test_processes_of_ray_ask_for_its_token_only_when_they_were_told_to() -> None:
    (guarded, open_one) = rows(Socket("raylet", 1, "::", 5, has_token=True), Socket("raylet", 2, "::", 6))
    assert (guarded.asks, open_one.asks) == ("token", "nothing")


def test_a_process_that_is_not_rays_asks_for_nothing_though_it_inherits_the_token() -> None:
    (row,) = rows(Socket("python", 1, "0.0.0.0", 5, has_token=True))
    assert row.asks == "nothing"
    assert str(row) == "python (pid 1) listens on 0.0.0.0 port 5 and asks for no key and no token"


def test_the_served_port_asks_for_keys_where_keys_are_on() -> None:
    served = Socket("ray::ServeReplica", 1, "0.0.0.0", 9997, has_token=True)
    assert [row.asks for row in rows(served)] == ["nothing"]
    assert [row.asks for row in rows(served, asks_for_keys=True)] == ["key"]


def test_a_loopback_installation_exposes_every_port_that_others_reach_and_another_one_those_without_a_token() -> None:
    told = rows(
        Socket("raylet", 1, "127.0.0.1", 5),
        Socket("raylet", 1, "::", 6, has_token=True),
        Socket("ray::DashboardAgent", 2, "0.0.0.0", 7),
    )
    assert [row.port for row in exposed(told, is_loopback=True)] == [7, 6]
    assert [row.port for row in exposed(told, is_loopback=False)] == [7]
