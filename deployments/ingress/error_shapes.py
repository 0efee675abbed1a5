"""Errors as the clients of some APIs read them, where that is not the shape of `errors.error_response`.

Beside the ingress, whose dialects name them, gateways answer in them, and those load no wing.
"""

from __future__ import annotations

import orjson

from cluster import errors
from cluster.value import JsonObject
from deployments.ingress.bodies import Json
from deployments.ingress.errors import error_response

#: Error, its status here and its type there; the first that fits.
TEI_TYPES: tuple[tuple[type[errors.ClusterError], int, str], ...] = (
    (errors.TooLarge, 413, "Validation"),
    (errors.Overloaded, 429, "Overloaded"),
    (errors.ModelNotFound, 404, "Validation"),
    (errors.BadRequest, 422, "Validation"),
    (errors.InferenceFailed, 424, "Backend"),
    (errors.RequestCancelled, 409, "Backend"),
    (errors.DeadlineExceeded, 504, "Backend"),
    (errors.ModelLoading, 503, "Unhealthy"),
    (errors.WorkerLost, 503, "Unhealthy"),
    (errors.WorkerDraining, 503, "Unhealthy"),
    (errors.Unavailable, 503, "Unhealthy"),
    (errors.ClusterError, 500, "Backend"),
)

ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def tei_error(error: errors.ClusterError) -> Json:
    """An error as these clients read it: `error` is the sentence. Our own read the rest and raise the same class."""
    if isinstance(error, (errors.NotAuthenticated, errors.NotPermitted)):
        return error_response(error)
    status, kind = next((status, kind) for type, status, kind in TEI_TYPES if isinstance(error, type))
    if type(error) is errors.BadRequest:
        if "status" in vars(error):  # what the framework refuses has a status of its own: an unknown method
            status = error.status
        elif error.param in ("inputs", "ids"):
            status, kind = 400, "Empty"
        elif error.param == "model":
            status, kind = 424, "Backend"
    usual = error_response(error)
    headers = {name: value for name, value in usual.headers.items() if name == "retry-after"}
    body = {"error": error.message, "error_type": kind, "code": error.code(), "param": error.param}
    return Json(body, status, headers)


def anthropic_error(error: errors.ClusterError) -> Json:
    usual = error_response(error)
    status = 400 if error.status == 422 else error.status
    headers = {name: usual.headers[name] for name in ("retry-after", "www-authenticate") if name in usual.headers}
    body = anthropic_error_body(error)
    # Who may not call is told so in the form that every client reads, whatever the route.
    if isinstance(error, (errors.NotAuthenticated, errors.NotPermitted)):
        body["detail"] = error.message
    return Json(body, status, headers)


def anthropic_error_body(error: errors.ClusterError) -> JsonObject:
    kind = ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def ollama_error(error: errors.ClusterError) -> Json:
    """`error` is the sentence, there, and a body that does not fit is a bad request."""
    usual = error_response(error)
    if isinstance(error, (errors.NotAuthenticated, errors.NotPermitted)):
        return usual
    headers = {name: usual.headers[name] for name in ("retry-after",) if name in usual.headers}
    status = 400 if error.status == 422 else error.status
    return Json({"error": error.message, "code": error.code(), "param": error.param}, status, headers)


def mistral_error(error: errors.ClusterError) -> Json:
    """Mistral's clients read a list of what is wrong where a body is, and a message of anything else."""
    usual = error_response(error)
    body: JsonObject = orjson.loads(usual.body)
    if error.status == 422:
        body["detail"] = [{"loc": ["body", *filter(None, [error.param])], "msg": error.message, "type": error.code()}]
    fields = {"message": error.message, "type": error.code(), "param": error.param, "code": error.code()}
    headers = {name: value for name, value in usual.headers.items() if not name.startswith("content-")}
    return Json({"object": "error", **fields, **body}, error.status, headers)
