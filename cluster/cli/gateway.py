"""`cluster gateway`: one address before several clusters."""

from __future__ import annotations

import os
import sys
from typing import IO

import click

from cluster import errors
from cluster.cli.connection import saved_key, settings_from
from cluster.cli.options import flags_of
from cluster.settings import Settings
from deployments.gateway.config import CellAddress, GatewayConfig

#: The settings that mean something to a gateway.
SETTINGS = (
    *("host", "port", "auth", "allowed_hosts", "allowed_origins", "max_body_bytes", "bodies_bytes", "hold_s"),
    *("drain_s", "log_level"),
)


@click.command()
@click.option(
    "--cell",
    "cells",
    multiple=True,
    required=True,
    metavar="[NAME=]URL",
    help="The address of a cluster; give one for each. Its key is the one that `cluster login -e URL` saved.",
)
@click.option(
    "--keys-file",
    type=click.File(encoding="utf-8"),
    help="A file with the keys that callers must send, one a line; their requests then go on with the saved key of the "
    "cell. Without it a caller's own key goes on.",
)
@flags_of(Settings, {"host": ("-H",), "port": ("-p",)}, only=SETTINGS)
def gateway(cells: tuple[str, ...], keys_file: IO[str] | None, **flags: object) -> None:
    """Serve the models of several clusters under one address, until Ctrl-C."""
    settings = settings_from(**flags)
    addresses = [CellAddress.parse(text) for text in cells]
    addresses = [address.model_copy(update={"key": saved_key(address.url)}) for address in addresses]
    keys = [line.strip() for line in keys_file or () if line.strip()]
    if keys_file is not None and not keys:
        raise errors.BadRequest(f"{keys_file.name} holds no key; write one in each line.")
    config = GatewayConfig(cells=tuple(addresses), callers_keys=tuple(keys))
    config.check()
    environment = {**os.environ, **settings.as_environment(), **config.as_environment()}
    # The server brings in libraries that no other command should wait for.
    os.execve(sys.executable, [sys.executable, "-m", "deployments.gateway"], environment)
