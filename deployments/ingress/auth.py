"""Who asks, and what for: keys as they come with requests."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping

from fastapi import Depends, Request, params

from cluster import keys
from cluster.settings import Settings

#: Headers that hold nothing but a key: Azure's of OpenAI and Anthropic's.
KEY_HEADERS = ("api-key", "x-api-key")


def guard(scope: keys.Scope, settings: Settings, current: Callable[[], Mapping[str, keys.Key]]) -> list[params.Depends]:
    """The dependencies of every router that is not public: none with authentication off, where any key, or none, will
    do, and `request.state.key` stays None."""

    async def check(request: Request) -> None:
        request.state.key = keys.check(current(), presented_key(request.headers), scope)

    return [Depends(check)] if settings.asks_for_keys else []


def presented_key(headers: Mapping[str, str]) -> str | None:
    """The key that came with a request, in the first of the ways in which clients send one."""
    kind, _, text = headers.get("authorization", "").partition(" ")
    ways = (
        # PaddleX's clients say token.
        text.strip() if kind.lower() in ("bearer", "token") else "",
        _of_basic(text.strip()) if kind.lower() == "basic" else "",
        *(headers.get(name, "").strip() for name in KEY_HEADERS),
    )
    return next(filter(None, ways), None)


def _of_basic(text: str) -> str:
    """The password, or the user where there is none: some web interfaces ask for one, others for both."""
    try:
        user, _, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return password or user
