"""From a caller to a cell and back: choose, send, send elsewhere while nothing was answered, pass the answer on.

Bodies of requests are read whole, since the name of the model may stand at their end and a cell may have to be asked
after another; answers pass piece by piece.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httpcore
import orjson
from starlette.responses import Response
from starlette.types import Send

from cluster import errors
from deployments.gateway.cell import Cell, CellAnswer, CellLost, Headers
from deployments.gateway.headers import to_caller
from deployments.gateway.meaning import RequestKind
from deployments.gateway.merging import merged, room
from deployments.gateway.table import CellTable
from deployments.ingress.bodies import Json

log = logging.getLogger("cluster.gateway")

#: How often a request is sent.
ATTEMPTS = 4
#: Pause before cells are asked again that have just lost the request: its process may have been replaced.
AGAIN_S = 0.1
#: What a cell answers that has not begun a request: it is full, or its model is on its way.
NOT_BEGUN = frozenset((429, 503))
#: Names the cells that are missing in a list.
LEFT_OUT_HEADER = "x-cells-left-out"


@dataclass(frozen=True)
class CellRequest:
    """What a caller asks."""

    kind: RequestKind
    method: str
    #: The path with its query, as it came.
    target: bytes
    path: str
    headers: Headers
    body: bytes
    #: The model that it is for, where one of that name is there.
    uid: str | None
    #: The cell that the caller has named.
    cell: str | None


class Forwarder:
    def __init__(
        self, cells: Mapping[str, Cell], table: CellTable, changed: Callable[[], asyncio.Event], hold_s: float
    ) -> None:
        """`changed`: set when a cell begins or stops to answer, or has other models. `hold_s`: how long a request waits
        for a cell that can take it."""
        self._cells = cells
        self._table = table
        self._changed = changed
        self._hold_s = hold_s

    async def forward(self, request: CellRequest, send: Send, headers_for: Callable[[Cell, Headers], Headers]) -> None:
        may_repeat = request.kind is RequestKind.INFER or request.method == "GET"
        refusal: tuple[CellAnswer, str] | None = None
        tried: set[str] = set()
        for _ in range(ATTEMPTS):
            cell = await self._next(request, tried, has_refusal=refusal is not None)
            if cell is None:
                break
            tried.add(cell.name)
            with self._table.counted(cell.name):
                try:
                    answer = await cell.open(
                        request.method, request.target, headers_for(cell, request.headers), request.body
                    )
                except CellLost as lost:
                    log.info("sent again elsewhere: %s", lost)
                    if lost.was_sent and not may_repeat:
                        raise errors.Unavailable(
                            f"Cell {cell.name} went away before it answered; see whether it has done what was asked."
                        ) from None
                    continue
                if self._goes_elsewhere(request, answer.status, tried):
                    try:
                        refusal = await cell.read(answer), cell.name
                    except CellLost:
                        continue
                    continue
                await relay(answer, cell.name, send)
                return
        if refusal is None:
            raise _nobody()
        await send_whole(*refusal, send)

    async def _next(self, request: CellRequest, tried: set[str], *, has_refusal: bool) -> Cell | None:
        """The next cell to ask; waits for one where none answers."""
        if request.cell is not None:
            names = [request.cell] if request.cell in self._table.live and not has_refusal else []
        else:
            names = self._table.order(request.uid, tried)
        if names or has_refusal:
            return self._cells[names[0]] if names else None
        if tried:
            await asyncio.sleep(AGAIN_S)
            tried.clear()
        try:
            async with asyncio.timeout(self._hold_s):
                while True:
                    names = [request.cell] if request.cell is not None else self._table.order(request.uid)
                    if live := [name for name in names if name in self._table.live]:
                        return self._cells[live[0]]
                    await self._changed().wait()
        except TimeoutError:
            return None

    def _goes_elsewhere(self, request: CellRequest, status: int, tried: set[str]) -> bool:
        if request.kind is RequestKind.INFER:
            is_worth_it = status in NOT_BEGUN and request.uid is not None
        else:
            # What has an id of its own is in the cell that gave it.
            is_worth_it = request.kind is RequestKind.LOOKUP and request.uid is None and status == 404
        return is_worth_it and request.cell is None and bool(self._table.order(request.uid, tried))

    # ------------------------------------------------------------------------------------------- of several cells

    async def list_all(self, request: CellRequest, send: Send, headers_for: Callable[[Cell, Headers], Headers]) -> None:
        """The lists of all cells as one."""
        live = await self._all_live()
        answers = dict(zip((cell.name for cell in live), await self._ask_all(request, live, headers_for), strict=True))
        good = {name: answer for name, answer in answers.items() if answer is not None and answer.status == 200}
        if not good:
            refused = next(((answer, name) for name, answer in answers.items() if answer is not None), None)
            if refused is None:
                raise _nobody()
            await send_whole(*refused, send)
            return
        lists = await asyncio.to_thread(
            lambda: merged(request.path, {name: orjson.loads(answer.body) for name, answer in good.items()})
        )
        left_out = [name for name in self._cells if name not in good]
        await send_response(Json(lists, headers={LEFT_OUT_HEADER: ",".join(left_out)} if left_out else {}), send)

    async def launch(self, request: CellRequest, send: Send, headers_for: Callable[[Cell, Headers], Headers]) -> None:
        """In the cell that has most room, or the next where it does not fit."""
        cells = await self._all_live()
        if request.uid is not None and self._table.is_known(request.uid):
            # The cell says whether it is the same launch again.
            cells = [self._cells[name] for name in self._table.having(request.uid)]
        else:
            question = CellRequest(
                RequestKind.LIST, "GET", b"/v1/cluster/info", "/v1/cluster/info", request.headers, b"", None, None
            )
            answers = await self._ask_all(question, cells, headers_for)
            rooms = {
                cell.name: room(orjson.loads(answer.body)) if answer and answer.status == 200 else (-1.0, 0)
                for cell, answer in zip(cells, answers, strict=True)
            }
            cells.sort(key=lambda cell: rooms[cell.name], reverse=True)
        refused: tuple[CellAnswer, str] | None = None
        for cell in cells:
            try:
                answer = await cell.ask(
                    request.method, request.target, headers_for(cell, request.headers), request.body
                )
            except CellLost as lost:
                if lost.was_sent:
                    raise errors.Unavailable(
                        f"Cell {cell.name} went away during the launch; see whether the model is there when it answers."
                    ) from None
                continue
            refused = refused or (answer, cell.name)
            if not _does_not_fit(answer):
                await send_whole(answer, cell.name, send)
                return
        if refused is None:
            raise _nobody()
        await send_whole(*refused, send)

    async def abort(self, request: CellRequest, send: Send, headers_for: Callable[[Cell, Headers], Headers]) -> None:
        """In every cell: nobody remembers which has the request."""
        live = await self._all_live()
        answers = await self._ask_all(request, live, headers_for)
        pairs = [(answer, cell.name) for answer, cell in zip(answers, live, strict=True) if answer is not None]
        lost = [cell.name for answer, cell in zip(answers, live, strict=True) if answer is None]
        pairs.sort(key=lambda pair: (not _has_stopped(pair[0]), _has_none(pair[0]), b'"DONE"' not in pair[0].body))
        if not lost or (pairs and _has_stopped(pairs[0][0])):
            await send_whole(*pairs[0], send)
            return
        cells = f"Cell {lost[0]}" if len(lost) == 1 else f"The cells {', '.join(lost)}"
        raise errors.Unavailable(
            f"{cells} went away before it was known whether the request is there; ask again.", retry_after_s=1.0
        )

    async def _all_live(self) -> list[Cell]:
        if not self._table.live:
            try:
                async with asyncio.timeout(self._hold_s):
                    while not self._table.live:
                        await self._changed().wait()
            except TimeoutError:
                raise _nobody() from None
        return [cell for name, cell in self._cells.items() if name in self._table.live]

    async def _ask_all(
        self, request: CellRequest, cells: Sequence[Cell], headers_for: Callable[[Cell, Headers], Headers]
    ) -> list[CellAnswer | None]:
        async def ask(cell: Cell) -> CellAnswer | None:
            # What is put together has to be read.
            headers = [pair for pair in headers_for(cell, request.headers) if pair[0] != b"accept-encoding"]
            try:
                return await cell.ask(request.method, request.target, headers, request.body)
            except CellLost as lost:
                log.info("left out of a list: %s", lost)
                return None

        return list(await asyncio.gather(*map(ask, cells)))


def refuse_unclear(request: CellRequest, having: Sequence[str], every: Sequence[str]) -> None:
    """A change must say which cell it is for, where several could be meant."""
    cells = having if request.uid is not None else every
    if request.cell is None and len(cells) > 1:
        what = (
            f"{request.uid} is launched in {len(cells)} cells" if request.uid is not None else "This changes one cell"
        )
        raise errors.BadRequest(f"{what}: say which is meant, of {', '.join(cells)}, by the header X-Cell or --cell.")


def _has_stopped(answer: CellAnswer) -> bool:
    return answer.status == 200 and not _has_none(answer)


def _has_none(answer: CellAnswer) -> bool:
    """No request of that id, which says nothing of other cells. In Xinference's words it is no error."""
    return answer.status == 404 or (answer.status == 200 and b'"NOT_FOUND"' in answer.body)


def _does_not_fit(answer: CellAnswer) -> bool:
    return answer.status == 503 and b'"does_not_fit"' in answer.body


def _nobody() -> errors.Unavailable:
    return errors.Unavailable(
        "No cell that could answer this can be reached at the moment; try again.", retry_after_s=1.0
    )


async def relay(answer: httpcore.Response, cell: str, send: Send) -> None:
    """Piece by piece. If the cell dies within an answer, the connection to the caller ends within it as well."""
    try:
        await send({"type": "http.response.start", "status": answer.status, "headers": to_caller(answer.headers, cell)})
        async for piece in answer.aiter_stream():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        log.warning("cell %s went away within an answer: %s", cell, error)
        return
    finally:
        await answer.aclose()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def send_whole(answer: CellAnswer, cell: str, send: Send) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": to_caller(answer.headers, cell)})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})


async def send_response(response: Response, send: Send) -> None:
    await send({"type": "http.response.start", "status": response.status_code, "headers": list(response.raw_headers)})
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": False})
