"""`cluster generate`: pictures of a prompt into files, with how far they are, and what they look like so far."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from cluster import errors
from cluster.cli.connection import complete_uid, talks
from cluster.cli.options import parse_value
from cluster.cli.output import json_option, print_json
from cluster.cli.preview import Previews, way_of
from cluster.cli.progress import Bars, Lines, Row, shown
from cluster.client.client import Client
from cluster.client.images import ImageModel
from cluster.client.results import Picture

#: Between two looks at how far it is.
LOOK_S = 0.25
#: Previews of one picture, where they are shown: the most that OpenAI's API has.
PREVIEWS = 3
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
#: Standard output, as other commands call it.
STDOUT = "-"


class Files:
    """Where the pictures go: the name that was given, numbered when there are several, or a new one by uid and seed."""

    def __init__(self, output: str | None, uid: str, n: int, format: str) -> None:
        self._output = output
        self._uid = uid
        self._n = n
        self._format = format
        # Taken now: a bar puts itself in the place of sys.stdout.
        self._stdout = sys.stdout.buffer
        self._folder = Path(output or ".") if _is_folder(output) else Path(output or ".").parent
        self._refuse_in_vain()

    def _refuse_in_vain(self) -> None:
        """Before anything is computed for a file that cannot be written."""
        if self._output == STDOUT:
            if self._n > 1:
                raise click.UsageError("Standard output takes one picture; name a file with -o.")
            if sys.stdout.isatty():
                raise click.UsageError("A picture is nothing for a terminal; name a file with -o, or redirect.")
        elif not (self._folder.is_dir() and os.access(self._folder, os.W_OK)):
            raise errors.BadRequest(f"Nothing can be written in {self._folder}; name another place with -o.")

    def write(self, picture: Picture, number: int) -> str:
        """Where it went."""
        try:
            return self._write(picture, number)
        except OSError as error:
            raise errors.BadRequest(f"{error.filename or self._output} cannot be written: {error.strerror}.") from None

    def _write(self, picture: Picture, number: int) -> str:
        if self._output == STDOUT:
            self._stdout.write(picture.data)
            self._stdout.flush()
            return STDOUT
        if _is_folder(self._output):
            return self._write_new(picture)
        path = Path(str(self._output))
        if self._n > 1:
            path = path.with_stem(f"{path.stem}-{number}")
        picture.save(path)
        return str(path)

    def _write_new(self, picture: Picture) -> str:
        """Under a name of its own: what is there already was not asked to go."""
        stem = self._uid if picture.seed is None else f"{self._uid}-{picture.seed}"
        for again in itertools.count(1):
            name = f"{stem}.{self._format}" if again == 1 else f"{stem}-{again}.{self._format}"
            try:
                with (self._folder / name).open("xb") as file:
                    file.write(picture.data)
            except FileExistsError:
                continue
            return str(self._folder / name)
        raise AssertionError


def _is_folder(output: str | None) -> bool:
    return output is None or (output != STDOUT and Path(output).is_dir())


def format_of(output: str | None, asked: str | None) -> str:
    """The one that was asked for, else the one that the file's name says."""
    suffix = "" if _is_folder(output) else Path(str(output)).suffix.lower()
    if asked or not suffix:
        return asked or "png"
    if suffix not in FORMATS:
        raise click.UsageError(f"{suffix} is no format that can be made; take {', '.join(FORMATS)}, or add --format.")
    return FORMATS[suffix]


