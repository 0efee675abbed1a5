"""`backup` and `restore`: the wishes, keys and registrations of this machine's cluster as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cluster.cli.connection import settings_from
from cluster.cli.options import flags_of
from cluster.control import store_file
from cluster.runtime import launcher
from cluster.settings import Settings


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@flags_of(Settings, {}, only=("home",))
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def backup(file: Path, force: bool, **flags: Any) -> None:
    """Copy what was launched, the keys and the registrations of this machine's cluster, which may go on meanwhile."""
    click.echo(store_file.backup(settings_from(**flags).store, file, force=force))


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@flags_of(Settings, {"host": ("-H",), "port": ("-p",)}, only=("home", "host", "port"))
def restore(file: Path, **flags: Any) -> None:
    """Bring back what a backup holds, for the next `cluster up`; what is there now is kept under another name."""
    settings = settings_from(**flags)
    launcher.refuse_living(settings)
    click.echo(store_file.restore(settings.store, file))
