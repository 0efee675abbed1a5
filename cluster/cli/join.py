"""`cluster join`: adds this machine to a cluster, until Ctrl-C."""

from __future__ import annotations

import logging
import signal
from typing import IO

import click

from cluster import errors
from cluster.cli.connection import settings_from
from cluster.cli.options import flags_of
from cluster.cli.stopping import on_signals
from cluster.node_labels import read_labels
from cluster.runtime.join import JoinedMachine, JoinPlan
from cluster.runtime.place import Place
from cluster.settings import Settings


@click.command()
@click.argument("head", metavar="HEAD:PORT")
@click.option(
    "--token-file",
    type=click.File(encoding="utf-8"),
    required=True,
    help="A copy of run/ray.token in the home folder of the head. Who has it can run anything on every machine.",
)
@click.option("--address", default="", help="The address by which the others reach this machine, if it has several.")
@click.option("--name", default="", help="What to call this machine; its host name if not given.")
@click.option(
    "--within",
    type=float,
    default=30.0,
    show_default=True,
    help="At Ctrl-C: how many seconds its models may take to be READY elsewhere.",
)
@flags_of(Settings, only=("home", "ray_ports", "labels"))
def join(head: str, token_file: IO[str], address: str, name: str, within: float, **flags: object) -> None:
    """Add this machine to the cluster at HEAD:PORT, the address that it serves at.

    Ctrl-C, or `cluster down` with the same home, has its models moved to other machines, then lets go. After a restart
    of the head, or when Ray ends here, it joins again by itself.
    """
    settings = settings_from(**flags)
    token = token_file.read().strip()
    if not token:
        raise errors.NotAuthenticated(f"{token_file.name} is empty; it has to be a copy of run/ray.token of the head.")
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    home = Place(settings)
    machine = JoinedMachine(settings, JoinPlan(head, token, read_labels(settings.labels), address, name))
    invitation = machine.invited()
    home.prepare()
    # Refused where this home has a cluster of its own, or has joined one already.
    with home.take():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            own_address = machine.join(invitation)
            stop_asked = on_signals()
            click.echo(f"Joined {head} as {own_address}. Press Ctrl-C to leave.", err=True)
            machine.watch(stop_asked)
            click.echo("Leaving: its models move elsewhere first; Ctrl-C again ends them at once …", err=True)
            left = machine.leave(within)
            click.echo(f"Left, with {left} workers that were not READY elsewhere." if left else "Left.", err=True)
        finally:
            machine.end()
