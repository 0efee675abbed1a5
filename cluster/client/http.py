"""Calls described once and driven by httpx, sync or async: requests, answers, and the server's errors raised again.

A call is a generator, as httpx's `Auth.auth_flow` is: it yields a `Request`, is sent the parsed answer or has the
server's error raised at that place, and returns its result. It does not know whether anybody awaits it, so one
description serves both clients, and a call may take several requests without being written twice.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

import anyio
import httpx
import orjson

from cluster import errors

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    #: Files by the names of their fields; with any, the body's fields travel beside them as a form.
    files: Sequence[tuple[str, bytes]] = ()
    #: How long the server may hold the answer on purpose.
    held_s: float = 0.0
    #: Whether the answer comes as events.
    streams: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


#: A call under way: yields what to do next, is sent the parsed answer, returns a T.
Steps = Generator[Request | Pause, Any, T]


def ask(method: str, path: str, params: Mapping[str, Any] | None = None, body: Any = None) -> Steps[Any]:
    """The call of one request whose answer is the result."""
    return (yield Request(method, path, params or {}, body))


class Sync:
    """Makes its calls at once."""

    _http: httpx.Client

    def _drive(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._do(step)
                except errors.ClusterError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    def _do(self, step: Request | Pause) -> Any:
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        with _translated(step, self._http.base_url):
            return parse(self._http.request(**_for_httpx(step, self._http.timeout)))

    def _events(self, request: Request, read: Callable[[Any], T | None]) -> Generator[T, None, None]:
        """What `read` makes of that which the server sends as it goes along, except None; whoever stops reading leaves,
        and the server stops too."""
        sent = _for_httpx(request, self._http.timeout)
        with _translated(request, self._http.base_url), self._http.stream(**sent) as response:
            if not response.is_success:
                response.read()
                parse(response)
            events = Events(response)
            for line in response.iter_lines():
                if (event := events.take(line)) is not None and (told := read(event)) is not None:
                    yield told


class Async:
    """Makes calls that are awaited."""

    _http: httpx.AsyncClient

    async def _drive(self, steps: Steps[T]) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._do(step)
                except errors.ClusterError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _do(self, step: Request | Pause) -> Any:
        if isinstance(step, Pause):
            return await anyio.sleep(step.seconds)
        with _translated(step, self._http.base_url):
            return parse(await self._http.request(**_for_httpx(step, self._http.timeout)))

    async def _events(self, request: Request, read: Callable[[Any], T | None]) -> AsyncGenerator[T, None]:
        """As `Sync` does it."""
        sent = _for_httpx(request, self._http.timeout)
        with _translated(request, self._http.base_url):
            async with self._http.stream(**sent) as response:
                if not response.is_success:
                    await response.aread()
                    parse(response)
                events = Events(response)
                async for line in response.aiter_lines():
                    if (event := events.take(line)) is not None and (told := read(event)) is not None:
                        yield told


class call(Generic[P, T]):
    """Makes a generator of steps a method; a sync owner returns its result, an async one is awaited for it.

    Read from the class it is the description itself, whose `steps` another call may `yield from`.
    """

    def __init__(self, steps: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        self.steps = steps
        self.__doc__ = steps.__doc__

    @overload
    def __get__(self, owner: None, kind: type) -> Self: ...
    @overload
    def __get__(self, owner: Sync, kind: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, owner: Async, kind: type) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(self, owner: Any, kind: type) -> Any:
        if owner is None:
            return self

        @functools.wraps(MethodType(self.steps, owner))
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return owner._drive(self.steps(owner, *args, **kwargs))

        return method


def parse(response: httpx.Response) -> Any:
    """The body of an answer, or the error the server raised as the class it raised."""
    try:
        body = orjson.loads(response.content) if response.content else None
    except orjson.JSONDecodeError:
        body = response.text
        if response.is_success:
            raise errors.ClusterError(f"{response.request.url} answered what is not JSON: {body[:200]!r}.") from None
    if response.is_success:
        return body
    raise _error_of(response, body)


class Events:
    """Reads server-sent events line by line: comments keep the connection open, an error is raised as its class."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._data: list[str] = []

    def take(self, line: str) -> Any:
        """The event that this line ends, or None."""
        if line.startswith("data:"):
            self._data.append(line.removeprefix("data:").strip())
        if line or not self._data:
            return None
        text, self._data = "\n".join(self._data), []
        event = None if text == "[DONE]" else orjson.loads(text)
        if isinstance(event, dict) and "error" in event:
            raise _error_of(self._response, event)
        return event


