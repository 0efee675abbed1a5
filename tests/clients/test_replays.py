"""Programs that people use with such servers, replayed by `replays`: each gets what a plain request gets."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import httpx
import pytest
from PIL import Image

from tests.clients import replays
from tests.clients.conftest import DOCUMENTS, QUERY, TEXTS, assert_same
from tests.live import LiveCluster
from tests.painted import painting
from tests.read_pages import document, reading

EMBEDDING: dict[str, Callable[..., replays.Vectors]] = {
    "Dify": lambda *asked: replays.dify_embeds_by_xinference(*asked)[0],
    "RAGFlow by Xinference": lambda *asked: replays.ragflow_embeds_by_xinference(*asked)[0],
    "RAGFlow by Ollama": replays.ragflow_embeds_by_ollama,
    "Open WebUI": replays.open_webui_embeds,
    "AnythingLLM": replays.anythingllm_embeds,
    "FastGPT": lambda *asked: replays.fastgpt_embeds(*asked)[0],
    "n8n by OpenAI": replays.n8n_embeds_by_openai,
    "n8n by Ollama": replays.n8n_embeds_by_ollama,
}
RANKING: dict[str, Callable[..., list[tuple[int, float]]]] = {
    "Dify": lambda *asked: [row[:2] for row in replays.dify_reranks_by_xinference(*asked)],
    "RAGFlow": lambda *asked: _best_first(replays.ragflow_reranks_by_xinference(*asked)[0]),
    "Open WebUI": lambda *asked: _best_first(replays.open_webui_reranks(*asked)),
    "FastGPT": replays.fastgpt_reranks,
    "n8n": replays.n8n_reranks,
}
DRAWING: dict[str, Callable[..., bytes]] = {
    "Open WebUI by A1111": replays.open_webui_draws_by_a1111,
    "Open WebUI by OpenAI": replays.open_webui_draws_by_openai,
    "SillyTavern": replays.sillytavern_draws,
}


def _best_first(scores: list[float]) -> list[tuple[int, float]]:
    return sorted(enumerate(scores), key=lambda row: -row[1])


@pytest.mark.parametrize("embeds", EMBEDDING.values(), ids=EMBEDDING)
def test_vectors_are_the_same(
    live: LiveCluster, embedder: str, vectors: list[list[float]], embeds: Callable[..., replays.Vectors]
) -> None:
    assert_same(embeds(live.url, embedder, TEXTS), vectors)


@pytest.mark.parametrize("ranks", RANKING.values(), ids=RANKING)
def test_scores_are_the_same(
    live: LiveCluster, reranker: str, scores: dict[int, float], ranks: Callable[..., list[tuple[int, float]]]
) -> None:
    ranked = ranks(live.url, reranker, QUERY, DOCUMENTS)
    assert [index for index, _ in ranked] == list(scores)[: len(ranked)]
    assert_same([score for _, score in ranked], list(scores.values())[: len(ranked)])


def test_tokens_are_counted(live: LiveCluster, embedder: str, reranker: str) -> None:
    counted = [
        embeds(live.url, embedder, TEXTS)[1]
        for embeds in (
            replays.dify_embeds_by_xinference,
            replays.ragflow_embeds_by_xinference,
            replays.fastgpt_embeds,
        )
    ]
    assert counted[0] == counted[1] == counted[2] > 3 * 5
    assert replays.ragflow_reranks_by_xinference(live.url, reranker, QUERY, DOCUMENTS)[1] > 10


def test_dify_recognises_a_model(live: LiveCluster, embedder: str) -> None:
    model_format, max_tokens = replays.dify_recognises_an_xinference_model(live.url, embedder)
    assert model_format != "ggmlv3" and max_tokens == 256


@pytest.fixture(scope="module")
def painter(live: LiveCluster) -> Iterator[str]:
    with painting(live, "replays-painter"):
        yield "replays-painter"


@pytest.mark.parametrize("draws", DRAWING.values(), ids=DRAWING)
def test_pictures_are_drawn(live: LiveCluster, painter: str, draws: Callable[..., bytes]) -> None:
    assert Image.open(io.BytesIO(draws(live.url, painter, "a lighthouse"))).size == (64, 64)


READING: dict[str, Callable[..., list[str]]] = {
    "Open WebUI by Mistral": replays.open_webui_reads_by_mistral,
    "Open WebUI by an upload to Mistral": replays.open_webui_reads_an_upload_by_mistral,
    "Open WebUI by an external service": replays.open_webui_reads_by_an_external_service,
    "Open WebUI by PaddleOCR": replays.open_webui_reads_by_paddleocr,
}


@pytest.fixture(scope="module")
def reader(live: LiveCluster) -> Iterator[None]:
    """Its name is in the source of the program."""
    with reading(live, "mistral-ocr-latest"):
        yield


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("reads", READING.values(), ids=READING)
def test_documents_are_read(live: LiveCluster, reads: Callable[..., list[str]]) -> None:
    assert reads(live.url, document("one", "two")) == ["one", "two"]


@pytest.mark.usefixtures("reader")
def test_the_address_of_a_document_reader_may_name_the_model(live: LiveCluster) -> None:
    for path in ("process", "layout-parsing"):
        method, body = ("PUT", b"%PDF") if path == "process" else ("POST", b"{}")
        answer = httpx.request(method, f"{live.url}/ocr/nobody/{path}", content=body)
        assert answer.status_code in (404, 422)
    one = f"{live.url}/ocr/mistral-ocr-latest"
    assert replays.open_webui_reads_by_an_external_service(one, document("one")) == ["one"]
    assert replays.open_webui_reads_by_paddleocr(one, document("one")) == ["one"]
