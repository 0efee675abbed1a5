"""`cluster ocr`: the text of pictures and documents into files, page by page, with how far it is."""

from __future__ import annotations

import io
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import orjson

from cluster import errors
from cluster.cli.connection import complete_uid, talks
from cluster.cli.generate import _read_options
from cluster.cli.output import json_option, print_json
from cluster.cli.progress import Bars, Lines, Row, shown
from cluster.client.client import Client
from cluster.client.documents import OcrModel
from cluster.client.results import Page

SUFFIXES = {
    ".txt": "text",
    ".md": "markdown",
    ".html": "html",
    ".htm": "html",
    ".json": "json",
    ".hocr": "hocr",
    ".tsv": "tsv",
    ".pdf": "pdf",
}
#: Of files in a folder.
SUFFIX_OF = {format: suffix for suffix, format in reversed(SUFFIXES.items())}
#: Between which a page of HTML says what it has to say.
BODY, END = "<body>\n", "\n</body>"
#: Standard input and output.
PIPE = "-"


class Errand(NamedTuple):
    """Inputs that become one document, and where it goes."""

    inputs: Sequence[str]
    output: str

    @property
    def label(self) -> str:
        first, *others = ("standard input" if name == PIPE else Path(name).name for name in self.inputs)
        return f"{first} and {len(others)} more" if others else first


def errands_of(inputs: Sequence[str], output: str | None, format: str) -> list[Errand]:
    """One per input into a folder; into a file, or standard output, all of them as one."""
    if output is None or not _is_folder(output):
        return [Errand(inputs, output or PIPE)]
    stems = [Path("page" if name == PIPE else name).stem for name in inputs]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise click.UsageError(f"Several inputs would become {twice}{SUFFIX_OF[format]}; read them one after another.")
    names = [f"{stem}.searchable" if format == "pdf" else stem for stem in stems]
    return [
        Errand([name], str(Path(output) / f"{stem}{SUFFIX_OF[format]}"))
        for name, stem in zip(inputs, names, strict=True)
    ]


def _is_folder(output: str) -> bool:
    return output.endswith(("/", os.sep)) or Path(output).is_dir()


def format_of(output: str | None, asked: str | None) -> str:
    """The one that was asked for, else the one that the file's name says."""
    suffix = "" if output in (None, PIPE) or _is_folder(str(output)) else Path(str(output)).suffix.lower()
    if asked or not suffix:
        return asked or "text"
    if suffix not in SUFFIXES:
        raise click.UsageError(f"{suffix} is no format that can be made; take {', '.join(SUFFIXES)}, or add --format.")
    return SUFFIXES[suffix]


class Sink:
    """Where a document goes; what cannot be written is refused before anything is read."""

    def __init__(self, output: str, format: str) -> None:
        self.output = output
        self._format = format
        # Taken now: a bar puts itself in the place of sys.stdout.
        self._stdout = sys.stdout.buffer
        if output != PIPE:
            folder = Path(output).parent
            if not (folder.is_dir() and os.access(folder, os.W_OK)):
                raise errors.BadRequest(f"Nothing can be written in {folder}; name another place with -o.")
        elif format == "pdf" and sys.stdout.isatty():
            raise click.UsageError("A PDF is nothing for a terminal; name a file with -o, or redirect.")

    def write(self, pages: Sequence[Page], uid: str) -> None:
        data = merged(pages) if self._format == "pdf" else written(pages, self._format, uid).encode()
        if self.output == PIPE:
            self._stdout.write(data if self._format == "pdf" or data.endswith(b"\n") else data + b"\n")
            self._stdout.flush()
            return
        try:
            Path(self.output).write_bytes(data)
        except OSError as error:
            raise errors.BadRequest(f"{self.output} cannot be written: {error.strerror}.") from None


def written(pages: Sequence[Page], format: str, uid: str) -> str:
    if format != "json":
        return joined([one.content for one in pages], format)
    told = {
        "pages": [one.raw for one in pages],
        "markdown": joined([one.markdown for one in pages], "markdown"),
        "text": joined([one.text for one in pages], "text"),
        "usage": dict(sum((Counter(one.raw["usage"]) for one in pages), Counter())),
        "model": uid,
    }
    return orjson.dumps(told, option=orjson.OPT_INDENT_2).decode()


def joined(contents: Sequence[str], format: str) -> str:
    """One document of the documents of its pages."""
    if format in ("text", "markdown"):
        return "\n\n".join(filter(None, contents))
    if format == "tsv":
        # The names of the columns stand once.
        return contents[0] + "".join(content.partition("\n")[2] for content in contents[1:])
    head, tail = contents[0].partition(BODY)[0], contents[0].rpartition(END)[2]
    bodies = [content.partition(BODY)[2].rpartition(END)[0] for content in contents]
    return head + BODY + "\n".join(bodies) + END + tail


