"""`cluster registrations`, `register` and `unregister`: the catalogue from the command line."""

from __future__ import annotations

from typing import IO

import click
import orjson
import yaml

from cluster import errors
from cluster.cli.connection import talks
from cluster.cli.output import json_option, print_json, print_table
from cluster.client.client import Client

type_option = click.option(
    "-t", "--model-type", required=True, help="Type of the model, e.g. embedding, rerank, classify, image or ocr."
)


@click.command()
@type_option
@json_option
@talks
def registrations(client: Client, model_type: str, as_json: bool) -> None:
    """List the models of a type that can be launched."""
    models = client.list_model_registrations(model_type)
    if as_json:
        return print_json(models)
    print_table(
        ("NAME", "BUILT IN"), [(model["model_name"], "yes" if model.get("is_builtin") else "no") for model in models]
    )


@click.command()
@type_option
@click.option("-f", "--file", type=click.File(encoding="utf-8"), required=True, help="The entry, JSON or YAML.")
@click.option("-p", "--persist", is_flag=True, help="For compatibility with Xinference; a registration is always kept.")
@talks
def register(client: Client, model_type: str, file: IO[str], persist: bool) -> None:
    """Add a model to the catalogue."""
    try:
        entry = yaml.safe_load(file.read())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise errors.BadRequest(f"{file.name} is neither JSON nor YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(entry, dict) or not entry.get("model_name"):
        raise errors.BadRequest(f"{file.name} describes no model: it has no `model_name`.")
    client.register_model(model_type, orjson.dumps(entry, default=str).decode(), persist)
    click.echo(f"{entry['model_name']} is registered; launch it with `cluster launch -n {entry['model_name']}`.")


@click.command()
@type_option
@click.option("-n", "--model-name", required=True, help="The registered name.")
@talks
def unregister(client: Client, model_type: str, model_name: str) -> None:
    """Take a registered model out of the catalogue."""
    client.unregister_model(model_type, model_name)
    click.echo(f"{model_name} is no longer registered.")
