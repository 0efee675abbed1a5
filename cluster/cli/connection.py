"""Which cluster a command talks to and with which key; `cluster login` and `keys`."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click
from click.shell_completion import CompletionItem
from pydantic import ValidationError

from cluster import errors
from cluster.cli.output import json_option, local_time, print_json, print_table
from cluster.client.client import Client
from cluster.client.http import without_nones
from cluster.client.launches import bad_option
from cluster.keys import SCOPES
from cluster.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

ENDPOINT_VARIABLES = ("CLUSTER_ENDPOINT", "XINFERENCE_ENDPOINT")
DEFAULT_ENDPOINT = "http://127.0.0.1:9997"

endpoint_option = click.option(
    "-e",
    "--endpoint",
    envvar=ENDPOINT_VARIABLES,
    default=DEFAULT_ENDPOINT,
    help=f"Address of the cluster; $CLUSTER_ENDPOINT if not given.  [default: {DEFAULT_ENDPOINT}]",
)
key_option = click.option(
    "-ak",
    "--api-key",
    envvar="CLUSTER_API_KEY",
    help="API key; $CLUSTER_API_KEY if not given, or the key that `cluster login` saved.",
)
cell_option = click.option(
    "--cell", envvar="CLUSTER_CELL", help="Behind a gateway: the cluster that is meant; $CLUSTER_CELL if not given."
)


def talks(command: Callable[Concatenate[Client, P], T]) -> Callable[..., T]:
    """Gives a command the flags `--endpoint`, `--api-key` and `--cell`, and a client made from them."""

    @endpoint_option
    @key_option
    @cell_option
    @functools.wraps(command)
    def run(endpoint: str, api_key: str | None, cell: str | None, *args: P.args, **kwargs: P.kwargs) -> T:
        with Client(endpoint, api_key or saved_key(endpoint), cell=cell) as client:
            return command(client, *args, **kwargs)

    return run


def settings_from(**flags: Any) -> Settings:
    """The settings of the environment, overridden by the flags that were given on the command line."""
    try:
        return Settings(**without_nones(flags))
    except ValidationError as error:
        raise bad_option(error) from None


def key_file(endpoint: str) -> Path:
    return settings_from().home / "auth" / hashlib.sha256(endpoint.rstrip("/").encode()).hexdigest()


def saved_key(endpoint: str) -> str | None:
    try:
        return key_file(endpoint).read_text().strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise errors.NotAuthenticated(f"The saved key cannot be read: {error}.") from None


def save_key(endpoint: str, key: str) -> Path:
    path = key_file(endpoint)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp creates the file with mode 0600, so that the key is never readable by others.
    handle, draft = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.write(key + "\n")
    os.replace(draft, path)
    return path


def complete_uid(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The uids of serving models. A shell waits for this at every TAB, so it gives up silently after a second."""
    endpoint = ctx.params.get("endpoint") or next(filter(None, map(os.getenv, ENDPOINT_VARIABLES)), DEFAULT_ENDPOINT)
    try:
        key = ctx.params.get("api_key") or os.getenv("CLUSTER_API_KEY") or saved_key(endpoint)
        with Client(endpoint, key, timeout=1.0) as client:
            models = client.list_models()
    except errors.ClusterError:
        return []
    return [
        CompletionItem(uid, help=model.get("model_type")) for uid, model in models.items() if uid.startswith(incomplete)
    ]


@click.command()
@endpoint_option
@key_option
def login(endpoint: str, api_key: str | None) -> None:
    """Save an API key for a cluster; without --api-key it is read from standard input."""
    with Client(endpoint) as client:
        if not client.asks_for_keys():
            click.echo(f"{endpoint} does not ask for keys.")
            return
    if not api_key:
        is_terminal = sys.stdin.isatty()
        api_key = click.prompt("API key", hide_input=True, err=True) if is_terminal else sys.stdin.readline().strip()
    if not api_key:
        raise errors.NotAuthenticated("No key was given; pass --api-key or write it to standard input.")
    with Client(endpoint, api_key) as client:
        try:
            client.list_models()
        except errors.NotPermitted:
            # A valid key whose scopes do not include listing.
            pass
    click.echo(f"The key for {endpoint} is in {save_key(endpoint, api_key)}.")


@click.group()
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command("create")
@click.argument("name")
@click.option(
    "-s",
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    default=("list", "infer"),
    show_default=True,
    help="What the key may do; repeat for more.",
)
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    help="A model that the key may use; repeat for more. Without this, every model.",
)
@json_option
@talks
def create_key(client: Client, name: str, scopes: Sequence[str], models: Sequence[str], as_json: bool) -> None:
    """Create a key and print it; it is shown only this once."""
    key = client.create_key(name, list(scopes), list(models) or None)
    if as_json:
        return print_json(key)
    click.echo(key["key"])
    click.echo(f"Keep it, it is not shown again; revoke it with `cluster keys revoke {key['id']}`.", err=True)


@keys.command("list")
@json_option
@talks
def list_keys(client: Client, as_json: bool) -> None:
    """List the keys, without their secrets."""
    listed = client.list_keys()
    if as_json:
        return print_json(listed)
    rows = []
    for key in listed:
        created = key.get("created")
        models = "any" if key.get("models") is None else " ".join(key["models"])
        when = local_time(created) if isinstance(created, (int, float)) else created
        rows.append((key["id"], key["name"], " ".join(key["scopes"]), models, when))
    print_table(("ID", "NAME", "SCOPES", "MODELS", "CREATED"), rows)


@keys.command("revoke")
@click.argument("key_id", metavar="ID")
@talks
def revoke_key(client: Client, key_id: str) -> None:
    """Revoke a key at once."""
    client.revoke_key(key_id)
    click.echo(f"Key {key_id} is revoked.")
