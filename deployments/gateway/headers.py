"""Which headers go on, from a caller to a cell and back."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from starlette.datastructures import Headers as StarletteHeaders

from deployments.gateway.cell import Headers, header
from deployments.gateway.meaning import CELL_HEADER
from deployments.ingress.auth import CALLER_HEADER, KEY_HEADERS, presented_key

#: They are about one connection and not about the request.
_HOP_BY_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te"),
        *(b"trailer", b"transfer-encoding", b"upgrade", b"expect"),
    )
)
_CALLER = CALLER_HEADER.encode()
#: The gateway has checked where a page comes from, and a cell knows only its own address. It says itself how long the
#: body is, and whose a request is.
_NOT_TO_CELLS = frozenset((b"host", b"content-length", b"origin", b"referer", b"x-request-id", CELL_HEADER, _CALLER))
#: Letters that tell callers apart.
_CALLER_LETTERS = 16
#: The gateway's own server adds a date, and its middleware the id.
_NOT_BACK = frozenset((b"date", b"server", b"x-request-id"))
_KEYS = frozenset((b"authorization", *(name.encode() for name in KEY_HEADERS)))


def to_cell(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> Headers:
    """`headers`: with names in small letters."""
    headers = list(headers)
    left_out = _NOT_TO_CELLS | _of_this_hop(headers)
    kept = [pair for pair in headers if pair[0] not in left_out and not pair[0].startswith(b"sec-fetch-")]
    return [*kept, (b"x-request-id", request_id.encode())]


def with_key(headers: Headers, key: str | None) -> Headers:
    """With that key in place of the caller's, and with what tells callers apart, which says nothing of their keys to
    who does not have this one. Every gateway with it calls them the same."""
    own = [(b"authorization", f"Bearer {key}".encode())] if key else []
    if presented := presented_key(StarletteHeaders(raw=headers)):
        digest = hmac.digest((key or "").encode(), presented.encode(), "sha256").hex()
        own.append((_CALLER, digest[:_CALLER_LETTERS].encode()))
    return [*(pair for pair in headers if pair[0] not in _KEYS), *own]


def to_caller(headers: Iterable[tuple[bytes, bytes]], cell: str) -> Headers:
    headers = [(name.lower(), value) for name, value in headers]
    left_out = _NOT_BACK | _of_this_hop(headers)
    return [*(pair for pair in headers if pair[0] not in left_out), (CELL_HEADER, cell.encode())]


def _of_this_hop(headers: Headers) -> frozenset[bytes]:
    named = header(headers, b"connection")
    if not named:
        return _HOP_BY_HOP
    return _HOP_BY_HOP | {name.strip().lower() for name in named.split(b",")}
