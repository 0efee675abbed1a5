"""What every request passes first and every answer last: an id, limits, one count and one line of the log."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Set
from functools import lru_cache
from typing import TextIO

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster import errors
from cluster.keys import of_caller
from deployments.ingress.auth import CALLER_HEADER
from deployments.ingress.bodies import Bodies, BodyLimits, IncomingBody
from deployments.ingress.errors import as_cluster_error, error_response
from deployments.ingress.metrics import IngressMetrics

log = logging.getLogger("cluster.access")

#: How a request ends in the log when nobody waits for its answer any more; the status that other servers log as well.
CLIENT_LEFT = 499
#: How long a line of the log may wait for others.
WRITE_S = 0.2

_ID = re.compile(r"[\w.:-]{1,128}")


class AccessLog:
    """Log lines, written out together a few times a second: each by itself would cost a tenth of a request."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: list[str] = []

    def write(self, line: str) -> None:
        if not self._lines:
            asyncio.get_running_loop().call_later(WRITE_S, self._flush)
        self._lines.append(line)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        self._stream.write("".join(lines))
        self._stream.flush()


class RequestMiddleware:
    """Middleware around all routes: a request id in and out, limits, one log line, one count, and work that nobody
    waits for any more is dropped."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: IngressMetrics,
        most: int,
        access_log: AccessLog,
        limits: BodyLimits,
        bodies: Bodies,
        public: Set[tuple[str, str]],
        asks_for_keys: bool = True,
    ) -> None:
        """`public`: methods and paths that are answered however much there is to do. `asks_for_keys`: `auth.guard`
        finds the key of a request, and a route without a guard has none, not even None. Without keys all are
        one, but those whom a gateway tells apart."""
        self._app = app
        self._metrics = metrics
        self._most = most
        self._limits = limits
        self._bodies = bodies
        self._public = public
        self._asks_for_keys = asks_for_keys
        self._ongoing = 0
        self._access_log = access_log if log.isEnabledFor(logging.INFO) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        method = scope["method"]
        if method == "HEAD":
            # The web server leaves out the body of what answers it.
            scope = {**scope, "method": "GET"}
        headers = dict(scope["headers"])
        sent_id = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = sent_id if _ID.fullmatch(sent_id) else f"{random.getrandbits(96):024x}"
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        if not self._asks_for_keys:
            state["key"] = of_caller(None, headers.get(CALLER_HEADER.encode(), b"").decode("latin-1"))
        status = 500

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # What still comes of the body is thrown away as it comes.
                self._bodies.is_whole(body)
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
                if body.refusal is not None:
                    # What is left of the body is not worth reading.
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        self._ongoing += 1
        client = scope["client"]
        body = IncomingBody(receive, self._limits.of(scope["path"]), headers, self._bodies, client[0] if client else "")
        try:
            # Whoever has not sent all of his request keeps nobody out.
            is_full = self._ongoing - len(self._bodies.unfinished) > self._most
            if is_full and (scope["method"], scope["path"]) not in self._public:
                raise errors.Unavailable(f"This ingress answers {self._most} requests already.", retry_after_s=1.0)
            body.begin()
            await self._app(scope, body.receive, tell)
        except asyncio.CancelledError:
            if body.refusal is not None:
                body.task.uncancel()
                self._metrics.error(body.refusal.code())
                await error_response(body.refusal)(scope, receive, tell)
            elif body.has_left:
                body.task.uncancel()
                status = CLIENT_LEFT
            else:
                raise
        except ClientDisconnect:
            status = CLIENT_LEFT
        # The last place where an error can still become an answer.
        except Exception as error:
            refusal = as_cluster_error(error)
            self._metrics.error(refusal.code())
            await error_response(refusal)(scope, receive, tell)
        finally:
            body.end()
            self._ongoing -= 1
            seconds = time.perf_counter() - started
            route = scope.get("route")
            path = getattr(route, "path_format", "unmatched")
            self._metrics.request(path, status, seconds)
            if self._access_log is not None:
                self._access_log.write(_line(request_id, scope, method, path, status, seconds))


def _line(request_id: str, scope: Scope, method: str, path: str, status: int, seconds: float) -> str:
    """Never a word of what was asked: who, what route, how it ended."""
    now = time.time()
    model = scope["state"].get("model")
    named = "null" if model is None else orjson.dumps(model).decode()
    return (
        f'{_clock(int(now))},{int(now % 1 * 1000):03d} cluster.access {{"request_id":"{request_id}",'
        f'"method":"{method}","route":"{path}","status":{status},"ms":{seconds * 1000:.1f},"model":{named}}}\n'
    )


@lru_cache(maxsize=1)
def _clock(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
