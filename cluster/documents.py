"""The calls of a handle of a model that reads: text at once, pages as they are read, or a job that outlives its
caller."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing, closing
from functools import wraps
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Self, overload

import orjson

from cluster import errors
from cluster.images import LOOK_S, AsyncJob, Job, file_of
from cluster.wire import Async, Pause, Request, Steps, Sync, call, given

P = ParamSpec("P")


class Page:
    """One page that was read; `raw` is all that the server said of it."""

    def __init__(self, raw: Mapping[str, Any], content: Any = None, done: int = 1, pages: int = 1) -> None:
        self.raw = raw
        self._content = content
        #: How many pages there are so far, and will be.
        self.done = done
        self.pages = pages

    @property
    def number(self) -> int:
        """Its place among the pages of the request, from 1."""
        return int(self.raw["page"])

    @property
    def text(self) -> str:
        return str(self.raw["text"])

    @property
    def markdown(self) -> str:
        return str(self.raw["markdown"])

    @property
    def blocks(self) -> list[dict[str, Any]]:
        return list(self.raw["blocks"])

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [line for block in self.blocks for line in block["lines"]]

    @property
    def error(self) -> str | None:
        """Why it was not read."""
        return self.raw.get("error")

    @property
    def content(self) -> Any:
        """This page alone in the format that was asked for."""
        return _answer_of(self._content)

    def __repr__(self) -> str:
        return f"Page(number={self.number}, text={self.text[:40]!r})"


def _answer_of(raw: Any) -> Any:
    """Text, or what JSON says; a PDF as its bytes."""
    is_file = isinstance(raw, Mapping) and raw.keys() == {"b64_json", "output_format"}
    return base64.b64decode(raw["b64_json"]) if is_file else raw


class _ReadingCalls:
    """What a job that reads has in place of pictures."""

    @call
    def result(self: Any, timeout: float | None = None) -> Steps[Any]:
        """Waits for what would have been answered at once, or raises what the job failed of."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            job = yield from Job.describe.steps(self)
            if job["status"] not in ("queued", "in_progress"):
                # Asked for by itself, the result of what failed is the error.
                return _answer_of(job["result"] if "result" in job else (yield Request("GET", f"{self._path}/result")))
            if deadline is not None and time.monotonic() > deadline:
                raise errors.DeadlineExceeded(
                    f"The job {self.id} is at {job['progress']:.0%} after {timeout:g} s and goes on; "
                    "ask for its result again, or cancel it."
                )
            yield Pause(LOOK_S)


class ReadingJob(_ReadingCalls, Job):
    pass


class AsyncReadingJob(_ReadingCalls, AsyncJob):
    pass


class reading(Generic[P]):
    """Makes the description of a request for text a method; what is asked decides what it returns.

    The text, what another format holds, or with `output_format="pdf"` the bytes of the file; with `stream=True` an
    iterator of `Page`; with `background=True` a job.
    """

    def __init__(self, describe: Callable[Concatenate[Any, P], Request]) -> None:
        self.describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: Sync | Async, kind: type) -> Callable[P, Any]: ...

    def __get__(self, owner: Any, kind: type) -> Any:
        if owner is None:
            return self

        @wraps(MethodType(self.describe, owner))
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            request = self.describe(owner, *args, **kwargs)
            if kwargs.get("stream"):
                return _pages(owner, request) if isinstance(owner, Sync) else _async_pages(owner, request)
            return owner._drive(_answered(owner, request))

        return method


def _page_of(event: Mapping[str, Any]) -> Page | None:
    if event.get("type") != "ocr.page":
        return None
    return Page(event["page"], event.get("content"), event["done"], event["pages"])


def _pages(owner: Sync, request: Request) -> Generator[Page, None, None]:
    with closing(owner._events(request, _page_of)) as events:
        yield from (page for page in events if page is not None)


async def _async_pages(owner: Async, request: Request) -> AsyncGenerator[Page, None]:
    async with aclosing(owner._events(request, _page_of)) as events:
        async for page in events:
            if page is not None:
                yield page


def _answered(owner: Any, request: Request) -> Steps[Any]:
    answer = yield request
    if isinstance(answer, Mapping) and answer.get("object") == "image.job":
        return ReadingJob(owner, answer["id"]) if isinstance(owner, Sync) else AsyncReadingJob(owner, answer["id"])
    return _answer_of(answer)


class OcrCalls:
    """What models take that read."""

    uid: str

    @reading
    def ocr(
        self,
        /,
        image: Any,
        output_format: str | None = None,
        pages: Any = None,
        **options: Any,
    ) -> Request:
        """The text of a picture or a document: `ocr("scan.pdf", pages="1-3", output_format="markdown")`.

        `image` is a path, bytes, an open file or a PIL image, or a list of such; `options` are any other field of a
        request, such as `task`, `prompt`, `languages`, `features`, `dpi`, `stream` and `background`.
        """
        fields = given({"output_format": output_format, "pages": pages, **options})
        if output_format == "pdf":
            fields["response_format"] = "b64_json"
        files = list(image) if isinstance(image, (list, tuple)) else [image]
        if not files:
            raise errors.BadRequest("There is nothing to read: the list is empty.", None, "image")
        body = {"model": self.uid, "kwargs": orjson.dumps(fields).decode()}
        return Request("POST", "/v1/images/ocr", body=body, files=[("image", file_of(file)) for file in files])
