"""Commands on launched models, on weights that are on disk, and on engines."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from cluster import errors
from cluster.cli.connection import complete_uid, talks
from cluster.cli.output import (
    json_option,
    local_time,
    of_bounds,
    of_canary,
    print_json,
    print_models,
    print_table,
    size,
)
from cluster.client.client import Client
from cluster.value import JsonObject

uid_argument = click.argument("uid", shell_complete=complete_uid)


@click.command("list")
@click.option("-t", "--model-type", help="Only models of this type.")
@json_option
@talks
def list_models(client: Client, model_type: str | None, as_json: bool) -> None:
    """List the launched models, including those that are loading or failed."""
    statuses = [s for s in client.statuses() if model_type is None or s.wanted.entry.type == model_type]
    if as_json:
        return print_json(statuses)
    print_models(statuses)


@click.command()
@click.argument("uids", nargs=-1, metavar="UID...", shell_complete=complete_uid)
@click.option("-u", "--model-uid", "more", multiple=True, help="The same as UID.", shell_complete=complete_uid)
@click.option("--all", "every", is_flag=True, help="Every launched model.")
@talks
def terminate(client: Client, uids: Sequence[str], more: Sequence[str], every: bool) -> None:
    """Stop models, and do not launch them again."""
    named = [*uids, *more]
    if every == bool(named):
        raise click.UsageError("Name the models to terminate, or pass --all.")
    failed: errors.ClusterError | None = None
    for uid in [status.uid for status in client.statuses()] if every else named:
        try:
            client.terminate_model(uid)
        except errors.UnknownUid as error:
            # The others are terminated all the same.
            if failed is not None:
                click.echo(f"Error: {failed}", err=True)
            failed = error
        else:
            click.echo(f"{uid} is terminated.")
    if failed is not None:
        raise failed


@click.command()
@uid_argument
@click.argument("replica", type=click.IntRange(min=0), metavar="[REPLICAS]", required=False)
@click.option("--min", "least", type=click.IntRange(min=0), help="As few at least; with 0 it sleeps when unused.")
@click.option("--max", "most", type=click.IntRange(min=1), help="As many at most, as its load needs.")
@click.option("--target-queue-s", type=float, help="Where requests wait for longer, in seconds, it gets more.")
@talks
def scale(
    client: Client, uid: str, replica: int | None, least: int | None, most: int | None, target_queue_s: float | None
) -> None:
    """Serve a model with another number of replicas, or with as many as its load needs.

    With neither a number nor bounds, show how many it has and how much there is to do.
    """
    if (replica, least, most, target_queue_s) == (None, None, None, None):
        return _print_scale(uid, client.scale_of(uid))
    number = client.scale(uid, replica, min=least, max=most, target_queue_s=target_queue_s)["replica"]
    within = "" if least is None and most is None else ", and follows its load from there"
    click.echo(f"{uid} will have {number} {'replica' if number == 1 else 'replicas'}{within}.")


def _print_scale(uid: str, numbers: JsonObject) -> None:
    wanted = "" if numbers["ready"] == numbers["replica"] else f", {numbers['replica']} wanted"
    bounds = numbers if numbers["target_queue_s"] is not None else None
    click.echo(f"{uid} has {of_bounds(numbers['ready'], numbers['replica'], bounds)} replicas{wanted}.")
    click.echo(f"{numbers['requests']:.0f} requests, which wait {numbers['queue_s']:.2f} s.")
    if numbers["why"]:
        click.echo(f"{numbers['why']}.")


@click.command()
@uid_argument
@talks
def doze(client: Client, uid: str) -> None:
    """Let a model doze: it gives its weights back and keeps its process, which its next request wakes."""
    rest = client.doze_model(uid)
    click.echo(f"{uid} {'dozes' if rest['state'] == 'DOZING' else 'sleeps'}: {rest['reason']}.")


@click.command()
@uid_argument
@talks
def sleep(client: Client, uid: str) -> None:
    """Send a model to sleep: it gives its memory back, and its next request wakes it."""
    click.echo(f"{uid} sleeps: {client.sleep_model(uid)['reason']}.")


@click.command()
@uid_argument
@talks
def wake(client: Client, uid: str) -> None:
    """Wake a model before anybody asks for it."""
    began = time.monotonic()
    client.wake_model(uid)
    click.echo(f"{uid} is READY after {time.monotonic() - began:.1f} s.")


@click.command()
@uid_argument
@click.option("--reason", default="", help="For the events of the model.")
@talks
def restart(client: Client, uid: str, reason: str) -> None:
    """Replace the processes of a model while it serves: when it is stuck, or after `cluster upgrade`."""
    began = time.monotonic()
    client.restart_model(uid, reason)
    click.echo(f"{uid} is READY with new processes after {time.monotonic() - began:.1f} s.")


@click.command()
@uid_argument
@json_option
@talks
def describe(client: Client, uid: str, as_json: bool) -> None:
    """Show the facts about a launched model, and which engines were tried for it."""
    description = client.describe_model(uid)
    if as_json:
        return print_json(description)
    trials = description.pop("engines", None)
    if (bounds := description.pop("scale", None)) is not None:
        numbers = client.scale_of(uid)
        why = f": {numbers['why']}" if numbers["why"] else ""
        description["replica"] = f"{of_bounds(numbers['ready'], numbers['replica'], bounds)}{why}"
    if description.pop("canary", None) is not None and (canary := client.status(uid).canary) is not None:
        description["canary"] = of_canary(canary)
    rows = [(name, _text_of(value)) for name, value in description.items() if value not in (None, [], {}, "")]
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


def _text_of(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@click.command()
@click.argument("uid", required=False, shell_complete=complete_uid)
@click.option("-a", "--all", "of_all", is_flag=True, help="The last ones of all models and of the cluster itself.")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many with --all."
)
@json_option
@talks
def events(client: Client, uid: str | None, of_all: bool, limit: int, as_json: bool) -> None:
    """Show the events of a model, even a terminated one; without a uid, those of the cluster itself."""
    if uid is not None and of_all:
        raise click.UsageError("--all is for no model in particular; leave out the uid.")
    listed = client.all_events(limit) if of_all else client.events(uid)
    if as_json:
        return print_json(listed)
    if of_all:
        return print_table(
            ("TIME", "TYPE", "MODEL", "EVENT"),
            [
                (local_time(row["event_ts"]), row["event_type"], row["model_uid"], row["event_content"])
                for row in reversed(listed)
            ],
        )
    print_table(
        ("TIME", "TYPE", "EVENT"),
        [(local_time(event["event_ts"]), event["event_type"], event["event_content"]) for event in listed],
    )


@click.command()
@uid_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the model is terminated.")
@click.option(
    "-l", "--lines", type=click.IntRange(min=1), default=200, show_default=True, help="How many lines to begin with."
)
@json_option
@talks
def logs(client: Client, uid: str, follow: bool, lines: int, as_json: bool) -> None:
    """Show what a model's workers logged."""
    if as_json and follow:
        raise click.UsageError("--json and --follow cannot be used together.")
    # Following looks for the end of the last lines in the next ones, so it asks for more than half a second of them.
    window = max(lines, 1000) if follow else lines
    before = client.logs(uid, window)
    if as_json:
        return print_json(before)
    for line in before[-lines:]:
        click.echo(line)
    while follow:
        time.sleep(0.5)
        try:
            after = client.logs(uid, window)
        except errors.UnknownUid:
            return
        for line in after[overlap(before, after) :]:
            click.echo(line)
        before = after


