"""Pictures in messages: parts that hold a file, whatever the dialect was in which they came."""

from __future__ import annotations

import base64
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from cluster import errors
from cluster.value import JsonObject
from deployments import pictures

#: The type of the part that a dialect makes of its own, and whose `data` has the bytes of the file.
PICTURE = "picture"
#: The types of parts that are pictures, as the dialects name them.
PICTURES = ("image_url", "image", "input_image", PICTURE)
TEXTS = ("text", "input_text", "output_text", "refusal")
MOST_PICTURES = 32
#: Models see no more of a picture than this, which is 2048 x 2048; a larger one is made smaller. And of all pictures of
#: a request together, whose pixels are in memory several times while they are on their way into the engine.
PIXELS_SEEN, PIXELS_SEEN_TOGETHER = 2**22, 2**24
#: Of the files of a request together, which are unpacked while others wait: seconds of it.
MOST_PIXELS_TOGETHER = 4 * pictures.MOST_PIXELS
#: What is longer has next to no pixels left on its short side, which engines take for a fault of their own.
LONGEST = 200

#: One after another: unpacking a large one takes much memory for a moment.
_unpacking = threading.Lock()


def picture_part(data: bytes) -> JsonObject:
    return {"type": PICTURE, "data": data}


def parts_of(content: object, place: int) -> Iterator[str | bytes]:
    """The texts and the pictures of a message, in their order."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            yield _read(part, place)
    elif content is not None:
        raise errors.InvalidBody(f"messages.{place}: content must be a text or a list of parts.", "messages")


def texts_of_each(messages: Sequence[JsonObject]) -> Iterator[str]:
    """The texts of each message, with nothing between them."""
    for number, message in enumerate(messages):
        yield "".join(part for part in parts_of(message.get("content"), number) if isinstance(part, str))


def _read(part: object, place: int) -> str | bytes:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, dict):
        if kind in TEXTS and isinstance(text := part.get("text"), str):
            return text
        if kind == PICTURE and isinstance(data := part.get("data"), bytes):
            return data
        if kind in PICTURES:
            raise errors.BadRequest(
                f"messages.{place}: pictures are read by the routes of chats, such as /v1/chat/completions.", "messages"
            )
    raise errors.InvalidBody(f"messages.{place}: a part must be a text or a picture, not {kind!r:.50}.", "messages")


def pictures_in(messages: Sequence[JsonObject]) -> list[bytes]:
    """Raises for parts that are something else."""
    return [
        part
        for place, message in enumerate(messages)
        for part in parts_of(message.get("content"), place)
        if isinstance(part, bytes)
    ]


def sizes_of(messages: Sequence[JsonObject]) -> list[tuple[int, int]]:
    """Width and height of each picture as it is seen, from the beginnings of the files. Raises for what is none."""
    files = pictures_in(messages)
    most_pixels = seen_of_each(len(files))
    sizes = [pictures.size_of(data, title(number), "messages") for number, data in enumerate(files, 1)]
    pixels = pixels_of(sizes)
    if pixels > MOST_PIXELS_TOGETHER:
        raise errors.BadRequest(
            f"The {len(files)} pictures of the request have {pixels:,} pixels together; at most "
            f"{MOST_PIXELS_TOGETHER:,} are decoded: send them smaller.",
            "messages",
        )
    return [_seen(size, number, most_pixels) for number, size in enumerate(sizes, 1)]


def pixels_of(sizes: Sequence[tuple[int, int]]) -> int:
    return sum(width * height for width, height in sizes)


def seen_of_each(count: int) -> int:
    return min(PIXELS_SEEN, PIXELS_SEEN_TOGETHER // max(1, count))


def pixmap(data: bytes, number: int, most_pixels: int, check: Callable[[], None] = lambda: None) -> bytes:
    """The pixels as a file that needs no decoder, so that no other than Pillow's is given what strangers send. `check`
    raises once nobody waits for them any more."""
    with _unpacking:
        check()
        picture = pictures.opened(data, title(number), "messages", on_white=True, upright=True)
        size = _seen(picture.size, number, most_pixels)
        if size != picture.size:
            picture = picture.resize(size, reducing_gap=2.0)
        return b"P6 %d %d 255\n" % size + bytes(picture.tobytes())


def with_pixels(messages: Sequence[JsonObject], check: Callable[[], None]) -> list[JsonObject]:
    """The messages in OpenAI's form for an engine, without anything that it would open, fetch or decode by itself.
    `check` as above."""
    most_pixels = seen_of_each(len(pictures_in(messages)))
    numbers = count(1)

    def part(value: str | bytes) -> JsonObject:
        if isinstance(value, str):
            return {"type": "text", "text": value}
        text = base64.b64encode(pixmap(value, next(numbers), most_pixels, check)).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/x-portable-pixmap;base64,{text}"}}

    return [
        {**message, "content": [part(value) for value in parts_of(content, place)]}
        if isinstance(content := message.get("content"), list)
        else message
        for place, message in enumerate(messages)
    ]


def title(number: int) -> str:
    """Counted over the whole request: what was one message of a dialect may be several here."""
    return f"Picture {number} of the request"


def _seen(size: tuple[int, int], number: int, most_pixels: int) -> tuple[int, int]:
    width, height = size
    if max(size) > LONGEST * min(size):
        raise errors.BadRequest(
            f"{title(number)} has {width} x {height} pixels: one side may be {LONGEST} times as long as the other.",
            "messages",
        )
    if width * height <= most_pixels:
        return width, height
    shrink = math.sqrt(most_pixels / (width * height))
    return max(1, int(width * shrink)), max(1, int(height * shrink))
