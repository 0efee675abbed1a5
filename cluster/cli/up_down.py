"""`cluster up` and `down`: start the cluster of this machine, stop it, or take one node out of use."""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import IO
from urllib.parse import urlsplit

import click
from rich.console import Console

from cluster.cli.connection import save_key, saved_key, settings_from
from cluster.cli.launch import first_call
from cluster.cli.models_file import print_changes, read_models
from cluster.cli.options import flags_of
from cluster.cli.ports import warn_of_open_ports
from cluster.cli.progress import rows_of, shown
from cluster.cli.stopping import on_signals
from cluster.client.client import Client
from cluster.runtime import connection, launcher
from cluster.runtime.open_files import raise_limit, warning_of
from cluster.runtime.place import Place
from cluster.settings import Settings
from cluster.status import RESTING, ModelState

#: States of a launch that nobody has to wait for any more.
ENDED = (ModelState.READY, ModelState.FAILED, *RESTING)


@click.command()
@flags_of(Settings, {"host": ("-H",), "port": ("-p",)})
@click.option("--address", help="A running Ray cluster to use, e.g. auto; without it, one is started on this machine.")
@click.option("-d", "--detach", is_flag=True, help="Return as soon as the cluster serves.")
@click.option(
    "-f",
    "--file",
    "models",
    type=click.File(encoding="utf-8"),
    help="A models.yaml to apply as soon as the cluster serves.",
)
@click.option(
    "--admin-key-file",
    type=click.File(encoding="utf-8"),
    help="A file with the admin key to use, instead of a new key.",
)
@click.option(
    "--ingress-nodes",
    type=click.IntRange(min=0),
    default=0,
    help="With --address: the number of nodes with the Ray resource `ingress`, each of which answers HTTP.",
)
@click.option("--autoscale", is_flag=True, help="With --address: tell Ray's autoscaler how many GPUs the models need.")
def up(
    address: str | None,
    detach: bool,
    models: IO[str] | None,
    admin_key_file: IO[str] | None,
    ingress_nodes: int,
    autoscale: bool,
    **flags: object,
) -> None:
    """Start the cluster. Every flag is also an environment variable: --log-level is CLUSTER_LOG_LEVEL."""
    settings = settings_from(**flags)
    if address is None and (ingress_nodes or autoscale):
        raise click.UsageError("--ingress-nodes and --autoscale need a Ray of several machines: give its --address.")
    specs = read_models(models) if models is not None else []
    admin_key = admin_key_file.read().strip() if admin_key_file is not None else None
    if (warning := warning_of(raise_limit())) is not None:
        click.echo(warning, err=True)
    started = time.monotonic()
    # Until the cluster serves, a signal interrupts the start, which ends what it has started.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with Console(stderr=True).status(f"Starting a cluster at {settings.url} …"):
        running = launcher.start(settings, address, ingress_nodes=ingress_nodes, admin_key=admin_key)
    stop_asked = on_signals()
    try:
        after = f"after {time.monotonic() - started:.1f} s"
        adopted = "; it was already running and is watched again" if running.result.is_adopted else ""
        click.echo(f"Serving at {settings.url} {after}{adopted}.", err=True)
        if running.result.notice:
            click.echo(f"Warning: {running.result.notice}", err=True)
        if address is None:
            warn_of_open_ports(settings)
        if autoscale and address is not None:
            # Ray reads its settings from the environment when it is imported, so this import comes after them.
            connection.prepare(settings, address)
            from cluster.runtime.growth import Growth

            Growth(settings, address)
        if admin_key is not None:
            save_key(settings.url, admin_key)
        if address is None and not settings.is_loopback:
            _print_how_to_join(settings)
        if running.result.new_key is not None:
            save_key(settings.url, running.result.new_key)
            click.echo(
                f"Admin key (shown only now, saved for this user's commands): {running.result.new_key}", err=True
            )
        if models is not None:
            with Client(settings.url, saved_key(settings.url)) as client:
                print_changes(client.apply(specs), err=True)
                _print_calls(client, stop_asked)
        if detach:
            return
        click.echo("Press Ctrl-C to stop; the next `cluster up` launches the same models again.", err=True)
        while not stop_asked.wait(1.0):
            if not running.goes_on():
                click.echo("Stopped by `cluster down`.", err=True)
                return
        click.echo("Stopping …", err=True)
    finally:
        if not detach or sys.exc_info()[0] is not None:
            running.stop()


def _print_how_to_join(settings: Settings) -> None:
    place = Place(settings)
    host = urlsplit(f"//{(place.read() or {}).get('address', settings.host)}").hostname
    click.echo(
        f"To add a machine, copy {place.token} to it, which is as good as a login here, and run there:\n"
        f"  cluster join {host}:{settings.port} --token-file {place.token.name}",
        err=True,
    )


def _print_calls(client: Client, stop_asked: threading.Event) -> None:
    """Shows each model's progress, and how to call it as soon as it is READY."""
    waiting = {status.uid for status in client.statuses()}
    with shown() as show:
        while waiting and not stop_asked.wait(0.3):
            statuses = client.statuses()
            for status in statuses:
                if status.uid not in waiting or status.state not in ENDED:
                    continue
                waiting.discard(status.uid)
                with show.hidden():
                    if status.state is ModelState.FAILED:
                        click.echo(f"{status.uid} failed: {status.reason}", err=True)
                    elif call := first_call(client, status):
                        click.echo(call)
            show([row for status in statuses if status.uid in waiting for row in rows_of(status)])


@click.command()
@flags_of(Settings, {"host": ("-H",), "port": ("-p",)}, only=("home", "host", "port", "namespace"))
@click.option("--node", is_flag=True, help="Only take this node out of use, before its machine is stopped.")
@click.option("--address", default="auto", show_default=True, help="With --node: the Ray cluster that the node is in.")
@click.option(
    "--within",
    type=float,
    default=60.0,
    show_default=True,
    help="With --node: how many seconds its running requests may take.",
)
@click.option(
    "-y",
    "--yes",
    is_flag=True,
    help="With --node: do not ask, even if the node is the head, whose ingress answers every request.",
)
def down(node: bool, address: str, within: float, yes: bool, **flags: object) -> None:
    """Stop the cluster that `cluster up` started; the next `up` launches the same models again."""
    settings = settings_from(**flags)
    if node:
        connection.prepare(settings, address)
        from cluster.runtime.node_drain import leave

        busy = leave(settings, address, within, lambda: yes or _may_end_head())
        click.echo(
            f"Still at work after {within:.0f} s: {', '.join(busy)}." if busy else "Nothing is left to do.", err=True
        )
        return
    launcher.stop(settings)
    click.echo("Stopped.", err=True)


def _may_end_head() -> bool:
    question = "This node is the head: without its ingress no request is answered. Go on?"
    return sys.stdin.isatty() and click.confirm(question, err=True)
