"""`cluster status`: the nodes and the models, or one model with its workers."""

from __future__ import annotations

import click

from cluster.cli.connection import complete_uid, talks
from cluster.cli.output import json_option, print_canary, print_json, print_models, print_table, size
from cluster.cli.progress import follow as follow_launch
from cluster.client.client import Client


@click.command()
@click.argument("uid", required=False, shell_complete=complete_uid)
@click.option("-f", "--follow", is_flag=True, help="Wait until the model is READY.")
@click.option("--timeout", type=float, help="How many seconds to follow.")
@json_option
@talks
def status(client: Client, uid: str | None, follow: bool, timeout: float | None, as_json: bool) -> None:
    """Show the nodes and the models, or one model."""
    if uid is None:
        if follow:
            raise click.UsageError("Name the model to follow.")
        return _print_cluster(client, as_json)
    model = client.status(uid)
    if follow:
        model = follow_launch(client, uid, model.generation, timeout)
    if as_json:
        return print_json(model)
    print_models([model])
    if len(model.workers) > 1:
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
                for worker in model.workers
            ],
        )
    if model.canary is not None:
        click.echo()
        print_canary(model.canary)
    for line in model.log_tail:
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
