"""A server on loopback that gives the answers a test sets, in the form of the real server."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cluster.errors import ClusterError


@dataclass
class Seen:
    method: str
    path: str
    query: dict[str, str]
    body: Any
    key: str | None


def error_body(error: ClusterError, log_tail: tuple[str, ...] = ()) -> dict[str, Any]:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    about = {"message": error.message, "type": kind, "param": error.param, "code": error.code()}
    return {"detail": error.message, "error": about, "log_tail": list(log_tail)}


def to_response(answer: Any, log_tail: tuple[str, ...] = ()) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body for an answer that a test set: an error, a value, or a list of values."""
    if isinstance(answer, ClusterError):
        headers = {"Retry-After": str(answer.retry_after_s)} if answer.retry_after_s is not None else {}
        return answer.status, headers, error_body(answer, log_tail)
    if isinstance(answer, list):
        return 200, {}, [to_response(part)[2] for part in answer]
    return 200, {}, answer.model_dump(mode="json") if isinstance(answer, BaseModel) else answer


@dataclass
class FakeServer:
    url: str
    answers: dict[str, list[Any]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def on(self, route: str, *answers: Any) -> None:
        """Sets the answers of `METHOD /path`, one per call; the last one is repeated."""
        self.answers[route] = list(answers)

    def of(self, route: str) -> list[Seen]:
        return [seen for seen in self.seen if f"{seen.method} {seen.path}" == route]

    async def answer(self, request: Request) -> Response:
        content = await request.body()
        route = f"{request.method} {request.url.path}"
        body = json.loads(content) if content else None
        key = request.headers.get("authorization")
        self.seen.append(Seen(request.method, request.url.path, dict(request.query_params), body, key))
        if route not in self.answers:
            self.unexpected.append(route)
            return JSONResponse({"detail": "Not Found"}, 404)
        waiting = self.answers[route]
        answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        status, headers, said = to_response(answer)
        return JSONResponse(said, status, headers)


class Running:
    """Runs the server in a thread of this process, on a free port."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        # It listens before the thread runs, so that early connections wait in the backlog.
        self._socket.listen()
        self.fake = FakeServer(f"http://127.0.0.1:{self._socket.getsockname()[1]}")
        methods = ["GET", "POST", "DELETE"]
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=methods)])
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()

    async def _answer(self, request: Request) -> Response:
        return await self.fake.answer(request)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
