"""`cluster upgrade`: the installed version in the place of the one that runs."""

from __future__ import annotations

import time

import click

from cluster.cli.connection import settings_from
from cluster.cli.options import flags_of
from cluster.runtime import launcher
from cluster.settings import Settings


@click.command()
@flags_of(Settings, {"host": ("-H",), "port": ("-p",)})
def upgrade(**flags: object) -> None:
    """Have the cluster of this machine run the version that is installed now, while it serves.

    Install the new version where the old one was, then run this on the head with the settings of `cluster up`; other
    settings take effect too. The control plane and what answers HTTP are replaced one after another, and callers wait
    for a moment at most. Ray goes on, and so does every worker: it is of the new version when it is started next.

    A machine that has joined is upgraded by `cluster down`, which has its models moved elsewhere first, and `cluster
    join`. Until then it may be one version behind the head, or ahead. With another Python or Ray, or a version further
    away, the cluster has to be stopped and started.
    """
    started = time.monotonic()
    before, after = launcher.upgrade(settings_from(**flags))
    click.echo(f"Upgraded from {before.cluster} to {after.cluster} in {time.monotonic() - started:.1f} s.")
