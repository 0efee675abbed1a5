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
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeAlias, TypedDict, TypeVar, overload
from urllib.parse import quote

import anyio
import httpx
import orjson

from cluster import errors
from cluster.value import JsonObject

P = ParamSpec("P")
T = TypeVar("T")

#: What stands behind the `?` of an address; None leaves it out.
Params: TypeAlias = Mapping[str, str | float | bool | None]


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    params: Params = field(default_factory=dict)
    #: Sent as JSON; with files, an object whose fields travel beside them as a form.
    body: object = None
    #: Files by the names of their fields.
    files: Sequence[tuple[str, bytes]] = ()
    #: How long the server may hold the answer on purpose.
    held_s: float = 0.0
    #: Whether the answer comes as events.
    streams: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


#: A call under way: yields what to do next, is sent the parsed answer, returns a T.
Steps: TypeAlias = Generator[Request | Pause, Any, T]
#: What a method of the async client returns.
Awaited: TypeAlias = Coroutine[Any, Any, T]


def ask(method: str, path: str, params: Params | None = None, body: object = None) -> Steps[Any]:
    """The call of one request whose answer is the result."""
    return (yield Request(method, path, params or {}, body))


class Driver:
    """Makes calls at once."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def run(self, steps: Steps[T]) -> T:
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

    def _do(self, step: Request | Pause) -> object:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        with _translated(step, self.http.base_url):
            return parse(self.http.send(_built(self.http, step)))

    def events(self, request: Request, read: Callable[[JsonObject], T | None]) -> Generator[T, None, None]:
        """What `read` makes of each event, except None. Closing the generator makes the server stop too."""
        with _translated(request, self.http.base_url):
            response = self.http.send(_built(self.http, request), stream=True)
            try:
                if not response.is_success:
                    response.read()
                    parse(response)
                parser = EventParser(response)
                for line in response.iter_lines():
                    if (event := parser.take(line)) is not None and (value := read(event)) is not None:
                        yield value
            finally:
                response.close()


class AsyncDriver:
    """Makes calls that are awaited."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def run(self, steps: Steps[T]) -> T:
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

    async def _do(self, step: Request | Pause) -> object:
        if isinstance(step, Pause):
            await anyio.sleep(step.seconds)
            return None
        with _translated(step, self.http.base_url):
            return parse(await self.http.send(_built(self.http, step)))

    async def events(self, request: Request, read: Callable[[JsonObject], T | None]) -> AsyncGenerator[T, None]:
        """The same as `Driver.events`."""
        with _translated(request, self.http.base_url):
            response = await self.http.send(_built(self.http, request), stream=True)
            try:
                if not response.is_success:
                    await response.aread()
                    parse(response)
                parser = EventParser(response)
                async for line in response.aiter_lines():
                    if (event := parser.take(line)) is not None and (value := read(event)) is not None:
                        yield value
            finally:
                await response.aclose()


class Sync:
    """Has calls that are made at once."""

    driver: Driver


class Async:
    """Has calls that are awaited."""

    driver: AsyncDriver


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
    def __get__(self, owner: Async, kind: type) -> Callable[P, Awaited[T]]: ...

    def __get__(self, owner: Sync | Async | None, kind: type) -> Self | Callable[P, T | Awaited[T]]:
        if owner is None:
            return self

        def method(*args: P.args, **kwargs: P.kwargs) -> T | Awaited[T]:
            return owner.driver.run(self.steps(owner, *args, **kwargs))

        functools.update_wrapper(method, MethodType(self.steps, owner))
        return method


def parse(response: httpx.Response) -> object:
    """The body of an answer, or the error the server raised as the class it raised."""
    try:
        body = orjson.loads(response.content) if response.content else None
    except orjson.JSONDecodeError:
        body = response.text
        if response.is_success:
            raise errors.ClusterError(
                f"{response.request.url} answered something that is not JSON: {body[:200]!r}."
            ) from None
    if response.is_success:
        return body
    raise _error_of(response, body)


