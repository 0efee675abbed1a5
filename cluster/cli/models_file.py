"""`cluster apply`, `diff` and `export`: a file that declares which models are wanted."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import IO

import click
import yaml

from cluster import errors
from cluster.cli import over_cells
from cluster.cli.connection import talks
from cluster.cli.output import json_option, print_json
from cluster.cli.progress import follow
from cluster.client.client import Client
from cluster.client.launches import spec_of
from cluster.launch import LaunchSpec
from cluster.value import JsonObject

file_option = click.option(
    "-f", "--file", type=click.File(encoding="utf-8"), required=True, help="models.yaml, or - for standard input."
)
prune_option = click.option(
    "--prune/--no-prune", default=True, help="Terminate models that an earlier file declared and this one does not."
)

cells_option = click.option(
    "--cells",
    metavar="[NAME=]URL,…",
    help="Split the replicas over these clusters by the room that is free in each; `all` for those of a gateway. What "
    "is there stays. A cluster that cannot be reached is left out, and the others get its share.",
)


def read_models(file: IO[str]) -> list[LaunchSpec]:
    """The specs under `models:`."""
    try:
        content = yaml.safe_load(file.read())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise errors.BadOption(f"{file.name} is not YAML: {' '.join(str(error).split())}.") from None
    models = content.get("models") if isinstance(content, dict) else None
    if not isinstance(models, list):
        raise errors.BadOption(f"{file.name} has no list of models under `models:`.")
    specs = []
    for number, fields in enumerate(models, 1):
        if not isinstance(fields, dict):
            raise errors.BadOption(f"Model {number} of {file.name} is not a mapping: {fields!r}.")
        try:
            specs.append(spec_of(fields))
        except errors.BadOption as error:
            name = fields.get("model_uid") or fields.get("model_name") or number
            raise errors.BadOption(f"Model {name} of {file.name}: {error}", error.param) from None
    return specs


@click.command()
@file_option
@prune_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the changes are written down.")
@click.option("--timeout", type=float, help="How many seconds to wait; the launches go on afterwards.")
@cells_option
@json_option
@talks
def apply(
    client: Client,
    file: IO[str],
    prune: bool,
    yes: bool,
    no_wait: bool,
    timeout: float | None,
    cells: str | None,
    as_json: bool,
) -> None:
    """Launch, change and terminate models until they are those of a file."""
    specs = read_models(file)
    if cells is not None:
        return _apply_over(cells, client, specs, prune, yes, no_wait, timeout, as_json)
    planned = client.apply(specs, prune, dry_run=True)
    print_changes(planned, err=as_json)
    _ask([planned], yes)
    changes = client.apply(specs, prune)
    if not no_wait:
        _follow_all(client, [change["uid"] for change in changes if change["change"] != "terminate"], timeout)
    if as_json:
        print_json(changes)


def _apply_over(
    text: str,
    client: Client,
    specs: list[LaunchSpec],
    prune: bool,
    yes: bool,
    no_wait: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    def show(planned: dict[str, list[JsonObject]]) -> None:
        _show_cells(planned, err=as_json)
        _ask(planned.values(), yes)

    def follow_all(cell: Client, uids: list[str]) -> None:
        if not no_wait:
            _follow_all(cell, uids, timeout)

    with over_cells.opened(text, client) as cells:
        done = over_cells.apply_over(cells, specs, prune, show, follow_all)
        if as_json:
            print_json(done)
        if cells.left_out:
            raise cells.failure("The others are as declared; apply again for it.")


def _show_cells(planned: dict[str, list[JsonObject]], err: bool) -> None:
    for name, changes in planned.items():
        click.echo(f"{name}:", err=err)
        print_changes(changes, err=err)


def _ask(planned: Iterable[list[JsonObject]], yes: bool) -> None:
    """Unless nothing would change, or nobody is there who could answer."""
    would_change = any(is_change(change) for changes in planned for change in changes)
    if not yes and would_change and sys.stdin.isatty() and sys.stderr.isatty():
        click.confirm("Apply?", abort=True, err=True)


def _follow_all(client: Client, uids: list[str], timeout: float | None) -> None:
    """Waits until each model is READY or failed; prints each failure, and exits with the last one."""
    deadline = None if timeout is None else time.monotonic() + timeout
    failed: errors.ClusterError | None = None
    for uid in uids:
        try:
            follow(client, uid, timeout=None if deadline is None else max(deadline - time.monotonic(), 0.0))
        except errors.ClusterError as error:
            if failed is not None:
                click.echo(f"Error: {failed}", err=True)
            failed = error
    if failed is not None:
        raise failed


@click.command()
@file_option
@prune_option
@cells_option
@json_option
@talks
@click.pass_context
def diff(ctx: click.Context, client: Client, file: IO[str], prune: bool, cells: str | None, as_json: bool) -> None:
    """Show what `apply` would change; exits with 1 if anything would change."""
    specs = read_models(file)
    if cells is not None:
        with over_cells.opened(cells, client) as opened:
            planned = over_cells.planned_over(opened, over_cells.shares_of(specs, opened), prune)
            if as_json:
                print_json(planned)
            else:
                _show_cells(planned, err=False)
            if opened.left_out:
                raise opened.failure("The others are shown with its share.")
        ctx.exit(1 if any(is_change(change) for changes in planned.values() for change in changes) else 0)
    changes = client.apply(specs, prune, dry_run=True)
    if as_json:
        print_json(changes)
    else:
        print_changes(changes)
    ctx.exit(1 if any(map(is_change, changes)) else 0)


@click.command()
@json_option
@talks
def export(client: Client, as_json: bool) -> None:
    """Print the launched models as a file for `apply`."""
    models = {"models": client.export()}
    if as_json:
        return print_json(models)
    click.echo(yaml.safe_dump(models, sort_keys=False, allow_unicode=True), nl=False)


def is_change(change: JsonObject) -> bool:
    return bool(change["change"] != "same")


def print_changes(changes: list[JsonObject], err: bool = False) -> None:
    """`+` for a launch, `-` for a termination, `~` for a change, with the fields that differ."""
    for change in changes:
        uid, before, after = change["uid"], change.get("before") or {}, change.get("after") or {}
        if change["change"] == "launch":
            click.secho(f"+ {uid} ({after.get('model_name', uid)})", fg="green", err=err)
        elif change["change"] == "terminate":
            click.secho(f"- {uid}", fg="red", err=err)
        elif is_change(change):
            click.secho(f"~ {uid}", fg="yellow", err=err)
            for name in change.get("fields") or ():
                click.secho(f"    {name}: {_value(before, name)} -> {_value(after, name)}", fg="yellow", err=err)
    if not any(map(is_change, changes)):
        click.echo("Nothing to change.", err=err)


def _value(fields: JsonObject, name: str) -> object:
    """The field's value; a declaration leaves out fields with their default."""
    field = LaunchSpec.model_fields.get(name)
    return fields.get(name, field.get_default(call_default_factory=True) if field else None)
