"""Bodies of requests and answers: JSON in and out, forms, and what a body may cost to be read."""

from __future__ import annotations

import asyncio
import re
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import orjson
from fastapi import Request, Response
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData

from cluster import errors
from cluster.names import cut, quoted
from cluster.value import JsonObject

#: Bodies up to this size cannot cost much to read.
SMALL = 65_536


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


def checked(schema: type[BaseModel], data: Any, invalid: type[errors.BadRequest] = errors.InvalidBody) -> Any:
    """The data as its schema reads it, or the first thing wrong with it."""
    if isinstance(data, (dict, list)):
        refuse_wide(data)
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = cut(".".join(map(str, problem["loc"])))
        text = problem["msg"].removeprefix("Value error, ")
        param = cut(str(problem["loc"][0])) if problem["loc"] else None
        if isinstance(problem.get("ctx", {}).get("error"), errors.ClusterError):
            raise problem["ctx"]["error"] from None
        raise invalid(f"{where}: {text}" if where else text, param) from None


async def json_body(request: Request, invalid: type[errors.BadRequest] = errors.InvalidBody) -> JsonObject:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Any page may send other types anywhere without asking first, and pages say where they are from.
    if "origin" in request.headers and kind != "application/json" and not kind.endswith("+json"):
        raise invalid(f"A web page sends its body as Content-Type: application/json, not as {quoted(kind)}.")
    body = await request.body()
    if len(body) > SMALL:
        await refuse_costly(body)
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"The body is not JSON: {error}.") from None
    if not isinstance(data, dict):
        raise invalid(f"The body must be a JSON object, not {type(data).__name__}.")
    return data


# ---------------------------------------------------------------------------------------------- what a body may cost

#: Fields of a form in an address's manner; to undo its escapes takes a fifth of a second for a million.
ESCAPED_BYTES = 500_000
CHARSETS = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "latin1"})
_CHARSET = re.compile(r"charset\s*=\s*\"?([^\s\";]*)", re.IGNORECASE)


def form_of(
    request: Request, max_files: int, max_fields: int, max_part_size: int
) -> AbstractAsyncContextManager[FormData]:
    """The form that the body is; escaped ones are small."""
    kind = request.headers.get("content-type", "")
    charset = _CHARSET.search(kind)
    # Some that Python knows take a time that grows with the square of the text.
    if charset is not None and charset[1].lower() not in CHARSETS:
        raise errors.InvalidBody(f"A form is read as UTF-8, not as {charset[1]:.50}.")
    if not kind.lower().startswith("multipart/"):
        max_part_size = min(max_part_size, ESCAPED_BYTES)
    return request.form(max_files=max_files, max_fields=max_fields, max_part_size=max_part_size)


#: JSON is read in one go, in which nothing else runs, and its time is that of its values and not of its bytes: 100 MB
#: of text take 0.1 s, as many bytes of empty lists 23 s. These together take less than 0.2 s.
MOST_VALUES = 2_000_000
MOST_NAMES = 100_000
MOST_CONTAINERS = 50_000
#: Values that are held against a schema: each that does not fit becomes an error of its own, and takes 30 times longer.
MOST_CHECKED = 20_000
#: Characters of a text that is JSON itself.
INNER_CHARACTERS = 200_000
#: Looked at in one go.
PIECE = 1_000_000
EXACT_PIECE = 100_000


class Signs(NamedTuple):
    """What stands in JSON for values, names and containers."""

    commas: int = 0
    colons: int = 0
    brackets: int = 0

    def plus(self, text: bytes) -> Signs:
        return Signs(
            self.commas + text.count(b","),
            self.colons + text.count(b":"),
            self.brackets + text.count(b"[") + text.count(b"{"),
        )

    @property
    def excess(self) -> str:
        if self.brackets > MOST_CONTAINERS:
            return f"{MOST_CONTAINERS} lists and objects"
        if self.colons > MOST_NAMES:
            return f"{MOST_NAMES} fields"
        return f"{MOST_VALUES} values" if self.commas > MOST_VALUES else ""


async def refuse_costly(body: bytes) -> None:
    """Raises for JSON of more values than can be read without keeping all others waiting. Small bodies cannot be it."""
    signs = Signs()
    for start in range(0, len(body), PIECE):
        if start:
            await asyncio.sleep(0)
        signs = signs.plus(body[start : start + PIECE])
    if not signs.excess:
        return
    # Most of these stand in texts, perhaps.
    excess = (await asyncio.to_thread(signs_outside_texts, body)).excess
    if excess:
        raise errors.TooLarge(f"The body has more than {excess}, which are allowed in one request.")


def refuse_wide(data: Any) -> None:
    """For what is held against a schema, before it is."""
    count = 0
    waiting = [data]
    while waiting:
        value = waiting.pop()
        count += len(value)
        if count > MOST_CHECKED:
            raise errors.TooLarge(f"The body has more than {MOST_CHECKED} values, which are allowed here.")
        waiting += [inner for inner in (value.values() if isinstance(value, dict) else value) if type(inner) in _WIDE]


_WIDE = frozenset({dict, list})


def inner_json(text: str, name: str) -> Any:
    """What a text within a body holds as JSON."""
    if len(text) > INNER_CHARACTERS:
        raise errors.TooLarge(f"{name} has {len(text)} characters, {INNER_CHARACTERS} are allowed.", name)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise errors.InvalidBody(f"{name} must be JSON: {error}.", name) from None


def signs_outside_texts(body: bytes, piece_bytes: int = EXACT_PIECE) -> Signs:
    """Until there are too many. In pieces, between which other threads run."""
    signs = Signs()
    is_text = False
    kept = b""
    for start in range(0, len(body), piece_bytes):
        piece = kept + body[start : start + piece_bytes]
        # From the left two backslashes are always one; of what is left, each belongs to what follows it.
        piece = piece.replace(b"\\\\", b"")
        kept = b"\\" if piece.endswith(b"\\") else b""
        parts = piece.removesuffix(b"\\").replace(b'\\"', b"").split(b'"')
        signs = signs.plus(b"".join(parts[is_text::2]))
        is_text ^= len(parts) % 2 == 0
        if signs.excess:
            break
    return signs
