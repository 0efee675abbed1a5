"""How files become pages: what is in them, how they are drawn, and what is refused before anything large is
unpacked."""

from __future__ import annotations

import asyncio
import gc
import io
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pypdfium2
import pytest
from PIL import Image, ImageDraw

from cluster import errors
from cluster.settings import Settings
from deployments.ocr.http import rendering
from deployments.ocr.http.documents import Document, DocumentFile, DocumentOpener, PageImage, numbers_of
from tests.live import is_alive, until
from tests.odd_files import encrypted_pdf, pdf_of, pdf_with_a_bad_page, png_claiming
from tests.read_pages import document, page, picture, text_of


def opened(sheet: PageImage) -> Image.Image:
    image = Image.open(io.BytesIO(sheet.data))
    assert image.size == (sheet.width, sheet.height)
    return image


#: All tests share its processes, except the one that ends them.
DOCUMENTS = DocumentOpener(Settings())


def with_document(
    *files: tuple[str, bytes],
    use: Callable[[Document], Coroutine[Any, Any, Any]],
    documents: DocumentOpener = DOCUMENTS,
) -> Any:
    async def run() -> Any:
        found = await documents.open([DocumentFile(*file) for file in files])
        try:
            return await use(found)
        finally:
            found.close()

    return asyncio.run(run())


def sheets(*files: tuple[str, bytes], dpi: int = 72) -> list[PageImage]:
    async def use(found: Document) -> list[PageImage]:
        return await asyncio.gather(*(found.picture(number, dpi) for number in range(1, found.pages + 1)))

    return with_document(*files, use=use)


def refusal(*files: tuple[str, bytes]) -> errors.ClusterError:
    with pytest.raises(errors.ClusterError) as raised:
        sheets(*files)
    assert 400 <= raised.value.status < 500
    return raised.value


# ---------------------------------------------------------------------------------------------------- what is in them


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP"])
def test_a_picture_goes_to_the_model_as_it_came(format: str) -> None:
    data = picture("hello", format)
    (sheet,) = sheets((f"a.{format}", data))
    assert sheet.data == data and (sheet.width, sheet.height) == (280, 280)


def test_a_gif_is_its_first_frame() -> None:
    target = io.BytesIO()
    page("first").save(target, "GIF", save_all=True, append_images=[page("second")])
    (sheet,) = sheets(("a.gif", target.getvalue()))
    assert text_of(opened(sheet)) == "first"


def test_all_frames_of_a_tiff_are_pages() -> None:
    found = sheets(("a.tiff", document("first", "second", "third", format="TIFF", dpi=150)))
    assert [text_of(opened(sheet)) for sheet in found] == ["first", "second", "third"]
    assert [sheet.dpi for sheet in found] == [150, 150, 150]


@pytest.mark.parametrize("dpi", [72, 200, 600])
def test_pages_of_a_pdf_are_drawn_at_the_resolution_that_is_asked_for(dpi: int) -> None:
    found = sheets(("a.pdf", document("first", "second")), dpi=dpi)
    assert [text_of(opened(sheet)) for sheet in found] == ["first", "second"]
    assert {(sheet.dpi, abs(sheet.width - 280 * dpi / 72) <= 1) for sheet in found} == {(dpi, True)}


def test_a_page_without_colour_is_drawn_in_grey_and_one_with_colour_is_not() -> None:
    target = io.BytesIO()
    red = Image.new("RGB", (50, 50), "white")
    ImageDraw.Draw(red).rectangle((10, 10, 40, 40), "red")
    Image.new("RGB", (50, 50), "grey").save(target, "PDF", save_all=True, append_images=[red])
    assert [opened(sheet).mode for sheet in sheets(("a.pdf", target.getvalue()))] == ["L", "RGB"]