def merged(pages: Sequence[Page]) -> bytes:
    """Files of one page as one."""
    import pypdfium2

    whole = pypdfium2.PdfDocument.new()
    for one in pages:
        if one.content is not None:
            whole.import_pages(pypdfium2.PdfDocument(one.content))
    target = io.BytesIO()
    whole.save(target)
    return target.getvalue()


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "-u",
    "--model-uid",
    shell_complete=complete_uid,
    help="The model; not needed when only one of the kind is launched.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="File to write, over what is there, all inputs as one document; or a folder, a file for each.  "
    "[default: standard output]",
)
@click.option(
    "--format", "format", type=click.Choice(sorted(SUFFIX_OF)), help="Else what the file's name says, else text."
)
@click.option("--pages", metavar="1-3,7", help="Which pages to read, counted through all files of a document.")
@click.option("--dpi", type=click.IntRange(72, 600), help="At which the pages of a PDF are drawn.")
@click.option("--language", "languages", multiple=True, metavar="CODE", help="A language to expect, e.g. de.")
@click.option(
    "--task",
    type=click.Choice(["ocr", "table", "formula", "chart", "layout", "parse"]),
    help="What to look for, where the model can tell.",
)
@click.option("--prompt", help="What to do in words, where the model understands them.")
@click.option(
    "--option",
    "more",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_read_options,
    help="Any other field of a request, e.g. max_new_tokens=2000.",
)
@json_option
@talks
def ocr(
    client: Client,
    /,
    inputs: Sequence[str],
    model_uid: str | None,
    output: str | None,
    format: str | None,
    languages: Sequence[str],
    more: Mapping[str, Any],
    as_json: bool,
    **fields: Any,
) -> None:
    """Read the text of pictures and PDFs; - is standard input."""
    is_report = as_json and output not in (None, PIPE)
    kind = format_of(output, format or ("json" if as_json and not is_report else None))
    errands = errands_of(inputs, output, kind)
    sinks = [Sink(errand.output, kind) for errand in errands]
    for name in inputs:
        if name != PIPE and not Path(name).is_file():
            raise errors.BadRequest(f"{name} is not there, or no file.")
    uid = model_uid or only_one(client)
    asked = {
        **fields,
        "languages": list(languages) or None,
        "output_format": kind,
        **more,
    }
    reader = Reader(client, uid, asked)
    reports = []
    for errand, sink in zip(errands, sinks, strict=True):
        begun = time.monotonic()
        pages = reader.read(errand, sink)
        report = {"inputs": list(errand.inputs), "output": sink.output, "pages": len(pages)}
        unread = [{"page": one.number, "error": one.error} for one in pages if one.error]
        reports.append({**report, "unread": unread, "seconds": time.monotonic() - begun})
        if not is_report:
            _tell(reports[-1], errand)
    if is_report:
        print_json({"model_uid": uid, "documents": reports})
    if any(report["unread"] for report in reports):
        raise click.exceptions.Exit(1)


class Reader:
    def __init__(self, client: Client, uid: str, asked: Mapping[str, Any]) -> None:
        self._client = client
        self._model = OcrModel(client, uid)
        self._asked = asked

    def read(self, errand: Errand, sink: Sink) -> list[Page]:
        """Writes what there is, also when it is broken off."""
        request_id = self._asked.get("request_id") or f"ocr-{uuid.uuid4().hex}"
        asked = {**self._asked, "request_id": request_id}
        files = [sys.stdin.buffer.read() if name == PIPE else name for name in errand.inputs]
        pages: list[Page] = []
        try:
            with shown() as show:
                for one in self._shown(self._model.ocr(files, stream=True, **asked), errand.label, show):
                    pages.append(one)
            self._refuse_short(pages)
        except errors.ClusterError as error:
            self._keep(pages, sink)
            raise type(error)(f"{errand.label}: {error.message}", error.param, error.retry_after_s) from None
        except KeyboardInterrupt:
            self._stop(request_id)
            self._keep(pages, sink)
            raise
        sink.write(pages, self._model.uid)
        return pages

    def _refuse_short(self, pages: Sequence[Page]) -> None:
        if not pages or pages[-1].done < pages[-1].pages:
            uid = self._model.uid
            raise errors.InferenceFailed(f"{uid} ended after {len(pages)} pages; see `cluster logs {uid}`.")

    def _shown(self, pages: Iterator[Page], label: str, show: Bars | Lines) -> Iterator[Page]:
        show([Row(label, "reading", 0.0)])
        for one in pages:
            show([Row(label, f"page {one.done} of {one.pages}", one.done / one.pages)])
            yield one

    def _keep(self, pages: Sequence[Page], sink: Sink) -> None:
        if not pages:
            return
        sink.write(pages, self._model.uid)
        where = "standard output" if sink.output == PIPE else sink.output
        click.echo(f"{len(pages)} of {pages[-1].pages} pages were read, and are in {where}.", err=True)

    def _stop(self, request_id: str) -> None:
        uid = self._model.uid
        try:
            self._client.abort_request(uid, request_id)
        except errors.ClusterError as error:
            click.echo(
                f"{uid} could not be told to stop, and does so when it sees that nobody waits: {error}", err=True
            )
        else:
            click.echo(f"{uid} was told to stop.", err=True)


def _tell(report: Mapping[str, Any], errand: Errand) -> None:
    for one in report["unread"]:
        click.echo(f"Page {one['page']} of {errand.label} was not read: {one['error']}", err=True)
    pages = f"{report['pages']} page" + ("" if report["pages"] == 1 else "s")
    where = "" if report["output"] == PIPE else f" into {report['output']}"
    click.echo(f"{pages} of {errand.label}{where} in {report['seconds']:.1f} s.", err=True)


def only_one(client: Client) -> str:
    able = [uid for uid, description in client.list_models().items() if OcrModel.fits(description)]
    if not able:
        raise errors.ModelNotFound(
            "No model that reads serves; launch one with `cluster launch --model-name ppocr-v6`."
        )
    if len(able) > 1:
        raise click.UsageError(f"Several models that read serve; name one with --model-uid: {', '.join(able)}.")
    return able[0]
