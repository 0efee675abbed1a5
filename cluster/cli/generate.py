"""`cluster generate`: draws pictures into files; shows progress and, where a terminal can, previews."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from cluster import errors
from cluster.cli.connection import complete_uid, talks
from cluster.cli.options import more_fields
from cluster.cli.output import json_option, print_json
from cluster.cli.preview import TerminalPreviews, way_of
from cluster.cli.progress import ProgressBars, ProgressLines, ProgressRow, shown
from cluster.cli.requests import only_model, stop_request
from cluster.client.client import Client
from cluster.client.images import ImageModel
from cluster.client.results import Picture
from cluster.value import JsonObject

#: Between two looks at the progress.
LOOK_S = 0.25
#: Previews of one picture, where they are shown: the most that OpenAI's API allows.
PREVIEWS = 3
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
#: Standard output, as other commands write it.
STDOUT = "-"


class PictureFiles:
    """Where the pictures go: the given name, numbered if there are several, or a new name made of uid and seed."""

    def __init__(self, output: str | None, uid: str, n: int, format: str) -> None:
        self._output = output
        self._uid = uid
        self._n = n
        self._format = format
        # Taken now, because a progress bar replaces sys.stdout.
        self._stdout = sys.stdout.buffer
        self._folder = Path(output or ".") if _is_folder(output) else Path(output or ".").parent
        self._refuse_unwritable()

    def _refuse_unwritable(self) -> None:
        """Before anything is computed: refuses an output that cannot be written."""
        if self._output == STDOUT:
            if self._n > 1:
                raise click.UsageError("Standard output takes one picture; name a file with -o.")
            if sys.stdout.isatty():
                raise click.UsageError("A terminal cannot show the file; name one with -o, or redirect the output.")
        elif not (self._folder.is_dir() and os.access(self._folder, os.W_OK)):
            raise errors.BadRequest(
                f"{self._folder} is not a folder that can be written to; name another file with -o."
            )

    def write(self, picture: Picture, number: int) -> str:
        """Writes the picture and returns the name of its file."""
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
        """Under a new name: a file that exists is kept."""
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


def format_of(output: str | None, chosen: str | None) -> str:
    """The chosen format, or else the one that the file's name says."""
    suffix = "" if _is_folder(output) else Path(str(output)).suffix.lower()
    if chosen or not suffix:
        return chosen or "png"
    if suffix not in FORMATS:
        raise click.UsageError(f"Unknown format {suffix}; use one of {', '.join(FORMATS)}, or add --format.")
    return FORMATS[suffix]


