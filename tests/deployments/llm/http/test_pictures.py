"""Pictures through the door of every dialect. The worker is played, but what it asks is a model that sees."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster import errors
from cluster.calls import Answer, Call
from deployments.ingress.affinity import beginning_of_messages
from deployments.llm.http.anthropic import messages_of
from deployments.llm.http.pictures import pictures_read
from deployments.llm.llamacpp import LlamaCpp
from deployments.llm.pictures import MOST_PICTURES, picture_part
from tests import seeing, tiny
from tests.attacks.standing_in import settings
from tests.deployments.llm.http.test_streams import HELLO, Speaker, play
from tests.deployments.llm.test_pictures import bomb
from tests.deployments.llm.test_seeing import ask

TEXT = {"type": "text", "text": "hi"}
MOST_BYTES = 1_000_000


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def uri(data: bytes) -> str:
    return f"data:image/png;base64,{encoded(data)}"


def part(data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": uri(data)}}


def chat(*parts: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(parts)}], "max_tokens": 12, "temperature": 0}


def bodies(data: bytes) -> dict[str, dict[str, Any]]:
    """The same question in every dialect; Ollama's has its picture first."""
    source = {"type": "base64", "media_type": "image/png", "data": encoded(data)}
    responses = [{"type": "input_text", "text": "hi"}, {"type": "input_image", "image_url": uri(data)}]
    options = {"num_predict": 12, "temperature": 0}
    ollama = {"role": "user", "content": "hi", "images": [encoded(data)]}
    return {
        "/v1/chat/completions": chat(TEXT, part(data)),
        "/v1/messages": chat(TEXT, {"type": "image", "source": source}),
        "/v1/responses": {
            "model": "m",
            "input": [{"role": "user", "content": responses}],
            "max_output_tokens": 12,
            "temperature": 0,
        },
        "/api/chat": {"model": "m", "messages": [ollama], "options": options, "stream": False},
        "/api/generate": {"model": "m", "prompt": "hi", "images": [encoded(data)], "options": options, "stream": False},
    }


def text_of(path: str, answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    told = answer.json()
    if path == "/v1/chat/completions":
        return str(told["choices"][0]["message"]["content"])
    if path == "/v1/messages":
        return str(told["content"][0]["text"])
    if path == "/v1/responses":
        return str(told["output"][0]["content"][0]["text"])
    return str(told["message"]["content"] if path == "/api/chat" else told["response"])


class Seer(Speaker):
    """Asks a loaded model what it is asked."""

    def __init__(self, family: LlamaCpp) -> None:
        super().__init__()
        self._family = family

    async def _infer(self, calls: Sequence[Call]) -> tuple[list[Any], int]:
        return [await asyncio.to_thread(self._answer, call) for call in calls], 0

    def _answer(self, call: Call) -> Any:
        (item,) = call.items
        (message,) = item["messages"]
        fields = {name: item[name] for name in ("max_tokens", "temperature") if name in item}
        try:
            return Answer([ask(self._family, *_listed(message["content"]), **fields).reply], 1)
        except errors.ClusterError as error:
            return error


def _listed(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    folder = seeing.save_seeing(tmp_path_factory.mktemp("seeing"))
    yield tiny.launched(LlamaCpp, folder, "llm", cache_gb=0.01, slots=4)


def asked_of(family: LlamaCpp, folder: Path, path: str, *requests: dict[str, Any]) -> list[httpx.Response]:
    answers: list[httpx.Response] = []

    async def scene(client: httpx.AsyncClient) -> None:
        answers.extend([await client.post(path, json=body) for body in requests])

    play(folder, Seer(family), scene)
    return answers


@pytest.mark.parametrize("path", bodies(b""))
def test_every_dialect_shows_the_picture_to_the_model(path: str, family: LlamaCpp, tmp_path: Path) -> None:
    red, blue = seeing.picture("red"), seeing.picture("blue")
    answers = asked_of(family, tmp_path, path, bodies(red)[path], bodies(blue)[path])

    def directly(data: bytes) -> str:
        parts = [TEXT, picture_part(data)]
        return ask(family, *(reversed(parts) if path.startswith("/api/") else parts)).text

    texts = [text_of(path, answer) for answer in answers]
    assert texts == [directly(red), directly(blue)]
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([part(bomb(10_000))], "10000 x 10000 pixels"),
        ([part(seeing.picture("red"))] * 100, f"There are 100 pictures; at most {MOST_PICTURES} are read"),
        ([part(b"hello")], "is not a readable picture"),
        ([{"type": "image_url", "image_url": f"data:image/svg+xml;base64,{encoded(b'<svg/>')}"}], "not a readable"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@@"}}], "must be a data URI"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png,abc"}}], "a data URI without base64"),
        ([{"type": "image_url", "image_url": {"url": "data:text/html;base64,aGk="}}], "'text/html', not image"),
        ([{"type": "image_url", "image_url": {"url": "HTTP://169.254.169.254/a.png"}}], "none is fetched"),
        ([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}], "must be a data URI"),
        ([{"type": "image_url"}], "must be a data URI"),
        ([{"type": "image_url", "image_url": ["a"]}], "must be a data URI"),
        ([{"type": "picture", "data": "aGk="}], "must be a data URI"),
        ([{"type": "image", "source": {"type": "file", "file_id": "f1"}}], "must be a data URI"),
        ([{"type": "input_audio", "input_audio": {"data": "aGk="}}], "must be a text or a picture"),
    ],
)
def test_what_cannot_be_seen_is_refused(parts: list[Any], says: str, family: LlamaCpp, tmp_path: Path) -> None:
    refused, answered = asked_of(family, tmp_path, "/v1/chat/completions", chat(TEXT, *parts), chat(TEXT))
    assert 400 <= refused.status_code < 500 and says in refused.text, refused.text
    assert text_of("/v1/chat/completions", answered) == ask(family, TEXT).text, "and nobody is disturbed"


