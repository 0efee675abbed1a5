"""An answer that comes in pieces, from the moment when the first are there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from cluster import errors


class OpenAnswer:
    def __init__(
        self,
        first: list[object],
        rest: AsyncGenerator[list[object]],
        heard: Callable[[], None],
        end: Callable[[Exception | None], None],
    ) -> None:
        """`heard` is called with every list of pieces; `end` once, with the error if one ended the answer."""
        self._first = first
        self._rest = rest
        self._heard = heard
        self._end = end

    async def pieces(self) -> AsyncGenerator[list[object]]:
        """The very last is the `Answer`, which has no outputs of its own."""
        reason: Exception | None = None
        try:
            yield self._first
            async for pieces in self._rest:
                self._heard()
                yield pieces
        except errors.ClusterError as error:
            reason = error
            raise
        finally:
            await self.close(reason)

    async def close(self, reason: Exception | None = None) -> None:
        self._end(reason)
        await self._rest.aclose()
