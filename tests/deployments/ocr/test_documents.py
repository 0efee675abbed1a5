from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.worker.family import Setup
from deployments.ocr.documents.family import DocumentOptions, Documents
from deployments.ocr.documents.kinds import KINDS, kind_in
from deployments.ocr.documents.writing import Written
from deployments.ocr.page import RecognisedPage
from deployments.ocr.pictures import ScannedPage, cut_out
from deployments.ocr.requests import Reading
from tests.deployments.ocr.small_documents import BUILD, built
from tests.pages import as_file

WIDE = as_file(Image.new("RGB", (100, 60), "white"))
TALL = as_file(Image.new("RGB", (60, 100), "red"))


class Watched:
    def __init__(self, until: int = 10**9) -> None:
        self.checks = 0
        self.until = until
        self.told: list[str] = []

    def check(self) -> None:
        self.checks += 1
        if self.checks > self.until:
            raise errors.RequestCancelled("nobody waits")

    def tell(self, fraction: float, stage: str, step: int = 0, steps: int = 0) -> None:
        self.told.append(f"{stage} {step}")

    def show(self, preview: bytes) -> None: ...


def launched(folder: Path, **options: Any) -> Documents:
    source = Source(hub="local", id=str(folder))
    entry = Entry(name="small", type="ocr", family="transformers-ocr", sources=(source,))
    family = Documents()
    setup = Setup(
        entry=entry, source=source, options=DocumentOptions(**options), folder=folder, device="cpu", threads=2
    )
    family.load(setup)
    return family


def read(family: Documents, data: bytes, course: Watched | None = None, **params: Any) -> RecognisedPage:
    (value,) = family.prepare("ocr", [data], {"max_new_tokens": 24, **params}).values
    return family.stream(value, course or Watched())


@pytest.mark.parametrize("name", BUILD)
def test_every_kind_reads_pages_together_as_it_does_alone(name: str, tmp_path: Path) -> None:
    family = launched(built(name, tmp_path))
    alone = [read(family, WIDE), read(family, TALL)]
    assert [(page.width, page.height) for page in alone] == [(100, 60), (60, 100)]
    assert all(0 <= page.usage.output_tokens <= 24 and page.usage.prompt_tokens > 0 for page in alone)
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda data: read(family, data), (WIDE, TALL)))
    assert together == alone


@pytest.mark.parametrize("name", BUILD)
def test_every_task_of_a_kind_has_words_that_its_processor_takes(name: str, tmp_path: Path) -> None:
    family = launched(built(name, tmp_path))
    for task in kind_in(tmp_path / name).prompts:
        assert read(family, WIDE, task=task, max_new_tokens=2).usage.output_tokens <= 2


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    """Makes the model write the same letter for ever."""
    return launched(built("PaddleOCR-VL", tmp_path_factory.mktemp("endless")))


def test_a_model_that_repeats_itself_is_cut_off_and_the_page_says_so(endless: Documents) -> None:
    course = Watched()
    page = read(endless, WIDE, course, max_new_tokens=2000)
    assert page.repetition and not page.truncated
    assert page.usage.output_tokens < 64 and len(course.told) < 20
    assert page.to_dict()["repetition"] is True


def test_an_answer_that_is_too_long_is_cut_off_and_the_page_says_so(endless: Documents) -> None:
    page = read(endless, WIDE, max_new_tokens=5)
    assert page.truncated and not page.repetition and page.usage.output_tokens == 5
    whole = read(endless, WIDE, max_new_tokens=2000, max_length=page.usage.prompt_tokens + 7)
    assert whole.truncated and whole.usage.output_tokens == 7


def test_a_page_that_nobody_waits_for_is_written_no_further_and_those_beside_it_are(endless: Documents) -> None:
    leaving, staying = Watched(until=6), Watched()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(read, endless, WIDE, leaving, max_new_tokens=40)
        second = threads.submit(read, endless, TALL, staying, max_new_tokens=40)
        with pytest.raises(errors.RequestCancelled):
            first.result(60)
        assert second.result(60).usage.output_tokens == 40
    assert leaving.checks < staying.checks


def test_a_prompt_of_ones_own_takes_the_place_of_the_tasks(endless: Documents) -> None:
    short = read(endless, WIDE, prompt="x").usage.prompt_tokens
    assert read(endless, WIDE, prompt="x" * 31).usage.prompt_tokens == short + 30


def test_a_task_that_a_kind_does_not_know_is_refused(endless: Documents) -> None:
    with pytest.raises(errors.BadRequest, match="does ocr, table, formula, chart, not layout"):
        read(endless, WIDE, task="layout")


def test_more_tokens_than_the_launch_allows_are_refused(tmp_path: Path) -> None:
    family = launched(built("TrOCR", tmp_path), max_new_tokens=30)
    with pytest.raises(errors.BadRequest, match="31, 30 are allowed"):
        read(family, WIDE, max_new_tokens=31)


def test_a_folder_with_another_kind_of_model_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(errors.LoadFailed, match="the kind 'bert'; document models are .*paddleocr_vl"):
        kind_in(tmp_path)


def test_figures_are_cut_out_when_they_are_asked_for() -> None:
    family = Documents()
    family._kind = KINDS["deepseek_ocr2"]
    image = Image.new("RGB", (200, 100), "white")
    image.paste("red", (20, 10, 60, 50))
    drawn = "<|ref|>image<|/ref|><|det|>[[100, 100, 300, 500]]<|/det|>"
    written = Written(f"{drawn}\n<|ref|>text<|/ref|><|det|>[[0, 0, 9, 9]]<|/det|>\nhello", 1, 1, False, False)
    for features, is_shown in ((("boxes", "figures"), True), (("boxes",), False)):
        reading = Reading(task="layout", features=features)
        page = family._page(ScannedPage(image, None), reading, written)
        figure, text = page.to_dict(features)["blocks"]
        assert figure["type"] == "figure" and ("image" in figure) == is_shown and "image" not in text
    (figure, _) = family._page(ScannedPage(image, None), Reading(features=("figures",)), written).blocks
    assert figure.picture is not None
    cut = Image.open(io.BytesIO(figure.picture))
    assert cut.size == (40, 40) and cut.getcolors() == [(1600, (255, 0, 0))]


def test_a_figure_without_extent_is_not_cut_out() -> None:
    sheet = ScannedPage(Image.new("RGB", (20, 10)), None)
    assert cut_out(sheet, (5, 5, 5, 8)) is None and cut_out(sheet, (30, 0, 40, 5)) is None
    cut = cut_out(sheet, (-5.0, 2.0, 100.0, 90.0))
    assert cut is not None and Image.open(io.BytesIO(cut)).size == (20, 8)
