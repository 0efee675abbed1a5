"""A gateway on a real port before cells on real ports."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from cluster.keys import CALLER_PATTERN
from deployments.gateway.headers import with_key
from deployments.ingress.auth import CALLER_HEADER
from deployments.ingress.bodies import Json
from tests.deployments.gateway.stub_cells import PATIENCE_S, Served, StubCell, before, in_a_loop

#: The ways to stop a request, and what a cell says that has none of that id.
ABORTS = (
    ("DELETE", "/v1/requests/mine", Json({"detail": "No model works on it."}, 404)),
    ("POST", "/v1/models/m/requests/mine/abort", Json({"msg": "NOT_FOUND"})),
)


@in_a_loop
async def test_a_request_goes_to_a_cell_that_has_the_model() -> None:
    async with before(StubCell("a", "one"), StubCell("b", "two")) as gateway:
        for model, cell in (("one", "a"), ("two", "b"), ("TWO", "b")):
            answer = await gateway.infer(model)
            assert answer.status_code == 200 and answer.json()["of"] == cell
            assert answer.headers["x-cell"] == cell


@in_a_loop
async def test_models_are_found_by_every_name_that_their_cell_takes_for_them() -> None:
    second = StubCell("b", "two")
    second.names = {"two": [("alias", 1, None), ("org/two", 3, None)]}
    async with before(StubCell("a", "one"), second) as gateway:
        assert (await gateway.infer("Alias")).json()["of"] == "b"
        assert (await gateway.infer("org/two")).json()["of"] == "b"
        form = await gateway.http.post("/v1/images/edits", data={"model": "alias"}, files={"image": b"model"})
        assert form.json()["of"] == "b"
        assert (await gateway.http.post("/embed?model=alias", json={"inputs": "x"})).json()["of"] == "b"
        assert (await gateway.http.put("/ocr/org/two/process", content=b"pdf")).json()["of"] == "b"
        assert (await gateway.http.get("/v1/models/org/two/status")).json()["of"] == "b"


@in_a_loop
async def test_requests_are_spread_by_what_is_in_flight() -> None:
    cells = [StubCell(name, "m") for name in "abc"]
    async with before(*cells) as gateway:
        for cell in cells:
            cell.let.clear()
        waiting = [asyncio.ensure_future(gateway.infer("m")) for _ in range(6)]
        await gateway.until(lambda: sum(len(cell.requests) for cell in cells) == 6)
        assert [len(cell.requests) for cell in cells] == [2, 2, 2]
        for cell in cells:
            cell.let.set()
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 6


@in_a_loop
async def test_bytes_headers_and_the_id_pass_and_what_is_of_one_connection_does_not() -> None:
    cell = StubCell("a", "m")
    async with before(cell) as gateway:
        headers = {"x-request-id": "mine", "x-more": "1", "connection": "x-mine", "x-mine": "2", "te": "trailers"}
        body = b'{ "model" : "m", "items": [1.50] }'
        answer = await gateway.http.post("/v1/infer?a=%2F&b", content=body, headers=headers)
        request, came = cell.requests[0]
        assert came == body
        assert request.scope["query_string"] == b"a=%2F&b"
        assert request.headers["host"] == f"127.0.0.1:{cell.settings.port}"
        assert (request.headers["x-request-id"], request.headers["x-more"]) == ("mine", "1")
        assert not {"te", "x-mine"} & set(request.headers)
        assert answer.headers.get_list("x-request-id") == ["mine"]
        assert answer.headers["x-own"] == "kept" and "x-hop" not in answer.headers
        assert len(answer.headers.get_list("date")) == 1


@in_a_loop
async def test_events_pass_as_they_come() -> None:
    cell = StubCell("a", "m")
    async with before(cell) as gateway, gateway.http.stream("POST", "/v1/stream", json={"model": "m"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        pieces = answer.aiter_bytes()
        for number in range(3):
            # The next is only sent when this one has been read.
            assert await asyncio.wait_for(anext(pieces), PATIENCE_S) == b"data: %d\n\n" % number
            cell.piece.set()
        assert [piece async for piece in pieces] == []


@in_a_loop
async def test_a_caller_who_leaves_is_told_to_the_cell() -> None:
    cell = StubCell("a", "m")
    async with before(cell) as gateway:
        async with gateway.http.stream("POST", "/v1/stream", json={"model": "m"}) as answer:
            await anext(answer.aiter_bytes())
        await asyncio.wait_for(cell.dropped.wait(), PATIENCE_S)


@in_a_loop
async def test_what_a_dead_cell_had_not_begun_to_answer_is_answered_elsewhere() -> None:
    first, second = StubCell("a", "m"), StubCell("b", "m")
    first.let.clear()
    second.let.clear()
    async with before(first, second) as gateway:
        waiting = [asyncio.ensure_future(gateway.infer("m")) for _ in range(8)]
        await gateway.until(lambda: len(first.requests) == len(second.requests) == 4)
        await first.die()
        second.let.set()
        answers = await asyncio.gather(*waiting)
        assert [(answer.status_code, answer.json()["of"]) for answer in answers] == [(200, "b")] * 8
        await gateway.until(lambda: gateway.gateway.table.live == {"b"})
        # It is asked again as soon as it is back.
        first.let.set()
        await first.start()
        await gateway.until(lambda: gateway.gateway.table.live == {"a", "b"})
        assert {(await gateway.infer("m")).json()["of"] for _ in range(4)} == {"a", "b"}


@in_a_loop
async def test_an_answer_that_its_cell_cannot_finish_ends_unfinished() -> None:
    first, second = StubCell("a", "m"), StubCell("b", "other")
    async with before(first, second) as gateway:
        with pytest.raises(httpx.RemoteProtocolError):
            async with gateway.http.stream("POST", "/v1/stream", json={"model": "m"}) as answer:
                async for _ in answer.aiter_bytes():
                    await first.die()


@in_a_loop
async def test_a_cell_that_is_full_or_has_lost_its_worker_lets_another_answer() -> None:
    first, second = StubCell("a", "m"), StubCell("b", "m")
    async with before(first, second) as gateway:
        for status in (429, 503):
            first.refusal = Json({"of": "a"}, status)
            answers = [await gateway.infer("m") for _ in range(4)]
            assert [(answer.status_code, answer.json()["of"]) for answer in answers] == [(200, "b")] * 4
        second.refusal = Json({"of": "b"}, 429, {"Retry-After": "7"})
        first.refusal = Json({"of": "a"}, 429, {"Retry-After": "7"})
        refused = await gateway.infer("m")
        assert refused.status_code == 429 and refused.headers["retry-after"] == "7"
        # What the caller did wrong is no other elsewhere.
        first.refusal = second.refusal = Json({"detail": "wrong"}, 400)
        before_it = len(first.requests) + len(second.requests)
        assert (await gateway.infer("m")).status_code == 400
        assert len(first.requests) + len(second.requests) == before_it + 1


@in_a_loop
async def test_a_request_waits_for_a_cell_and_then_is_told() -> None:
    cell = StubCell("a", "m")
    async with before(cell, hold_s=0.2) as gateway:
        await cell.die()
        await gateway.until(lambda: not gateway.gateway.table.live)
        refused = await gateway.infer("m")
        assert refused.status_code == 503 and "try again" in refused.json()["detail"]
        assert (await gateway.http.get("/ready")).status_code == 503
        assert (await gateway.http.get("/health")).status_code == 200
        assert (await gateway.http.get("/v1/models")).status_code == 503
        gateway.gateway._forwarder._hold_s = PATIENCE_S
        waiting = asyncio.ensure_future(gateway.infer("m"))
        await cell.start()
        assert (await waiting).status_code == 200


@in_a_loop
async def test_models_that_come_and_go_are_followed() -> None:
    first, second = StubCell("a", "m"), StubCell("b")
    async with before(first, second) as gateway:
        second.set_models(m=1)
        first.set_models()
        await gateway.until(lambda: gateway.gateway.table.having("m") == ["b"])
        assert (await gateway.infer("m")).json()["of"] == "b"
        # Launched there, but not READY: the cell that serves it is asked.
        first.set_models(m=0)
        await gateway.until(lambda: gateway.gateway.table.having("m") == ["b", "a"])
        assert {(await gateway.infer("m")).json()["of"] for _ in range(3)} == {"b"}


@in_a_loop
async def test_lists_are_put_together_and_say_whose_each_row_is() -> None:
    async with before(StubCell("a", "m", "one"), StubCell("b", "m")) as gateway:
        rows = (await gateway.http.get("/v1/models")).json()["data"]
        assert rows == [{"id": "m", "cells": ["a", "b"]}, {"id": "one", "cells": ["a"]}]
        nodes = (await gateway.http.get("/v1/cluster/info")).json()
        assert [row["cell"] for row in nodes] == ["a", "b"]
        only = await gateway.http.get("/v1/models", headers={"X-Cell": "b"})
        assert only.json()["data"] == [{"id": "m"}]
        cells = (await gateway.http.get("/v1/cluster/cells")).json()
        assert [(row["cell"], row["live"], row["serving"]) for row in cells] == [("a", True, 2), ("b", True, 1)]


@in_a_loop
async def test_a_list_says_which_cells_are_missing() -> None:
    first, second = StubCell("a", "m"), StubCell("b", "m")
    async with before(first, second) as gateway:
        await first.die()
        await gateway.until(lambda: gateway.gateway.table.live == {"b"})
        answer = await gateway.http.get("/v1/models")
        assert answer.headers["x-cells-left-out"] == "a" and len(answer.json()["data"]) == 1


@in_a_loop
async def test_a_launch_goes_to_the_cell_with_most_room_or_to_the_one_that_was_named() -> None:
    first, second = StubCell("a"), StubCell("b", "there")
    first.free_bytes = 20
    async with before(first, second) as gateway:

        async def launched(body: dict[str, str], **headers: str) -> str:
            answer = await gateway.http.post("/v1/models", json=body, headers=headers)
            return str(answer.headers["x-cell"])

        assert await launched({"model_name": "m"}) == "a"
        assert await launched({"model_name": "m"}, **{"X-Cell": "b"}) == "b"
        assert await launched({"model_name": "m", "model_uid": "there"}) == "b"
        first.refusal = Json({"error": {"code": "does_not_fit"}}, 503)
        assert await launched({"model_name": "m"}) == "b"
        unknown = await gateway.http.post("/v1/models", json={}, headers={"X-Cell": "c"})
        assert unknown.status_code == 400 and "there are a, b" in unknown.json()["detail"]


@in_a_loop
async def test_a_change_must_say_which_cell_is_meant_where_there_are_several() -> None:
    first, second = StubCell("a", "both", "one"), StubCell("b", "both")
    async with before(first, second) as gateway:
        unclear = await gateway.http.delete("/v1/models/both")
        assert unclear.status_code == 400 and "2 cells: say which is meant, of a, b" in unclear.json()["detail"]
        assert (await gateway.http.post("/v1/keys", json={})).status_code == 400
        assert not first.requests and not second.requests
        assert (await gateway.http.delete("/v1/models/one")).headers["x-cell"] == "a"
        assert (await gateway.http.delete("/v1/models/both", headers={"X-Cell": "b"})).headers["x-cell"] == "b"


@in_a_loop
async def test_what_has_an_id_is_looked_for_in_every_cell() -> None:
    async with before(StubCell("a"), StubCell("b"), StubCell("c")) as gateway:
        for cell in "abc":
            assert (await gateway.http.get(f"/v1/images/jobs/{cell}-1")).json()["of"] == cell
        assert (await gateway.http.get("/v1/images/jobs/none")).status_code == 404


@in_a_loop
async def test_a_request_is_stopped_in_whichever_cell_has_it() -> None:
    first, second = StubCell("a", "m"), StubCell("b", "m")
    first.refusal, second.refusal = Json({"msg": "NOT_FOUND"}), Json({"msg": "DONE"})
    async with before(first, second) as gateway:
        await gateway.until(lambda: len(gateway.gateway.table.live) == 2)
        answer = await gateway.http.post("/v1/models/m/requests/1/abort", json={})
        assert answer.json() == {"msg": "DONE"} and answer.headers["x-cell"] == "b"
        assert len(first.requests) == 1


@in_a_loop
async def test_a_request_is_stopped_in_whichever_cell_it_is() -> None:
    first, second = StubCell("a", "m"), StubCell("b", "m")
    absent, stopped = Json({"detail": "No model works on it."}, 404), Json({"stopped": 1})
    async with before(first, second) as gateway:
        await gateway.until(lambda: len(gateway.gateway.table.live) == 2)
        for one, other, having in ((absent, stopped, "b"), (stopped, absent, "a")):
            first.refusal, second.refusal = one, other
            answer = await gateway.http.delete("/v1/requests/mine?model=m")
            assert (answer.status_code, answer.headers["x-cell"]) == (200, having)
        first.refusal = second.refusal = absent
        assert (await gateway.http.delete("/v1/requests/mine?model=m")).status_code == 404
        only = await gateway.http.delete("/v1/requests/mine", headers={"X-Cell": "a"})
        assert only.status_code == 404 and (len(first.requests), len(second.requests)) == (4, 3)


@in_a_loop
async def test_no_cell_speaks_for_one_that_could_not_stop_a_request() -> None:
    """Neither where it says so by its status, nor in Xinference's words."""
    first, second = StubCell("a", "m"), StubCell("b", "m")
    broken, done = Json({"detail": "The supervisor does not answer."}, 503), Json({"msg": "DONE"})
    async with before(first, second) as gateway:
        await gateway.until(lambda: len(gateway.gateway.table.live) == 2)
        for method, path, absent in ABORTS:
            for one, other, status, telling in (
                (absent, broken, 503, "b"),
                (broken, absent, 503, "a"),
                (broken, done, 200, "b"),
            ):
                first.refusal, second.refusal = one, other
                answer = await gateway.http.request(method, path)
                assert (answer.status_code, answer.headers["x-cell"]) == (status, telling)


