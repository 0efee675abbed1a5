"""Documents that come with a request: what is in them, and their pages as pictures, drawn by processes apart."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from cluster import environment, errors
from cluster.settings import Settings
from deployments.ingress import rendering
from deployments.ocr.requests import MOST_SIDE

#: Longest that one file may be looked at, or one page be drawn.
PATIENCE_S = 60.0

#: Characters of a range of pages: the time to see that one is none grows with their square.
MOST_RANGE = 40

_RANGE = re.compile(r"(\d{1,9})?\s*(-)?\s*(\d{1,9})?")


class Given(NamedTuple):
    """A file as it came."""

    name: str
    data: bytes


class Sheet(NamedTuple):
    """A page as a picture that models read."""

    data: bytes
    width: int
    height: int
    dpi: float | None


class _Lost(Exception):
    """The process ended, or was ended, before it answered."""


class _Child:
    """One process that draws. What it says is data and never a program, for it has read what strangers sent."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._process = subprocess.Popen(
            # Without its folder in the path, where modules have names that others have too.
            [*environment.ISOLATED, rendering.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment.for_python(),
        )

    def ask(self, order: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        impatience = threading.Timer(self._patience_s, self._process.kill)
        impatience.start()
        try:
            return self._ask(order)
        except (OSError, orjson.JSONDecodeError):
            self.end()
            raise _Lost from None
        finally:
            impatience.cancel()

    def _ask(self, order: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(orjson.dumps(order) + b"\n")
        self._process.stdin.flush()
        told: dict[str, Any] = orjson.loads(self._process.stdout.readline())
        content = self._process.stdout.read(told.pop("bytes"))
        return told, content

    def end(self) -> None:
        self._process.kill()
        with contextlib.suppress(OSError):
            self._process.communicate()


class Renderers:
    """As many processes as there are threads, each started when it is first needed and again when it was lost."""

    def __init__(self, processes: int, patience_s: float) -> None:
        self._patience_s = patience_s
        self._threads = ThreadPoolExecutor(processes, "renderer")
        self._own = threading.local()

    async def order(self, name: str, **order: Any) -> tuple[dict[str, Any], bytes]:
        """What is answered to that, or an error that begins with the name of the file."""
        try:
            told, content = await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, order)
        except _Lost:
            raise errors.InvalidBody(
                f"{name} cannot be read: what reads it ended, or took longer than {self._patience_s:g} s.",
                None,
                "image",
            ) from None
        if "refused" in told:
            kind = errors.TooLarge if told["is_too_large"] else errors.InvalidBody
            raise kind(f"{name} {told['refused'].rstrip('.')}.", None, "image")
        return told, content

    def _ask(self, order: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        child = getattr(self._own, "child", None) or _Child(self._patience_s)
        self._own.child = None
        answer: tuple[dict[str, Any], bytes] = child.ask(order)
        self._own.child = child
        return answer


@dataclass(frozen=True)
class _File:
    name: str
    path: Path
    kind: str
    pages: int
    #: A single picture that needs no drawing.
    sheet: Sheet | None = None


class Document:
    """The files of one request, their pages counted through, on disk for as long as this is kept."""

    def __init__(self, renderers: Renderers, folder: tempfile.TemporaryDirectory[str], most_pixels: int) -> None:
        self._renderers = renderers
        self._folder = folder
        self._bounds = {"most_pixels": most_pixels, "most_side": MOST_SIDE}
        self._files: list[_File] = []

    @property
    def pages(self) -> int:
        return sum(file.pages for file in self._files)

    @property
    def name(self) -> str:
        return self._files[0].name if len(self._files) == 1 else f"the request's {len(self._files)} files"

    def file_of(self, number: int) -> tuple[str, int]:
        """The name of the file that a page is in, and its number there."""
        file, index = self._place(number)
        return file.name, index + 1

    def title_of(self, number: int) -> str:
        """What a page is called in a sentence."""
        file, index = self._place(number)
        return file.name if file.pages == 1 else f"Page {index + 1} of {file.name}"

    async def add(self, given: Given) -> None:
        path = Path(self._folder.name) / str(len(self._files))
        await asyncio.to_thread(path.write_bytes, given.data)
        told, _ = await self._renderers.order(given.name, do="look", path=str(path), **self._bounds)
        sheet = None
        if told["kind"] == "picture":
            sheet = Sheet(given.data, told["width"], told["height"], told["dpi"]) if told["as_is"] else None
        self._files.append(_File(given.name, path, told["kind"], told["pages"], sheet))

    async def sheet(self, number: int, dpi: int) -> Sheet:
        """That page; `dpi` is for those that have no pixels of their own."""
        file, index = self._place(number)
        if file.sheet is not None:
            return file.sheet
        where = {"path": str(file.path), "kind": file.kind, "index": index, "dpi": dpi}
        told, data = await self._renderers.order(self.title_of(number), do="draw", **where, **self._bounds)
        return Sheet(data, told["width"], told["height"], told["dpi"])

    def close(self) -> None:
        self._folder.cleanup()

    def _place(self, number: int) -> tuple[_File, int]:
        index = number - 1
        for file in self._files:
            if index < file.pages:
                return file, index
            index -= file.pages
        raise IndexError(number)


class Documents:
    def __init__(self, settings: Settings, patience_s: float = PATIENCE_S) -> None:
        self._settings = settings
        self._renderers = Renderers(settings.render_processes, patience_s)

    async def open(self, files: Sequence[Given]) -> Document:
        """To be closed by whoever reads it."""
        folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="cluster-pages-")
        document = Document(self._renderers, folder, self._settings.max_image_pixels)
        try:
            for file in files:
                await document.add(file)
        except BaseException:
            document.close()
            raise
        return document

    def choose(self, document: Document, pages: Any) -> list[int]:
        """The numbers of the pages that were asked for, all without a wish."""
        if not document.pages:
            raise errors.InvalidBody(f"{document.name} has no pages.", None, "image")
        return numbers_of("1-" if pages is None else pages, document.pages, document.name, self._settings.max_pages)


def numbers_of(pages: Any, count: int, name: str, most: int) -> list[int]:
    """Numbers of pages, from 1, out of `3`, `"1-3,7"`, `"5-"` or a list of such; counted before any is written out."""
    ranges: list[range] = []
    asked = 0
    for part in _parts_of(pages, most):
        first, last = _range_of(part.strip(), count)
        if not 1 <= first <= last <= count:
            has = f"{count} page{'s' if count > 1 else ''}"
            raise errors.InvalidBody(f"pages asks for {part.strip()}, and {name} has {has}.", None, "pages")
        ranges.append(range(first, last + 1))
        asked += len(ranges[-1])
    if asked > most:
        raise errors.TooLarge(
            f"{name} has {count} pages, of which {asked} are to be read; {most} are allowed in one request: pick some "
            "with pages, such as 1-100.",
            None,
            "pages",
        )
    return list(dict.fromkeys(number for span in ranges for number in span))


def _parts_of(pages: Any, most: int) -> list[str]:
    """What stands between commas, of no more than there may be pages."""
    parts = 0
    for one in pages if isinstance(pages, list) else [pages]:
        parts += 1 + str(one).count(",")
        if parts > most:
            raise errors.TooLarge(
                f"pages asks for more than {most} pages or ranges; {most} pages are allowed in one request.",
                None,
                "pages",
            )
    return [part for one in (pages if isinstance(pages, list) else [pages]) for part in str(one).split(",")]


def _range_of(part: str, count: int) -> tuple[int, int]:
    match = _RANGE.fullmatch(part) if len(part) <= MOST_RANGE else None
    if not match or not (match[1] or match[3]):
        raise errors.InvalidBody(f"pages takes numbers and ranges such as 1-3,7, not {part!r:.50}.", None, "pages")
    if not match[2]:
        only = int(match[1] or match[3])
        return only, only
    return int(match[1] or 1), int(match[3] or count)
