"""How errors are told over HTTP: the one shape that clients of every dialect understand, where a dialect has no own."""

from __future__ import annotations

import logging
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from cluster import errors
from cluster.value import JsonObject
from deployments.ingress.bodies import Json

log = logging.getLogger("cluster.ingress")

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


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
        refusal = errors.BadRequest(str(error.detail))
        refusal.status = error.status_code
        return refusal
    log.exception("unexpected", exc_info=error)
    return errors.ClusterError(f"Internal error: {type(error).__name__}: {error}")


def error_body(error: errors.ClusterError) -> JsonObject:
    """An error as it is told in an answer."""
    body: JsonObject = orjson.loads(error_response(error).body)
    return body


def error_of(body: JsonObject) -> errors.ClusterError:
    """The error that ended a job, as it was raised."""
    kind = errors.every_error().get(body.get("code", ""), errors.ClusterError)
    return kind(str(body.get("message", "")), body.get("param"))