@pytest.mark.parametrize(("method", "path", "absent"), ABORTS)
def test_a_request_that_may_be_in_a_cell_that_went_away_is_not_said_to_be_nowhere(
    method: str, path: str, absent: Json
) -> None:
    async def answered(elsewhere: Json) -> httpx.Response:
        first, second = StubCell("a", "m"), StubCell("b", "m")
        second.refusal = elsewhere
        first.let.clear()
        async with before(first, second) as gateway:
            await gateway.until(lambda: len(gateway.gateway.table.live) == 2)
            stopping = asyncio.ensure_future(gateway.http.request(method, path))
            await asyncio.wait_for(first.entered.wait(), PATIENCE_S)
            await first.die()
            return await stopping

    unknown = asyncio.run(answered(absent))
    assert unknown.status_code == 503 and "Cell a went away" in unknown.json()["detail"]
    assert asyncio.run(answered(Json({"stopped": 1}))).headers["x-cell"] == "b"


@in_a_loop
async def test_a_change_that_may_have_been_made_is_not_made_again() -> None:
    first, second = StubCell("a", "m"), StubCell("b")
    first.let.clear()
    async with before(first, second) as gateway:
        waiting = asyncio.ensure_future(gateway.http.delete("/v1/models/m"))
        await asyncio.wait_for(first.entered.wait(), PATIENCE_S)
        await first.die()
        answer = await waiting
        assert answer.status_code == 503 and "see whether it has done" in answer.json()["detail"]
        assert not second.requests


