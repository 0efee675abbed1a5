"""What `cluster generate` and `cluster ocr` share: which model is asked, and stopping a request under way."""

from __future__ import annotations

import click

from cluster import errors
from cluster.client.client import Client
from cluster.client.model import ModelCalls


def only_model(client: Client, calls: type[ModelCalls], kind: str, example: str) -> str:
    """The uid of the only serving model of a kind, or an error that tells how to launch or name one."""
    uids = [uid for uid, description in client.list_models().items() if calls.fits(description)]
    if not uids:
        raise errors.ModelNotFound(f"No {kind} is serving; launch one with `cluster launch {example}`.")
    if len(uids) > 1:
        raise click.UsageError(f"Several {kind}s are serving; name one with --model-uid: {', '.join(uids)}.")
    return uids[0]


def stop_request(client: Client, uid: str, request_id: str) -> None:
    try:
        client.abort_request(uid, request_id)
    except errors.ClusterError as error:
        click.echo(f"{uid} could not be told to stop; it stops when it notices that nobody waits: {error}", err=True)
    else:
        click.echo(f"{uid} was told to stop.", err=True)
