"""What bodies may cost an ingress: the memory of all of them together, the time in which it can do nothing else, and
the connections that unfinished ones take from other callers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import httpx
import orjson
import pytest
from fastapi import Request, Response

from cluster import errors
from deployments.image.http.forms import size_of
from deployments.ingress.bodies import (
    CONTROL_BYTES,
    BodyLimits,
    Json,
    Signs,
    checked,
    form_of,
    json_body,
    refuse_costly,
    signs_outside_texts,
)
from deployments.ingress.body_reader import object_of
from deployments.ingress.control.changes import Declared
from deployments.ingress.media import PIECE, decoded
from deployments.ingress.server import BODY_PAUSE_S, superfluous
from deployments.ocr.http.body import OcrFields, of_fields
from tests.deployments.ingress.test_middleware import House, run

# ---------------------------------------------------------------------------------------------------------- as JSON


def inside(part: bytes, count: int) -> bytes:
    return b'{"input":[' + b",".join([part] * count) + b"]}"


#: Made by the tests that send them: together they are 150 MB.
COSTLY: dict[str, Callable[[], bytes]] = {
    "empty lists": lambda: inside(b"[]", 3_000_000),
    "lists in lists": lambda: inside(b"[" * 500 + b"]" * 500, 10_000),
    "empty objects": lambda: inside(b"{}", 3_000_000),
    "fields": lambda: b"{" + b",".join(b'"%x":1' % number for number in range(1_000_000)) + b"}",
    "numbers": lambda: inside(b"1", 5_000_000),
    "lists behind a text of them": lambda: b'{"a":"' + b"[" * 1_000_000 + b'\\\\","b":' + inside(b"[]", 100_000) + b"}",
}
#: Bodies of 16 MB that are still accepted.
MODEST: dict[str, Callable[[], bytes]] = {
    "the most inputs": lambda: inside(b'"' + b"x" * 8192 + b'"', 2048),
    "escaped letters": lambda: inside(b'"' + b"\\u00e4" * 2000 + b'"', 1000),
    "token ids": lambda: inside(b"[" + b",".join([b"12345"] * 500) + b"]", 2048),
    "texts that look like lists": lambda: inside(b'"' + b'[{:,]\\"' * 1000 + b'"', 1000),
    "texts of backslashes": lambda: inside(b'"' + b"\\\\" * 4000 + b'"', 1000),
    "one file": lambda: b'{"image":"' + b"A" * 20_000_000 + b'"}',
}


async def seconds_of_longest_stall(call: Any) -> tuple[float, BaseException | None]:
    """The longest time for which nothing else could run."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            longest = max(longest, time.perf_counter() - began - 0.005)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.02)
    error: BaseException | None = None
    try:
        await call
    except errors.ClusterError as raised:
        error = raised
    await asyncio.sleep(0.01)
    ticking.cancel()
    return longest, error


@pytest.mark.parametrize("made", COSTLY.values(), ids=COSTLY)
def test_json_that_would_stop_the_loop_is_refused_without_stopping_it(made: Callable[[], bytes]) -> None:
    body = made()
    longest, error = asyncio.run(seconds_of_longest_stall(refuse_costly(body)))
    print(f"{len(body) / 1e6:.0f} MB: stall of {longest * 1000:.0f} ms: {error}")
    assert isinstance(error, errors.TooLarge) and "are allowed in one request" in error.message
    assert longest < 1.0


@pytest.mark.parametrize("made", MODEST.values(), ids=MODEST)
def test_json_of_few_values_is_read_however_it_looks(made: Callable[[], bytes]) -> None:
    body = made()
    orjson.loads(body)
    longest, error = asyncio.run(seconds_of_longest_stall(refuse_costly(body)))
    assert error is None and longest < 1.0


def test_only_what_stands_outside_texts_counts() -> None:
    """Compared with a parser: texts of all characters that could confuse the scanner, cut into pieces at every
    position."""
    dice = random.Random(7)

    def value(depth: int) -> Any:
        kind = dice.randrange(5 if depth else 3)
        if kind < 3:
            return "".join(dice.choices('ab"\\[]{},:\n\u00e4', k=dice.randrange(40)))
        if kind == 3:
            return [value(depth - 1) for _ in range(dice.randrange(6))]
        return {"".join(dice.choices('"\\:,{[', k=8)) + str(n): value(depth - 1) for n in range(dice.randrange(6))}

    def signs(found: Any) -> Signs:
        if isinstance(found, str):
            return Signs()
        parts = list(map(signs, found.values() if isinstance(found, dict) else found))
        own = Signs(max(0, len(found) - 1), len(found) if isinstance(found, dict) else 0, 1)
        return Signs(*map(sum, zip(own, *parts, strict=True)))

    for _ in range(200):
        made = [value(5) for _ in range(4)]
        for body in (json.dumps(made, separators=(",", ":")).encode(), orjson.dumps(made)):
            for piece in (1, 2, 3, 7, 1000):
                assert signs_outside_texts(body, piece) == signs(made), body


# ----------------------------------------------------------------------------------------------------- how large, where


