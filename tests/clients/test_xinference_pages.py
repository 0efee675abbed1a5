"""What the pages of Xinference's documentation show, in the ways that they show it: curl, the openai package, and the
client of the package `xinference`, each against local models."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from xinference_client import RESTfulClient

from tests.clients.conftest import TEXTS, assert_same
from tests.clients.packages import answer_of
from tests.clients.test_xinference_client import CE_TINY
from tests.deployments.text.rerank.test_vision import PICTURES, vision
from tests.documented import A1111, PAGES
from tests.downloaded import put_model
from tests.live import LiveCluster
from tests.painted import as_uri, filled, opened, painting
from tests.pipelines import saved
from tests.read_pages import picture, reading
from tests.small_models import MINILM
from tests.xinference_command import PACKAGES

PASTA = "A man is eating pasta."
CORPUS = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A man is riding a horse.",
    "A woman is playing violin.",
]


def curl(*words: str, body: Any = None) -> Any:
    sent = ["-H", "Content-Type: application/json", "-d", json.dumps(body)] if body is not None else []
    done = subprocess.run(["curl", "-sS", *words, *sent], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def by_client(url: str, program: str, *words: str) -> Any:
    """What the block prints as JSON; `client` is there already, opened as every page opens it."""
    opening = "import json, sys\nfrom xinference.client import Client, RESTfulClient\nclient = Client(sys.argv[1])\n"
    return answer_of(opening + program, PACKAGES, url, *words, dependencies=False)


@pytest.fixture(scope="module")
def painter(live: LiveCluster) -> Iterator[str]:
    with painting(live, "pages-painter") as uid:
        yield uid


@pytest.fixture
def client(live: LiveCluster) -> Iterator[RESTfulClient]:
    client = RESTfulClient(live.url)
    yield client
    client.close()


@pytest.mark.documented(PAGES, "using: a model is launched, by command, curl and client")
@pytest.mark.documented(PAGES, "client: an embedding model from launch to vector")
def test_a_model_is_launched_by_curl_and_by_client(live: LiveCluster, client: RESTfulClient, vectors: Any) -> None:
    put_model(live.home, "bge-small-en-v1.5", "embedding", MINILM)
    fields = {"model_uid": "pages-bge", "model_name": "bge-small-en-v1.5", "model_type": "embedding"}
    assert curl("-X", "POST", f"{live.url}/v1/models", "-H", "accept: application/json", body=fields)["model_uid"]
    program = (
        "uid = client.launch_model(model_name='bge-small-en-v1.5', model_type='embedding')\n"
        f"print(json.dumps([uid, client.get_model(uid).create_embedding({TEXTS[0]!r})]))\n"
    )
    try:
        uid, answer = by_client(live.url, program)
        assert uid == "bge-small-en-v1.5"
        assert_same(answer["data"][0]["embedding"], vectors[0])
        assert answer["object"] == "list" and answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 5
        # Without a tokenizer's answer to go by, `DELETE` is how curl terminates.
        assert curl("-X", "DELETE", f"{live.url}/v1/models/pages-bge") is None
        assert "pages-bge" not in client.list_models()
    finally:
        client.terminate_model("bge-small-en-v1.5")


@pytest.mark.documented(
    PAGES, "embeddings: curl", "embeddings: openai", "embeddings: client", "embeddings: truncated by curl"
)
def test_embeddings(live: LiveCluster, embedder: str, vectors: list[list[float]]) -> None:
    address = ["-X", "POST", f"{live.url}/v1/embeddings", "-H", "accept: application/json"]
    asked = {"model": embedder, "input": TEXTS[0]}
    assert_same(curl(*address, body=asked)["data"][0]["embedding"], vectors[0])
    long = {"model": embedder, "input": "a very long document " * 400}
    for most, tokens in ((16, 16), (-1, 256)):
        assert curl(*address, body={**long, "truncate_prompt_tokens": most})["usage"]["prompt_tokens"] == tokens
    with openai.Client(api_key="cannot be empty", base_url=f"{live.url}/v1") as theirs:
        assert_same(theirs.embeddings.create(model=embedder, input=[TEXTS[0]]).data[0].embedding, vectors[0])
    program = "print(json.dumps(client.get_model(sys.argv[2]).create_embedding(sys.argv[3])))"
    assert_same(by_client(live.url, program, embedder, TEXTS[0])["data"][0]["embedding"], vectors[0])


@pytest.mark.documented(PAGES, "rerank: curl", "rerank: client")
def test_rerank(live: LiveCluster, reranker: str) -> None:
    body = {"model": reranker, "query": PASTA, "documents": CORPUS}
    answer = curl("-X", "POST", f"{live.url}/v1/rerank", "-H", "accept: application/json", body=body)
    assert sorted(row["index"] for row in answer["results"]) == [0, 1, 2, 3, 4] and answer["id"]
    program = "print(json.dumps(client.get_model(sys.argv[2]).rerank(json.loads(sys.argv[3]), sys.argv[4])))"
    again = by_client(live.url, program, reranker, json.dumps(CORPUS), PASTA)
    assert [row["index"] for row in again["results"]] == [row["index"] for row in answer["results"]]
    assert_same(*([row["relevance_score"] for row in one["results"]] for one in (again, answer)))


@pytest.mark.documented(PAGES, "rerank: pictures")
def test_pictures_are_ranked(client: RESTfulClient, live: LiveCluster, tmp_path: Path) -> None:
    """The page shows these calls with jina-reranker-m0, which is code of its own repository."""
    uid = client.launch_model("seeing", model_type="rerank", model_uid="pages-seeing", model_path=str(vision(tmp_path)))
    shown = [as_uri(data) for data in PICTURES[:3]]
    program = (
        "model, shown, query = client.get_model(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]\n"
        "ways = [{'doc_type': 'image'}, {'doc_type': 'image', 'query_type': 'image'}]\n"
        "objects = [{'text': 'a page', 'image': uri} for uri in shown]\n"
        "print(json.dumps([model.rerank(shown, asked, **way) for way, asked in zip(ways, [query, shown[0]])] +\n"
        "                 [model.rerank(objects, query, top_n=2, return_documents=True)]))\n"
    )
    try:
        by_text, by_picture, objects = by_client(live.url, program, uid, json.dumps(shown), PASTA)
    finally:
        client.terminate_model(uid)
    for answer in (by_text, by_picture):
        scores = [row["relevance_score"] for row in answer["results"]]
        assert sorted(row["index"] for row in answer["results"]) == [0, 1, 2]
        assert scores == sorted(scores, reverse=True) and len(set(scores)) == 3 and all(0 < one < 1 for one in scores)
    assert [row["document"]["text"] for row in objects["results"]] == ["a page"] * 2


@pytest.mark.documented(PAGES, "images: curl", "images: openai", "images: client", "images: variations")
def test_images(live: LiveCluster, painter: str, tmp_path: Path) -> None:
    asked = {"model": painter, "prompt": "an apple"}
    (row,) = curl("-X", "POST", f"{live.url}/v1/images/generations", body=asked)["data"]
    assert opened(row["b64_json"]).size == (64, 64)
    red = tmp_path / "red.png"
    red.write_bytes(filled("red"))
    form = ["-F", f"model={painter}", "-F", f"image=@{red}", "-F", "prompt=an apple"]
    (row,) = curl("-X", "POST", f"{live.url}/v1/images/variations", *form)["data"]
    assert opened(row["b64_json"]).size == (64, 48)
    with openai.Client(api_key="cannot be empty", base_url=f"{live.url}/v1") as theirs:
        assert opened(theirs.images.generate(model=painter, prompt="an apple").data[0].b64_json).size == (64, 64)
        with red.open("rb") as file:
            assert theirs.images.create_variation(model=painter, image=file).data[0].b64_json
    program = "print(json.dumps(client.get_model(sys.argv[2]).text_to_image('an apple')))"
    (row,) = by_client(live.url, program, painter)["data"]
    assert row["b64_json"] is None and live.get(row["url"].removeprefix(live.url)).status_code == 200


@pytest.mark.documented(PAGES, "client: an image model from launch to picture")
def test_an_image_model_from_launch_to_picture(
    live: LiveCluster, client: RESTfulClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    put_model(live.home, "sd-turbo", "image", saved("sd15", tmp_path_factory.mktemp("pages") / "sd15"))
    program = (
        "uid = client.launch_model(model_name='sd-turbo', model_type='image')\n"
        "print(json.dumps(client.get_model(uid).text_to_image('an apple')))\n"
    )
    try:
        (row,) = by_client(live.url, program)["data"]
        assert opened(live.get(row["url"].removeprefix(live.url)).content).size == (1024, 1024)
    finally:
        client.terminate_model("sd-turbo")


@pytest.mark.documented(PAGES, "images: text is read by curl", "images: text is read by client")
def test_text_is_read(live: LiveCluster, tmp_path: Path) -> None:
    page = tmp_path / "page.png"
    page.write_bytes(picture("hello"))
    with reading(live, "pages-reader") as uid:
        form = ["-F", f"model={uid}", "-F", f"image=@{page}"]
        assert curl("-X", "POST", f"{live.url}/v1/images/ocr", *form) == "hello"
        program = "print(json.dumps(client.get_model(sys.argv[2]).ocr(open(sys.argv[3], 'rb').read())))"
        assert by_client(live.url, program, uid, str(page)) == "hello"


REGISTRATIONS: list[Any] = [
    pytest.param(
        "embedding",
        {"dimensions": 384, "max_tokens": 512, "language": ["en"], "model_specs": [{"model_format": "pytorch"}]},
        MINILM,
        marks=pytest.mark.documented(PAGES, "registration: embedding"),
    ),
    pytest.param(
        "rerank",
        {"type": "normal", "max_tokens": 512, "language": ["en"], "model_specs": [{"model_format": "pytorch"}]},
        CE_TINY,
        marks=pytest.mark.documented(PAGES, "registration: rerank"),
    ),
    pytest.param(
        "image",
        {"model_family": "stable_diffusion", "model_ability": ["text2image", "image2image"], "controlnet": []},
        "sd15",
        marks=pytest.mark.documented(PAGES, "registration: image"),
    ),
    pytest.param(
        "image",
        {"model_family": "ocr", "model_ability": ["ocr"], "model_specs": [{"model_format": "pytorch"}]},
        "GOT-OCR2",
        marks=pytest.mark.documented(PAGES, "registration: a model that reads"),
    ),
]


@pytest.mark.parametrize(("type", "fields", "weights"), REGISTRATIONS)
def test_a_model_of_ones_own_is_registered_launched_and_used(
    client: RESTfulClient, type: str, fields: dict[str, Any], weights: Path | str, tmp_path: Path
) -> None:
    folder = weights if isinstance(weights, Path) else _made(weights, tmp_path)
    uri = {"model_uri": f"file://{folder}"}
    fields = (
        {**fields, "model_specs": [{**fields["model_specs"][0], **uri}]}
        if "model_specs" in fields
        else {**fields, **uri}
    )
    name = f"pages-own-{fields.get('model_family', type)}"
    client.register_model(type, json.dumps({"version": 2, "model_name": name, **fields}), persist=True)
    try:
        assert name in {row["model_name"] for row in client.list_model_registrations(type)}
        assert client.get_model_registration(type, name)["model_name"] == name
        uid = client.launch_model(name, model_type=type)
        _use(client.get_model(uid), fields)
        client.terminate_model(uid)
    finally:
        client.unregister_model(type, name)
    assert name not in {row["model_name"] for row in client.list_model_registrations(type)}


def _made(name: str, folder: Path) -> Path:
    from tests.deployments.ocr.small_documents import built

    return saved(name, folder / name) if name == "sd15" else built(name, folder)


def _use(model: Any, fields: dict[str, Any]) -> None:
    if "dimensions" in fields:
        assert len(model.create_embedding("a")["data"][0]["embedding"]) == 384
    elif "type" in fields:
        assert len(model.rerank(CORPUS, PASTA)["results"]) == 5
    elif fields["model_family"] == "ocr":
        assert isinstance(model.ocr(filled("white"), max_new_tokens=4), str)
    else:
        drawn = model.text_to_image("an apple", size="64*64", num_inference_steps=2, response_format="b64_json")
        assert opened(drawn["data"][0]["b64_json"]).size == (64, 64)


@pytest.mark.documented(A1111, "options", "sd-models", "samplers", "txt2img", "img2img")
def test_the_routes_of_the_web_interface(live: LiveCluster, painter: str) -> None:
    base = f"{live.url}/sdapi/v1"
    assert "sd_model_checkpoint" in curl(f"{base}/options")
    assert painter in [row["model_name"] for row in curl(f"{base}/sd-models")]
    assert "Euler a" in [row["name"] for row in curl(f"{base}/samplers")]
    asked = {"model": painter, "prompt": "sea", "negative_prompt": "", "steps": 2, "seed": -1, "cfg_scale": 7}
    asked |= {"width": 64, "height": 64, "sampler_name": "default", "denoising_strength": 0.5, "kwargs": "{}"}
    red = as_uri(filled("red", (64, 64)))
    for answer in (
        curl(f"{base}/txt2img", body=asked),
        curl(f"{base}/img2img", body={**asked, "init_images": [red]}),
        curl(f"{base}/txt2img", body={**asked, "model": None, "override_settings": {"sd_model_checkpoint": painter}}),
    ):
        assert opened(answer["images"][0]).size == (64, 64)
