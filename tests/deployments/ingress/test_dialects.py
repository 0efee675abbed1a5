"""A model type brings its own HTTP: the ingress knows no wing by name."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from fastapi.routing import APIRoute

from cluster.keys import new_key
from cluster.settings import Settings
from deployments import model_types, wings
from deployments.ingress.dialects import Dialect, dialects
from tests.attacks.standing_in import Slow, StandIn, asked, opened, run, settings

TOY = "tests.deployments.ingress.toy_wing"


def with_toy(home: Path) -> Settings:
    return settings(home).model_copy(update={"plugins": ("tests.families", TOY)})


def test_a_plugin_is_asked_on_a_route_of_its_own(tmp_path: Path) -> None:
    worker = Slow()
    worker.let.set()

    async def test() -> None:
        async with asked(with_toy(tmp_path), StandIn({"m": worker})) as client:
            answer = await client.post("/toy/echo", json={"model": "m", "text": "ho"})
            assert answer.status_code == 200 and answer.json() == {"echo": "ho"}

    run(test())


def test_the_routes_of_a_plugin_have_their_own_limit_and_error(tmp_path: Path) -> None:
    async def test() -> None:
        async with asked(with_toy(tmp_path), StandIn({"m": None})) as client:
            refused = await client.post("/toy/echo", json={"model": "nobody"})
            assert refused.status_code == 418 and "Model not found" in refused.json()["toy"]
            large = await client.post("/toy/echo", json={"model": "m", "text": "x" * 2000})
            assert "1000 are allowed" in large.text
            elsewhere = await client.post("/v1/infer", json={"model": "nobody", "items": ["x" * 2000]})
            assert elsewhere.status_code == 404 and "error" in elsewhere.json()

    run(test())


def test_a_key_must_be_for_the_scope_of_a_plugins_routes(tmp_path: Path) -> None:
    worker = Slow()
    worker.let.set()
    infer, infer_text = new_key("a", ["infer"])
    launch, launch_text = new_key("b", ["launch", "infer"])

    async def test() -> None:
        place = with_toy(tmp_path).model_copy(update={"auth": "on"})
        async with asked(place, StandIn({"m": worker}, [infer, launch])) as client:

            async def answer_to(key: str) -> str:
                headers = {"Authorization": f"Bearer {key}"}
                return (await client.post("/toy/echo", json={"model": "m", "text": "ho"}, headers=headers)).text

            assert "scope" in await answer_to(infer_text)
            assert await answer_to(launch_text) == '{"echo":"ho"}'

    run(test())


def test_the_wing_answers_a_chat_whose_ability_the_model_has(tmp_path: Path) -> None:
    async def test() -> None:
        async with asked(with_toy(tmp_path), StandIn({"m": None})) as client:
            for body in ({"model": "m", "messages": "hi"}, {"messages": "hi"}):
                answer = await client.post("/v1/chat/completions", json=body)
                assert answer.json() == {"toy said": "hi"}

    run(test())


def test_a_chat_that_no_wing_can_answer_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with asked(settings(tmp_path), StandIn({"m": None})) as client:
            messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "aGk="}}]}]
            answer = await client.post("/v1/chat/completions", json={"model": "m", "messages": messages})
            assert answer.status_code == 400 and "Model m cannot chat" in answer.text

    run(test())


def test_only_wings_with_http_bring_dialects() -> None:
    assert TOY in wings((TOY,)) and "toy" in model_types((TOY,))
    own, all_of_them = list(dialects()), list(dialects(("tests.families", TOY)))
    assert own and all(isinstance(row, Dialect) for row in own)
    assert all_of_them[: len(own)] == own and len(all_of_them) == len(own) + 1


def test_no_path_is_answered_twice(tmp_path: Path) -> None:
    """Otherwise the order in which the wings are found would matter."""

    async def test() -> None:
        async with opened(with_toy(tmp_path), StandIn({"m": None})) as app:
            routes = [route for route in app.routes if isinstance(route, APIRoute)]
            counted = Counter((method, route.path) for route in routes for method in route.methods)
            assert [call for call, count in counted.items() if count > 1] == []

    run(test())


def test_knowing_the_types_of_a_wing_brings_in_no_web_server() -> None:
    program = f"import sys, {TOY}, deployments; deployments.model_types(({TOY!r},)); print('fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
