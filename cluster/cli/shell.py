"""`cluster completion` and `version`: what belongs to the command itself."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import PurePath

import click
from click.shell_completion import get_completion_class

from cluster import errors
from cluster.cli.connection import talks
from cluster.cli.output import json_option, print_json
from cluster.client.client import Client


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), required=False)
@click.pass_context
def completion(ctx: click.Context, shell: str | None) -> None:
    """Print the shell script that completes commands, flags and uids: eval "$(cluster completion bash)"."""
    shell = shell or PurePath(os.environ.get("SHELL", "")).name
    complete = get_completion_class(shell)
    if complete is None:
        raise click.UsageError(f"There is no completion for {shell or 'this shell'}; name bash, zsh or fish.")
    click.echo(complete(ctx.find_root().command, {}, "cluster", "_CLUSTER_COMPLETE").source())


def installed_version() -> str:
    try:
        return version_of("model-cluster")
    except PackageNotFoundError:
        return "unknown: not installed as a package"


def print_version(ctx: click.Context, param: click.Parameter, is_asked: bool) -> None:
    if is_asked and not ctx.resilient_parsing:
        click.echo(installed_version())
        ctx.exit()


@click.command()
@json_option
@talks
def version(client: Client, as_json: bool) -> None:
    """Show the versions of this command and of the cluster."""
    server_version, reason = None, ""
    try:
        server_version = client.version()
    except errors.ClusterError as error:
        reason = error.message
    if as_json:
        return print_json({"client": installed_version(), "server": server_version, "endpoint": client.base_url})
    click.echo(f"client {installed_version()}")
    click.echo(f"server {server_version} at {client.base_url}" if server_version else f"server unknown: {reason}")
