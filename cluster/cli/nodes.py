"""`cluster nodes`, `cordon`, `uncordon` and `drain`: the machines, and which of them take models."""

from __future__ import annotations

import time

import click

from cluster import errors
from cluster.cli.connection import talks
from cluster.cli.output import json_option, print_json, print_table, size
from cluster.client.client import Client
from cluster.value import JsonObject

#: How often it is asked how much is left on a node that drains.
LOOK_S = 0.5


@click.command()
@json_option
@talks
def nodes(client: Client, as_json: bool) -> None:
    """Show the machines: what they have, what is claimed of it, and whether models are placed on them."""
    rows = client.cluster_info(detailed=True)
    if as_json:
        return print_json(rows)
    print_table(
        ("NODE", "ADDRESS", "STATE", "WORKERS", "CPUS", "MEMORY", "CLAIMED", "GPUS", "CLAIMED", "VERSION", "LABELS"),
        [
            (
                row["name"],
                row["ip_address"],
                row["state"],
                row["workers"] or "",
                f"{row['cpu_count']:g}",
                size(row["mem_total"]),
                size(row["mem_claimed"]),
                row["gpu_count"] or "",
                f"{row['gpu_claimed']:g}" if row["gpu_count"] else "",
                row["version"],
                ",".join(f"{name}={value}" for name, value in row["labels"].items()),
            )
            for row in rows
        ],
    )
    if cards := [(row["name"], card) for row in rows for card in row.get("cards", ())]:
        click.echo()
        print_table(
            ("NODE", "CARD", "NAME", "MEMORY", "CLAIMED", "USED", "BY OTHERS", "LOAD", "PROCESSES"),
            [
                (
                    name,
                    card["number"],
                    card["name"] or "unknown",
                    *(_size(card[field]) for field in ("total", "claimed", "used")),
                    _others(card),
                    "unknown" if card["load"] is None else f"{card['load']:.0%}",
                    ", ".join(map(_process, card["processes"])),
                )
                for name, card in cards
            ],
        )


def _size(amount: int | None) -> str:
    """Of a card whose driver may not say it."""
    return "unknown" if amount is None else size(amount)


def _others(card: JsonObject) -> str:
    if card["used"] is None:
        return "unknown"
    # Who they are is not told to a key for some models.
    whose = f" ({card['foreign_by']})" if card["foreign_by"] else ""
    return f"{size(card['foreign'])}{whose}" if card["foreign"] else ""


def _process(process: JsonObject) -> str:
    """Whose it is, and what it has."""
    if process["pid"] is None:
        return f"others {_size(process['bytes'])}"
    owner = process["name"] or "unknown"
    if process["model"] is not None:
        owner = f"{process['model']}/{process['replica']}"
    return f"{owner} ({process['pid']}) {_size(process['bytes'])}"


@click.command()
@click.argument("node")
@talks
def cordon(client: Client, node: str) -> None:
    """Place nothing new on a node; what runs there stays. NODE is its name, its address or its id."""
    marked = client.mark_node(node, "cordoned")
    click.echo(f"Nothing new is placed on {marked['name']}; `cluster uncordon {node}` opens it again.")


@click.command()
@click.argument("node")
@talks
def uncordon(client: Client, node: str) -> None:
    """Place models on a node again."""
    click.echo(f"Models are placed on {client.mark_node(node, 'open')['name']} again.")


@click.command()
@click.argument("node")
@click.option(
    "--within", type=float, default=120.0, show_default=True, help="How many seconds to wait for it to be empty."
)
@talks
def drain(client: Client, node: str, within: float) -> None:
    """Move the models of a node elsewhere, and wait for that. Each serves until it is READY in its new place."""
    marked = client.mark_node(node, "draining")
    deadline = time.monotonic() + within
    while not _is_empty(client, marked["id"]):
        if time.monotonic() < deadline:
            time.sleep(LOOK_S)
            continue
        raise errors.DeadlineExceeded(
            f"{marked['name']} still has workers after {within:.0f} s, which serve on; `cluster list` says why "
            "they are not READY elsewhere."
        )
    click.echo(f"Nothing runs on {marked['name']} any more; `cluster uncordon {node}` opens it again.")


def _is_empty(client: Client, id: str) -> bool:
    """Also when it has gone. Until it is known to drain, something may still be placed there."""
    return all(row["state"] == "draining" and not row["workers"] for row in client.cluster_info() if row["id"] == id)
