from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cluster import errors
from deployments.ocr.page import RecognisedPage
from deployments.ocr.ppocr.onnx_nets import OnnxNets
from deployments.ocr.ppocr.torch_nets import TorchNets
from tests import pages
from tests.deployments.ocr.conftest import loaded, weights
from tests.pages import PAGES, as_file, error_rate


class Watched:
    """A `Progress` that records what it is told."""

    def __init__(self, stop_at: str = "") -> None:
        self.told: list[tuple[float, str]] = []
        self.stop_at = stop_at

    def check(self) -> None:
        if self.told and self.told[-1][1] == self.stop_at:
            raise errors.RequestCancelled("nobody waits")

    def tell(self, fraction: float, stage: str, step: int = 0, steps: int = 0) -> None:
        self.told.append((fraction, stage))

    def show(self, preview: bytes) -> None: ...


def read(family: Any, image: Any, course: Watched | None = None, **params: Any) -> RecognisedPage:
    (value,) = family.prepare("ocr", [as_file(image)], params).values
    page: RecognisedPage = family.stream(value, course or Watched())
    return page


@pytest.fixture(scope="module")
def page_of(ppocr: Any) -> Callable[[str], RecognisedPage]:
    """What is read of each page alone; that takes seconds, so each is read once."""
    return cache(lambda name: read(ppocr, PAGES[name]().image))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_read_in_order_and_without_mistakes(page_of: Callable[[str], RecognisedPage], name: str) -> None:
    drawn = PAGES[name]()
    page = page_of(name)
    assert error_rate(page.text, drawn.lines) <= 0.005, page.text
    assert (page.width, page.height) == drawn.image.size


@pytest.mark.parametrize(("degrees", "told"), [(90, 90), (270, -90)])
def test_a_page_that_lies_on_a_side_is_read_as_if_it_stood(ppocr: Any, degrees: int, told: float) -> None:
    drawn = pages.turned(degrees)
    page = read(ppocr, drawn.image)
    assert page.angle == told
    assert error_rate(page.text, drawn.lines) <= 0.005


@pytest.mark.parametrize("degrees", [-12.0, 175.0])
def test_the_angle_of_a_page_is_told(ppocr: Any, degrees: float) -> None:
    assert read(ppocr, pages.tilted(degrees).image).angle == pytest.approx(degrees, abs=0.5)


def test_a_page_is_left_as_it_stands_where_that_is_asked_for(ppocr: Any) -> None:
    drawn = pages.turned(180)
    assert read(ppocr, drawn.image, turn=False).angle == 0.0


# ------------------------------------------------------------------------------------------------- geometry

WORD, PLACE = "Lighthouse", (212, 118)


def one_word(degrees: int = 0) -> tuple[Any, tuple[float, float, float, float]]:
    """A page with that word among others, and where the word is."""
    image = Image.new("RGB", (700, 400), "white")
    pen, letters = ImageDraw.Draw(image), pages.font(pages.SANS, 28)
    pen.text((50, 50), "the first line of all stands here", "black", letters)
    pen.text((50, PLACE[1]), "the old ", "black", letters)
    pen.text(PLACE, WORD, "black", letters)
    pen.text((450, PLACE[1]), "by the sea", "black", letters)
    left, top, right, bottom = pen.textbbox(PLACE, WORD, letters)
    if degrees == 180:
        return image.rotate(180), (700 - right, 400 - bottom, 700 - left, 400 - top)
    return image, (left, top, right, bottom)


@pytest.mark.parametrize("degrees", [0, 180])
def test_a_word_has_its_box_in_the_pixels_of_the_page_as_sent(ppocr: Any, degrees: int) -> None:
    image, drawn = one_word(degrees)
    words = [word for line in read(ppocr, image).lines for word in line.words]
    (found,) = [word for word in words if word.text == WORD]
    assert found.bbox == pytest.approx(drawn, abs=12)
    first = found.polygon[0]
    assert (first[0] < image.width / 2) == (degrees == 0) and found.score is not None and found.score > 0.9


def test_words_are_left_out_where_nobody_asked_for_them(ppocr: Any) -> None:
    page = read(ppocr, one_word()[0], features=("boxes",))
    assert page.lines and not any(line.words for line in page.lines)


def test_a_large_line_above_others_is_a_title(page_of: Callable[[str], RecognisedPage]) -> None:
    page = page_of("mixed sizes")
    assert page.blocks[0].type == "title" and page.markdown.startswith("# ")
    assert [block.type for block in page.blocks[2:]] == ["text"] * len(page.blocks[2:])


def test_lines_of_another_direction_do_not_get_lost(ppocr: Any) -> None:
    drawn = pages.invoice()
    label = Image.new("RGB", (300, 50), "white")
    ImageDraw.Draw(label).text((10, 8), "Original copy", "black", pages.font(pages.SANS, 28))
    drawn.image.paste(label.rotate(90, expand=True), (930, 100))
    assert "Original copy" in read(ppocr, drawn.image).text