def test_a_picture_that_is_too_large_as_a_file_is_refused(family: LlamaCpp, tmp_path: Path) -> None:
    most = settings(tmp_path).media_bytes
    body = chat({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * (most // 3 * 4 + 8)}})
    (answer,) = asked_of(family, tmp_path, "/v1/chat/completions", body)
    assert answer.status_code == 413 and f"{most} are allowed" in answer.text


def test_a_raw_prompt_has_no_place_for_a_picture(family: LlamaCpp, tmp_path: Path) -> None:
    body = {**bodies(seeing.picture("red"))["/api/generate"], "raw": True}
    (answer,) = asked_of(family, tmp_path, "/api/generate", body)
    assert answer.status_code == 400 and "no place for pictures" in answer.text


def test_a_result_of_a_tool_may_be_a_picture() -> None:
    image = {"type": "image", "source": {"type": "base64", "data": "aGk="}}
    block = {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "here"}, image]}
    (message,) = messages_of({"role": "user", "content": [block]})
    (read,) = asyncio.run(pictures_read([message], MOST_BYTES))
    assert read["content"] == [{"type": "text", "text": "here"}, picture_part(b"hi")]


def test_a_picture_is_called_by_its_number_in_the_request() -> None:
    """Of messages there may be more than the caller has sent."""
    image = {"type": "image", "source": {"type": "base64", "data": "aGk="}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [image]}
    address = {"type": "image", "source": {"type": "url", "url": "http://a/b.png"}}
    messages = [{"role": "system", "content": "See."}, *messages_of({"role": "user", "content": [result, address]})]
    with pytest.raises(errors.BadRequest, match="Picture 2 of the request is an address"):
        asyncio.run(pictures_read(messages, MOST_BYTES))


def test_messages_without_pictures_stay_as_they_are() -> None:
    messages = [*HELLO, {"role": "user", "content": [TEXT, {"type": "other"}]}, {"role": "assistant"}]
    assert asyncio.run(pictures_read(messages, MOST_BYTES)) == messages


def test_a_conversation_is_told_by_its_picture() -> None:
    def beginning(*parts: Any) -> str:
        return beginning_of_messages([{"role": "user", "content": list(parts)}])

    red, blue = picture_part(seeing.picture("red")), picture_part(seeing.picture("blue"))
    assert beginning(TEXT, red) == beginning(TEXT, red)
    assert len({beginning(TEXT), beginning(TEXT, red), beginning(TEXT, blue)}) == 3
