"""The gateway: what it answers itself, and what it forwards."""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TextIO

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers as StarletteHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster import errors
from cluster.metrics import page
from cluster.names import quoted
from cluster.settings import Settings
from cluster.value import JsonObject
from deployments.gateway.cell import Cell, CellAnswer, Headers
from deployments.gateway.config import GatewayConfig
from deployments.gateway.error_paths import shape_of
from deployments.gateway.forwarding import CellRequest, Forwarder, refuse_unclear, send_response, send_whole
from deployments.gateway.headers import to_cell, with_key
from deployments.gateway.meaning import (
    CELL_HEADER,
    CHANGES,
    RequestKind,
    cell_in_query,
    kind_of,
    model_in_body,
    model_in_path,
)
from deployments.gateway.table import CellTable
from deployments.ingress.auth import presented_key
from deployments.ingress.bodies import Bodies, BodyLimits, Json
from deployments.ingress.metrics import IngressMetrics
from deployments.ingress.middleware import AccessLog, RequestMiddleware
from deployments.ingress.origins import OriginMiddleware, Origins

#: Requests under way at once.
ONGOING = 4000
#: How long a gateway waits for its cells before it answers.
FIRST_TABLE_S = 3.0
#: Pages may send everything but the cells' own matters under any origin, where that is set.
_INFER = re.compile(r"/(?!v1/(models|keys|cluster|model_registrations|cache)\b)")
#: Answered by the gateway itself to everybody, as every cluster does.
_HEALTH = frozenset(("/", "/health", "/ping"))
#: Asked without a key: what every cluster answers to everybody.
PUBLIC = frozenset(
    ("GET", path)
    for path in (
        *_HEALTH,
        *("/ready", "/v1/address", "/v1/cluster/auth"),
        *("/docs", "/docs/page.js", "/docs/page.css"),
        *("/ui", "/ui/", "/ui/page.js", "/ui/page.css"),
    )
)


class _Named:
    """What the log and the counts call a request by: paths of callers are without number."""

    def __init__(self, kind: str) -> None:
        self.path_format = kind


_NAMES = {kind: _Named(kind) for kind in (*RequestKind, "own")}


