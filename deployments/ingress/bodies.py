"""Bodies of requests and answers: JSON in and out, forms, what a body may cost to be read, and what all the bodies that
an ingress is being sent may hold together."""

from __future__ import annotations

import asyncio
import ctypes
import re
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, NamedTuple, TypeVar

import orjson
from fastapi import Request, Response
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData
from starlette.types import Message, Receive

from cluster import errors
from cluster.names import cut, quoted
from cluster.value import JsonObject

S = TypeVar("S", bound=BaseModel)

#: Bodies up to this size pass when there is no room, and cannot cost much to read. Most callers send no more.
SMALL = 65_536
#: The limit for routes that take neither texts nor files, and for unknown paths.
CONTROL_BYTES = 1_000_000
#: Bodies under way at once. Beyond that the slowest are closed, so that half-sent bodies cannot keep others out.
MOST_UNFINISHED = 1000
#: A body younger than this is never closed as slow.
GRACE_S = 0.25
#: From this age of a request on, it is noticed when its client leaves.
YOUNG_S = 0.05
RETRY_S = 1.0
#: After so many bytes of bodies their memory is given back to the system, which the allocator would keep for later. The
#: loop cannot allocate meanwhile, for 20 ms in 100 MB.
GIVEN_BACK_BYTES = 20_000_000
GIVE_BACK_AFTER_S = 1.0


# ---------------------------------------------------------------------------------------------------- JSON in and out


class Json(Response):
    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return as_json(content)


def as_json(content: object) -> bytes:
    """Names of files may hold bytes that are no letters, which Python keeps as halves of some, and sentences of
    libraries repeat the names. They are sent as they would be written in Python."""
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    try:
        return orjson.dumps(content, option=options, default=_plain)
    except orjson.JSONEncodeError as error:
        if "surrogates" not in str(error):
            raise
        return orjson.dumps(_legible(content), option=options, default=lambda value: _legible(_plain(value)))


def _plain(value: object) -> JsonObject:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


def _legible(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {_legible(key): _legible(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_legible(inner) for inner in value]
    return value


def checked(schema: type[S], data: object, invalid: type[errors.BadRequest] = errors.InvalidBody) -> S:
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


async def json_body(request: Request, invalid: type[errors.BadRequest] = errors.InvalidBody) -> JsonObject:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A web page may send other types to any server without asking first (no CORS preflight).
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


# ---------------------------------------------------------------------------------------------- what a body may cost

#: The size of a urlencoded form: unescaping a million bytes takes a fifth of a second.
ESCAPED_BYTES = 500_000
CHARSETS = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "latin1"})
_CHARSET = re.compile(r"charset\s*=\s*\"?([^\s\";]*)", re.IGNORECASE)


def form_of(
    request: Request, max_files: int, max_fields: int, max_part_size: int
) -> AbstractAsyncContextManager[FormData]:
    """The body as a form; a urlencoded one must be small."""
    kind = request.headers.get("content-type", "")
    charset = _CHARSET.search(kind)
    # Some of Python's charsets take time that grows with the square of the text.
    if charset is not None and charset[1].lower() not in CHARSETS:
        raise errors.InvalidBody(f"A form is read as UTF-8, not as {charset[1]:.50}.")
    if not kind.lower().startswith("multipart/"):
        max_part_size = min(max_part_size, ESCAPED_BYTES)
    return request.form(max_files=max_files, max_fields=max_fields, max_part_size=max_part_size)


#: Parsing JSON blocks the loop, for a time that depends on the number of values and not on the bytes: 100 MB of text
#: take 0.1 s, 100 MB of empty lists 23 s. Up to these limits it takes less than 0.2 s.
MOST_VALUES = 2_000_000
MOST_NAMES = 100_000
MOST_CONTAINERS = 50_000
#: Values of a body that is checked against a schema: each wrong one becomes an error, which takes 30 times longer.
MOST_CHECKED = 20_000
#: Characters of a text that is JSON itself.
INNER_CHARACTERS = 200_000
#: Bytes that are looked at before others get a turn.
PIECE = 1_000_000
EXACT_PIECE = 100_000


