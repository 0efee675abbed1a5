"""Errors of the gateway itself have the shape of those that a cell answers at the same path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import Response
from fastapi.routing import APIRoute

from cluster import errors
from deployments.gateway.error_paths import shape_of
from deployments.ingress.dialects import Services, dialects
from deployments.ingress.error_shapes import tei_error
from deployments.ingress.errors import error_response
from tests.attacks.standing_in import StandIn, opened, run, settings
from tests.deployments.gateway.stub_cells import StubCell, before, in_a_loop


def test_the_shape_of_every_path_is_that_of_its_dialect(tmp_path: Path) -> None:
    shapes: dict[str, Callable[[errors.ClusterError], Response]] = {}

    async def scene() -> None:
        own = settings(tmp_path)
        async with opened(own, StandIn()) as app:
            services = Services.of(app.state.serving.dispatcher, own)
            for row in dialects():
                routes = [route for route in row.router(services).routes if isinstance(route, APIRoute)]
                shapes.update((route.path.replace("{uid:path}", "m"), row.error_response) for route in routes)

    run(scene())
    assert sum(shape is not error_response for shape in shapes.values()) > 20
    assert {path: shape_of(path).__name__ for path in shapes} == {
        path: shape.__name__ for path, shape in shapes.items()
    }
    assert shape_of("/v1/models/m") is error_response


def test_a_path_of_two_dialects_is_answered_in_the_one_that_was_spoken() -> None:
    assert shape_of("/rerank", b'{"query":"q","texts":["a"]}') is tei_error
    assert shape_of("/rerank", b'{"query":"texts","documents":["a \\"texts\\""]}') is error_response


@in_a_loop
async def test_without_any_cell_each_client_reads_what_is_wrong() -> None:
    cell = StubCell("a", "m")
    async with before(cell, hold_s=0.1) as gateway:
        await cell.die()
        await gateway.until(lambda: not gateway.gateway.table.live)
        said = "No cell that could answer this can be reached at the moment; try again."

        async def refusal(path: str, body: object) -> object:
            answer = await gateway.http.post(path, json=body)
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1", answer.text
            return answer.json()

        named = {"model": "m", "input": "x"}
        usual = await refusal("/v1/embeddings", named)
        assert isinstance(usual, dict) and usual["error"]["message"] == usual["detail"] == said
        anthropic = {"type": "error", "error": {"type": "overloaded_error", "message": said}}
        assert await refusal("/v1/messages", {"model": "m", "max_tokens": 5, "messages": []}) == anthropic
        ollama = {"error": said, "code": "unavailable", "param": None}
        assert await refusal("/api/chat", {"model": "m", "messages": []}) == ollama
        tei = {"error": said, "error_type": "Unhealthy", "code": "unavailable", "param": None}
        assert await refusal("/embed", {"inputs": "x"}) == tei
        assert await refusal("/rerank", {"query": "q", "texts": ["x"]}) == tei
        mistral = await refusal("/v1/ocr", {"model": "m", "document": {}})
        assert isinstance(mistral, dict) and (mistral["object"], mistral["message"]) == ("error", said)


@in_a_loop
async def test_a_cell_that_is_not_there_is_said_in_the_words_of_the_path() -> None:
    async with before(StubCell("a", "m")) as gateway:
        answer = await gateway.http.post("/api/chat", json={"model": "m"}, headers={"x-cell": "b"})
        assert answer.status_code == 400
        assert answer.json()["error"] == "No cell is called 'b': there are a."