#: For answers that carry no code of ours: a proxy on the way, another server on the port.
_BY_STATUS = {
    400: errors.BadRequest,
    401: errors.NotAuthenticated,
    403: errors.NotPermitted,
    413: errors.TooLarge,
    422: errors.InvalidBody,
    429: errors.Overloaded,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.DeadlineExceeded,
}


def _error_of(response: httpx.Response, body: Any) -> errors.ClusterError:
    fields = body if isinstance(body, dict) else {}
    error = fields.get("error")
    if not isinstance(error, dict):
        # On the routes of text-embeddings-inference the sentence itself is there, and what else is known beside it.
        error = {**fields, "message": error} if "error_type" in fields else {}
    kind = errors.every_error().get(str(error.get("code")))
    message = error.get("message") or fields.get("detail")
    if kind is None or not isinstance(message, str):
        kind = kind or _BY_STATUS.get(response.status_code, errors.ClusterError)
        request = response.request
        said = str(message or body or response.reason_phrase)[:500].removesuffix(".")
        message = f"{request.method} {request.url} answered {response.status_code}: {said}."
    try:
        retry_after_s = float(response.headers["retry-after"])
    except (KeyError, ValueError):
        retry_after_s = None
    raised = kind(message, error.get("param"), retry_after_s)
    raised.log_tail = tuple(fields.get("log_tail") or ())
    return raised


@contextmanager
def _translated(request: Request, url: httpx.URL) -> Iterator[None]:
    """httpx's errors as ours."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout):
        raise errors.Unavailable(f"Nothing answers at {url}; start a cluster with `cluster up`.") from None
    except httpx.TimeoutException:
        raise errors.DeadlineExceeded(f"{url} gave no answer to {request.method} {request.path} in time.") from None
    except httpx.UnsupportedProtocol:
        raise errors.BadRequest(f"{url} is no address of a cluster, such as http://127.0.0.1:9997.") from None
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        raise errors.Unavailable(f"{url} broke off {request.method} {request.path}: {why}.") from error


def _for_httpx(request: Request, timeout: httpx.Timeout) -> dict[str, Any]:
    arguments: dict[str, Any] = {"method": request.method, "url": request.path, "params": given(request.params)}
    if request.files:
        arguments["data"] = request.body
        arguments["files"] = [(name, ("image", file, "application/octet-stream")) for name, file in request.files]
    elif request.body is not None:
        arguments["content"] = orjson.dumps(request.body, option=orjson.OPT_SERIALIZE_NUMPY)
        arguments["headers"] = {"Content-Type": "application/json"}
    if request.held_s and timeout.read is not None:
        longer = {**timeout.as_dict(), "read": timeout.read + request.held_s}
        arguments["timeout"] = httpx.Timeout(**longer)
    return arguments


def http_options(base_url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    try:
        url = httpx.URL(base_url.rstrip("/") if "://" in base_url else f"http://{base_url.rstrip('/')}")
    except httpx.InvalidURL:
        raise errors.BadRequest(f"{base_url!r} is no address of a cluster, such as http://127.0.0.1:9997.") from None
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": httpx.Timeout(timeout, connect=min(timeout, 10.0)),
        "limits": httpx.Limits(max_connections=1000, max_keepalive_connections=100),
        # What runs on this machine is never meant to be reached through a proxy.
        "trust_env": url.host != "localhost" and not url.host.startswith("127."),
    }


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
