"""The pages of one document read by all workers of a model: a few at once, answered in order, what fails told on its
page."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import NamedTuple

from cluster import errors
from cluster.calls import Answer, View
from cluster.routes import ModelRoutes
from cluster.versioned import Versioned
from deployments.ingress.dialects import Services
from deployments.ocr.http.documents import Document, PageImage
from deployments.ocr.page import RecognisedPage, unread
from deployments.ocr.requests import Reading

#: What a worker is given at once: pages that it reads, and pages that are drawn meanwhile.
PER_WORKER, MORE = 2, 2
#: Between two tries to place a page where there is no room, at least and at most.
LEAST_PAUSE_S, MOST_PAUSE_S = 0.2, 2.0
#: What is wrong with one page and says nothing of the next.
OF_ONE_PAGE = (errors.BadRequest, errors.TooLarge, errors.InferenceFailed, errors.OutOfMemory)


class PageResult(NamedTuple):
    page: RecognisedPage
    #: What was read; None where it could not be drawn.
    sheet: PageImage | None
    #: Why it was not read.
    error: errors.ClusterError | None = None


class DocumentRun:
    """One document under way. Leaving its pages drops what is still to be read."""

    def __init__(
        self,
        services: Services,
        model: ModelRoutes,
        document: Document,
        numbers: Sequence[int],
        reading: Reading,
        dpi: int,
        owner: str,
        timeout_s: float,
    ) -> None:
        self.model = model
        self.document = document
        self.numbers = numbers
        self._owner = owner
        self._dispatcher = services.dispatcher
        self._progress = services.progress
        self._params = reading.params()
        self._dpi = dpi
        self._began = asyncio.get_running_loop().time()
        self._deadline = self._began + timeout_s

    def id_of(self, number: int) -> str:
        """By which the workers know what is asked for that page."""
        return f"{self._owner}#{number}"

    async def pages(self) -> AsyncGenerator[PageResult]:
        if len(self.numbers) == 1:
            # Of one page its worker knows more.
            yield await self._one(self.numbers[0])
            return
        with self._progress.counting(self.model.uid, self._owner, len(self.numbers)) as board:
            async with contextlib.aclosing(self._in_order(board)) as pages:
                async for read in pages:
                    yield read

    def _advanced(self, view: View) -> View:
        """By one page, whichever it was."""
        done, total = view.step + 1, view.steps
        eta_s = (asyncio.get_running_loop().time() - self._began) / done * (total - done)
        return view._replace(version=done, fraction=done / total, step=done, eta_s=eta_s)

    async def _in_order(self, board: Versioned[View]) -> AsyncGenerator[PageResult]:
        coming = iter(self.numbers)
        under_way: deque[asyncio.Task[PageResult]] = deque()
        try:
            self._fill(under_way, coming, board)
            while under_way:
                await self._until_next(under_way)
                read = under_way.popleft().result()
                self._fill(under_way, coming, board)
                yield read
        finally:
            for unread_page in under_way:
                unread_page.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    def _fill(self, under_way: deque[asyncio.Task[PageResult]], coming: Iterator[int], board: Versioned[View]) -> None:
        model = self._dispatcher.table.models.get(self.model.uid, self.model)
        most = PER_WORKER * max(1, len(model.workers)) + MORE
        while len(under_way) < most and (number := next(coming, None)) is not None:
            task = asyncio.create_task(self._one(number), name=f"{self._owner} page {number}")
            task.add_done_callback(lambda _: board.amend(self._advanced))
            under_way.append(task)

    @staticmethod
    async def _until_next(under_way: deque[asyncio.Task[PageResult]]) -> None:
        """Raises as soon as any page does: then there is no use in the others."""
        while True:
            for task in under_way:
                if task.done():
                    task.result()
            if under_way[0].done():
                return
            await asyncio.wait([task for task in under_way if not task.done()], return_when=asyncio.FIRST_COMPLETED)

    async def _one(self, number: int) -> PageResult:
        sheet: PageImage | None = None
        try:
            sheet = await self.document.sheet(number, self._dpi)
            answer = await self._ask(number, sheet)
        except OF_ONE_PAGE as error:
            # What was asked for is wrong on every page.
            if error.param in Reading.model_fields:
                raise
            refusal = self._named(error, number)
            page = unread(number, refusal.message)
            if sheet is not None:
                page = page._replace(width=sheet.width, height=sheet.height, dpi=sheet.dpi)
            return PageResult(page, sheet, refusal)
        (page,) = answer.outputs
        return PageResult(page._replace(number=number, dpi=page.dpi or sheet.dpi), sheet)

    def _named(self, error: errors.ClusterError, number: int) -> errors.ClusterError:
        """To a worker every page is the image."""
        if not error.message.startswith("image "):
            return error
        message = self.document.title_of(number) + error.message.removeprefix("image")
        return type(error)(message, error.param, error.retry_after_s)

    async def _ask(self, number: int, sheet: PageImage) -> Answer:
        """A document as a whole is refused with its first page; the others wait for room."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                answer, _ = await self._dispatcher.ask(
                    self.model,
                    "ocr",
                    [sheet.data],
                    self._params,
                    self.id_of(number),
                    max(self._deadline - loop.time(), 0.001),
                    True,
                )
                return answer
            except errors.Overloaded as error:
                pause_s = min(max(error.retry_after_s or 0.0, LEAST_PAUSE_S), MOST_PAUSE_S)
                if number == self.numbers[0] or loop.time() + pause_s > self._deadline:
                    raise
                await asyncio.sleep(pause_s)


async def every(course: DocumentRun) -> list[PageResult]:
    """All pages without their pictures; an error where there is not one that could be read."""
    async with contextlib.aclosing(course.pages()) as pages:
        return refuse_unread([read._replace(sheet=None) async for read in pages])


def refuse_unread(results: list[PageResult]) -> list[PageResult]:
    if results and all(read.error is not None for read in results):
        assert results[0].error is not None
        raise results[0].error
    return results
