"""`cluster ports`: what the processes of this machine's cluster listen on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import click

from cluster import errors
from cluster.cli.connection import settings_from
from cluster.cli.options import flags_of
from cluster.cli.output import json_option, print_json, print_table
from cluster.runtime.listening import OpenPort, exposed, open_ports, sockets_of
from cluster.runtime.place import Place
from cluster.runtime.ray_head import processes_of
from cluster.settings import Settings


@click.command()
@flags_of(Settings, {"host": ("-H",), "port": ("-p",)}, only=("home", "host", "port", "auth"))
@json_option
def ports(as_json: bool, **flags: object) -> None:
    """Show what the cluster on this machine listens on; exits with 1 if others can reach what they should not."""
    settings = settings_from(**flags)
    if Place(settings).read() is None:
        raise errors.Unavailable(f"No cluster with the home {settings.home} was started on this machine.")
    rows, too_open = _ports_of(settings)
    if as_json:
        print_json([{**asdict(row), "is_local": row.is_local, "is_exposed": row in too_open} for row in rows])
    else:
        print_table(
            ("PROCESS", "PID", "ADDRESS", "PORT", "REACHED BY", "ASKS FOR"),
            [
                (row.process, row.pid, row.address, row.port, "this machine" if row.is_local else "others", row.asks)
                for row in rows
            ],
        )
    _warn(too_open)
    if too_open:
        raise click.exceptions.Exit(1)


def warn_of_open_ports(settings: Settings) -> None:
    """Warns, at a start, of ports that others can reach and should not."""
    _warn(_ports_of(settings)[1])


def _ports_of(settings: Settings) -> tuple[list[OpenPort], list[OpenPort]]:
    """All open ports, and those that others can reach and should not."""
    sockets = sockets_of(processes_of(Place(settings)))
    rows = open_ports(sockets, port=settings.port, asks_for_keys=settings.asks_for_keys)
    state = Place(settings).read() or {}
    # A machine that has joined serves nothing itself, and says so by its settings; its Ray is there for the others.
    is_loopback = state["address"].startswith("127.") if state.get("joined") else settings.is_loopback
    return rows, exposed(rows, is_loopback=is_loopback)


def _warn(rows: Iterable[OpenPort]) -> None:
    for row in rows:
        click.echo(f"Warning: {row}; other machines can reach it.", err=True)
