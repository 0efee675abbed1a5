"""Files of web pages, served by name: a path is never made from what somebody asks for."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fastapi import Request, Response

#: A page needs nothing from elsewhere, so its browser is told to load nothing from there and to run nothing that
#: stands in the page itself. Nobody may show it in a frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: Text never becomes markup or script, whatever a mistake in a page would make of it.
TEXT_ONLY = "require-trusted-types-for 'script'; trusted-types 'none'"
MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


@dataclass(frozen=True)
class WebFile:
    data: bytes
    packed: bytes
    tag: str
    media_type: str


@lru_cache
def web_file(path: Path) -> WebFile:
    data = path.read_bytes()
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    return WebFile(data, gzip.compress(data, mtime=0), tag, MEDIA_TYPES[path.suffix])


def answer(request: Request, path: Path, policy: str = POLICY) -> Response:
    """Names do not change with what is in the files, so that a page that was open during an upgrade finds them: a
    browser asks each time, and is told in one line that it has the newest."""
    file = web_file(path)
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-cache",
        "ETag": file.tag,
        "Vary": "Accept-Encoding",
    }
    # A proxy that packs the answer again says so at the tag.
    if file.tag in request.headers.get("if-none-match", "").replace("W/", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, media_type=file.media_type, headers={**headers, "Content-Encoding": "gzip"})
    return Response(file.data, media_type=file.media_type, headers=headers)
