"""Whose a request is, and which ids are refused for a while because somebody has aborted them."""

from __future__ import annotations

import time

from cluster import errors
from cluster.keys import request_of

#: How many are remembered.
REMEMBERED = 1000


class BlockedIds:
    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def add(self, owner: str, seconds: float) -> None:
        if seconds > 0:
            self._until[owner] = time.monotonic() + seconds
            while len(self._until) > REMEMBERED:
                del self._until[next(iter(self._until))]

    def refuse(self, owner: str) -> None:
        """Raises for a request of such an id."""
        now = time.monotonic()
        self._until = {id: until for id, until in self._until.items() if until > now}
        id = owner.partition("#")[0]
        if id in self._until:
            raise errors.RequestCancelled(
                f"The request has been aborted: {request_of(owner)}; its id is refused for "
                f"{self._until[id] - now:.0f} s more."
            )


def is_of(request: str, owner: str) -> bool:
    """Whether a request is meant by that owner: one is `<request>#<call>` or `<request>#<part>#<call>`, and `<request>`
    alone stands for all its calls."""
    return request == owner or request.startswith(f"{owner}#")
