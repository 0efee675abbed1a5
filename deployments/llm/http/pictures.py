"""The pictures of all dialects, read once at the door: base64 becomes the bytes of a file, and what the file is, the
worker finds out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from cluster import errors
from cluster.value import JsonObject
from deployments.ingress.media import PIECE, decoded
from deployments.llm.pictures import MOST_PICTURES, PICTURE, PICTURES, picture_part, title


async def pictures_read(messages: Sequence[JsonObject], most_bytes: int) -> list[JsonObject]:
    """The same messages, with the pictures in them as files. A thread reads what is long."""
    written = [
        _base64_of(part, number)
        for number, part in enumerate(
            (part for message in messages for part in _listed(message.get("content")) if _is_picture(part)), 1
        )
    ]
    if not written:
        return list(messages)
    if len(written) > MOST_PICTURES:
        raise errors.BadRequest(
            f"There are {len(written)} pictures; at most {MOST_PICTURES} are read in one request.", "messages"
        )
    if sum(map(len, written)) < PIECE:
        return _with_files(messages, written, most_bytes)
    return await asyncio.to_thread(_with_files, messages, written, most_bytes)


def _with_files(messages: Sequence[JsonObject], written: Sequence[str], most_bytes: int) -> list[JsonObject]:
    texts = iter(enumerate(written, 1))

    def read(message: JsonObject) -> JsonObject:
        parts = _listed(message.get("content"))
        if not any(map(_is_picture, parts)):
            return message
        return {**message, "content": [_file(*next(texts)) if _is_picture(part) else part for part in parts]}

    def _file(number: int, text: str) -> JsonObject:
        return picture_part(decoded(text, "image", most_bytes, title(number), "messages"))

    return [read(message) for message in messages]


def _listed(content: object) -> list[object]:
    return content if isinstance(content, list) else []


def _is_picture(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") in PICTURES


def _base64_of(part: object, number: int) -> str:
    """A data URI or bare base64, from a part as OpenAI's two routes and Anthropic's have it."""
    assert isinstance(part, Mapping)
    inner = next((part[name] for name in ("image_url", "source", "image", "url") if part.get(name)), None)
    if isinstance(inner, Mapping):
        inner = inner.get("data") or inner.get("url")
    if not isinstance(inner, str) or part["type"] == PICTURE:
        raise errors.InvalidBody(f"{title(number)} must be a data URI, such as data:image/png;base64,….", "messages")
    if inner[:8].lower().startswith(("http://", "https://")):
        raise errors.BadRequest(
            f"{title(number)} is an address, and none is fetched: send a data URI, data:image/png;base64,….", "messages"
        )
    return inner
