"""`cluster up`, `down` and `status`: the cluster as a whole."""

from __future__ import annotations

import signal
import sys
import threading
import time
from typing import IO, Any

import click
from rich.console import Console

from cluster.cli.connection import complete_uid, save_key, saved_key, settings_from, talks
from cluster.cli.declared import print_changes, read_models
from cluster.cli.launch import first_call
from cluster.cli.options import flags_of
from cluster.cli.output import json_option, print_json, print_models, print_table, size
from cluster.cli.ports import warn_of_open_ports
from cluster.cli.progress import follow as follow_launch
from cluster.cli.progress import rows_of, shown
from cluster.client.client import Client
from cluster.runtime import connection, launcher
from cluster.runtime.open_files import raise_limit, warning_of
from cluster.settings import Settings
from cluster.status import ModelState


@click.command()
@flags_of(Settings, {"host": ("-H",), "port": ("-p",)})
@click.option("--address", help="Ray cluster to use, e.g. auto; one is started on this machine when not given.")
@click.option("-d", "--detach", is_flag=True, help="Return once it serves.")
@click.option(
    "-f",
    "--file",
    "models",
    type=click.File(encoding="utf-8"),
    help="models.yaml to apply once it serves.",
)
@click.option("--admin-key-file", type=click.File(encoding="utf-8"), help="Admin key to admit, instead of a new one.")
@click.option(
    "--ingress-nodes",
    type=click.IntRange(min=0),
    default=0,
    help="Nodes with the Ray resource `ingress`: each answers HTTP as well; with --address.",
)
@click.option("--autoscale", is_flag=True, help="Tell Ray's autoscaler what GPUs the models need; with --address.")
def up(
    address: str | None,
    detach: bool,
    models: IO[str] | None,
    admin_key_file: IO[str] | None,
    ingress_nodes: int,
    autoscale: bool,
    **flags: Any,
) -> None:
    """Start the cluster. Every flag is also an environment variable, --log-level is CLUSTER_LOG_LEVEL."""
    settings = settings_from(**flags)
    if address is None and (ingress_nodes or autoscale):
        raise click.UsageError("--ingress-nodes and --autoscale are for a Ray of several machines: give its --address.")
    specs = read_models(models) if models is not None else []
    admin_key = admin_key_file.read().strip() if admin_key_file is not None else None
    if (warning := warning_of(raise_limit())) is not None:
        click.echo(warning, err=True)
    started = time.monotonic()
    # Until it serves, whoever asks to stop interrupts the start, and what was started is ended.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with Console(stderr=True).status(f"Starting a cluster at {settings.url} …"):
        running = launcher.start(settings, address, ingress_nodes=ingress_nodes, admin_key=admin_key)
    stop_asked = _on_signals()
    try:
        after = f"after {time.monotonic() - started:.1f} s"
        adopted = "; it ran already, and is watched again" if running.serving.is_adopted else ""
        click.echo(f"Serving at {settings.url} {after}{adopted}.", err=True)
        if running.serving.notice:
            click.echo(f"Warning: {running.serving.notice}", err=True)
        if address is None:
            warn_of_open_ports(settings)
        if autoscale and address is not None:
            connection.prepare(settings, address)
            from cluster.runtime.growth import Growth

            Growth(settings, address)
        if admin_key is not None:
            save_key(settings.url, admin_key)
        if running.serving.new_key is not None:
            save_key(settings.url, running.serving.new_key)
            click.echo(
                f"Admin key (shown this once, saved for this user's commands): {running.serving.new_key}", err=True
            )
        if models is not None:
            with Client(settings.url, saved_key(settings.url)) as client:
                print_changes(client.apply(specs), err=True)
                _print_calls(client, stop_asked)
        if detach:
            return
        click.echo("Press Ctrl-C to stop; what was launched comes back with the next `cluster up`.", err=True)
        while not stop_asked.wait(1.0):
            if not running.goes_on():
                click.echo("Stopped by `cluster down`.", err=True)
                return
        click.echo("Stopping …", err=True)
    finally:
        if not detach or sys.exc_info()[0] is not None:
            running.stop()