@in_a_loop
async def test_a_cell_that_hangs_is_left_out_and_what_waits_there_goes_elsewhere() -> None:
    first, second = StubCell("a", "m"), StubCell("b", "m")
    async with before(first, second) as gateway:
        first.let.clear()
        waiting = [asyncio.ensure_future(gateway.infer("m")) for _ in range(2)]
        await asyncio.wait_for(first.entered.wait(), PATIENCE_S)
        gateway.gateway.cells["a"]._leave_out("it hangs")
        assert [answer.json()["of"] for answer in await asyncio.gather(*waiting)] == ["b", "b"]


# ---- keys and strangers


@in_a_loop
async def test_a_callers_key_goes_on_where_the_gateway_has_none() -> None:
    cell = StubCell("a", "m", key="gateways")
    async with before(cell) as gateway:
        await gateway.http.post("/v1/infer", json={"model": "m"}, headers={"Authorization": "Bearer callers"})
        assert cell.requests[0][0].headers["authorization"] == "Bearer callers"
        await gateway.infer("m")
        assert "authorization" not in cell.requests[1][0].headers
        # Whoever may not list the models of a cell learns nothing of the cells.
        assert (await gateway.http.get("/v1/cluster/cells")).status_code == 401
        assert (await gateway.http.get("/metrics")).status_code == 401


