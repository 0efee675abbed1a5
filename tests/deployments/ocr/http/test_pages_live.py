"""A real document read by the real model: each word is found where it was drawn, in the answer and in the PDF."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pypdfium2
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.live import LiveCluster, until

DPI = 150
SIZE = (1240, 1754)
#: Words, and the upper left corner at which each is drawn.
PAGES = (
    {"Invoice": (100, 120), "Total": (100, 400), "1,234.50": (700, 400)},
    {"Chapter": (200, 300), "Begins": (200, 900)},
)


@pytest.fixture(scope="module")
def reader(live: LiveCluster) -> Iterator[str]:
    with live.client() as client:
        yield client.launch_model(model_name="ppocr-v6", model_type="ocr", model_uid="pages")
        client.terminate_model("pages")
        until(lambda: "pages" not in client.list_models(), within=10)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    font = ImageFont.truetype("DejaVuSans.ttf", 48)
    drawn = []
    for words in PAGES:
        page = Image.new("L", SIZE, 255)
        for word, place in words.items():
            ImageDraw.Draw(page).text(place, word, 0, font)
        drawn.append(page)
    path = tmp_path_factory.mktemp("scan") / "scan.pdf"
    drawn[0].save(path, "PDF", save_all=True, append_images=drawn[1:], resolution=DPI)
    return path


def test_a_pdf_is_read_page_by_page(live: LiveCluster, reader: str, scan: Path) -> None:
    with live.client() as client:
        model = client.get_model(reader)
        assert model.ocr(scan).split() == [word for words in PAGES for word in words]
        assert [page.text.split() for page in model.ocr(scan, stream=True, pages=2)] == [list(PAGES[1])]


def test_words_of_the_searchable_pdf_are_where_they_were_drawn(
    live: LiveCluster, reader: str, scan: Path, tmp_path: Path
) -> None:
    done = live.command("ocr", str(scan), "-u", reader, "-o", str(tmp_path / "out.pdf"))
    assert done.returncode == 0, done.stderr
    pdf = pypdfium2.PdfDocument(tmp_path / "out.pdf")
    for words, page in zip(PAGES, pdf, strict=True):
        text, height = page.get_textpage(), page.get_height()
        for word, (x, y) in words.items():
            left, _, _, top = text.get_charbox(text.get_text_range().index(word), loose=True)
            assert (left * DPI / 72, (height - top) * DPI / 72) == pytest.approx((x, y), abs=20), word


def test_chosen_languages_are_checked_by_the_model(live: LiveCluster, reader: str, scan: Path) -> None:
    files = {"image": ("scan.pdf", io.BytesIO(scan.read_bytes()))}
    fields = {"model": reader, "kwargs": json.dumps({"prompt": "translate"})}
    answer = httpx.post(f"{live.url}/v1/images/ocr", files=files, data=fields)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "prompt"
