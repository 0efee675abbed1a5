"""The `cluster` command: the group, and how errors become one sentence and an exit code."""

from __future__ import annotations

from typing import Any

import click

from cluster import errors
from cluster.cli import backup, connection, daemon, declared, generate, launch, models, ocr, ports, registrations, shell


class Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which people need them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except errors.ClusterError as error:
            _tell(error)
            raise click.exceptions.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None


def _tell(error: errors.ClusterError) -> None:
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
    """Launches and serves embedding, reranker, image, OCR and LLM models on Ray."""


for command in (
    daemon.up,
    daemon.down,
    daemon.status,
    ports.ports,
    launch.launch,
    generate.generate,
    ocr.ocr,
    models.list_models,
    models.describe,
    models.terminate,
    models.scale,
    models.events,
    models.logs,
    models.cached,
    models.engine,
    registrations.registrations,
    registrations.register,
    registrations.unregister,
    declared.apply,
    declared.diff,
    declared.export,
    backup.backup,
    backup.restore,
    connection.login,
    connection.keys,
    shell.completion,
    shell.version,
):
    main.add_command(command)
