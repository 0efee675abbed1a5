"""A call as a worker takes it: the page and what to do with it. What the engine cannot do is refused."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence

from pydantic import ValidationError

from cluster import errors
from deployments.ocr.pictures import SentPage, sent
from deployments.ocr.requests import Reading

#: A blank PNG picture, 64 x 32.
BLANK_PAGE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAAAgAQAAAACK5kMpAAAAEklEQVR42mP8zwABTAyjDCwMAEMQAT/KtkvBAAAAAElFTkSuQmCC"
)


def page_in(items: Sequence[object], most_pixels: int) -> SentPage:
    if len(items) != 1 or not isinstance(items[0], (bytes, bytearray)):
        raise errors.InvalidBody("A call reads one page, given as the bytes of a picture.", "image")
    return sent(bytes(items[0]), most_pixels)


def reading_of(
    params: Mapping[str, object], *, tasks: Collection[str], languages: Collection[str] | None, generates: bool
) -> Reading:
    """`languages`: those the engine reads, None for an engine that takes any. `generates`: it takes a prompt."""
    try:
        reading = Reading.model_validate(dict(params))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise errors.InvalidBody(f"{where}: {problem['msg']}", where or None) from None
    if reading.task not in tasks:
        raise errors.BadRequest(f"This model does {', '.join(tasks)}, not {reading.task}.", "task")
    if not generates and reading.prompt is not None:
        if not reading.prompt_is_optional:
            raise errors.BadRequest("This model only reads the text of a page, and takes no prompt.", "prompt")
        reading = reading.model_copy(update={"prompt": None})
    for code in reading.languages:
        if languages is not None and code not in languages:
            names = ", ".join(sorted(languages))
            raise errors.BadRequest(f"This model does not read {code!r}; it reads {names}.", "languages")
    return reading
