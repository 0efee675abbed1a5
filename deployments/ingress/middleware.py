"""What every request passes first and every answer last: identity, limits, logs, and one shape for errors."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, TextIO

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster import errors, keys
from cluster.names import cut, quoted
from cluster.settings import Settings
from deployments.ingress.bodies import SMALL, Bodies, Body, Limits, refuse_costly, refuse_wide
from deployments.ingress.metrics import IngressMetrics

log = logging.getLogger("cluster.access")

#: Routes that answer without a key: they say whether a key is needed and whether the server lives, nothing else.
PUBLIC = frozenset({"/health", "/ready", "/v1/address", "/v1/cluster/auth", "/ping"})

#: How a request ends in the log when nobody waits for its answer any more; the status that other servers log as well.
CLIENT_LEFT = 499
#: How long a line of the log may wait for others.
WRITE_S = 0.2

_ID = re.compile(r"[\w.:-]{1,128}")
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


def error_response(error: errors.ClusterError) -> Json:
    """The body that clients of every dialect understand: `detail` for some, `error` for the others."""
    type = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    body: dict[str, Any] = {
        "detail": error.message,
        "error": {"message": error.message, "type": type, "param": error.param, "code": error.code()},
    }
    if error.log_tail:
        body["log_tail"] = list(error.log_tail)
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Json(body, error.status, headers)


def as_cluster_error(error: Exception) -> errors.ClusterError:
    if isinstance(error, errors.ClusterError):
        return error
    if isinstance(error, RequestValidationError):
        problem = error.errors()[0]
        return errors.InvalidBody(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}")
    if isinstance(error, HTTPException):
        found = errors.BadRequest(str(error.detail))
        found.status = error.status_code
        return found
    log.exception("unexpected", exc_info=error)
    return errors.ClusterError(f"Internal error: {type(error).__name__}: {error}")


def checked(schema: type[BaseModel], data: Any, invalid: type[errors.BadRequest] = errors.InvalidBody) -> Any:
    """The data as its schema reads it, or the first thing wrong with it."""
    if isinstance(data, (dict, list)):
        refuse_wide(data)
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = cut(".".join(map(str, problem["loc"])))
        text = problem["msg"].removeprefix("Value error, ")
        param = cut(str(problem["loc"][0])) if problem["loc"] else None
        if isinstance(problem.get("ctx", {}).get("error"), errors.ClusterError):
            raise problem["ctx"]["error"] from None
        raise invalid(f"{where}: {text}" if where else text, param) from None


async def json_body(request: Request, invalid: type[errors.BadRequest] = errors.InvalidBody) -> dict[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Any page may send other types anywhere without asking first, and pages say where they are from.
    if "origin" in request.headers and kind != "application/json" and not kind.endswith("+json"):
        raise invalid(f"A web page sends its body as Content-Type: application/json, not as {quoted(kind)}.")
    body = await request.body()
    if len(body) > SMALL:
        await refuse_costly(body)
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"The body is not JSON: {error}.") from None
    if not isinstance(data, dict):
        raise invalid(f"The body must be a JSON object, not {type(data).__name__}.")
    return data


class Lines:
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
        self, app: ASGIApp, metrics: IngressMetrics, most: int, lines: Lines, limits: Limits, bodies: Bodies
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._most = most
        self._limits = limits
        self._bodies = bodies
        self._ongoing = 0
        self._lines = lines if log.isEnabledFor(logging.INFO) else None

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
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _ID.fullmatch(given) else f"{random.getrandbits(96):024x}"
        scope.setdefault("state", {})["request_id"] = request_id
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
        body = Body(receive, self._limits.of(scope["path"]), headers, self._bodies, client[0] if client else "")
        try:
            # Whoever has not sent all of his request keeps nobody out.
            if self._ongoing - len(self._bodies.unfinished) > self._most and scope["path"] not in PUBLIC:
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
            known = as_cluster_error(error)
            self._metrics.error(known.code())
            await error_response(known)(scope, receive, tell)
        finally:
            body.end()
            self._ongoing -= 1
            seconds = time.perf_counter() - started
            route = scope.get("route")
            path = getattr(route, "path", "unmatched")
            self._metrics.request(path, status, seconds)
            if self._lines is not None:
                self._lines.write(_line(request_id, scope, method, path, status, seconds))


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


def guard(
    scope: keys.Scope, settings: Settings, known: Callable[[], tuple[keys.Key, ...]]
) -> Callable[[Request], Awaitable[None]]:
    """The dependency of every router that is not public. With authentication off any key, or none, will do."""

    asks = settings.asks_for_keys

    async def check(request: Request) -> None:
        request.state.key = None
        if asks:
            request.state.key = keys.check(known(), bearer(request.headers), scope)

    return check


def owner_of(request: Request) -> str:
    """By which workers know this request."""
    key: keys.Key | None = request.state.key
    return keys.owner_of(request.state.request_id, key.id if key else None)


def bearer(headers: Mapping[str, str]) -> str | None:
    kind, _, text = headers.get("authorization", "").partition(" ")
    return text.strip() or None if kind.lower() == "bearer" else None