def _read_lora(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[dict[str, Any]] | None:
    return [lora_of(value) for value in values] or None


def lora_of(text: str) -> dict[str, Any]:
    """`name` or `name:scale`; a colon that no number follows is part of the name."""
    name, _, scale = text.rpartition(":")
    try:
        return {"name": name, "scale": float(scale)} if name else {"name": text}
    except ValueError:
        return {"name": text}


def _read_options(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    options = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE.", ctx, param)
        options[name.replace("-", "_")] = parse_value(text)
    return options


@click.command()
@click.argument("prompt")
@click.option(
    "-u", "--model-uid", shell_complete=complete_uid, help="The image model; not needed when only one is launched."
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="File to write, over what is there; -1, -2 ... are added for several; - is standard output.  "
    "[default: a new file, UID-SEED]",
)
@click.option("-n", "n", type=click.IntRange(min=1), default=1, show_default=True, help="How many pictures.")
@click.option("-s", "--size", metavar="WxH", help="Pixels, e.g. 1024x768; else the model's own.")
@click.option("--steps", "num_inference_steps", type=int, help="Steps of the denoiser; else the model's own.")
@click.option("--seed", type=int, help="Makes the same picture again; of several it is the first one's.")
@click.option("--guidance", "guidance_scale", type=float, help="How closely the prompt is followed.")
@click.option("--negative", "negative_prompt", help="What not to draw.")
@click.option("--quality", help="Speed against quality: low, medium or high.")
@click.option(
    "-i",
    "--image",
    "images",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="A picture to edit or to start from; several times where the model takes several.",
)
@click.option(
    "--mask", type=click.Path(exists=True, dir_okay=False), help="Repaint only its white or transparent part."
)
@click.option("--strength", type=float, help="How much of the given picture is redrawn, 0 to 1.")
@click.option(
    "--lora", "loras", multiple=True, metavar="NAME[:SCALE]", callback=_read_lora, help="A LoRA of the launch."
)
@click.option("--format", "format", type=click.Choice(["png", "jpeg", "webp"]), help="Else what the file's name says.")
@click.option(
    "--option",
    "more",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_read_options,
    help="Any other field of a request, e.g. true_cfg_scale=4.",
)
@click.option(
    "--preview/--no-preview", default=None, help="Show the picture while it is made.  [default: where the terminal can]"
)
@json_option
@talks
def generate(
    client: Client,
    /,
    prompt: str,
    model_uid: str | None,
    output: str | None,
    n: int,
    images: Sequence[str],
    mask: str | None,
    format: str | None,
    more: Mapping[str, Any],
    preview: bool | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Draw a prompt, or edit pictures by one, and write what comes out to files."""
    if mask and not images:
        raise click.UsageError("--mask says what of a picture is repainted; name the picture with --image.")
    if as_json and output == STDOUT:
        raise click.UsageError("--json and the picture cannot both go to standard output.")
    kind = format_of(output, format)
    uid = model_uid or only_one(client)
    files = Files(output, uid, n, kind)
    previews = _previews(preview, is_free=not as_json)
    asked = {**fields, "n": n, "output_format": kind, "stream": True, **more}
    if previews is not None:
        asked["partial_images"] = PREVIEWS
    asked.setdefault("request_id", f"generate-{uuid.uuid4().hex}")
    model = ImageModel(client, uid)
    begun = time.monotonic()
    stream = model.image_edit(list(images), prompt, mask, **asked) if images else model.text_to_image(prompt, **asked)
    with _stopped_by_interrupt(client, uid, asked["request_id"]):
        with shown() as show, _followed(client, uid, asked["request_id"], show):
            written = _write_all(stream, files, previews, show, as_json)
    if not written:
        raise errors.InferenceFailed(f"{uid} ended without a picture; see `cluster logs {uid}`.")
    seconds = time.monotonic() - begun
    if as_json:
        return print_json({"model_uid": uid, "request_id": asked["request_id"], "seconds": seconds, "images": written})
    seeds = ", ".join(str(picture["seed"]) for picture in written if picture["seed"] is not None)
    said = f"{len(written)} {'picture' if len(written) == 1 else 'pictures'} in {seconds:.1f} s"
    click.echo(f"{said}, seed {seeds}." if seeds else f"{said}.", err=True)


def only_one(client: Client) -> str:
    able = [uid for uid, description in client.list_models().items() if ImageModel.fits(description)]
    if not able:
        raise errors.ModelNotFound("No image model serves; launch one with `cluster launch --model-type image`.")
    if len(able) > 1:
        raise click.UsageError(f"Several image models serve; name one with --model-uid: {', '.join(able)}.")
    return able[0]


def _previews(asked: bool | None, is_free: bool) -> Previews | None:
    """On standard output, when a person looks at it and nothing else is to stand there."""
    if asked is False or not is_free or not sys.stdout.isatty():
        if asked:
            raise click.UsageError("--preview needs a terminal for its standard output, and nothing else there.")
        return None
    way = way_of(os.environ) or ("blocks" if asked else None)
    return Previews(way, sys.stdout) if way else None


def _write_all(
    stream: Iterator[Picture], files: Files, previews: Previews | None, show: Bars | Lines, as_json: bool
) -> list[dict[str, Any]]:
    """Each picture as soon as it is there: it stays, whatever becomes of the next."""
    written: list[dict[str, Any]] = []
    for picture in stream:
        if picture.is_final:
            name = files.write(picture, len(written) + 1)
            written.append({"file": name, "seed": picture.seed, "receipt": picture.receipt})
        with show.hidden():
            if previews is not None:
                previews.show(picture.data)
            if picture.is_final and not as_json and name != STDOUT:
                click.echo(name)
    return written


@contextmanager
def _stopped_by_interrupt(client: Client, uid: str, request_id: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        try:
            client.abort_request(uid, request_id)
        except errors.ClusterError as error:
            click.echo(
                f"{uid} could not be told to stop, and does so when it sees that nobody waits: {error}", err=True
            )
        else:
            click.echo(f"{uid} was told to stop.", err=True)
        raise


@contextmanager
def _followed(client: Client, uid: str, request_id: str, show: Bars | Lines) -> Iterator[None]:
    """Shows how far the request is, from a thread beside the one that waits for its pictures."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK_S):
            try:
                show([row_of(uid, client.get_progress(request_id))])
            except errors.ClusterError:
                # Not known yet, or not any more: the answer itself says what there is to say.
                continue

    show([Row(uid, "waiting", 0.0)])
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        done.set()
        # It may hang in a request that nobody waits for any more.
        looking.join(1.0)


def row_of(uid: str, progress: Mapping[str, Any]) -> Row:
    step, steps, eta = progress.get("step"), progress.get("steps"), progress.get("eta")
    parts = [f"step {step} of {steps}" if steps else "", "" if eta is None else f"{eta:.0f} s left"]
    return Row(uid, progress.get("stage") or "working", progress["progress"], ", ".join(filter(None, parts)))