class Signs(NamedTuple):
    """Counts of the signs that JSON writes for values, names and containers."""

    commas: int = 0
    colons: int = 0
    brackets: int = 0

    def plus(self, text: bytes) -> Signs:
        return Signs(
            self.commas + text.count(b","),
            self.colons + text.count(b":"),
            self.brackets + text.count(b"[") + text.count(b"{"),
        )

    @property
    def excess(self) -> str:
        if self.brackets > MOST_CONTAINERS:
            return f"{MOST_CONTAINERS} lists and objects"
        if self.colons > MOST_NAMES:
            return f"{MOST_NAMES} fields"
        return f"{MOST_VALUES} values" if self.commas > MOST_VALUES else ""


async def refuse_costly(body: bytes) -> None:
    """Raises for JSON of so many values that parsing it would keep all other requests waiting."""
    signs = Signs()
    for start in range(0, len(body), PIECE):
        if start:
            await asyncio.sleep(0)
        signs = signs.plus(body[start : start + PIECE])
    if not signs.excess:
        return
    # The signs may stand within texts: count again without those.
    excess = (await asyncio.to_thread(signs_outside_texts, body)).excess
    if excess:
        raise errors.TooLarge(f"The body has more than {excess}, which are allowed in one request.")


def refuse_wide(data: JsonObject | list[Any]) -> None:
    """Call it before data is checked against a schema."""
    count = 0
    waiting = [data]
    while waiting:
        value = waiting.pop()
        count += len(value)
        if count > MOST_CHECKED:
            raise errors.TooLarge(f"The body has more than {MOST_CHECKED} values, which are allowed here.")
        waiting += [inner for inner in (value.values() if isinstance(value, dict) else value) if type(inner) in _WIDE]


_WIDE = frozenset({dict, list})


def inner_json(text: str, name: str) -> Any:
    """What a text within a body holds as JSON."""
    if len(text) > INNER_CHARACTERS:
        raise errors.TooLarge(f"{name} has {len(text)} characters, {INNER_CHARACTERS} are allowed.", name)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise errors.InvalidBody(f"{name} must be JSON: {error}.", name) from None


def signs_outside_texts(body: bytes, piece_bytes: int = EXACT_PIECE) -> Signs:
    """Counts until there are too many, in pieces, so that other threads can run in between."""
    signs = Signs()
    is_text = False
    kept = b""
    for start in range(0, len(body), piece_bytes):
        piece = kept + body[start : start + piece_bytes]
        # First drop escaped backslashes; each backslash that is left escapes what follows it.
        piece = piece.replace(b"\\\\", b"")
        kept = b"\\" if piece.endswith(b"\\") else b""
        parts = piece.removesuffix(b"\\").replace(b'\\"', b"").split(b'"')
        signs = signs.plus(b"".join(parts[is_text::2]))
        is_text ^= len(parts) % 2 == 0
        if signs.excess:
            break
    return signs


# -------------------------------------------------------------------------------------------- what all hold together


class BodyLimits:
    """How large a body may be, by the path of its route."""

    def __init__(self, otherwise: int = CONTROL_BYTES) -> None:
        """`otherwise`: on every other path."""
        self._most: dict[str, int] = {}
        self._otherwise = otherwise

    def set(self, path: str, most: int) -> None:
        self._most[path] = most

    def of(self, path: str) -> int:
        return self._most.get(path, self._otherwise)


