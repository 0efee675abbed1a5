"""The `cluster` command: the list of its commands, and how an error becomes one sentence and an exit code."""

from __future__ import annotations

import click

from cluster import errors
from cluster.cli import (
    backup,
    chat,
    connection,
    gateway,
    generate,
    join,
    launch,
    models,
    models_file,
    nodes,
    ocr,
    ports,
    registrations,
    shell,
    status,
    up_down,
    upgrade,
)


class Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which people need them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except errors.ClusterError as error:
            _print_error(error)
            raise click.exceptions.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None


def _print_error(error: errors.ClusterError) -> None:
    click.echo(f"Error: {error.message}", err=True)
    if error.log_tail:
        click.echo("The log ended with:", err=True)
    for line in error.log_tail:
        click.echo(f"  {line}", err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-v",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=shell.print_version,
    help="Print the version.",
)
def main() -> None:
    """Launches and serves embedding, reranker, classification, image, OCR and language models on Ray."""


for command in (
    up_down.up,
    up_down.down,
    upgrade.upgrade,
    gateway.gateway,
    join.join,
    nodes.nodes,
    nodes.cordon,
    nodes.uncordon,
    nodes.drain,
    status.status,
    ports.ports,
    launch.launch,
    generate.generate,
    ocr.ocr,
    chat.chat,
    models.list_models,
    models.describe,
    models.terminate,
    models.scale,
    models.doze,
    models.sleep,
    models.wake,
    models.restart,
    models.events,
    models.logs,
    models.cached,
    models.engine,
    registrations.registrations,
    registrations.register,
    registrations.unregister,
    models_file.apply,
    models_file.diff,
    models_file.export,
    backup.backup,
    backup.restore,
    connection.login,
    connection.keys,
    shell.completion,
    shell.version,
):
    main.add_command(command)
