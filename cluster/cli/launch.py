"""`cluster launch`: every field of LaunchSpec is a flag; any other flag is an option of the model's family."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

import click
import orjson

from cluster import errors
from cluster.cli.connection import talks
from cluster.cli.options import family_options, flags_of, nearest_flag, with_dashes
from cluster.cli.output import json_option, local_time, print_json, print_table, size
from cluster.cli.progress import follow
from cluster.client.client import Client
from cluster.client.launches import how_it_goes_on, spec_of
from cluster.launch import LaunchSpec
from cluster.names import written
from cluster.status import ModelStatus
from cluster.value import JsonObject

#: Short flags, those of Xinference's command line.
ALSO = {
    "model_name": ("-n",),
    "model_type": ("-t",),
    "model_engine": ("-en",),
    "model_uid": ("-u",),
    "model_size_in_billions": ("-s", "--size-in-billions", "--size"),
    "model_format": ("-f",),
    "quantization": ("-q",),
    "replica": ("-r",),
    "model_path": ("-mp",),
    "envs": ("-ev", "--env"),
}

#: The route and body of a first call, by model type.
FIRST_CALLS: dict[str, tuple[str, JsonObject]] = {
    "embedding": ("/v1/embeddings", {"input": "hello"}),
    "rerank": ("/v1/rerank", {"query": "hello", "documents": ["good morning", "a lighthouse"]}),
    "classify": ("/classify", {"input": ["hello"]}),
    "image": ("/v1/images/generations", {"prompt": "a lighthouse at dawn", "response_format": "b64_json"}),
    "llm": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
}


@click.command(
    context_settings={"ignore_unknown_options": True, "token_normalize_func": with_dashes},
    epilog="Any other --key value is an option of the model's family, e.g. --cpu-offload true.",
)
@click.argument("pairs", nargs=-1, type=click.UNPROCESSED, metavar="[--FAMILY-OPTION VALUE]...")
@flags_of(LaunchSpec, ALSO, only=LaunchSpec.model_fields.keys() - {"options"})
@click.option("--no-wait", is_flag=True, help="Return as soon as the launch is written down.")
@click.option("--timeout", type=float, help="How many seconds to wait; the launch goes on afterwards.")
@click.option("--dry-run", is_flag=True, help="Only say whether the model would fit.")
@json_option
@talks
def launch(
    client: Client,
    /,
    pairs: Sequence[str],
    no_wait: bool,
    timeout: float | None,
    dry_run: bool,
    as_json: bool,
    **flags: object,
) -> None:
    """Launch a model and wait until it serves."""
    options = family_options(pairs)
    spec = spec_of({**options, **{name: value for name, value in flags.items() if value is not None}})
    try:
        if dry_run:
            return _print_fit(spec, client.check(spec), as_json)
        uid, generation = client.submit(spec)
    except errors.BadOption as error:
        raise _with_hint(error, options) from None
    if no_wait:
        status = client.status(uid)
    else:
        try:
            status = follow(client, uid, generation, timeout)
        except KeyboardInterrupt:
            _offer_to_cancel(client, uid)
            raise
    if as_json:
        return print_json(status)
    click.echo(f"Model uid: {uid}")
    if not no_wait and (curl := first_call(client, status)):
        click.echo(curl)


def _with_hint(error: errors.BadOption, options: JsonObject) -> errors.BadOption:
    """Suggests a flag: a misspelled one looks like an option of the family until the server refuses it."""
    for key in options:
        flag = nearest_flag(key, LaunchSpec)
        if flag and (error.param == key or key in error.message) and "did you mean" not in error.message.lower():
            return errors.BadOption(f"{error.message.removesuffix('.')}. Did you mean {flag}?", key)
    return error


def _print_fit(spec: LaunchSpec, fit: JsonObject, as_json: bool) -> None:
    if as_json:
        print_json(fit)
    elif fit.get("plan"):
        _print_plan(fit["plan"])
    name = spec.model_uid or spec.model_name
    if not as_json:
        _print_ladder(fit.get("ladder", []))
    if not fit["fits"]:
        raise errors.DoesNotFit(fit.get("reason") or f"{name} fits on no node.")
    if not as_json:
        click.echo(f"{name} fits and would claim {_claim(fit)} per replica{_where(fit)}.{_measured(fit)}")


def _claim(row: JsonObject) -> str:
    memory = size(row.get("claim_bytes")) or "0 B"
    return f"{size(row['card_bytes'])} of a card and {memory} of main memory" if row.get("card_bytes") else memory


def _where(fit: JsonObject) -> str:
    nodes = dict.fromkeys(fit.get("nodes", []))
    return f" on {', '.join(nodes)}" if nodes else ""


def _measured(fit: JsonObject) -> str:
    row = fit.get("measured")
    if not row:
        return ""
    taken = _claim({"claim_bytes": row["memory_bytes"], "card_bytes": row["card_bytes"]})
    return f" Such a launch was measured to take {taken} on {local_time(row['at'])}."


def _print_ladder(rungs: Sequence[JsonObject]) -> None:
    """What would make it smaller, the least harmful change first."""
    if rungs:
        rows = [(as_flags(rung["changes"]), _claim(rung), "yes" if rung["fits"] else "no") for rung in rungs]
        print_table(("WITH", "CLAIMS", "FITS"), rows)


def as_flags(changes: JsonObject) -> str:
    """Changes of a launch as the flags that make them."""
    return " ".join(f"--{name.replace('_', '-')} {written(value)}" for name, value in changes.items())


def _print_plan(plan: JsonObject) -> None:
    """The parts of a model, and what they take together."""
    keys = ("component", "class", "dtype", "quantization", "bytes", "lives_on")
    rows = [[size(row[key]) if key == "bytes" else row[key] for key in keys] for row in plan["components"]]
    print_table(("COMPONENT", "CLASS", "DTYPE", "QUANTISATION", "SIZE", "LIVES ON"), rows)
    computing, process, spare = (size(plan.get(f"{what}_bytes")) for what in ("activation", "fixed", "spare"))
    to_spare = f", {process} for the process and {spare} to spare" if spare else f" and {process} for the process"
    click.echo(f"Peak {size(plan['peak_bytes'])}, of which {computing} for computing{to_spare}.")
    if plan["advice"]:
        click.echo(plan["advice"])


def _offer_to_cancel(client: Client, uid: str) -> None:
    """Ctrl-C ends only the waiting; at a terminal it also asks whether to cancel the launch."""
    if sys.stdin.isatty() and sys.stderr.isatty():
        try:
            if click.confirm(f"\nCancel the launch of {uid}?", err=True):
                client.cancel_launch_model(uid)
                click.echo(f"The launch of {uid} is cancelled.", err=True)
                return
        except click.Abort:
            pass
    click.echo(how_it_goes_on(uid), err=True)


def first_call(client: Client, status: ModelStatus) -> str | None:
    """A curl line to try the model with."""
    kind = status.wanted.entry.type.lower()
    if kind == "ocr":
        path, content = "/v1/images/ocr", f"-F model={status.uid} -F image=@page.png"
    elif kind in FIRST_CALLS:
        path, body = FIRST_CALLS[kind]
        data = shlex.quote(orjson.dumps({"model": status.uid, **body}).decode())
        content = f"-H 'Content-Type: application/json' -d {data}"
    else:
        return None
    key = ' -H "Authorization: Bearer $CLUSTER_API_KEY"' if client.has_key else ""
    return f"curl {client.base_url}{path}{key} {content}"
