"""`cluster up`, `down` and `status`: the cluster as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cluster.cli.connection import complete_uid, settings_from, talks
from cluster.cli.options import flags_of
from cluster.cli.output import json_option, print_json, print_models, print_table, size
from cluster.cli.progress import follow as follow_launch
from cluster.client import Client
from cluster.settings import Settings


@click.command()
@flags_of(Settings, {"host": ("-H",), "port": ("-p",)})
@click.option("--address", help="Ray cluster to use, e.g. auto; one is started on this machine when not given.")
@click.option("-d", "--detach", is_flag=True, help="Return once it serves.")
@click.option(
    "-f",
    "--file",
    "models",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="models.yaml to apply once it serves.",
)
@click.pass_context
def up(ctx: click.Context, /, address: str | None, detach: bool, models: Path | None, **flags: Any) -> None:
    """Start the cluster. Every flag is also an environment variable, --log-level is CLUSTER_LOG_LEVEL."""
    settings = settings_from(**flags)
    # Ray takes seconds to import, and no other command needs it.
    from cluster import daemon

    ctx.exit(daemon.up(settings, address=address, detach=detach, models=models))


@click.command()
@flags_of(Settings, {"host": ("-H",), "port": ("-p",)}, only=("home", "host", "port", "namespace"))
@click.pass_context
def down(ctx: click.Context, /, **flags: Any) -> None:
    """Stop the cluster that `cluster up` started; what was launched comes back with the next `up`."""
    settings = settings_from(**flags)
    from cluster import daemon

    ctx.exit(daemon.down(settings))


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
        ("NODE", "ADDRESS", "CPUS", "MEMORY", "CLAIMED", "GPUS", "GPU MEMORY"),
        [
            (
                node.get("node_type"),
                node.get("ip_address"),
                node.get("cpu_count"),
                size(node.get("mem_total")),
                size(node.get("mem_claimed")),
                node.get("gpu_count") or "",
                size(node.get("gpu_vram_total")),
            )
            for node in nodes
        ],
    )
    click.echo()
    if models:
        print_models(models)
    else:
        click.echo("No model is launched; try `cluster launch -n all-minilm-l6-v2`.")