def test_a_photograph_that_lies_on_its_side_is_set_upright() -> None:
    target = io.BytesIO()
    exif = Image.Exif()
    exif[rendering.ORIENTATION] = 6
    page("upright", (280, 140)).transpose(Image.Transpose.ROTATE_90).save(target, "PNG", exif=exif)
    (sheet,) = sheets(("a.png", target.getvalue()))
    assert (sheet.width, sheet.height) == (280, 140) and text_of(opened(sheet)) == "upright"


def test_sixteen_bits_are_scaled_and_what_is_transparent_is_white() -> None:
    deep, clear = io.BytesIO(), io.BytesIO()
    dark = Image.new("I;16", (20, 10), 1000)
    dark.paste(60000, (10, 0, 20, 10))
    dark.save(deep, "TIFF")
    Image.new("RGBA", (20, 10), (0, 0, 0, 0)).save(clear, "TIFF")
    scaled, white = map(opened, sheets(("a.tiff", deep.getvalue()), ("b.tiff", clear.getvalue())))
    assert (scaled.getpixel((0, 0)), scaled.getpixel((15, 0))) == (0, 255)
    assert white.convert("RGB").getpixel((5, 5)) == (255, 255, 255)


def test_pages_are_counted_through_all_files() -> None:
    files = ("a.pdf", document("one", "two")), ("b.png", picture("three")), ("c.tiff", document("four", format="TIFF"))

    async def use(found: Document) -> list[Any]:
        return [(*found.file_of(number), text_of(opened(await found.picture(number, 72)))) for number in (1, 2, 3, 4)]

    assert with_document(*files, use=use) == [
        ("a.pdf", 1, "one"),
        ("a.pdf", 2, "two"),
        ("b.png", 1, "three"),
        ("c.tiff", 1, "four"),
    ]


# ------------------------------------------------------------------------------------------------------ what is refused


def test_what_is_no_document_is_refused_by_its_name() -> None:
    said = {
        "zero.png": (b"", "zero.png is empty."),
        "text.png": (b"just text", "text.png is neither a picture (PNG, JPEG, WebP, TIFF, BMP, GIF) nor a PDF."),
        "broken.pdf": (b"%PDF-1.7\nbroken", "broken.pdf is a broken PDF, or not a PDF."),
        "cut.png": (picture("hello")[:20], "cut.png is not a readable picture."),
        "secret.pdf": (encrypted_pdf(), "secret.pdf is encrypted and cannot be read without its password."),
    }
    for name, (data, sentence) in said.items():
        error = refusal((name, data))
        assert isinstance(error, errors.InvalidBody) and error.param == "image"
        assert error.message == sentence


def test_a_small_file_of_a_huge_picture_is_refused_unopened() -> None:
    data = png_claiming(100_000, 100_000)
    assert len(data) < 2100
    error = refusal(("bomb.png", data))
    assert isinstance(error, errors.TooLarge)
    assert error.message == "bomb.png has 100000 x 100000 pixels; 100 million are allowed, and 20000 on a side."
    assert isinstance(refusal(("long.png", png_claiming(30_000, 10))), errors.TooLarge)


def test_a_page_that_would_be_huge_is_refused_and_the_others_are_not() -> None:
    made = pypdfium2.PdfDocument.new()
    made.new_page(100, 100)
    made.new_page(14_000, 14_000)
    target = io.BytesIO()
    made.save(target)

    async def use(found: Document) -> tuple[PageImage, str]:
        with pytest.raises(errors.TooLarge) as raised:
            await found.picture(2, 300)
        return await found.picture(1, 300), raised.value.message

    sheet, said = with_document(("poster.pdf", target.getvalue()), use=use)
    assert said.startswith("Page 2 of poster.pdf has 58333 x 58333 pixels at 300 dpi; 100 million are allowed")
    assert abs(sheet.width - 417) <= 1


def test_a_bad_page_is_told_by_its_number_and_the_others_are_drawn() -> None:
    async def use(found: Document) -> tuple[list[int], str]:
        with pytest.raises(errors.InvalidBody) as raised:
            await found.picture(2, 72)
        return [(await found.picture(number, 72)).width for number in (1, 3)], raised.value.message

    widths, said = with_document(("a.pdf", pdf_with_a_bad_page()), use=use)
    assert widths == [50, 60] and said == "Page 2 of a.pdf is broken and cannot be drawn."