@in_a_loop
async def test_with_keys_of_its_own_a_gateway_uses_its_key_for_the_cell() -> None:
    cell = StubCell("a", "m", key="gateways")
    async with before(cell, callers_keys=("first", "second")) as gateway:
        refused = await gateway.infer("m")
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        assert (await gateway.http.get("/v1/models", headers={"api-key": "third"})).status_code == 401
        for headers in ({"Authorization": "Bearer first"}, {"x-api-key": "second"}):
            answer = await gateway.http.post("/v1/infer", json={"model": "m"}, headers=headers)
            assert answer.status_code == 200
        for request, _ in cell.requests:
            assert request.headers["authorization"] == "Bearer gateways" and "x-api-key" not in request.headers
        assert len(cell.requests) == 2
        assert (await gateway.http.get("/metrics", headers={"x-api-key": "first"})).status_code == 200


async def caller_told(gateway: Served, cell: StubCell, key: str, **headers: str) -> str | None:
    """What a cell is told of who asks with that key."""
    headers["Authorization"] = f"Bearer {key}"
    answer = await gateway.http.post("/v1/infer", json={"model": f"of-{cell.name}"}, headers=headers)
    assert answer.status_code == 200
    return cell.requests[-1][0].headers.get(CALLER_HEADER)


@in_a_loop
async def test_a_cell_is_told_which_of_its_callers_it_is_that_a_gateway_asks_for() -> None:
    first, second = StubCell("a", "of-a", key="gateways"), StubCell("b", "of-b")
    async with before(first, second, callers_keys=("ann", "ben")) as gateway:
        ann, ben = await caller_told(gateway, first, "ann"), await caller_told(gateway, first, "ben")
        assert ann and ben and ann != ben and CALLER_PATTERN.fullmatch(ann)
        # Nobody says that he is somebody else.
        assert await caller_told(gateway, first, "ben", **{CALLER_HEADER: ann}) == ben
        elsewhere = {await caller_told(gateway, second, key) for key in ("ann", "ben")}
        assert len({ann, ben} | elsewhere) == 4
        # Another gateway with this key calls her the same.
        assert (CALLER_HEADER.encode(), ann.encode()) in with_key([(b"x-api-key", b"ann")], "gateways")


