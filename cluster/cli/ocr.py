"""`cluster ocr`: reads pictures and documents into files, page by page, and shows progress."""

from __future__ import annotations

import io
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import orjson

from cluster import errors
from cluster.cli.connection import complete_uid, talks
from cluster.cli.options import more_fields
from cluster.cli.output import json_option, print_json
from cluster.cli.progress import ProgressBars, ProgressLines, ProgressRow, shown
from cluster.cli.requests import only_model, stop_request
from cluster.client.client import Client
from cluster.client.documents import OcrModel
from cluster.client.results import Page
from cluster.value import JsonObject

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
#: The name of a file in a folder ends so.
SUFFIX_OF = {format: suffix for suffix, format in reversed(SUFFIXES.items())}
#: What stands before and after the content of an HTML page.
BODY, END = "<body>\n", "\n</body>"
#: Those of a request. A test compares them: importing them from the OCR wing would make every command slow.
TASKS = ("ocr", "table", "formula", "chart", "layout", "parse")
#: Standard input and output.
PIPE = "-"


class Errand(NamedTuple):
    """The inputs that become one document, and where that is written."""

    inputs: Sequence[str]
    output: str

    @property
    def label(self) -> str:
        first, *others = ("standard input" if name == PIPE else Path(name).name for name in self.inputs)
        return f"{first} and {len(others)} more" if others else first


def errands_of(inputs: Sequence[str], output: str | None, format: str) -> list[Errand]:
    """One errand per input if the output is a folder; otherwise one errand for all inputs."""
    if output is None or not _is_folder(output):
        return [Errand(inputs, output or PIPE)]
    stems = [Path("page" if name == PIPE else name).stem for name in inputs]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise click.UsageError(f"Several inputs would be written to {twice}{SUFFIX_OF[format]}; read them one by one.")
    names = [f"{stem}.searchable" if format == "pdf" else stem for stem in stems]
    return [
        Errand([name], str(Path(output) / f"{stem}{SUFFIX_OF[format]}"))
        for name, stem in zip(inputs, names, strict=True)
    ]


def _is_folder(output: str) -> bool:
    return output.endswith(("/", os.sep)) or Path(output).is_dir()


def format_of(output: str | None, chosen: str | None) -> str:
    """The chosen format, or else the one that the file's name says."""
    suffix = "" if output in (None, PIPE) or _is_folder(str(output)) else Path(str(output)).suffix.lower()
    if chosen or not suffix:
        return chosen or "text"
    if suffix not in SUFFIXES:
        raise click.UsageError(f"Unknown format {suffix}; use one of {', '.join(SUFFIXES)}, or add --format.")
    return SUFFIXES[suffix]


class Sink:
    """Where a document is written; an output that cannot be written is refused before anything is read."""

    def __init__(self, output: str, format: str) -> None:
        self.output = output
        self._format = format
        # Taken now, because a progress bar replaces sys.stdout.
        self._stdout = sys.stdout.buffer
        if output != PIPE:
            folder = Path(output).parent
            if not (folder.is_dir() and os.access(folder, os.W_OK)):
                raise errors.BadRequest(f"{folder} is not a folder that can be written to; name another file with -o.")
        elif format == "pdf" and sys.stdout.isatty():
            raise click.UsageError("A terminal cannot show a PDF; name a file with -o, or redirect the output.")

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
        return joined([page.content for page in pages], format)
    report = {
        "pages": [page.raw for page in pages],
        "markdown": joined([page.markdown for page in pages], "markdown"),
        "text": joined([page.text for page in pages], "text"),
        "usage": dict(sum((Counter(page.raw["usage"]) for page in pages), Counter())),
        "model": uid,
    }
    return orjson.dumps(report, option=orjson.OPT_INDENT_2).decode()


def joined(contents: Sequence[str], format: str) -> str:
    """The documents of the pages as one document."""
    if format in ("text", "markdown"):
        return "\n\n".join(filter(None, contents))
    if format == "tsv":
        # The line with the names of the columns is kept only once.
        return contents[0] + "".join(content.partition("\n")[2] for content in contents[1:])
    head, tail = contents[0].partition(BODY)[0], contents[0].rpartition(END)[2]
    bodies = [content.partition(BODY)[2].rpartition(END)[0] for content in contents]
    return head + BODY + "\n".join(bodies) + END + tail