def _read_lora(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[JsonObject] | None:
    return [lora_of(value) for value in values] or None


def lora_of(text: str) -> JsonObject:
    """`name` or `name:scale`; a colon without a number after it is part of the name."""
    name, _, scale = text.rpartition(":")
    try:
        return {"name": name, "scale": float(scale)} if name else {"name": text}
    except ValueError:
        return {"name": text}


@click.command()
@click.argument("prompt")
@click.option(
    "-u", "--model-uid", shell_complete=complete_uid, help="The image model; may be left out if only one is launched."
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="File to write, replaced if it exists; -1, -2 ... are added for several; - is standard output.  "
    "[default: a new file, UID-SEED]",
)
@click.option("-n", "n", type=click.IntRange(min=1), default=1, show_default=True, help="How many pictures.")
@click.option("-s", "--size", metavar="WxH", help="Size in pixels, e.g. 1024x768; the model's own if not given.")
@click.option("--steps", "num_inference_steps", type=int, help="Steps of the denoiser; the model's own if not given.")
@click.option("--seed", type=int, help="Seed of the first picture; the same seed makes the same picture again.")
@click.option("--guidance", "guidance_scale", type=float, help="How closely to follow the prompt.")
@click.option("--negative", "negative_prompt", help="What not to draw.")
@click.option("--quality", help="Quality, at the cost of speed: low, medium or high.")
@click.option(
    "-i",
    "--image",
    "images",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="A picture to edit or to start from; repeat it for models that take several.",
)
@click.option(
    "--mask", type=click.Path(exists=True, dir_okay=False), help="Repaint only where this is white or transparent."
)
@click.option("--strength", type=float, help="How much of the given picture to redraw, 0 to 1.")
@click.option(
    "--lora",
    "loras",
    multiple=True,
    metavar="NAME[:SCALE]",
    callback=_read_lora,
    help="A LoRA that the model was launched with; repeat for more.",
)
@click.option(
    "--format",
    "format",
    type=click.Choice(["png", "jpeg", "webp"]),
    help="Format of the files; by default what the name of the file says.",
)
@more_fields(example="true_cfg_scale=4")
@click.option(
    "--preview/--no-preview", default=None, help="Show the picture while it is drawn.  [default: if the terminal can]"
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
    more: JsonObject,
    preview: bool | None,
    as_json: bool,
    **fields: object,
) -> None:
    """Draw a picture from a prompt, or edit pictures with one, and write the result to files."""
    if mask and not images:
        raise click.UsageError("--mask says which part of a picture to repaint; name the picture with --image.")
    if as_json and output == STDOUT:
        raise click.UsageError("--json and the picture cannot both go to standard output.")
    kind = format_of(output, format)
    uid = model_uid or only_model(client, ImageModel, "image model", "--model-type image")
    files = PictureFiles(output, uid, n, kind)
    previews = _previews(preview, is_free=not as_json)
    request = {**fields, "n": n, "output_format": kind, "stream": True, **more}
    if previews is not None:
        request["partial_images"] = PREVIEWS
    request_id = str(request.setdefault("request_id", f"generate-{uuid.uuid4().hex}"))
    model = ImageModel(client, uid)
    begun = time.monotonic()
    if images:
        stream = model.image_edit(list(images), prompt, mask, **request)
    else:
        stream = model.text_to_image(prompt, **request)
    with _stopped_by_interrupt(client, uid, request_id):
        with shown() as show, _followed(client, uid, request_id, show):
            written = _write_all(stream, files, previews, show, as_json)
    if not written:
        raise errors.InferenceFailed(f"{uid} ended without a picture; see `cluster logs {uid}`.")
    seconds = time.monotonic() - begun
    if as_json:
        return print_json({"model_uid": uid, "request_id": request_id, "seconds": seconds, "images": written})
    seeds = ", ".join(str(picture["seed"]) for picture in written if picture["seed"] is not None)
    summary = f"{len(written)} {'picture' if len(written) == 1 else 'pictures'} in {seconds:.1f} s"
    click.echo(f"{summary}, seed {seeds}." if seeds else f"{summary}.", err=True)


def _previews(wanted: bool | None, is_free: bool) -> TerminalPreviews | None:
    """Previews go to standard output if it is a terminal and nothing else is printed there."""
    if wanted is False or not is_free or not sys.stdout.isatty():
        if wanted:
            raise click.UsageError("--preview needs a terminal as standard output, without --json.")
        return None
    way = way_of(os.environ) or ("blocks" if wanted else None)
    return TerminalPreviews(way, sys.stdout) if way else None


def _write_all(
    stream: Iterator[Picture],
    files: PictureFiles,
    previews: TerminalPreviews | None,
    show: ProgressBars | ProgressLines,
    as_json: bool,
) -> list[JsonObject]:
    """Writes each picture as soon as it arrives, so that it is kept if a later one fails."""
    written: list[JsonObject] = []
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
        stop_request(client, uid, request_id)
        raise


@contextmanager
def _followed(client: Client, uid: str, request_id: str, show: ProgressBars | ProgressLines) -> Iterator[None]:
    """Shows the request's progress from a thread of its own, while the caller waits for its pictures."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK_S):
            try:
                show([row_of(uid, client.get_progress(request_id))])
            except errors.ClusterError:
                # The request is not known yet or not any more; its own answer tells of errors.
                continue

    show([ProgressRow(uid, "waiting", 0.0)])
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        done.set()
        # It may hang in a request for progress, whose answer does not matter any more.
        looking.join(1.0)


def row_of(uid: str, progress: JsonObject) -> ProgressRow:
    step, steps, eta = progress.get("step"), progress.get("steps"), progress.get("eta")
    parts = [f"step {step} of {steps}" if steps else "", "" if eta is None else f"{eta:.0f} s left"]
    return ProgressRow(uid, progress.get("stage") or "working", progress["progress"], ", ".join(filter(None, parts)))