class EventParser:
    """Reads server-sent events line by line: comments keep the connection open, an error is raised as its class."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._data: list[str] = []

    def take(self, line: str) -> JsonObject | None:
        """The event that this line ends, or None."""
        if line.startswith("data:"):
            self._data.append(line.removeprefix("data:").strip())
        if line or not self._data:
            return None
        text, self._data = "\n".join(self._data), []
        event: JsonObject | None = None if text == "[DONE]" else orjson.loads(text)
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


def _error_of(response: httpx.Response, body: object) -> errors.ClusterError:
    fields: JsonObject = body if isinstance(body, dict) else {}
    error = fields.get("error")
    if not isinstance(error, dict):
        # On the routes of text-embeddings-inference, `error` is the sentence itself and the rest stands beside it.
        error = {**fields, "message": error} if "error_type" in fields else {}
    kind = errors.every_error().get(str(error.get("code")))
    message = error.get("message") or fields.get("detail")
    if kind is None or not isinstance(message, str):
        kind = kind or _BY_STATUS.get(response.status_code, errors.ClusterError)
        request = response.request
        answer = str(message or body or response.reason_phrase)[:500].removesuffix(".")
        message = f"{request.method} {request.url} answered {response.status_code}: {answer}."
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
        raise errors.DeadlineExceeded(f"{url} did not answer {request.method} {request.path} in time.") from None
    except httpx.UnsupportedProtocol:
        raise errors.BadRequest(_not_an_address(url)) from None
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        raise errors.Unavailable(
            f"{url} closed the connection during {request.method} {request.path}: {why}."
        ) from error


def _not_an_address(url: httpx.URL | str) -> str:
    return f"'{url}' is not the address of a cluster, such as http://127.0.0.1:9997."


def _built(http: httpx.Client | httpx.AsyncClient, request: Request) -> httpx.Request:
    timeout = http.timeout
    if request.held_s and timeout.read is not None:
        timeout = httpx.Timeout(
            connect=timeout.connect, read=timeout.read + request.held_s, write=timeout.write, pool=timeout.pool
        )
    params: Params = without_nones(request.params)
    if request.files:
        fields = request.body if isinstance(request.body, dict) else {}
        files = [(name, ("image", file, "application/octet-stream")) for name, file in request.files]
        return http.build_request(
            request.method, request.path, params=params, data=fields, files=files, timeout=timeout
        )
    if request.body is None:
        return http.build_request(request.method, request.path, params=params, timeout=timeout)
    return http.build_request(
        request.method,
        request.path,
        params=params,
        content=orjson.dumps(request.body, option=orjson.OPT_SERIALIZE_NUMPY),
        headers={"Content-Type": "application/json"},
        timeout=timeout,
    )


class HttpOptions(TypedDict):
    base_url: httpx.URL
    headers: dict[str, str]
    timeout: httpx.Timeout
    limits: httpx.Limits
    trust_env: bool


def http_options(base_url: str, api_key: str | None, timeout: float, cell: str | None = None) -> HttpOptions:
    try:
        url = httpx.URL(base_url.rstrip("/") if "://" in base_url else f"http://{base_url.rstrip('/')}")
    except httpx.InvalidURL:
        raise errors.BadRequest(_not_an_address(base_url)) from None
    return {
        "base_url": url,
        "headers": without_nones({"Authorization": f"Bearer {api_key}" if api_key else None, "X-Cell": cell or None}),
        "timeout": httpx.Timeout(timeout, connect=min(timeout, 10.0)),
        "limits": httpx.Limits(max_connections=1000, max_keepalive_connections=100),
        # A server on this machine is never meant to be reached through a proxy.
        "trust_env": url.host != "localhost" and not url.host.startswith("127."),
    }


def without_nones(values: Mapping[str, T | None]) -> dict[str, T]:
    return {key: value for key, value in values.items() if value is not None}


def path_part(text: str | int) -> str:
    return quote(str(text), safe="")