def test_more_pages_than_are_allowed_are_refused_unless_some_are_picked() -> None:
    async def use(found: Document) -> tuple[str, int]:
        with pytest.raises(errors.TooLarge) as raised:
            DOCUMENTS.choose(found, None)
        return raised.value.message, len(DOCUMENTS.choose(found, "9001-10000"))

    said, picked = with_document(("big.pdf", pdf_of(10_000)), use=use)
    assert said.startswith("big.pdf has 10000 pages, of which 10000 are to be read; 1000 are allowed in one request")
    assert picked == 1000


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        (3, [3]),
        ("1-3,7", [1, 2, 3, 7]),
        ("8-", [8, 9]),
        ("-2", [1, 2]),
        ([7, "1-2", "2"], [7, 1, 2]),
        (" 2 - 3 , 5", [2, 3, 5]),
    ],
)
def test_pages_are_numbers_and_ranges(asked: Any, numbers: Any) -> None:
    assert numbers_of(asked, 9, "a.pdf", 100) == numbers


@pytest.mark.parametrize("asked", [0, 10, "3-2", "8-10", "a", "", "-", "1--2", [1, "x"], "1-999999999", True, 1.5])
def test_pages_that_are_not_there_are_refused(asked: Any) -> None:
    with pytest.raises(errors.InvalidBody) as raised:
        numbers_of(asked, 9, "a.pdf", 100)
    assert raised.value.param == "pages"


# -------------------------------------------------------------------------------------------------------- the processes


def children() -> set[psutil.Process]:
    return {child for child in psutil.Process().children() if is_alive(child) and rendering.__file__ in child.cmdline()}


def test_a_process_that_hangs_or_dies_is_told_and_replaced() -> None:
    others = children()

    async def use(found: Document) -> list[str]:
        said = []
        for end in (psutil.Process.suspend, psutil.Process.kill):
            assert text_of(opened(await found.picture(1, 72))) == "one"
            (child,) = children() - others
            end(child)
            with pytest.raises(errors.InvalidBody) as raised:
                await found.picture(2, 72)
            said.append(raised.value.message)
        assert text_of(opened(await found.picture(2, 72))) == "two"
        return said

    impatient = DocumentOpener(Settings(render_processes=1), 2.0)
    said = with_document(("a.pdf", document("one", "two")), use=use, documents=impatient)
    assert said == [
        "Page 2 of a.pdf cannot be read: what reads it took longer than 2 s.",
        "Page 2 of a.pdf cannot be read: what reads it ended.",
    ]


def test_processes_end_with_the_object_that_sends_them_orders() -> None:
    others = children()
    documents = DocumentOpener(Settings(render_processes=1))

    async def draw(file: Document) -> set[psutil.Process]:
        await file.picture(1, 72)
        return children() - others

    (child,) = with_document(("a.pdf", document("one")), use=draw, documents=documents)
    del documents
    gc.collect()
    assert not is_alive(child)


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    program = (
        "import asyncio, os, sys\n"
        "from cluster.settings import Settings\n"
        "from deployments.ocr.http.documents import DocumentFile, DocumentOpener\n"
        "document = asyncio.run(DocumentOpener(Settings()).open([DocumentFile('a', open(sys.argv[1], 'rb').read())]))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    file = tmp_path / "a.png"
    file.write_bytes(picture("hello"))
    command = [sys.executable, "-c", program, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
        until(lambda: not is_alive(child), within=5)


def test_nothing_stays_on_disk_after_a_request() -> None:
    async def use(found: Document) -> Path:
        folder = Path(found._folder.name)
        assert [path.name for path in folder.iterdir()] == ["0"]
        return folder

    assert not with_document(("a.pdf", document("one", "two")), use=use).exists()
