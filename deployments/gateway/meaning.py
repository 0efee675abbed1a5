"""What a request is to a gateway, and the name of the model that it is for; from its path and its bytes alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from urllib.parse import parse_qs, unquote_plus

import orjson

from cluster import errors
from deployments.ingress.bodies import SMALL, refuse_costly

MODELS = "/v1/models/"
#: Lists that are put together from those of all cells.
MERGED = frozenset(
    {
        "/v1/models",
        "/models",
        "/v1/statuses",
        "/v1/models/instances",
        "/v1/cluster/info",
        "/v1/cluster/events",
        "/v1/events",
        "/v1/workers",
        "/v1/keys",
    }
)
#: Below it are requests that are under way, by their ids.
REQUESTS = "/v1/requests/"
#: The stream that the page follows.
CHANGES = "/v1/changes"
LAUNCHES = frozenset({"/v1/models", "/v1/models/instance", "/v1/plan"})
#: What starts like this concerns a cell and not a model.
_OF_CELLS = ("/v1/models", "/v1/keys", "/v1/model_registrations", "/v1/cache/models")
#: Routes below `MODELS` that name no model.
_NAMELESS = frozenset({"instances", "families", "vllm-supported", "export", "apply", "instance"})
#: What may stand behind the name of a model in a path.
_SUBJECTS = re.compile(
    r"/(status|progress|events|logs|scale|cancel|doze|sleep|wake|restart|versions|replicas(/[^/]+)?|requests/[^/]+/abort)$"
)
#: How a request is told to be for one cell, and an answer tells which cell it is of.
CELL_HEADER = b"x-cell"

#: No name is longer.
MOST_CHARACTERS = 300
_FIRST_FIELD = re.compile(rb'\s*\{\s*"model"\s*:\s*"([^"\\]{1,300})"\s*[,}]')
_PART = re.compile(rb'name="?model"?[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,300})\r\n')
#: A field that is searched for in a form, and how far a match may stand from where it was seen.
_PART_BYTES = 2000
_MOST_SEGMENTS = 12


class RequestKind(StrEnum):
    #: A list of all cells.
    LIST = "list"
    LAUNCH = "launch"
    #: Changes something in a cell.
    CHANGE = "change"
    #: Goes to every cell that may hold the request that is to be stopped.
    ABORT = "abort"
    #: Asks for something by its own id, or for what all cells have alike.
    LOOKUP = "lookup"
    #: Has a model compute; doing it twice does no harm.
    INFER = "infer"


def kind_of(method: str, path: str) -> RequestKind:
    if method == "GET":
        return RequestKind.LIST if path in MERGED else RequestKind.LOOKUP
    if path in LAUNCHES and method == "POST":
        return RequestKind.LAUNCH
    if path.startswith(MODELS) and path.endswith("/abort"):
        return RequestKind.ABORT
    if path.startswith(_OF_CELLS):
        return RequestKind.CHANGE
    if method == "DELETE" and path.startswith(REQUESTS):
        return RequestKind.ABORT
    return RequestKind.LOOKUP if method in ("DELETE", "OPTIONS") else RequestKind.INFER


def cell_in_query(path: str, query: bytes) -> str | None:
    """A browser cannot send headers with the stream that it follows."""
    if path != CHANGES:
        return None
    return parse_qs(query[:SMALL].decode("latin-1")).get("cell", [None])[0]


def model_in_path(path: str) -> str | None:
    """Of a route of the cluster's own API about a model."""
    name = path.removeprefix(MODELS)
    if name == path or name in _NAMELESS:
        return None
    return _SUBJECTS.sub("", name) or None


def names_in(path: str) -> Iterator[str]:
    """What in a path may be the name of a model, which may have slashes; the longest first."""
    segments = path.strip("/").split("/")[:_MOST_SEGMENTS]
    for length in range(len(segments), 0, -1):
        for start in range(len(segments) - length + 1):
            yield "/".join(segments[start : start + length])


async def model_in_body(kind: str, query: bytes, body: bytes, field: str = "model") -> str | None:
    """The field of a JSON object or of a form, or the parameter of the address. `kind`: the body's content type."""
    name = _of_form(kind.lower(), body) if "form" in kind else await _of_json(body, field)
    if name is None and field.encode() in query:
        name = parse_qs(query[:SMALL].decode("latin-1")).get(field, [None])[0]
    return name if name and len(name) <= MOST_CHARACTERS else None


async def _of_json(body: bytes, field: str) -> str | None:
    if field == "model" and (match := _FIRST_FIELD.match(body)):
        return match[1].decode(errors="replace")
    if len(body) > SMALL:
        try:
            await refuse_costly(body)
        except errors.TooLarge:
            # The cell refuses it as well, and in the words of the route.
            return None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    name = value.get(field) if isinstance(value, dict) else None
    return name if isinstance(name, str) else None


def _of_form(kind: str, body: bytes) -> str | None:
    if "urlencoded" in kind:
        match = re.search(rb"(?:^|&)model=([^&]{1,900})", body[:SMALL])
        return unquote_plus(match[1].decode("latin-1")) if match else None
    for field in (b'name="model"', b"name=model"):
        start = body.find(field)
        if start >= 0 and (match := _PART.match(body[start : start + _PART_BYTES])):
            return match[1].decode(errors="replace").strip()
    return None