def test_a_route_that_says_nothing_takes_little() -> None:
    limits = BodyLimits()
    limits.set("/v1/embeddings", 100)
    assert (limits.of("/v1/embeddings"), limits.of("/v1/anything")) == (100, CONTROL_BYTES)


@pytest.mark.parametrize("charset", ["punycode", "idna", "utf-7", '"unicode_escape"'])
def test_a_form_is_not_read_in_a_charset_that_takes_for_ever(charset: str) -> None:
    async def test() -> None:
        house = House()

        @house.app.post("/form")
        async def form(request: Request) -> Json:
            async with form_of(request, 1, 1, 10**6) as read:
                return Json(len(read))

        async with house.open() as client:
            kind = f"multipart/form-data; boundary=x; charset={charset}"
            body = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"ab-" * 60_000 + b"\r\n--x--\r\n"
            refused = await client.post("/form", content=body, headers={"content-type": kind})
            assert refused.status_code == 422 and "read as UTF-8" in refused.json()["detail"]
            kind = "multipart/form-data; boundary=x; charset=UTF-8"
            assert (await client.post("/form", content=body, headers={"content-type": kind})).json() == 1

    run(test())


# ----------------------------------------------------------------------------------------------------- all together


@contextlib.asynccontextmanager
async def half_sent(house: House, count: int, announced: int, sent: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Sends that many bodies and stops in the middle of each."""
    head = b"POST /work HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % announced
    readers, writers = [], []
    for _ in range(count):
        reader, writer = await asyncio.open_connection(house.settings.host, house.settings.port)
        writer.write(head + b"x" * sent)
        readers.append(reader)
        writers.append(writer)
    try:
        yield readers
    finally:
        for writer in writers:
            writer.transport.abort()


async def status_of(reader: asyncio.StreamReader) -> int:
    return int((await asyncio.wait_for(reader.readline(), 5)).split()[1])


def test_half_sent_bodies_keep_out_nobody() -> None:
    async def test() -> None:
        house = House(most=1000)
        failed = 0
        async with house.open() as client, half_sent(house, 1200, 100, 50) as readers:
            answers = await asyncio.gather(*(client.post("/late", content=b"x" * 1000) for _ in range(20)))
            failed += sum(answer.status_code != 200 for answer in answers)
            # The slowest were dropped to make room, and were told why by an answer that closes their connection.
            done, _ = await asyncio.wait([asyncio.create_task(status_of(reader)) for reader in readers], timeout=0.5)
            closed = [task.result() for task in done]
            print(f"{failed} of 20 failed; {len(closed)} of 1200 half-sent bodies were closed")
            assert not failed and set(closed) == {503} and 200 <= len(closed) < 400

    run(test())


def test_bodies_hold_no_more_than_they_may_and_the_slowest_make_way() -> None:
    async def test() -> None:
        house = House(most=1000, bodies_bytes=2_000_000)
        failed = 0
        async with house.open() as client, half_sent(house, 20, 300_000, 290_000) as readers:
            await asyncio.sleep(0.4)
            held = house.bodies.bytes
            for _ in range(5):
                answer = await client.post("/late", content=b"x" * 250_000)
                failed += answer.status_code != 200
            done, _ = await asyncio.wait([asyncio.create_task(status_of(reader)) for reader in readers], timeout=0.5)
            print(f"{held} bytes held, {failed} of 5 failed, {len(done)} of 20 closed")
            assert held <= 2_000_000 + 100_000 and not failed
            assert {task.result() for task in done} == {503} and len(done) >= 13
        assert house.bodies.bytes == 0 and not house.bodies.unfinished

    run(test())


def test_a_small_request_passes_when_there_is_no_room() -> None:
    async def test() -> None:
        house = House(most=1000, bodies_bytes=600_000)
        async with house.open() as client:
            working = [asyncio.create_task(client.post("/work", json={"text": "x" * 290_000})) for _ in range(2)]
            async with asyncio.timeout(5):
                while house.bodies.bytes < 580_000 or house.bodies.unfinished:
                    await asyncio.sleep(0.01)
            refused = await client.post("/late", content=b"x" * 200_000)
            assert refused.status_code == 503 and "bodies of 580024 bytes already" in refused.json()["detail"]
            assert refused.headers["retry-after"] == "1"
            assert (await client.post("/late", content=b"x" * 30_000)).status_code == 200
            for work in working:
                work.cancel()

    run(test())


def test_a_large_body_that_is_refused_as_json_disturbs_nobody() -> None:
    async def test() -> None:
        house = House(most=1000, max_body_bytes=50_000_000)

        @house.app.post("/json")
        async def read(request: Request) -> Json:
            return Json(len(await json_body(request)))

        house.limits.set("/json", 50_000_000)
        async with house.open() as client:
            worst = 0.0

            async def others() -> None:
                nonlocal worst
                while True:
                    began = time.perf_counter()
                    assert (await client.get("/health")).status_code == 200
                    worst = max(worst, time.perf_counter() - began)

            beside = asyncio.create_task(others())
            refused = await client.post("/json", content=inside(b"[[[[[]]]]]", 1_500_000))
            print(f"others waited {worst * 1000:.0f} ms at most")
            assert refused.status_code == 413 and worst < 1.0
            beside.cancel()

    run(test())


# ------------------------------------------------------------------------------------------------------- connections


class Held(NamedTuple):
    address: str
    heard: float
    is_idle: bool = True


def test_where_there_are_too_many_connections_the_longest_silent_of_the_busiest_address_go() -> None:
    many = [Held("a", float(number)) for number in range(40)]
    others = [Held("b", -1.0), Held("c", -2.0, is_idle=False)]
    assert superfluous([*many, *others], 42) == []
    assert superfluous([*many, *others], 41) == many[:2]
    assert superfluous([Held("c", 0.0, is_idle=False)] * 9 + others[:1], 9) == others[:1]


def test_one_address_that_opens_connections_without_end_keeps_out_nobody() -> None:
    async def test() -> None:
        house = House()
        async with house.open() as client:
            house.server.server_state.most_connections = 100
            assert (await client.get("/health")).status_code == 200
            opened = [await asyncio.open_connection(house.settings.host, house.settings.port) for _ in range(500)]
            async with httpx.AsyncClient(base_url=house.settings.url) as other:
                assert (await other.get("/health")).status_code == 200
            assert len(house.server.server_state.connections) <= 110
            for _, writer in opened:
                writer.transport.abort()

    run(test())


def test_an_answer_that_nobody_reads_is_not_held_for_ever() -> None:
    async def test() -> None:
        house = House()

        @house.app.get("/much")
        async def much() -> Response:
            return Response(b"x" * 50_000_000)

        async with house.open():
            reader, writer = await asyncio.open_connection(house.settings.host, house.settings.port)
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /much HTTP/1.1\r\nhost: x\r\n\r\n")
            (connection,) = [one for one in house.server.server_state.connections]
            async with asyncio.timeout(5):
                while not connection.flow.write_paused:
                    await asyncio.sleep(0.01)
            now = asyncio.get_running_loop().time()
            house.server.close_late(now)
            house.server.close_late(now + BODY_PAUSE_S - 1)
            assert house.server.server_state.connections
            house.server.close_late(now + BODY_PAUSE_S + 1)
            async with asyncio.timeout(5):
                while house.server.server_state.connections:
                    await asyncio.sleep(0.01)
            writer.transport.abort()

    run(test())


def test_a_body_that_drips_is_not_waited_for() -> None:
    async def test() -> None:
        house = House()
        async with house.open():
            _, writer = await asyncio.open_connection(house.settings.host, house.settings.port)
            writer.write(b"POST /work HTTP/1.1\r\nhost: x\r\ncontent-length: 250000\r\n\r\n")
            async with asyncio.timeout(5):
                while not house.bodies.unfinished:
                    await asyncio.sleep(0.01)
            (connection,) = house.server.server_state.connections
            now = asyncio.get_running_loop().time()
            connection.heard = now + 2 * BODY_PAUSE_S
            assert not connection.is_late(now + BODY_PAUSE_S - 1) and connection.is_late(now + BODY_PAUSE_S + 1)
            # One second is allowed for each thousand bytes that arrive.
            connection._body_bytes = 30_000
            assert not connection.is_late(now + BODY_PAUSE_S + 29) and connection.is_late(now + BODY_PAUSE_S + 31)
            writer.transport.abort()

    run(test())


# ---------------------------------------------------------------------------------------------- once they are parsed


WIDE: dict[str, Callable[[], Any]] = {
    "a list held against a schema": lambda: checked(Declared, {"models": [1] * 300_000}),
    "objects held against a schema": lambda: checked(Declared, {"models": [{}] * 45_000}),
    "unknown fields": lambda: checked(OcrFields, {f"x{number}": 1 for number in range(90_000)}),
    "a text of many values": lambda: of_fields({"languages": "xx," * 1_000_000}),
    "JSON within a text": lambda: object_of("[" + "[]," * 1_000_000 + "1]", "kwargs"),
    "a size that is none": lambda: size_of("1" * 20_000_000),
}


@pytest.mark.parametrize("call", WIDE.values(), ids=WIDE)
def test_many_values_are_refused_before_each_becomes_an_error_of_its_own(call: Callable[[], Any]) -> None:
    began = time.perf_counter()
    with pytest.raises((errors.TooLarge, errors.BadRequest)) as raised:
        call()
    seconds = time.perf_counter() - began
    print(f"{seconds * 1000:.0f} ms: {raised.value.message}")
    assert seconds < 1.0 and len(raised.value.message) < 200


def test_base64_is_read_in_pieces_as_it_is_in_one() -> None:
    for size in (1, 2, 3, PIECE, 2 * PIECE + 1):
        data = random.Random(size).randbytes(size)
        assert decoded(base64.b64encode(data).decode(), "image", 10**8, "it") == data
    joined = base64.b64encode(bytes(PIECE * 3 // 4 - 1)).decode() + "AAAA"
    for wrong in ("A", "AA=A", "é" * 8, joined):
        with pytest.raises(errors.InvalidBody, match="it must be a data URI"):
            decoded(wrong, "image", 10**8, "it")