class Bodies:
    """All bodies that one ingress is being sent."""

    def __init__(self, most_bytes: int, most_unfinished: int = MOST_UNFINISHED) -> None:
        self._most_bytes = most_bytes
        self._most_unfinished = most_unfinished
        self._ended_bytes = 0
        self.bytes = 0
        self.unfinished: set[IncomingBody] = set()

    def begin(self, body: IncomingBody, announced: int) -> None:
        """Refuses a body that cannot fit even if every unfinished body were closed."""
        if announced > SMALL and self.bytes + announced > self._most_bytes:
            held = self.bytes - sum(other.size for other in self.unfinished)
            if held + announced > self._most_bytes:
                raise self._no_room()
        if len(self.unfinished) >= self._most_unfinished:
            victim = slowest(self.unfinished, Counter(other.address for other in self.unfinished))
            if victim is not None:
                self._close(victim, "too many others had begun")
            elif len(self.unfinished) >= 2 * self._most_unfinished:
                raise errors.Unavailable(
                    f"This ingress is being sent {len(self.unfinished)} bodies already.", retry_after_s=RETRY_S
                )
        self.unfinished.add(body)

    def grew(self, body: IncomingBody, by: int) -> None:
        self.bytes += by
        while self.bytes > self._most_bytes and body.size > SMALL:
            held: Counter[str] = Counter()
            for other in self.unfinished:
                held[other.address] += other.size
            victim = slowest([other for other in self.unfinished if other.size > SMALL], held)
            if victim is None or victim is body:
                raise self._no_room()
            self._close(victim, "there was no room left for others")

    def is_whole(self, body: IncomingBody) -> None:
        self.unfinished.discard(body)

    def end(self, body: IncomingBody) -> None:
        self.unfinished.discard(body)
        self.bytes -= body.size
        self._ended_bytes += body.size
        if self._ended_bytes > GIVEN_BACK_BYTES:
            self._ended_bytes = 0
            loop = asyncio.get_running_loop()
            # By then the requests have let go of them.
            loop.call_later(GIVE_BACK_AFTER_S, loop.run_in_executor, None, _give_back)

    def _close(self, victim: IncomingBody, why: str) -> None:
        self.end(victim)
        victim.size = 0
        victim.close(errors.Unavailable(f"The body came too slowly while {why}; send it again.", retry_after_s=RETRY_S))

    def _no_room(self) -> errors.Unavailable:
        return errors.Unavailable(
            f"This ingress holds bodies of {self.bytes} bytes already; {self._most_bytes} are allowed.",
            retry_after_s=RETRY_S,
        )


def _give_back() -> None:
    # Only glibc has it, and only glibc keeps freed memory this way.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def slowest(bodies: Collection[IncomingBody], weights: Mapping[str, int]) -> IncomingBody | None:
    """The slowest body of the address with the largest weight; None if all have only just begun."""
    now = asyncio.get_running_loop().time()
    old = [body for body in bodies if now - body.since >= GRACE_S]
    return max(old, key=lambda body: (weights[body.address], -body.size / (now - body.since)), default=None)


class IncomingBody:
    """What one client sends: a body within the limits, and then perhaps the news that it has left.

    Nobody listens for that while a request is young: it would cost every request a task, and few take so long.
    """

    def __init__(
        self, receive: Receive, most: int, headers: Mapping[bytes, bytes], bodies: Bodies, address: str
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.address = address
        self.has_left = False
        #: Why it was closed before it was whole.
        self.refusal: errors.ClusterError | None = None
        #: Bytes that have come.
        self.size = 0
        self._receive = receive
        self._most = most
        self._bodies = bodies
        self._watch: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._has_none = b"content-length" not in headers and b"transfer-encoding" not in headers
        if self._has_none:
            self._expect_leaving()
            return
        self.since = task.get_loop().time()
        self._length = headers.get(b"content-length", b"0")

    def begin(self) -> None:
        """Checks the announced length. A body may come without one, so it is also counted as it comes."""
        if self._has_none:
            return
        announced = int(self._length) if self._length.isdigit() else 0
        self._refuse_large(announced)
        self._bodies.begin(self, announced)

    async def receive(self) -> Message:
        """A body is also counted while it comes."""
        if self._has_none:
            # The watch may have taken the message that says so.
            self._has_none = False
            return {"type": "http.request", "body": b"", "more_body": False}
        message = await self._receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.size += size
            self._bodies.grew(self, size)
            self._refuse_large(self.size)
            if not message.get("more_body"):
                self._bodies.is_whole(self)
                self._expect_leaving()
        return message

    def close(self, refusal: errors.ClusterError) -> None:
        self.refusal = refusal
        self.task.cancel()

    def _refuse_large(self, size: int) -> None:
        if size > self._most:
            raise errors.TooLarge(f"The body has {size} bytes or more, {self._most} are allowed.")

    def _expect_leaving(self) -> None:
        if self._timer is None:
            self._timer = self.task.get_loop().call_later(YOUNG_S, self._begin_watching)

    def _begin_watching(self) -> None:
        self._watch = self.task.get_loop().create_task(self._until_it_leaves())

    async def _until_it_leaves(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.has_left = True
        self.task.cancel()

    def end(self) -> None:
        self._bodies.end(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
