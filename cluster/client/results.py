"""What models answer that draw or read, and the pictures that are given to them."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, overload

from cluster import errors


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
        return answer_of(self._content)

    def __repr__(self) -> str:
        return f"Page(number={self.number}, text={self.text[:40]!r})"


def answer_of(raw: Any) -> Any:
    """`Pictures`; the bytes of a file; text, or what else JSON says."""
    if not isinstance(raw, Mapping):
        return raw
    if raw.keys() == {"b64_json", "output_format"}:
        return base64.b64decode(raw["b64_json"])
    return Pictures(raw) if raw.keys() >= {"created", "data"} else raw


def event_of(event: Mapping[str, Any]) -> Picture | Page | None:
    """What has come out on the way; None for what only tells that it goes on."""
    kind = str(event.get("type"))
    if kind == "ocr.page":
        return Page(event["page"], event.get("content"), event["done"], event["pages"])
    return Picture(event, not kind.endswith(".partial_image")) if kind.startswith("image_") else None


def file_of(image: Any) -> bytes:
    """A given picture as a file."""
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
