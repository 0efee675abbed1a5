"""The calls of an image model's handle: pictures at once, a stream of previews, or a job that outlives its caller."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from io import BytesIO
from pathlib import Path
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Self, overload
from urllib.parse import quote

import orjson

from cluster import errors
from cluster.wire import Async, Pause, Request, Steps, Sync, call, given

P = ParamSpec("P")

#: Between two looks at a job.
LOOK_S = 0.5


class Picture:
    """One picture of an answer; `raw` is all that the server said of it."""

    def __init__(self, raw: Mapping[str, Any], is_final: bool = True) -> None:
        self.raw = raw
        self.is_final = is_final

    @property
    def data(self) -> bytes:
        """The file."""
        if not self.raw.get("b64_json"):
            raise errors.BadRequest(f"The picture is at {self.url}; ask with response_format='b64_json' for its bytes.")
        return base64.b64decode(self.raw["b64_json"])

    @property
    def url(self) -> str | None:
        return self.raw.get("url")

    @property
    def seed(self) -> int | None:
        return self.raw.get("seed")

    @property
    def receipt(self) -> dict[str, Any] | None:
        """All it takes to make the picture again."""
        return self.raw.get("receipt")

    def save(self, path: str | os.PathLike[str]) -> None:
        Path(path).write_bytes(self.data)

    def pil(self) -> Any:
        """A `PIL.Image.Image`."""
        from PIL import Image

        return Image.open(BytesIO(self.data))

    def __repr__(self) -> str:
        return f"Picture(seed={self.seed}, is_final={self.is_final})"


class Pictures(Sequence[Picture]):
    """The pictures of one answer; `raw` is that answer, and `pictures["data"]` reads it as Xinference's client does."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        self._pictures = [Picture(row) for row in raw["data"]]

    @overload
    def __getitem__(self, which: int) -> Picture: ...
    @overload
    def __getitem__(self, which: slice) -> Sequence[Picture]: ...
    @overload
    def __getitem__(self, which: str) -> Any: ...

    def __getitem__(self, which: int | slice | str) -> Any:
        return self.raw[which] if isinstance(which, str) else self._pictures[which]

    def __len__(self) -> int:
        return len(self._pictures)

    def __repr__(self) -> str:
        return f"Pictures({self._pictures})"


class _JobCalls:
    """Pictures that are made whether or not anybody waits; the server keeps them for a while."""

    def __init__(self, owner: Sync | Async, id: str) -> None:
        self._http: Any = owner._http
        self._path = f"/v1/images/jobs/{quote(id, safe='')}"
        self.id = id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    @call
    def describe(self) -> Steps[dict[str, Any]]:
        """All that is known of it: its status, progress, when it was made and when it is forgotten."""
        answer: dict[str, Any] = yield Request("GET", self._path)
        return answer

    @call
    def status(self) -> Steps[str]:
        """`queued`, `in_progress`, `completed`, `failed` or `cancelled`."""
        job = yield from _JobCalls.describe.steps(self)
        return str(job["status"])

    @call
    def progress(self) -> Steps[float]:
        """How much is done, 0 to 1."""
        job = yield from _JobCalls.describe.steps(self)
        return float(job["progress"])

    @call
    def cancel(self) -> Steps[None]:
        """Stops it at its next step; of one that is done, nothing is kept."""
        yield Request("DELETE", self._path)

    @call
    def result(self, timeout: float | None = None) -> Steps[Pictures]:
        """Waits for the pictures, or raises what the job failed of."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            job = yield from _JobCalls.describe.steps(self)
            if job["status"] not in ("queued", "in_progress"):
                # Asked for by itself, the result of what failed is the error.
                return Pictures(job.get("result") or (yield Request("GET", f"{self._path}/result")))
            if deadline is not None and time.monotonic() > deadline:
                raise errors.DeadlineExceeded(
                    f"The job {self.id} is at {job['progress']:.0%} after {timeout:g} s and goes on; "
                    "ask for its result again, or cancel it."
                )
            yield Pause(LOOK_S)


class Job(_JobCalls, Sync):
    pass


class AsyncJob(_JobCalls, Async):
    pass


def job_of(owner: Any, id: str) -> Job | AsyncJob:
    return Job(owner, id) if isinstance(owner, Sync) else AsyncJob(owner, id)


class drawing(Generic[P]):
    """Makes the description of a request for pictures a method; what is asked decides what it returns.

    `Pictures`; with `stream=True` or `partial_images` above 0 an iterator of `Picture`, those first that are not final;
    with `background=True` a job.
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
            if request.body.get("stream"):
                return owner._events(request, _picture_of)
            return owner._drive(_answered(owner, request))

        return method


def _picture_of(event: Mapping[str, Any]) -> Picture:
    return Picture(event, not str(event.get("type")).endswith(".partial_image"))


