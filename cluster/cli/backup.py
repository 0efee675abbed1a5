"""`cluster backup` and `restore`: the wanted models, keys and registrations of this machine's cluster in one file."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.cli.connection import settings_from
from cluster.cli.options import flags_of
from cluster.control import store_file
from cluster.runtime import launcher
from cluster.settings import Settings


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@flags_of(Settings, {}, only=("home",))
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def backup(file: Path, force: bool, **flags: object) -> None:
    """Save the launched models, keys and registrations of this machine's cluster; it may go on serving."""
    click.echo(store_file.backup(settings_from(**flags).store, file, force=force))


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@flags_of(Settings, {"host": ("-H",), "port": ("-p",)}, only=("home", "host", "port"))
def restore(file: Path, **flags: object) -> None:
    """Restore a backup for the next `cluster up`; the current state is kept under another name."""
    settings = settings_from(**flags)
    launcher.refuse_living(settings)
    click.echo(store_file.restore(settings.store, file))
