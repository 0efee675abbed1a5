"""Who asks, and what for: keys as they come with requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import Depends, Request, params

from cluster import keys
from cluster.settings import Settings


def guard(scope: keys.Scope, settings: Settings, current: Callable[[], tuple[keys.Key, ...]]) -> list[params.Depends]:
    """The dependencies of every router that is not public: none with authentication off, where any key, or none, will
    do, and `request.state.key` stays None."""

    async def check(request: Request) -> None:
        request.state.key = keys.check(current(), bearer(request.headers), scope)

    return [Depends(check)] if settings.asks_for_keys else []


def bearer(headers: Mapping[str, str]) -> str | None:
    kind, _, text = headers.get("authorization", "").partition(" ")
    return text.strip() or None if kind.lower() == "bearer" else None
