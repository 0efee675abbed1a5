"""Commands on launched models and on what could be launched."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from cluster import errors
from cluster.cli.connection import complete_uid, talks
from cluster.cli.output import json_option, local_time, print_json, print_models, print_table, size
from cluster.client.client import Client

uid_argument = click.argument("uid", shell_complete=complete_uid)


@click.command("list")
@click.option("-t", "--model-type", help="Only models of this type.")
@json_option
@talks
def list_models(client: Client, model_type: str | None, as_json: bool) -> None:
    """List the launched models, those that still load or failed too."""
    statuses = [s for s in client.statuses() if model_type is None or s.wanted.entry.type == model_type]
    if as_json:
        return print_json(statuses)
    print_models(statuses)


@click.command()
@click.argument("uids", nargs=-1, metavar="UID...", shell_complete=complete_uid)
@click.option("-u", "--model-uid", "more", multiple=True, help="The same.", shell_complete=complete_uid)
@click.option("--all", "every", is_flag=True, help="Every launched model.")
@talks
def terminate(client: Client, uids: Sequence[str], more: Sequence[str], every: bool) -> None:
    """Stop models and forget that they were wanted."""
    named = [*uids, *more]
    if every == bool(named):
        raise click.UsageError("Name the models to terminate, or pass --all.")
    failed: errors.ClusterError | None = None
    for uid in [status.uid for status in client.statuses()] if every else named:
        try:
            client.terminate_model(uid)
        except errors.UnknownUid as error:
            # The others are to go all the same.
            if failed is not None:
                click.echo(f"Error: {failed}", err=True)
            failed = error
        else:
            click.echo(f"{uid} is terminated.")
    if failed is not None:
        raise failed


@click.command()
@uid_argument
@click.argument("replica", type=click.IntRange(min=1), metavar="REPLICAS")
@talks
def scale(client: Client, uid: str, replica: int) -> None:
    """Serve a model with another number of replicas."""
    client.scale(uid, replica)
    click.echo(f"{uid} is to have {replica} {'replica' if replica == 1 else 'replicas'}.")


@click.command()
@uid_argument
@json_option
@talks
def describe(client: Client, uid: str, as_json: bool) -> None:
    """Show what is known of a launched model, and which engines were tried for it."""
    found = client.describe_model(uid)
    if as_json:
        return print_json(found)
    trials = found.pop("engines", None)
    rows = [(name, _shown(value)) for name, value in found.items() if value not in (None, [], {}, "")]
    print_table(("FIELD", "VALUE"), rows)
    if trials:
        click.echo()
        print_table(
            ("ENGINE", "SHORT TEXT", "TOKENS/CPU-S", "COSINE", "RANK", "VERDICT"),
            [
                (
                    trial["engine"],
                    f"{trial['short_ms']:.1f} ms",
                    f"{trial['tokens_per_s']:.0f}",
                    f"{trial['cosine']:.4f}",
                    f"{trial['rank']:.4f}",
                    trial["verdict"],
                )
                for trial in trials
            ],
        )


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@click.command()
@click.argument("uid", required=False, shell_complete=complete_uid)
@json_option
@talks
def events(client: Client, uid: str | None, as_json: bool) -> None:
    """Show what happened to a model, also after it was terminated; without a uid, to the cluster itself."""
    found = client.events(uid)
    if as_json:
        return print_json(found)
    print_table(
        ("TIME", "TYPE", "EVENT"),
        [(local_time(event["event_ts"]), event["event_type"], event["event_content"]) for event in found],
    )


@click.command()
@uid_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the model is gone.")
@click.option(
    "-l", "--lines", type=click.IntRange(min=1), default=200, show_default=True, help="How many to begin with."
)
@json_option
@talks
def logs(client: Client, uid: str, follow: bool, lines: int, as_json: bool) -> None:
    """Show what a model's workers logged."""
    if as_json and follow:
        raise click.UsageError("--json and --follow do not go together.")
    # Following compares one look with the next, and one wider than what a model logs in half a second has both ends.
    window = max(lines, 1000) if follow else lines
    seen = client.logs(uid, window)
    if as_json:
        return print_json(seen)
    for line in seen[-lines:]:
        click.echo(line)
    while follow:
        time.sleep(0.5)
        try:
            now = client.logs(uid, window)
        except errors.UnknownUid:
            return
        for line in now[overlap(seen, now) :]:
            click.echo(line)
        seen = now


def overlap(before: Sequence[str], after: Sequence[str]) -> int:
    """How many of the lines after were already among those before: the longest end of one that is a start of the other.

    >>> overlap(["a", "b"], ["b", "c"])
    1
    """
    for start in range(len(before)):
        known = len(before) - start
        if known <= len(after) and list(before[start:]) == list(after[:known]):
            return known
    return 0


@click.command()
@click.option("-n", "--model-name", "--model_name", "model_name", help="Only this model.")
@json_option
@talks
def cached(client: Client, model_name: str | None, as_json: bool) -> None:
    """List the weights that are on the nodes' disks."""
    found = client.list_cached_models(model_name)
    if as_json:
        return print_json(found)
    print_table(
        ("NAME", "TYPE", "HUB", "VERSION", "SIZE", "NODE", "PATH"),
        [
            (
                model.get("model_name"),
                model.get("model_type"),
                model.get("model_hub"),
                model.get("model_version"),
                size(model.get("size_bytes")),
                model.get("actor_ip_address"),
                model.get("path"),
            )
            for model in found
        ],
    )


@click.command()
@click.option("-n", "--model-name", required=True, help="Catalogue name of the model.")
@click.option("-t", "--model-type", help="Needed only when a name is in two types.")
@click.option("-en", "--model-engine", help="Only this engine.")
@click.option("-f", "--model-format", help="Only this format.")
@click.option("-s", "--model-size-in-billions", help="Only this size.")
@click.option("-q", "--quantization", help="Only this quantisation.")
@json_option
@talks
def engine(
    client: Client,
    /,
    model_name: str,
    model_type: str | None,
    model_engine: str | None,
    as_json: bool,
    **filters: str | None,
) -> None:
    """Show which engines can run a model."""
    engines = client.query_engine_by_model_name(model_name, model_type)
    kept: dict[str, Any] = {}
    for name, variants in engines.items():
        if model_engine is not None and name.lower() != model_engine.lower():
            continue
        kept[name] = variants
        if not isinstance(variants, str):
            kept[name] = [variant for variant in variants if _matches(variant, filters)]
    if as_json:
        return print_json(kept)
    rows: list[tuple[Any, ...]] = []
    for name, variants in kept.items():
        if isinstance(variants, str):
            rows.append((model_name, name, None, None, None, variants))
            continue
        for variant in variants:
            quantizations = variant.get("quantizations") or [variant.get("quantization")]
            quantization = " ".join(filter(None, quantizations))
            sized = variant.get("model_size_in_billions")
            rows.append((variant.get("model_name"), name, variant.get("model_format"), sized, quantization, None))
    print_table(("NAME", "ENGINE", "FORMAT", "SIZE", "QUANTIZATION", "NOT AVAILABLE"), rows)


def _matches(variant: dict[str, Any], filters: dict[str, str | None]) -> bool:
    return all(wish is None or str(variant.get(key)) == wish for key, wish in filters.items())
