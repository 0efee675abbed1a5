"""Pictures by the real clients, each in the words of its own documentation, to a model that sees."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from cluster import errors
from cluster.client.chat import LanguageModel
from tests import seeing
from tests.deployments.llm.test_pictures import bomb
from tests.live import LiveCluster

DATA = {colour: seeing.picture(colour) for colour in ("red", "blue")}
TEXT = "hi"


@pytest.fixture(scope="module")
def model(live: LiveCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = seeing.save_seeing(tmp_path_factory.mktemp("seeing"))
    options = {"model_engine": "llamacpp", "cache_gb": 0.01, "slots": 2}
    with live.client() as client:
        uid = client.launch_model("seeing", "llm", model_uid="seeing", model_path=str(folder), **options)
        yield uid
        client.terminate_model(uid)


def ours(live: LiveCluster, uid: str, images: Any) -> str:
    with live.client() as client:
        handle = client.get_model(uid)
        assert isinstance(handle, LanguageModel)
        answer = handle.chat(TEXT, max_tokens=8, temperature=0, images=images)
        return str(answer["choices"][0]["message"]["content"])


def test_every_client_shows_a_picture(live: LiveCluster, model: str, tmp_path: Path) -> None:
    answers = {colour: ours(live, model, data) for colour, data in DATA.items()}
    assert answers["red"] != answers["blue"]
    for colour, data in DATA.items():
        encoded = base64.b64encode(data).decode()
        uri = f"data:image/png;base64,{encoded}"
        file = tmp_path / f"{colour}.png"
        file.write_bytes(data)
        assert ours(live, model, [str(file)]) == answers[colour]
        with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
            parts: Any = [{"type": "text", "text": TEXT}, {"type": "image_url", "image_url": {"url": uri}}]
            chat = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": parts}], max_tokens=8, temperature=0
            )
            assert chat.choices[0].message.content == answers[colour]
            items: Any = [{"type": "input_text", "text": TEXT}, {"type": "input_image", "image_url": uri}]
            response = client.responses.create(
                model=model, input=[{"role": "user", "content": items}], max_output_tokens=8, temperature=0
            )
            assert response.output_text == answers[colour]
        with anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0) as client:
            source: Any = {"type": "base64", "media_type": "image/png", "data": encoded}
            blocks: Any = [{"type": "text", "text": TEXT}, {"type": "image", "source": source}]
            message = client.messages.create(
                model=model, messages=[{"role": "user", "content": blocks}], max_tokens=8, extra_body={"temperature": 0}
            )
            assert [block.text for block in message.content if block.type == "text"] == [answers[colour]]
    shown = [
        ollama.Client(live.url).chat(
            model, [{"role": "user", "content": TEXT, "images": [data]}], options={"num_predict": 8, "temperature": 0}
        )["message"]["content"]
        for data in DATA.values()
    ]
    assert shown[0] != shown[1]


def test_listings_say_that_it_sees(live: LiveCluster, model: str) -> None:
    with live.client() as client:
        assert "vision" in client.describe_model(model)["model_ability"]
    assert "vision" in (ollama.Client(live.url).show(model).capabilities or ())


def test_a_bomb_is_refused_and_the_model_goes_on(live: LiveCluster, model: str) -> None:
    before = ours(live, model, DATA["red"])
    with pytest.raises(errors.BadRequest, match="10000 x 10000 pixels"):
        ours(live, model, bomb(10_000))
    assert ours(live, model, DATA["red"]) == before
