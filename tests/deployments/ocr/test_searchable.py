"""Searchable PDFs: PDF readers find each word where it is, in any script."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pypdfium2
import pytest
from PIL import Image, ImageChops

from deployments.ocr.page import Block, Line, Polygon, RecognisedPage, Word, bounds, page_of, rectangle
from deployments.ocr.searchable import searchable
from tests.read_pages import picture

needs_poppler = pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext is not installed")

SIZE = (1000, 800)
DPI = 100
#: Texts with their boxes in pixels.
WORDS = {
    "Invoice": (100, 100, 280, 140),
    "naïve": (300, 100, 420, 140),
    "Привет": (100, 200, 260, 240),
    "Ελλάδα": (300, 200, 480, 240),
    "日本語": (100, 300, 220, 340),
    "한국어": (300, 300, 420, 340),
    "नमस्ते": (100, 400, 250, 440),
    "€100": (300, 400, 390, 440),
}


def word(text: str, box: tuple[float, float, float, float]) -> Word:
    return Word(text, box, rectangle(box), 0.9)


def line(*words: Word, joint: str = " ") -> Line:
    box = bounds(point for one in words for point in one.polygon)
    return Line(joint.join(one.text for one in words), box, rectangle(box), 0.9, words)


def page_with(*lines: Line, **more: Any) -> RecognisedPage:
    box = bounds(point for one in lines for point in one.polygon)
    return page_of(*SIZE, [Block(text="\n".join(one.text for one in lines), bbox=box, lines=lines)], dpi=DPI, **more)


def rows_of_two() -> list[Line]:
    found = [word(*entry) for entry in WORDS.items()]
    return [line(*found[at : at + 2]) for at in range(0, len(found), 2)]


def paper(mode: str = "L", format: str = "PNG", colour: Any = 255) -> bytes:
    target = io.BytesIO()
    Image.new(mode, SIZE, colour).save(target, format)
    return target.getvalue()


def pdftotext(data: bytes, folder: Path, *flags: str) -> str:
    (folder / "a.pdf").write_bytes(data)
    done = subprocess.run(["pdftotext", *flags, folder / "a.pdf", "-"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def boxes_in(told: str) -> list[tuple[str, list[float]]]:
    """The words that a PDF reader finds, with their boxes in pixels."""
    found = re.findall(r'<word xMin="(.+?)" yMin="(.+?)" xMax="(.+?)" yMax="(.+?)">(.+?)</word>', told)
    return [(text, [float(value) * DPI / 72 for value in box]) for *box, text in found]


@needs_poppler
def test_pdftotext_finds_each_word_at_its_place(tmp_path: Path) -> None:
    data = searchable([(paper(), page_with(*rows_of_two()))])
    found = dict(boxes_in(pdftotext(data, tmp_path, "-bbox")))
    assert found.keys() == WORDS.keys()
    for text, box in WORDS.items():
        assert found[text] == pytest.approx(box, abs=1.0), text


@needs_poppler
def test_pdftotext_reads_lines_in_order(tmp_path: Path) -> None:
    told = pdftotext(searchable([(paper(), page_with(*rows_of_two()))]), tmp_path)
    assert told.split() == list(WORDS)


def test_pdfium_finds_each_word_at_its_place() -> None:
    data = searchable([(paper(), page_with(*rows_of_two()))])
    text = pypdfium2.PdfDocument(data)[0].get_textpage()
    whole = text.get_text_range()
    for said, (left, _, right, bottom) in WORDS.items():
        at = whole.index(said)
        x0, y0, _, _ = text.get_charbox(at, loose=True)
        _, _, x1, _ = text.get_charbox(at + len(said) - 1, loose=True)
        scale = DPI / 72
        assert (x0 * scale, x1 * scale) == pytest.approx((left, right), abs=1.5), said
        assert SIZE[1] - y0 * scale == pytest.approx(bottom, abs=2), said


@needs_poppler
def test_words_that_run_to_the_left_are_read_as_they_were_written(tmp_path: Path) -> None:
    page = page_with(line(word("שלום", (500, 100, 600, 140))), line(word("مرحبا", (500, 200, 600, 240))))
    told = pdftotext(searchable([(paper(), page)]), tmp_path)
    assert "שלום" in told and "مرحبا" in told


@needs_poppler
def test_characters_beyond_the_basic_plane_survive(tmp_path: Path) -> None:
    told = pdftotext(searchable([(paper(), page_with(line(word("𝒜🎉", (100, 100, 200, 140)))))]), tmp_path)
    assert "𝒜🎉" in told


@needs_poppler
def test_words_without_a_space_between_them_are_one_word(tmp_path: Path) -> None:
    joined = line(word("日本", (100, 100, 180, 140)), word("語", (180, 100, 220, 140)), joint="")
    told = pdftotext(searchable([(paper(), page_with(joined))]), tmp_path)
    assert told.split() == ["日本語"]


@pytest.mark.parametrize(
    ("polygon", "wanted"),
    [
        (((900, 700), (500, 700), (500, 650), (900, 650)), (500, 650, 900, 700)),
        (((300, 100), (300, 500), (250, 500), (250, 100)), (250, 100, 300, 500)),
    ],
    ids=["on its head", "on its side"],
)
@needs_poppler
def test_text_that_is_turned_stands_where_it_is_turned_to(polygon: Polygon, wanted: Any, tmp_path: Path) -> None:
    page = page_with(Line("turned", bounds(polygon), polygon, 0.9))
    ((said, box),) = boxes_in(pdftotext(searchable([(paper(), page)]), tmp_path, "-bbox"))
    assert said == "turned" and box == pytest.approx(wanted, abs=1.5)


@needs_poppler
def test_what_a_model_wrote_without_a_place_is_on_its_page(tmp_path: Path) -> None:
    pages = [page_of(*SIZE, [Block(text=f"chapter {number}\nits text")], dpi=DPI) for number in (1, 2)]
    told = pdftotext(searchable([(paper(), page) for page in pages]), tmp_path)
    assert [part.split() for part in told.split("\f")[:2]] == [
        ["chapter", str(number), "its", "text"] for number in (1, 2)
    ]


def drawn(data: bytes, number: int = 0) -> Image.Image:
    return pypdfium2.PdfDocument(data)[number].render(scale=DPI / 72, rev_byteorder=True).to_pil().convert("RGB")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "WEBP", "TIFF"])
def test_the_page_looks_as_it_was_sent_and_the_text_is_not_seen(format: str) -> None:
    image = Image.effect_noise(SIZE, 60).convert("RGB")
    image.paste("red", (200, 200, 500, 400))
    target = io.BytesIO()
    image.save(target, format)
    shown = drawn(searchable([(target.getvalue(), page_with(*rows_of_two()))]))
    sent = Image.open(target).convert("RGB")
    difference = ImageChops.difference(shown, sent).convert("L").resize((20, 16), Image.Resampling.BOX)
    assert shown.size == sent.size and difference.getextrema()[1] <= 6


def test_a_plain_page_is_kept_to_the_pixel() -> None:
    """This is done where lossless is smaller than JPEG."""
    data = picture("kept", size=SIZE)
    shown = drawn(searchable([(data, RecognisedPage(*SIZE, dpi=DPI))])).convert("L")
    assert shown.tobytes() == Image.open(io.BytesIO(data)).tobytes()


def test_a_photograph_is_kept_as_the_file_it_was() -> None:
    target = io.BytesIO()
    Image.effect_noise(SIZE, 60).convert("RGB").save(target, "JPEG")
    assert target.getvalue() in searchable([(target.getvalue(), RecognisedPage(*SIZE))])


def test_what_is_transparent_is_white() -> None:
    page = RecognisedPage(*SIZE, dpi=DPI)
    image = drawn(searchable([(paper("RGBA", colour=(0, 0, 0, 0)), page)]))
    assert image.getpixel((5, 5)) == (255, 255, 255)


def test_a_page_that_was_not_read_is_there_without_text() -> None:
    unread_page = RecognisedPage(*SIZE, dpi=DPI, number=2, error="no")
    pages = [(paper(), page_with(*rows_of_two())), (paper(colour=9), unread_page)]
    found = pypdfium2.PdfDocument(searchable(pages))
    assert len(found) == 2 and found[1].get_textpage().get_text_range() == ""
    assert drawn(searchable(pages), 1).getpixel((5, 5)) == (9, 9, 9)
