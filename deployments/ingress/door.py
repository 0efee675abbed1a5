"""What every request passes first and every answer last: identity, limits, logs, and one shape for errors."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster import errors, keys
from cluster.metrics import IngressMetrics
from cluster.settings import Settings

log = logging.getLogger("cluster.access")

#: Routes that answer without a key: they say whether a key is needed and whether the server lives, nothing else.
PUBLIC = frozenset({"/health", "/ready", "/v1/address", "/v1/cluster/auth", "/ping"})

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
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        text = problem["msg"].removeprefix("Value error, ")
        param = str(problem["loc"][0]) if problem["loc"] else None
        if isinstance(problem.get("ctx", {}).get("error"), errors.ClusterError):
            raise problem["ctx"]["error"] from None
        raise invalid(f"{where}: {text}" if where else text, None, param) from None


async def json_body(request: Request, invalid: type[errors.BadRequest] = errors.InvalidBody) -> dict[str, Any]:
    try:
        data = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise invalid(f"The body is not JSON: {error}.") from None
    if not isinstance(data, dict):
        raise invalid(f"The body must be a JSON object, not {type(data).__name__}.")
    return data


class Door:
    """Middleware around all routes: a request id in and out, a limit on the body, one log line, one count."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: IngressMetrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        # Ray Serve gives every request one and sends it back; it is only missing where this app runs by itself.
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(12)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not given:
                    message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            length = headers.get(b"content-length", b"0")
            if length.isdigit() and int(length) > self._settings.max_body_bytes:
                raise errors.TooLarge(_too_large(int(length), self._settings.max_body_bytes))
            await self._app(scope, _bounded(receive, self._settings.max_body_bytes), tell)
        # The last place where an error can still become an answer.
        except Exception as error:
            known = as_cluster_error(error)
            self._metrics.error(known.code())
            await error_response(known)(scope, receive, tell)
        finally:
            seconds = time.perf_counter() - started
            route = scope.get("route")
            path = getattr(route, "path", "unmatched")
            self._metrics.request(path, status, seconds)
            # Never a word of what was asked: who, what route, how it ended.
            log.info(
                '{"request_id":"%s","method":"%s","route":"%s","status":%d,"ms":%.1f,"model":%s}',
                request_id,
                scope["method"],
                path,
                status,
                seconds * 1000,
                orjson.dumps(scope["state"].get("model")).decode(),
            )


def _bounded(receive: Receive, most: int) -> Receive:
    """A body without a length is counted while it comes."""
    seen = 0

    async def read() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > most:
                raise errors.TooLarge(_too_large(seen, most))
        return message

    return read


def _too_large(size: int, most: int) -> str:
    return f"The body has {size} bytes or more, {most} are allowed."


def guard(
    scope: keys.Scope, settings: Settings, known: Callable[[], tuple[keys.Key, ...]]
) -> Callable[[Request], Awaitable[None]]:
    """The dependency of every router that is not public. With authentication off any key, or none, will do."""

    async def check(request: Request) -> None:
        request.state.key = None
        if settings.asks_for_keys:
            request.state.key = keys.check(known(), bearer(request.headers), scope)

    return check


def bearer(headers: Mapping[str, str]) -> str | None:
    kind, _, text = headers.get("authorization", "").partition(" ")
    return text.strip() or None if kind.lower() == "bearer" else None
