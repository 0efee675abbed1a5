from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.worker.family import Setup
from deployments.ocr.tesseract import Tesseract, TesseractOptions
from tests import pages
from tests.deployments.ocr.test_ppocr import Watched, one_word
from tests.pages import as_file, error_rate

pytestmark = pytest.mark.skipif(shutil.which("tesseract") is None, reason="the program is not installed")


@pytest.fixture(scope="module")
def tesseract() -> Any:
    entry = Catalog.builtin().find("tesseract", "ocr")
    family = Tesseract()
    family.load(
        Setup(
            entry=entry,
            source=entry.sources[0],
            options=TesseractOptions(),
            folder=Path(),
            device="cpu",
            threads=1,
        )
    )
    return family


def read(family: Any, image: Any, course: Watched | None = None, **params: Any) -> Any:
    (value,) = family.prepare("ocr", [as_file(image)], params).values
    return family.stream(value, course or Watched())


def test_a_page_has_the_shape_that_every_engine_gives(tesseract: Any) -> None:
    drawn = pages.invoice()
    page = read(tesseract, drawn.image)
    assert error_rate(page.text, drawn.lines) < 0.02
    assert (page.width, page.height) == drawn.image.size and page.blocks[0].lines[0].words


def test_a_word_has_its_box(tesseract: Any) -> None:
    image, drawn = one_word()
    words = [word for line in read(tesseract, image).lines for word in line.words]
    (found,) = [word for word in words if word.text == "Lighthouse"]
    assert found.bbox == pytest.approx(drawn, abs=12)


def test_a_language_without_data_is_refused(tesseract: Any) -> None:
    with pytest.raises(errors.BadRequest, match="does not read"):
        read(tesseract, pages.invoice().image, languages=["ka"])


def test_the_program_is_ended_when_nobody_waits(tesseract: Any) -> None:
    course = Watched(stop_at="reading")
    with pytest.raises(errors.RequestCancelled):
        read(tesseract, pages.dense().image, course)
