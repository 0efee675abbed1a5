"""Reads the pages of one document by all workers of a model: a few at once, answered in order. A page that fails says
so, and the others are read."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cluster import errors
from cluster.calls import Answer, View
from cluster.routes import ModelRoutes
from cluster.value import JsonObject
from cluster.versioned import Versioned
from deployments.ingress.dialects import Services
from deployments.ocr import formats
from deployments.ocr.http.body import OcrFields
from deployments.ocr.http.documents import Document, PageImage
from deployments.ocr.page import RecognisedPage, unread
from deployments.ocr.requests import Reading

#: Pages under way: per worker, and more that are drawn meanwhile.
PER_WORKER, MORE = 2, 2
#: The shortest and longest pause before a page is sent again that was refused as too much.
LEAST_PAUSE_S, MOST_PAUSE_S = 0.2, 2.0
#: Errors that concern one page only.
OF_ONE_PAGE = (errors.BadRequest, errors.TooLarge, errors.InferenceFailed, errors.OutOfMemory)


@dataclass(frozen=True)
class OcrOrder:
    """A request for text, checked as far as that is possible without the model."""

    model: ModelRoutes
    ask: OcrFields
    reading: Reading
    document: Document
    numbers: Sequence[int]

    def page_json(self, page: RecognisedPage) -> JsonObject:
        """A page as JSON, with the file it is in."""
        name, number = self.document.file_of(page.number)
        return {**page.to_dict(self.reading.features), "file": name, "file_page": number}

    def written(self, pages: Sequence[RecognisedPage]) -> str | JsonObject:
        """All of a document in the format that was asked for; not as PDF, which takes the pictures as well."""
        if self.ask.output_format != "json":
            return formats.WRITERS[self.ask.output_format](pages)
        document = formats.as_dict(pages, self.reading.features)
        return {**document, "pages": [self.page_json(page) for page in pages], "model": self.model.uid}


class PageResult(NamedTuple):
    page: RecognisedPage
    #: What was read; None where it could not be drawn.
    picture: PageImage | None
    #: Why it was not read.
    error: errors.ClusterError | None = None


class DocumentRun:
    """One document under way. Leaving its pages drops what is still to be read."""

    def __init__(self, services: Services, order: OcrOrder, owner: str, timeout_s: float, lane: str = "") -> None:
        """`lane`: as `lane_of` says."""
        self._order = order
        self._lane = lane
        self._owner = owner
        self._dispatcher = services.dispatcher
        self._progress = services.progress
        self._params = order.reading.params()
        self._began = asyncio.get_running_loop().time()
        self._deadline = self._began + timeout_s

    def id_of(self, number: int) -> str:
        """The name by which workers know the call for that page."""
        return f"{self._owner}{self._lane}#{number}"

    async def pages(self) -> AsyncGenerator[PageResult]:
        if len(self._order.numbers) == 1:
            # Of a single page its worker knows the progress better.
            yield await self._one(self._order.numbers[0])
            return
        with self._progress.counting(self._order.model.uid, self._owner, len(self._order.numbers)) as progress:
            async with contextlib.aclosing(self._in_order(progress)) as pages:
                async for result in pages:
                    yield result

    def _advanced(self, view: View) -> View:
        """The progress after one more page."""
        done, total = view.step + 1, view.steps
        eta_s = (asyncio.get_running_loop().time() - self._began) / done * (total - done)
        return view._replace(version=done, fraction=done / total, step=done, eta_s=eta_s)

    async def _in_order(self, progress: Versioned[View]) -> AsyncGenerator[PageResult]:
        coming = iter(self._order.numbers)
        under_way: deque[asyncio.Task[PageResult]] = deque()
        try:
            self._fill(under_way, coming, progress)
            while under_way:
                await self._until_next(under_way)
                result = under_way.popleft().result()
                self._fill(under_way, coming, progress)
                yield result
        finally:
            for unread_page in under_way:
                unread_page.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    def _fill(
        self, under_way: deque[asyncio.Task[PageResult]], coming: Iterator[int], progress: Versioned[View]
    ) -> None:
        model = self._dispatcher.table.models.get(self._order.model.uid, self._order.model)
        most = PER_WORKER * max(1, len(model.workers)) + MORE
        while len(under_way) < most and (number := next(coming, None)) is not None:
            task = asyncio.create_task(self._one(number), name=f"{self._owner} page {number}")
            task.add_done_callback(lambda _: progress.amend(self._advanced))
            under_way.append(task)

    @staticmethod
    async def _until_next(under_way: deque[asyncio.Task[PageResult]]) -> None:
        """Waits for the next page in order; raises as soon as any page fails for good, since the document does then."""
        while True:
            for task in under_way:
                if task.done():
                    task.result()
            if under_way[0].done():
                return
            await asyncio.wait([task for task in under_way if not task.done()], return_when=asyncio.FIRST_COMPLETED)

    async def _one(self, number: int) -> PageResult:
        picture: PageImage | None = None
        try:
            picture = await self._order.document.picture(number, self._order.ask.dpi, self._order.ask.region)
            answer = await self._ask(number, picture)
        except OF_ONE_PAGE as error:
            # An option that is wrong is wrong for every page.
            if error.param in Reading.model_fields:
                raise
            refusal = self._named(error, number)
            page = unread(number, refusal.message)
            if picture is not None:
                page = page._replace(width=picture.width, height=picture.height, dpi=picture.dpi)
            return PageResult(page, picture, refusal)
        (page,) = answer.outputs
        return PageResult(page._replace(number=number, dpi=page.dpi or picture.dpi), picture)

    def _named(self, error: errors.ClusterError, number: int) -> errors.ClusterError:
        """A worker calls every page `image`; the caller is told which page it is."""
        if not error.message.startswith("image "):
            return error
        message = self._order.document.title_of(number) + error.message.removeprefix("image")
        return type(error)(message, error.param, error.retry_after_s)

    async def _ask(self, number: int, picture: PageImage) -> Answer:
        """If the first page is refused as too much, so is the document; later pages wait and try again."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                answer, _ = await self._dispatcher.ask(
                    self._order.model,
                    "ocr",
                    [picture.data],
                    self._params,
                    self.id_of(number),
                    max(self._deadline - loop.time(), 0.001),
                    True,
                )
                return answer
            except errors.Overloaded as error:
                pause_s = min(max(error.retry_after_s or 0.0, LEAST_PAUSE_S), MOST_PAUSE_S)
                if number == self._order.numbers[0] or loop.time() + pause_s > self._deadline:
                    raise
                await asyncio.sleep(pause_s)


async def every(run: DocumentRun) -> list[PageResult]:
    """All pages without their pictures; an error where there is not one that could be read."""
    async with contextlib.aclosing(run.pages()) as pages:
        return refuse_unread([result._replace(picture=None) async for result in pages])


def refuse_unread(results: list[PageResult]) -> list[PageResult]:
    if results and all(result.error is not None for result in results):
        assert results[0].error is not None
        raise results[0].error
    return results