class Gateway:
    def __init__(self, config: GatewayConfig, settings: Settings) -> None:
        self.metrics = IngressMetrics(f"gateway-{secrets.token_hex(3)}")
        self._keys = tuple(key.encode() for key in config.callers_keys)
        self._settings = settings
        self._changed = asyncio.Event()
        self.table = CellTable([address.name for address in config.cells])
        needs_keys = settings.asks_for_keys and not self._keys
        self.cells = {
            address.name: Cell(address, needs_keys, partial(self._take, address.name)) for address in config.cells
        }
        self._forwarder = Forwarder(self.cells, self.table, lambda: self._changed, settings.hold_s)

    def _take(self, cell: str, news: JsonObject | None) -> None:
        if news is not None:
            self.table.take(cell, news)
        self.table.set_live(cell, news is not None)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follows its cells meanwhile."""
        watches = [asyncio.ensure_future(cell.watch()) for cell in self.cells.values()]
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_TABLE_S):
                while len(self.table.live) < len(self.cells):
                    await self._changed.wait()
        try:
            yield
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
            for cell in self.cells.values():
                await cell.close()

    def app(self, logs: TextIO | None = None) -> ASGIApp:
        """With what stands before it, the outermost last."""
        limits = BodyLimits(otherwise=self._settings.max_body_bytes)
        bodies = Bodies(max(self._settings.bodies_bytes, self._settings.max_body_bytes))
        guarded = OriginMiddleware(self, Origins.of(self._settings), [_INFER])
        access_log = AccessLog(logs or sys.stderr)
        return RequestMiddleware(guarded, self.metrics, ONGOING, access_log, limits, bodies, PUBLIC)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        #: As much of it as was read.
        body: list[bytes] = []
        try:
            await self._answer(scope, receive, send, body)
        except errors.ClusterError as error:
            # Nothing has been answered yet: what a cell began to answer ends without an error of the gateway.
            self.metrics.error(error.code())
            await send_response(shape_of(scope["path"], b"".join(body))(error), send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, body: list[bytes]) -> None:
        path, method = scope["path"], scope["method"]
        scope["route"] = _NAMES["own"]
        if path in _HEALTH and method == "GET":
            await send_response(Json({"status": "ok", "unix": time.time()}), send)
            return
        if path == "/ready":
            await send_response(self._readiness(), send)
            return
        headers: Headers = scope["headers"]
        if self._keys and (method, path) not in PUBLIC:
            self._check_key(headers)
        if path == "/v1/cluster/auth" and self._keys:
            await send_response(Json({"auth": True}), send)
            return
        request = await self._asked(scope, await _body(receive, body))
        if path in ("/metrics", "/v1/cluster/cells"):
            await self._answer_lister(request, send)
            return
        scope["route"] = _NAMES[request.kind]
        scope["state"]["model"] = request.uid
        one_cell = request.cell is not None
        if path == CHANGES:
            await self._follow_one(request, send)
        elif request.kind is RequestKind.LIST and not one_cell:
            await self._forwarder.list_all(request, send, self._headers_for)
        elif request.kind is RequestKind.LAUNCH and not one_cell:
            await self._forwarder.launch(request, send, self._headers_for)
        elif request.kind is RequestKind.ABORT and not one_cell:
            await self._forwarder.abort(request, send, self._headers_for)
        else:
            if request.kind is RequestKind.CHANGE:
                refuse_unclear(request, self.table.having(request.uid), self.table.cells)
            await self._forwarder.forward(request, send, self._headers_for)

    async def _asked(self, scope: Scope, body: bytes) -> CellRequest:
        path, query, method = scope["path"], scope["query_string"], scope["method"]
        kind = kind_of(method, path)
        headers = dict(scope["headers"])
        request_id = scope["state"]["request_id"]
        cell = headers.get(CELL_HEADER, b"").decode("latin-1") or cell_in_query(path, query)
        if cell is not None and cell not in self.cells:
            raise errors.BadRequest(f"No cell is called {quoted(cell)}: there are {', '.join(self.cells)}.", "x-cell")
        uid = None
        if kind is RequestKind.LAUNCH:
            name = await model_in_body(headers.get(b"content-type", b"").decode("latin-1"), query, body, "model_uid")
            uid = self.table.uid_of(name, request_id)
        elif (name := model_in_path(path)) is not None:
            uid = self.table.uid_of(name, request_id)
        elif kind in (RequestKind.INFER, RequestKind.LOOKUP):
            name = await model_in_body(headers.get(b"content-type", b"").decode("latin-1"), query, body)
            uid = self.table.uid_of(name, request_id) if name else self.table.uid_in_path(path, request_id)
        target = scope["raw_path"] + (b"?" + query if query else b"")
        return CellRequest(kind, method, target, path, to_cell(scope["headers"], request_id), body, uid, cell)

    async def _follow_one(self, request: CellRequest, send: Send) -> None:
        """What changes in one cell, for the page, which has no header for its stream: it is told first which cell it
        sees and which there are. Unless it names one, it is the first that lives, whenever it comes again."""
        left_away = {b"accept-encoding"}
        if request.cell is None:
            live = [name for name in self.cells if name in self.table.live]
            request = replace(request, cell=live[0] if live else None)
            # It would be that of another cell.
            left_away.add(b"last-event-id")
        headers = [pair for pair in request.headers if pair[0] not in left_away]

        async def announced(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start" and message["status"] == 200:
                left_out = [name for name in self.cells if name not in self.table.live]
                news = {
                    "cell": dict(message["headers"])[CELL_HEADER].decode("latin-1"),
                    "cells": list(self.cells),
                    "left_out": left_out,
                }
                event = b"event: cells\ndata: %s\n\n" % orjson.dumps(news)
                await send({"type": "http.response.body", "body": event, "more_body": True})

        await self._forwarder.forward(replace(request, headers=headers), announced, self._headers_for)

    def _headers_for(self, cell: Cell, headers: Headers) -> Headers:
        return with_key(headers, cell.address.key) if self._keys else headers

    def _check_key(self, headers: Headers) -> None:
        key = presented_key(StarletteHeaders(raw=headers))
        if not key:
            raise errors.NotAuthenticated("Could not validate credentials: send `Authorization: Bearer <key>`.")
        # All are compared, and each in the same time whatever was sent.
        if not any([hmac.compare_digest(key.encode(), own) for own in self._keys]):
            raise errors.NotAuthenticated("Could not validate credentials: the key is unknown.")

    def _readiness(self) -> Response:
        """Ready while any cell answers: the rest of the models wait for theirs."""
        live = len(self.table.live)
        return Json({"ready": live > 0, "cells": len(self.cells), "live": live}, 200 if live else 503)

    async def _answer_lister(self, request: CellRequest, send: Send) -> None:
        """The gateway's own state, for those whom a cell lets list its models."""
        if self.table.live:
            cell = self.cells[sorted(self.table.live)[0]]
            headers = self._headers_for(cell, request.headers)
            answer: CellAnswer = await cell.ask("GET", b"/v1/cluster/version", headers)
            if answer.status != 200:
                await send_whole(answer, cell.name, send)
                return
        elif self._settings.asks_for_keys and not self._keys:
            raise errors.Unavailable("No cell answers that could say what your key is for.", retry_after_s=1.0)
        if request.path == "/metrics":
            await send_response(Response(page(self.metrics.collect()), media_type=CONTENT_TYPE_LATEST), send)
            return
        rows: list[dict[str, Any]] = [
            {"cell": name, "url": self.cells[name].address.url, **row, "reason": self.cells[name].reason}
            for name, row in self.table.rows().items()
        ]
        await send_response(Json(rows), send)


async def _body(receive: Receive, pieces: list[bytes]) -> bytes:
    """All of it, which is put into `pieces` as it comes."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect()
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