@pytest.mark.parametrize("size", [(1, 1), (5, 400), (400, 5), (64, 64)])
def test_an_empty_page_has_no_text(ppocr: Any, size: tuple[int, int]) -> None:
    page = read(ppocr, Image.new("RGB", size, "white"))
    assert page.text == "" and page.blocks == () and (page.width, page.height) == size


def test_a_line_longer_than_any_net_takes_is_read_whole(ppocr: Any) -> None:
    lines = pages.prose(41, 1, 260, 262)
    page = read(ppocr, pages.written(lines, (3400, 80), pages.SANS, 22, start=(20, 20)))
    assert error_rate(page.text, lines) <= 0.01


def test_narrow_letters_are_read(ppocr: Any) -> None:
    lines = pages.prose(43, 6, 50, 54)
    image = pages.written(lines, (900, 320), "DejaVuSansCondensed.ttf", 24, start=(20, 20)).resize((630, 320))
    assert error_rate(read(ppocr, image).text, lines) <= 0.01


# ------------------------------------------------------------------------------------- several at once


def test_pages_read_at_once_are_read_as_they_are_alone(ppocr: Any, page_of: Callable[[str], RecognisedPage]) -> None:
    names = ["invoice", "monospace", "monospace"]
    alone = [page_of(name) for name in names]
    with ThreadPoolExecutor(3) as threads:
        together = list(threads.map(lambda name: read(ppocr, PAGES[name]().image), names))
    for one, other in zip(alone, together, strict=True):
        assert [line.text for line in one.lines] == [line.text for line in other.lines]
        assert [line.score for line in one.lines] == pytest.approx([line.score for line in other.lines], abs=1e-4)


@pytest.mark.parametrize("stage", ["finding text", "reading"])
def test_a_page_that_nobody_waits_for_is_dropped_at_its_next_stage(ppocr: Any, stage: str) -> None:
    course = Watched(stop_at=stage)
    with pytest.raises(errors.RequestCancelled):
        read(ppocr, pages.invoice().image, course)
    assert course.told[-1][1] == stage


def test_it_is_told_how_far_a_page_is(ppocr: Any) -> None:
    course = Watched()
    read(ppocr, one_word()[0], course)
    fractions = [fraction for fraction, _ in course.told]
    assert fractions == sorted(fractions)
    assert [stage for _, stage in course.told] == ["finding text", "reading", "putting in order"]


# ------------------------------------------------------------------------------------------------- refusals


def test_what_it_cannot_read_is_refused_by_name(ppocr: Any) -> None:
    data = as_file(Image.new("RGB", (32, 32)))
    with pytest.raises(errors.BadRequest, match="does not read 'ru'"):
        ppocr.prepare("ocr", [data], {"languages": ["rus"]})
    with pytest.raises(errors.BadRequest, match="not formula"):
        ppocr.prepare("ocr", [data], {"task": "formula"})
    with pytest.raises(errors.BadRequest, match="not a readable picture"):
        ppocr.prepare("ocr", [b"hello"], {})
    with pytest.raises(errors.InvalidBody, match="one page"):
        ppocr.prepare("ocr", [data, data], {})


# ------------------------------------------------------------------------------------ the same nets in torch


def test_the_nets_of_transformers_read_the_same(page_of: Callable[[str], RecognisedPage]) -> None:
    one, other = page_of("invoice"), read(loaded("torch"), pages.invoice().image)
    assert one.text == other.text and one.angle == other.angle
    assert [line.score for line in one.lines] == pytest.approx([line.score for line in other.lines], abs=1e-3)


def test_converted_nets_answer_what_the_graphs_do() -> None:
    graphs, modules = OnnxNets(weights(), 1), TorchNets(weights(), "cpu", 1)
    chance = np.random.default_rng(0)
    page = chance.random((3, 320, 480), np.float32) * 2 - 1
    assert np.abs(graphs.detect([page])[0] - modules.detect([page, page])[1]).max() < 1e-4
    strip = chance.random((3, 48, 320), np.float32) * 2 - 1
    (one,), (_, other) = graphs.read([strip]), modules.read([strip, strip])
    assert (one.classes == other.classes).all() and np.abs(one.scores - other.scores).max() < 1e-3
    assert graphs.alphabet == modules.alphabet


def test_threads_can_be_given_and_taken_while_pages_are_read(ppocr: Any) -> None:
    texts: list[str] = []
    thread = threading.Thread(target=lambda: texts.append(read(ppocr, pages.invoice().image).text))
    thread.start()
    ppocr.set_threads(1)
    ppocr.set_threads(2)
    thread.join(60)
    assert texts and error_rate(texts[0], pages.INVOICE) == 0