def overlap(before: Sequence[str], after: Sequence[str]) -> int:
    """How many lines the end of `before` and the start of `after` have in common, at most.

    >>> overlap(["a", "b"], ["b", "c"])
    1
    """
    for start in range(len(before)):
        common = len(before) - start
        if common <= len(after) and list(before[start:]) == list(after[:common]):
            return common
    return 0


@click.command()
@click.option("-n", "--model-name", "--model_name", "model_name", help="Only this model.")
@click.option(
    "--delete", metavar="VERSION", help="Delete this version, or all of a model by its name, from every node."
)
@json_option
@talks
def cached(client: Client, model_name: str | None, delete: str | None, as_json: bool) -> None:
    """List the weights that are on the nodes' disks.

    A node that lacks weights takes them from one that has them, and from the hub only what no node has.
    """
    if delete is not None:
        client.delete_cached_models(delete)
    listed = client.list_cached_models(model_name)
    if as_json:
        return print_json(listed)
    print_table(
        ("NAME", "TYPE", "HUB", "VERSION", "SIZE", "USED BY", "NODE", "PATH"),
        [
            (
                model.get("model_name"),
                model.get("model_type"),
                model.get("model_hub"),
                model.get("model_version"),
                size(model.get("size_bytes")),
                ", ".join(model.get("used_by") or ()),
                model.get("actor_ip_address"),
                model.get("path"),
            )
            for model in listed
        ],
    )


@click.command()
@click.option("-n", "--model-name", required=True, help="Catalogue name of the model.")
@click.option("-t", "--model-type", help="Needed only if models of several types have the name.")
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
    kept: JsonObject = {}
    for name, variants in engines.items():
        if model_engine is not None and name.lower() != model_engine.lower():
            continue
        kept[name] = variants
        if not isinstance(variants, str):
            kept[name] = [variant for variant in variants if _matches(variant, filters)]
    if as_json:
        return print_json(kept)
    rows: list[tuple[object, ...]] = []
    for name, variants in kept.items():
        if isinstance(variants, str):
            rows.append((model_name, name, None, None, None, variants))
            continue
        for variant in variants:
            quantizations = variant.get("quantizations") or [variant.get("quantization")]
            quantization = " ".join(filter(None, quantizations))
            billions = variant.get("model_size_in_billions")
            rows.append((variant.get("model_name"), name, variant.get("model_format"), billions, quantization, None))
    print_table(("NAME", "ENGINE", "FORMAT", "SIZE", "QUANTIZATION", "NOT AVAILABLE"), rows)


def _matches(variant: JsonObject, filters: dict[str, str | None]) -> bool:
    return all(value is None or str(variant.get(key)) == value for key, value in filters.items())