def _print_calls(client: Client, stop_asked: threading.Event) -> None:
    """How far each model is, and how to call it as soon as it is READY."""
    waiting = {status.uid for status in client.statuses()}
    with shown() as show:
        while waiting and not stop_asked.wait(0.3):
            statuses = client.statuses()
            for status in statuses:
                if status.uid not in waiting or status.state not in (ModelState.READY, ModelState.FAILED):
                    continue
                waiting.discard(status.uid)
                with show.hidden():
                    if status.state is ModelState.FAILED:
                        click.echo(f"{status.uid} failed: {status.reason}", err=True)
                    elif call := first_call(client, status):
                        click.echo(call)
            show([row for status in statuses if status.uid in waiting for row in rows_of(status)])


def _on_signals() -> threading.Event:
    """Set by Ctrl-C, SIGTERM, or a terminal that is closed; a second one interrupts at once."""
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask)
    return asked


@click.command()
@flags_of(Settings, {"host": ("-H",), "port": ("-p",)}, only=("home", "host", "port", "namespace"))
@click.option("--node", is_flag=True, help="Only take this node out of use, before something else ends it.")
@click.option("--address", default="auto", show_default=True, help="Ray cluster the node is in, with --node.")
@click.option("--within", type=float, default=60.0, show_default=True, help="Seconds its work may take, with --node.")
@click.option("-y", "--yes", is_flag=True, help="Also where the node is the head, which answers for all, with --node.")
def down(node: bool, address: str, within: float, yes: bool, **flags: Any) -> None:
    """Stop the cluster that `cluster up` started; what was launched comes back with the next `up`."""
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
    question = "This node is the head: without its ingress nobody is answered. Go on?"
    return sys.stdin.isatty() and click.confirm(question, err=True)


@click.command()
@click.argument("uid", required=False, shell_complete=complete_uid)
@click.option("-f", "--follow", is_flag=True, help="Wait until the model is READY.")
@click.option("--timeout", type=float, help="Seconds to follow.")
@json_option
@talks
def status(client: Client, uid: str | None, follow: bool, timeout: float | None, as_json: bool) -> None:
    """Show the nodes and the models, or one model."""
    if uid is None:
        if follow:
            raise click.UsageError("Name the model to follow.")
        return _print_cluster(client, as_json)
    found = client.status(uid)
    if follow:
        found = follow_launch(client, uid, found.generation, timeout)
    if as_json:
        return print_json(found)
    print_models([found])
    if len(found.workers) > 1:
        click.echo()
        print_table(
            ("REPLICA", "STATE", "NODE", "CARDS", "MEMORY", "STAGE", "RESTARTS", "REASON"),
            [
                (
                    worker.id,
                    worker.state,
                    worker.node,
                    ",".join(map(str, worker.cards)),
                    size(worker.claim_bytes),
                    f"{worker.stage} {worker.progress:.0%}" if worker.stage else "",
                    worker.restarts or "",
                    worker.reason,
                )
                for worker in found.workers
            ],
        )
    for line in found.log_tail:
        click.echo(f"  {line}")


def _print_cluster(client: Client, as_json: bool) -> None:
    version, nodes, models = client.version(), client.cluster_info(detailed=True), client.statuses()
    if as_json:
        return print_json({"version": version, "nodes": nodes, "models": models})
    click.echo(f"{client.base_url} runs version {version}.\n")
    print_table(
        ("NODE", "ADDRESS", "CPUS", "MEMORY", "CLAIMED", "GPUS", "GPU MEMORY", "DISK FREE"),
        [
            (
                node.get("node_type"),
                node.get("ip_address"),
                node.get("cpu_count"),
                size(node.get("mem_total")),
                size(node.get("mem_claimed")),
                node.get("gpu_count") or "",
                size(node.get("gpu_vram_total")),
                size(node.get("disk_free")),
            )
            for node in nodes
        ],
    )
    click.echo()
    if models:
        print_models(models)
    else:
        click.echo("No model is launched; try `cluster launch -n all-MiniLM-L6-v2`.")