@in_a_loop
async def test_without_keys_of_its_own_a_gateway_says_nothing_of_callers() -> None:
    cell = StubCell("a", "of-a")
    async with before(cell) as gateway:
        assert await caller_told(gateway, cell, "own", **{CALLER_HEADER: "a" * 16}) is None


@in_a_loop
async def test_beyond_this_machine_a_cell_without_keys_is_left_out() -> None:
    opened, locked = StubCell("a", "m"), StubCell("b", "m", key="k")
    async with before(opened, locked, auth="on") as gateway:
        assert gateway.gateway.table.live == {"b"}
        assert "it asks nobody for keys" in gateway.gateway.cells["a"].reason
    async with before(StubCell("c", "m"), auth="on", callers_keys=("own",)) as gateway:
        assert gateway.gateway.table.live == {"c"}


@in_a_loop
async def test_pages_of_strangers_and_wrong_names_are_refused() -> None:
    cell = StubCell("a", "m")
    async with before(cell, allowed_origins="http://page.example") as gateway:

        async def asked(**headers: str) -> httpx.Response:
            return await gateway.http.post("/v1/infer", json={"model": "m"}, headers=headers)

        assert (await asked(Host="evil.example")).status_code == 403
        assert (await asked(Origin="http://evil.example")).status_code == 403
        assert not cell.requests
        answer = await asked(Origin="http://page.example")
        assert answer.headers["access-control-allow-origin"] == "http://page.example"
        assert "origin" not in cell.requests[0][0].headers


@in_a_loop
async def test_bodies_are_bounded_and_large_ones_pass() -> None:
    cell = StubCell("a", "m")
    async with before(cell, max_body_bytes=1_000_000) as gateway:
        body = json.dumps({"items": ["x" * 900_000], "model": "m"}).encode()
        answer = await gateway.http.post("/v1/infer", content=body)
        assert answer.json()["size"] == len(body)
        refused = await gateway.http.post("/v1/infer", content=b"x" * 1_000_001)
        assert refused.status_code == 413 and len(cell.requests) == 1


@in_a_loop
async def test_the_page_is_told_which_cell_it_sees_and_chooses_another() -> None:
    first, second, away = StubCell("a", "m"), StubCell("b", "m", "n"), StubCell("c")
    async with before(first, second, away) as gateway:
        await away.die()
        await gateway.until(lambda: "c" not in gateway.gateway.table.live)

        async def beginning(query: str, **headers: str) -> bytes:
            """What comes before the first event of the cell, and that one."""
            received = b""
            async with gateway.http.stream("GET", f"/v1/changes{query}", headers=headers) as answer:
                assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
                async for piece in answer.aiter_bytes():
                    received += piece
                    if received.count(b"\n\n") == 2:
                        break
            return received

        told = b'event: cells\ndata: {"cell":"%s","cells":["a","b","c"],"left_out":["c"]}\n\ndata: 0\n\n'
        for _ in range(3):
            assert await beginning("", **{"last-event-id": "7"}) == told % b"a", "the same whenever it comes again"
        assert "last-event-id" not in first.requests[-1][0].headers, "it could be that of another cell"
        assert await beginning("?cell=b", **{"last-event-id": "7"}) == told % b"b"
        assert second.requests[-1][0].headers["last-event-id"] == "7"
        await first.die()
        await gateway.until(lambda: "a" not in gateway.gateway.table.live)
        assert b'"cell":"b"' in await beginning("")
        wrong = await gateway.http.get("/v1/changes?cell=x")
        assert wrong.status_code == 400 and "No cell is called" in wrong.json()["detail"]
