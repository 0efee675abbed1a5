"""The answers of models that draw or read, and the files that callers give them."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, overload

from cluster import errors
from cluster.value import JsonObject

if TYPE_CHECKING:
    from PIL.Image import Image


class OpenFile(Protocol):
    def read(self) -> bytes: ...


#: How a caller may give a picture or a document.
ImageSource: TypeAlias = "bytes | bytearray | memoryview | str | os.PathLike[str] | OpenFile | Picture | Image"


class Picture:
    """One picture of an answer; `raw` is the server's JSON for it."""

    def __init__(self, raw: JsonObject, is_final: bool = True) -> None:
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
    def receipt(self) -> JsonObject | None:
        """All that is needed to make the same picture again."""
        return self.raw.get("receipt")

    def save(self, path: str | os.PathLike[str]) -> None:
        Path(path).write_bytes(self.data)

    def pil(self) -> Image:
        from PIL import Image

        return Image.open(BytesIO(self.data))

    def __repr__(self) -> str:
        return f"Picture(seed={self.seed}, is_final={self.is_final})"


class Pictures(Sequence[Picture]):
    """The pictures of one answer; `raw` is its JSON, which `pictures["data"]` reads as Xinference's client does."""

    def __init__(self, raw: JsonObject) -> None:
        self.raw = raw
        self._pictures = [Picture(row) for row in raw["data"]]

    @overload
    def __getitem__(self, which: int) -> Picture: ...
    @overload
    def __getitem__(self, which: slice) -> Sequence[Picture]: ...
    @overload
    def __getitem__(self, which: str) -> Any: ...

    def __getitem__(self, which: int | slice | str) -> object:
        return self.raw[which] if isinstance(which, str) else self._pictures[which]

    def __len__(self) -> int:
        return len(self._pictures)

    def __repr__(self) -> str:
        return f"Pictures({self._pictures})"


class Page:
    """One page that was read; `raw` is the server's JSON for it."""

    def __init__(self, raw: JsonObject, content: object = None, done: int = 1, pages: int = 1) -> None:
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
    def blocks(self) -> list[JsonObject]:
        return list(self.raw["blocks"])

    @property
    def lines(self) -> list[JsonObject]:
        return [line for block in self.blocks for line in block["lines"]]

    @property
    def error(self) -> str | None:
        """Why it was not read."""
        return self.raw.get("error")

    @property
    def content(self) -> Any:
        """This page alone in the format that was asked for."""
        return answer_of(self._content)

    def __repr__(self) -> str:
        return f"Page(number={self.number}, text={self.text[:40]!r})"


def answer_of(raw: object) -> Any:
    """The answer as the caller gets it: `Pictures`, a file's bytes, or the plain JSON value."""
    if not isinstance(raw, dict):
        return raw
    if raw.keys() == {"b64_json", "output_format"}:
        return base64.b64decode(raw["b64_json"])
    return Pictures(raw) if raw.keys() >= {"created", "data"} else raw


#: What pieces of a text are called.
CHUNKS = ("chat.completion.chunk", "text_completion")


def event_of(event: JsonObject) -> Picture | Page | JsonObject | None:
    """The picture, page or piece of a text of a streamed event; None for an event that only tells of progress."""
    if event.get("object") in CHUNKS:
        return event
    kind = str(event.get("type"))
    if kind == "ocr.page":
        return Page(event["page"], event.get("content"), event["done"], event["pages"])
    return Picture(event, not kind.endswith(".partial_image")) if kind.startswith("image_") else None


def file_of(image: object) -> bytes:
    """The bytes of an `ImageSource`, or an error that says what a source may be."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise errors.BadRequest(f"{image} cannot be read: {error.strerror}.", "image") from None
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
        "image",
    )