def _answered(owner: Any, request: Request) -> Steps[Pictures | Job | AsyncJob]:
    answer = yield request
    return job_of(owner, answer["id"]) if answer.get("object") == "image.job" else Pictures(answer)


class ImageCalls:
    """What image models take, as far as each can do it; `options` are any other field of a request.

    A picture, also that of `control_image`, is given as a path, as bytes, as an open file, or as a PIL image.
    """

    uid: str

    @drawing
    def text_to_image(
        self,
        /,
        prompt: str,
        n: int = 1,
        size: str | None = None,
        response_format: str | None = None,
        **options: Any,
    ) -> Request:
        """Pictures of a prompt: `text_to_image("a lighthouse", size="512x512", seed=7, num_inference_steps=20)`."""
        fields = {"prompt": prompt, "n": n, "size": size, "response_format": response_format, **options}
        return _request("/v1/images/generations", {"model": self.uid, **fields})

    @drawing
    def image_to_image(
        self,
        /,
        image: Any,
        prompt: str,
        negative_prompt: str | None = None,
        n: int = 1,
        size: str | None = None,
        response_format: str | None = None,
        **options: Any,
    ) -> Request:
        """A picture redrawn by a prompt; `strength` is how much of it."""
        fields = {"prompt": prompt, "negative_prompt": negative_prompt, "n": n, "size": size, **options}
        fields = {"model": self.uid, "response_format": response_format, **fields}
        return _request("/v1/images/variations", fields, [("image", one) for one in _several(image)])

    @drawing
    def image_edit(
        self,
        /,
        images: Any,
        prompt: str,
        mask: Any = None,
        n: int = 1,
        size: str | None = None,
        response_format: str | None = None,
        **options: Any,
    ) -> Request:
        """One picture or several edited by a prompt; what of the mask is transparent, or else white, is repainted."""
        fields = {"prompt": prompt, "n": n, "size": size, "response_format": response_format, **options}
        files = [("image[]", one) for one in _several(images)]
        return _request("/v1/images/edits", {"model": self.uid, **fields}, [*files, *_named("mask", mask)])

    @drawing
    def inpainting(
        self,
        /,
        image: Any,
        mask_image: Any,
        prompt: str,
        negative_prompt: str | None = None,
        n: int = 1,
        size: str | None = None,
        response_format: str | None = None,
        **options: Any,
    ) -> Request:
        """A picture repainted where the mask is white."""
        fields = {"prompt": prompt, "negative_prompt": negative_prompt, "n": n, "size": size, **options}
        fields = {"model": self.uid, "response_format": response_format, **fields}
        return _request("/v1/images/inpainting", fields, [("image", image), ("mask_image", mask_image)])

    @drawing
    def variation(
        self,
        /,
        image: Any,
        n: int = 1,
        size: str | None = None,
        response_format: str | None = None,
        **options: Any,
    ) -> Request:
        """A picture drawn anew without a word."""
        fields = {"n": n, "size": size, "response_format": response_format, **options}
        return _request("/v1/images/variations", {"model": self.uid, **fields}, [("image", image)])


def _request(path: str, fields: Mapping[str, Any], files: Iterable[tuple[str, Any]] = ()) -> Request:
    asked = given(fields)
    if asked.get("partial_images"):
        asked["stream"] = True
    control = asked.pop("control_image", None)
    read = [(name, file_of(image)) for name, image in [*files, *_named("control_image", control)]]
    return Request("POST", path, body=_flat(asked) if read else asked, files=read)


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """As a form can carry them: what is no text, number or switch goes into `kwargs`, which is JSON."""
    flat = {name: value for name, value in fields.items() if isinstance(value, (str, int, float))}
    nested = {name: value for name, value in fields.items() if name not in flat}
    return {**flat, "kwargs": orjson.dumps(nested).decode()} if nested else flat


def _several(images: Any) -> list[Any]:
    found = list(images) if isinstance(images, (list, tuple)) else [images]
    if not found:
        raise errors.BadRequest("There is no picture to start from: the list is empty.", None, "image")
    return found


def _named(name: str, image: Any) -> list[tuple[str, Any]]:
    return [] if image is None else [(name, image)]


def file_of(image: Any) -> bytes:
    """A given picture as a file."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise errors.BadRequest(f"{image} cannot be read: {error.strerror}.", None, "image") from None
    if isinstance(image, Picture):
        return image.data
    if hasattr(image, "read"):
        return bytes(image.read())
    if hasattr(image, "save"):
        file = BytesIO()
        image.save(file, "PNG")
        return file.getvalue()
    raise errors.BadRequest(
        f"A picture is given as a path, bytes, an open file or a PIL image, not as {type(image).__name__}.",
        None,
        "image",
    )
