from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from openapi_spec_validator import validate
from starlette.routing import BaseRoute

from cluster.keys import new_key
from deployments.gateway.meaning import MODELS, model_in_path
from deployments.ingress.bodies import Json
from deployments.ingress.control.keys import NewKey
from deployments.ingress.openapi import described, description_of, document
from tests.attacks.standing_in import StandIn, asked, run, settings

#: Calls without a body, with methods that usually have one.
BODILESS = {
    ("/v1/models/{uid:path}/cancel", "post"),
    ("/v1/models/{uid:path}/doze", "post"),
    ("/v1/models/{uid:path}/sleep", "post"),
    ("/v1/models/{uid:path}/wake", "post"),
    ("/sdapi/v1/interrupt", "post"),
    ("/sdapi/v1/refresh-checkpoints", "post"),
    # Their body is a file.
    ("/process", "put"),
    ("/ocr/{model:path}/process", "put"),
}


def undescribed(routes: Sequence[BaseRoute]) -> list[str]:
    """The operations that the document does not describe."""
    missing = []
    for route in routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            note = description_of(route)
            methods = {method.lower() for method in route.methods or ()}
            is_bodiless = methods.isdisjoint({"post", "put", "patch"}) or (route.path, *methods) in BODILESS
            if note is None or not note.summary or not route.tags:
                missing.append(route.path)
            elif (note.body is ...) != is_bodiless or (note.answer is ... and not note.media_types):
                missing.append(route.path)
    return missing


@pytest.fixture(scope="module")
def whole(app_routes: list[BaseRoute]) -> dict[str, Any]:
    return document(app_routes, asks_for_keys=True)


def test_every_operation_is_described(app_routes: list[BaseRoute]) -> None:
    assert len([route for route in app_routes if isinstance(route, APIRoute)]) > 80
    assert undescribed(app_routes) == []


def test_an_operation_that_is_not_described_is_noticed() -> None:
    routes = APIRouter(tags=["toys"])

    @routes.post("/bare")
    async def bare() -> Json:
        return Json(None)

    @routes.post("/without-a-body")
    @described("Answers something", int)
    async def without_a_body() -> Json:
        return Json(1)

    @routes.post("/whole")
    @described("Takes and answers something", int, body=NewKey)
    async def whole() -> Json:
        return Json(1)

    assert undescribed(routes.routes) == ["/bare", "/without-a-body"]


def test_a_gateway_knows_which_model_each_route_about_a_model_names(app_routes: list[BaseRoute]) -> None:
    paths = [route.path for route in app_routes if isinstance(route, APIRoute)]
    about = [path for path in paths if path.startswith(f"{MODELS}{{uid:path}}")]
    assert len(about) > 12
    assert {model_in_path(re.sub(r"\{[^}]+\}", "1", path.replace("{uid:path}", "org/m"))) for path in about} == {
        "org/m"
    }


def test_the_document_is_valid(whole: dict[str, Any]) -> None:
    validate(whole)
    assert all(operation["summary"] for path in whole["paths"].values() for operation in path.values())


def test_bodies_and_answers_are_those_of_the_types(whole: dict[str, Any]) -> None:
    create = whole["paths"]["/v1/keys"]["post"]
    assert create["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/NewKey"}
    assert create["responses"]["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/CreatedKey"
    }
    schemas = whole["components"]["schemas"]
    assert schemas["NewKey"]["properties"].keys() == NewKey.model_fields.keys()
    assert {"id", "scopes", "key"} <= schemas["CreatedKey"]["properties"].keys()
    # A launch may have the options of any family besides its own fields.
    assert schemas["LaunchSpec"]["additionalProperties"] is True


def test_errors_are_described_as_they_are_answered(whole: dict[str, Any]) -> None:
    def error_of(path: str) -> str:
        responses = whole["paths"][path]["post"]["responses"]
        assert "422" not in responses
        return str(responses["default"]["content"]["application/json"]["schema"]["$ref"]).rpartition("/")[2]

    assert (error_of("/v1/embeddings"), error_of("/embed")) == ("ErrorBody", "TeiError")


def test_a_second_path_of_a_route_may_have_a_summary_of_its_own(whole: dict[str, Any]) -> None:
    first, second = (whole["paths"][path]["post"] for path in ("/v1/embeddings", "/embeddings"))
    assert first["summary"] != second["summary"] and first["requestBody"] == second["requestBody"]


def test_operations_say_that_they_need_a_key(whole: dict[str, Any], app_routes: list[BaseRoute]) -> None:
    assert whole["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]
    assert "security" not in whole["paths"]["/health"]["get"]
    assert "security" not in whole["paths"]["/v1/cluster/join"]["post"]
    assert "securitySchemes" not in document(app_routes, asks_for_keys=False)["components"]


def test_the_document_is_for_those_who_may_list(tmp_path: Path) -> None:
    may, text = new_key("may", ["list"])
    may_not, other = new_key("may-not", ["infer"])

    async def scene() -> None:
        async with asked(settings(tmp_path, auth="on"), StandIn(keys=(may, may_not))) as client:
            for key, status in ((None, 401), (other, 403), (text, 200)):
                header = {"authorization": f"Bearer {key}"} if key else {}
                answer = await client.get("/openapi.json", headers=header)
                assert answer.status_code == status, answer.text
            assert "/v1/models" in answer.json()["paths"]
            # The page itself contains nothing about the server.
            page = await client.get("/docs")
            assert page.status_code == 200 and "/v1/models" not in page.text

    run(scene())


def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    async def scene() -> None:
        async with asked(settings(tmp_path), StandIn()) as client:
            for path, kind in (("/docs", "html"), ("/docs/page.js", "javascript"), ("/docs/page.css", "css")):
                answer = await client.get(path)
                assert answer.status_code == 200 and kind in answer.headers["content-type"]
                assert "default-src 'none'" in answer.headers["content-security-policy"]
                assert "http:" not in answer.text and "https:" not in answer.text

    run(scene())
