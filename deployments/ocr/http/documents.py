"""Documents that come with a request: what is in them, and their pages as pictures, drawn in other processes."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cluster import errors
from cluster.settings import Settings
from deployments.ocr.http.renderers import HURRY_S, PATIENCE_S, Renderers
from deployments.ocr.requests import MOST_SIDE

#: Characters of a range of pages: matching takes time that grows with their square.
MOST_RANGE = 40
#: The longest side of a page that people look at, in pixels.
SHEET_SIDE = 1000

_RANGE = re.compile(r"(\d{1,9})?\s*(-)?\s*(\d{1,9})?")


class DocumentFile(NamedTuple):
    """A file as it came."""

    name: str
    data: bytes


class PageImage(NamedTuple):
    """A page as a picture that models read."""

    data: bytes
    width: int
    height: int
    dpi: float | None


@dataclass(frozen=True)
class _File:
    name: str
    path: Path
    kind: str
    pages: int
    #: A single picture that needs no drawing.
    picture: PageImage | None = None


class Document:
    """The files of one request, on disk until it is closed; their pages are numbered through all files."""

    def __init__(
        self, renderers: Renderers, folder: tempfile.TemporaryDirectory[str], settings: Settings, caller: str
    ) -> None:
        self._renderers = renderers
        self._folder = folder
        self._bounds = {"most_pixels": settings.max_image_pixels, "most_side": MOST_SIDE}
        self._most_pages = settings.max_pages
        self._caller = caller
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

    async def add(self, file: DocumentFile) -> None:
        path = Path(self._folder.name) / str(len(self._files))
        await asyncio.to_thread(path.write_bytes, file.data)
        bounds = {**self._bounds, "most_frames": self._most_pages}
        facts, _ = await self._renderers.order(file.name, self._caller, do="look", path=str(path), **bounds)
        picture = None
        if facts["kind"] == "picture":
            picture = PageImage(file.data, facts["width"], facts["height"], facts["dpi"]) if facts["as_is"] else None
        self._files.append(_File(file.name, path, facts["kind"], facts["pages"], picture))

    async def picture(self, number: int, dpi: int, region: Sequence[int] | None = None) -> PageImage:
        """That page, or a region of it; `dpi` is for those that have no pixels of their own."""
        file, index = self._place(number)
        if file.picture is not None and region is None:
            return file.picture
        where = {"path": str(file.path), "kind": file.kind, "index": index, "dpi": dpi, "region": region}
        title = self.title_of(number)
        facts, data = await self._renderers.order(title, self._caller, do="draw", **where, **self._bounds)
        return PageImage(data, facts["width"], facts["height"], facts["dpi"])

    async def sheet(self, number: int, read: PageImage, dpi: int, region: Sequence[int] | None = None) -> bytes | None:
        """The page for people to look at; None for a picture that came as one, which whoever sent it has."""
        file, _ = self._place(number)
        if file.picture is not None:
            return None
        if file.kind != "pdf" or region is not None:
            return read.data
        share = min(1.0, SHEET_SIDE / max(read.width, read.height))
        return (await self.picture(number, max(1, round(dpi * share)))).data

    def close(self) -> None:
        self._folder.cleanup()

    def _place(self, number: int) -> tuple[_File, int]:
        index = number - 1
        for file in self._files:
            if index < file.pages:
                return file, index
            index -= file.pages
        raise IndexError(number)


class DocumentOpener:
    def __init__(self, settings: Settings, patience_s: float = PATIENCE_S, hurry_s: float = HURRY_S) -> None:
        self._settings = settings
        self._renderers = Renderers(settings.render_processes, settings.render_bytes, patience_s, hurry_s)

    async def open(self, files: Sequence[DocumentFile], caller: str = "") -> Document:
        """The caller closes it. Callers take turns in having pages drawn."""
        folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="cluster-pages-")
        document = Document(self._renderers, folder, self._settings, caller)
        try:
            for file in files:
                await document.add(file)
        # Also when the request is cancelled: nobody else knows this document, so nobody else would delete its files.
        except BaseException:
            document.close()
            raise
        return document

    def choose(self, document: Document, pages: Any) -> list[int]:
        """The numbers of the pages to read; all if none are named."""
        if not document.pages:
            raise errors.InvalidBody(f"{document.name} has no pages.", "image")
        return numbers_of("1-" if pages is None else pages, document.pages, document.name, self._settings.max_pages)


def numbers_of(pages: Any, count: int, name: str, most: int) -> list[int]:
    """Numbers of pages, from 1, out of `3`, `"1-3,7"`, `"5-"` or a list of such; counted before any is written out."""
    ranges: list[range] = []
    wanted = 0
    for part in _parts_of(pages, most):
        first, last = _range_of(part.strip(), count)
        if not 1 <= first <= last <= count:
            has = f"{count} page{'s' if count > 1 else ''}"
            raise errors.InvalidBody(f"pages asks for {part.strip()}, and {name} has {has}.", "pages")
        ranges.append(range(first, last + 1))
        wanted += len(ranges[-1])
    if wanted > most:
        raise errors.TooLarge(
            f"{name} has {count} pages, of which {wanted} are to be read; {most} are allowed in one request: pick some "
            "with pages, such as 1-100.",
            "pages",
        )
    return list(dict.fromkeys(number for span in ranges for number in span))


def _parts_of(pages: Any, most: int) -> list[str]:
    """What stands between commas, of no more than there may be pages."""
    parts = 0
    for item in pages if isinstance(pages, list) else [pages]:
        parts += 1 + str(item).count(",")
        if parts > most:
            raise errors.TooLarge(
                f"pages asks for more than {most} pages or ranges; {most} pages are allowed in one request.",
                "pages",
            )
    return [part for item in (pages if isinstance(pages, list) else [pages]) for part in str(item).split(",")]


def _range_of(part: str, count: int) -> tuple[int, int]:
    match = _RANGE.fullmatch(part) if len(part) <= MOST_RANGE else None
    if not match or not (match[1] or match[3]):
        raise errors.InvalidBody(f"pages takes numbers and ranges such as 1-3,7, not {part!r:.50}.", "pages")
    if not match[2]:
        only = int(match[1] or match[3])
        return only, only
    return int(match[1] or 1), int(match[3] or count)
