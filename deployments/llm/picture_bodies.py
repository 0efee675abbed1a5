"""Messages with pictures as an engine in another process is given them: made once for all answers to a request, and in
memory for few at once. All of it is done in one loop, but for the unpacking."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager

import orjson

from cluster import errors
from cluster.value import JsonObject
from deployments.llm.language import Order
from deployments.llm.pictures import with_pixels
from deployments.llm.pixel_room import PixelRoom


def unpacked(messages: Sequence[JsonObject], check: Callable[[], None]) -> bytes:
    return orjson.dumps(with_pixels(messages, check))


class PictureBodies:
    def __init__(self, pixels: int, unpack: Callable[[Sequence[JsonObject], Callable[[], None]], bytes] = unpacked):
        """`pixels`: of all answers at once, since the engine has those of each for itself."""
        self._room = PixelRoom(pixels)
        self._unpack = unpack
        #: By the identity of the orders, which are those of all answers to one request.
        self._shared: dict[int, SharedBody] = {}

    @asynccontextmanager
    async def of(self, order: Order) -> AsyncGenerator[tuple[bytes, Callable[[], None]]]:
        """For one answer, until it ends or calls what stands beside them, since the engine needs them no more."""
        entry = self._room.ask(order.pixels)
        try:
            await asyncio.wrap_future(entry)
        # Whatever ends its wait, others wait behind it.
        except BaseException:
            self._room.leave(entry)
            raise
        shared = self._shared.get(id(order))
        if shared is None:
            shared = self._shared[id(order)] = SharedBody(order.query.messages or [], self._unpack)
        shared.answers += 1
        with ExitStack() as leaving:
            leaving.callback(self._leave, id(order), shared, entry)
            yield await asyncio.shield(shared.made), leaving.close

    def _leave(self, order_id: int, shared: SharedBody, entry: Future[None]) -> None:
        shared.answers -= 1
        if not shared.answers:
            shared.has_left.set()
            del self._shared[order_id]
        # A thread that unpacks them ends after this only.
        shared.made.add_done_callback(lambda made: self._left(made, entry))

    def _left(self, made: asyncio.Future[bytes], entry: Future[None]) -> None:
        if not made.cancelled():
            made.exception()  # where nobody waits for it any more, it is not to be complained of
        self._room.leave(entry)


class SharedBody:
    def __init__(
        self, messages: Sequence[JsonObject], unpack: Callable[[Sequence[JsonObject], Callable[[], None]], bytes]
    ) -> None:
        #: Those that want it.
        self.answers = 0
        self.has_left = threading.Event()
        self.made = asyncio.get_running_loop().run_in_executor(None, unpack, messages, self._check)

    def _check(self) -> None:
        if self.has_left.is_set():
            raise errors.RequestCancelled("It was stopped.")