def merged(pages: Sequence[Page]) -> bytes:
    """The PDFs of the pages as one PDF."""
    import pypdfium2

    document = pypdfium2.PdfDocument.new()
    for page in pages:
        if page.content is not None:
            document.import_pages(pypdfium2.PdfDocument(page.content))
    target = io.BytesIO()
    document.save(target)
    return target.getvalue()


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "-u",
    "--model-uid",
    shell_complete=complete_uid,
    help="The OCR model; may be left out if only one is launched.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="File to write, replaced if it exists, with all inputs as one document; or a folder, with a file for each.  "
    "[default: standard output]",
)
@click.option(
    "--format",
    "format",
    type=click.Choice(sorted(SUFFIX_OF)),
    help="Format of the output; by default what the name of the file says, or text.",
)
@click.option("--pages", metavar="1-3,7", help="Which pages to read, numbered through all files of a document.")
@click.option("--dpi", type=click.IntRange(72, 600), help="Resolution at which the pages of a PDF are rendered.")
@click.option(
    "--language", "languages", multiple=True, metavar="CODE", help="A language to expect, e.g. de; repeat for more."
)
@click.option(
    "--task",
    type=click.Choice(TASKS),
    help="What to look for, if the model has such tasks.",
)
@click.option("--prompt", help="What to do, in words, if the model takes a prompt.")
@more_fields(example="max_new_tokens=2000")
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
    more: JsonObject,
    as_json: bool,
    **fields: object,
) -> None:
    """Read the text of pictures and PDFs; - is standard input."""
    is_report = as_json and output not in (None, PIPE)
    kind = format_of(output, format or ("json" if as_json and not is_report else None))
    errands = errands_of(inputs, output, kind)
    sinks = [Sink(errand.output, kind) for errand in errands]
    for name in inputs:
        if name != PIPE and not Path(name).is_file():
            raise errors.BadRequest(f"{name} does not exist or is not a file.")
    uid = model_uid or only_model(client, OcrModel, "OCR model", "--model-name ppocr-v6")
    options = {
        **fields,
        "languages": list(languages) or None,
        "output_format": kind,
        **more,
    }
    reader = DocumentReader(client, uid, options)
    reports = []
    for errand, sink in zip(errands, sinks, strict=True):
        begun = time.monotonic()
        pages = reader.read(errand, sink)
        report = {"inputs": list(errand.inputs), "output": sink.output, "pages": len(pages)}
        unread = [{"page": page.number, "error": page.error} for page in pages if page.error]
        reports.append({**report, "unread": unread, "seconds": time.monotonic() - begun})
        if not is_report:
            _print_report(reports[-1], errand)
    if is_report:
        print_json({"model_uid": uid, "documents": reports})
    if any(report["unread"] for report in reports):
        raise click.exceptions.Exit(1)


class DocumentReader:
    """Sends documents to a model and writes the pages that come back."""

    def __init__(self, client: Client, uid: str, options: JsonObject) -> None:
        self._client = client
        self._model = OcrModel(client, uid)
        self._options = options

    def read(self, errand: Errand, sink: Sink) -> list[Page]:
        """Writes the pages of one document, also those that were read before an error or Ctrl-C."""
        request_id = self._options.get("request_id") or f"ocr-{uuid.uuid4().hex}"
        options = {**self._options, "request_id": request_id}
        files = [sys.stdin.buffer.read() if name == PIPE else name for name in errand.inputs]
        pages: list[Page] = []
        try:
            with shown() as show:
                for page in self._shown(self._model.ocr(files, stream=True, **options), errand.label, show):
                    pages.append(page)
            self._refuse_short(pages)
        except errors.ClusterError as error:
            self._keep(pages, sink)
            raise type(error)(f"{errand.label}: {error.message}", error.param, error.retry_after_s) from None
        except KeyboardInterrupt:
            stop_request(self._client, self._model.uid, request_id)
            self._keep(pages, sink)
            raise
        sink.write(pages, self._model.uid)
        return pages

    def _refuse_short(self, pages: Sequence[Page]) -> None:
        if not pages or pages[-1].done < pages[-1].pages:
            uid = self._model.uid
            raise errors.InferenceFailed(f"{uid} ended after {len(pages)} pages; see `cluster logs {uid}`.")

    def _shown(self, pages: Iterator[Page], label: str, show: ProgressBars | ProgressLines) -> Iterator[Page]:
        show([ProgressRow(label, "reading", 0.0)])
        for page in pages:
            show([ProgressRow(label, f"page {page.done} of {page.pages}", page.done / page.pages)])
            yield page

    def _keep(self, pages: Sequence[Page], sink: Sink) -> None:
        if not pages:
            return
        sink.write(pages, self._model.uid)
        where = "standard output" if sink.output == PIPE else sink.output
        click.echo(f"{len(pages)} of {pages[-1].pages} pages were read and are in {where}.", err=True)


def _print_report(report: JsonObject, errand: Errand) -> None:
    for page in report["unread"]:
        click.echo(f"Page {page['page']} of {errand.label} was not read: {page['error']}", err=True)
    pages = f"{report['pages']} page" + ("" if report["pages"] == 1 else "s")
    where = "" if report["output"] == PIPE else f" into {report['output']}"
    click.echo(f"{pages} of {errand.label}{where} in {report['seconds']:.1f} s.", err=True)
