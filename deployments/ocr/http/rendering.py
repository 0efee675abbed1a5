"""The program that looks into documents and draws their pages, in a process of its own: a file that ends or hangs the
library that reads it takes nothing else with it.

Reads one order per line of standard input as JSON; answers with a line of JSON, and after it as many bytes as that
says. It is run as a file, so that it starts in no time, and therefore knows of no other module.
"""

from __future__ import annotations

import io
import os
import resource
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from pypdfium2 import PdfDocument

#: How PDF files begin, if not at once.
PDF_HEAD = 1024
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PICTURE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
#: What every model reads as it is.
SENT_AS_IS = ("PNG", "JPEG", "WEBP", "BMP")
#: The tag of a photograph that says which side is up.
ORIENTATION = 0x0112
#: What files say of their resolution is believed within these.
LEAST_DPI, MOST_DPI = 50, 1200
POINTS = 72

Answer = tuple[dict[str, Any], bytes]


class Refused(Exception):
    """What is wrong with a file, as a sentence that goes on after its name."""

    def __init__(self, message: str, is_too_large: bool = False) -> None:
        super().__init__(message)
        self.is_too_large = is_too_large


def look(path: str, most_pixels: int, most_side: int, most_frames: int) -> Answer:
    """What is in the file; nothing is unpacked, and of a single picture the size is within bounds."""
    with open(path, "rb") as file:
        head = file.read(PDF_HEAD)
    if not head:
        raise Refused("is empty")
    if b"%PDF-" in head:
        return {"kind": "pdf", "pages": len(_pdf(path))}, b""
    if head.startswith(TIFF_MAGIC):
        return {"kind": "tiff", "pages": _frames_of(_opened(path), most_frames)}, b""
    if not head.startswith(PICTURE_MAGIC):
        raise Refused("is neither a picture (PNG, JPEG, WebP, TIFF, BMP, GIF) nor a PDF")
    image = _opened(path)
    _refuse_large(image.width, image.height, most_pixels, most_side)
    as_is = image.format in SENT_AS_IS and _is_upright(image) and not getattr(image, "is_animated", False)
    facts = {"kind": "picture", "pages": 1, "width": image.width, "height": image.height, "dpi": _dpi_of(image)}
    return {**facts, "as_is": as_is}, b""


def draw(
    path: str, kind: str, index: int, dpi: int, region: list[int] | None, most_pixels: int, most_side: int
) -> Answer:
    """One page as PNG, or a region of it."""
    bounds = most_pixels, most_side
    image, dpi_drawn = _page_of_pdf(path, index, dpi, *bounds) if kind == "pdf" else _frame(path, index, *bounds)
    if region is not None:
        left, top, right, bottom = region
        if left >= image.width or top >= image.height:
            raise Refused(f"has {image.width} x {image.height} pixels, and none within {region}")
        image = image.crop((left, top, min(right, image.width), min(bottom, image.height)))
    target = io.BytesIO()
    _without_colour(image).save(target, "PNG", compress_level=1)
    return {"width": image.width, "height": image.height, "dpi": dpi_drawn}, target.getvalue()


# A process reads the pages of few documents at a time, and opening a large one takes long.
@lru_cache(maxsize=2)
def _pdf(path: str) -> PdfDocument:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise Refused("is encrypted and cannot be read without its password") from None
        raise Refused("is a broken PDF, or not a PDF") from None
    document.init_forms()
    return document


def _page_of_pdf(path: str, index: int, dpi: int, most_pixels: int, most_side: int) -> tuple[Picture, float]:
    import pypdfium2

    try:
        page = _pdf(path)[index]
        width, height = (max(1, round(points * dpi / POINTS)) for points in page.get_size())
        _refuse_large(width, height, most_pixels, most_side, f" at {dpi} dpi")
        image = page.render(scale=dpi / POINTS, rev_byteorder=True).to_pil()
        page.close()
    except pypdfium2.PdfiumError:
        raise Refused("is broken and cannot be drawn") from None
    return image, float(dpi)


def _frames_of(image: Picture, most: int) -> int:
    """Each frame is found by way of the one before it: a file of a hundred thousand would take minutes."""
    count = 1
    try:
        while count <= most:
            image.seek(count)
            count += 1
    except EOFError:
        return count
    except MemoryError:
        raise
    # Whatever a decoder raises about a caller's file, the file is what is wrong.
    except Exception as error:
        raise Refused(f"cannot be read: {error}") from None
    raise Refused(f"has more than {most} pages, which are allowed", True)


def _frame(path: str, index: int, most_pixels: int, most_side: int) -> tuple[Picture, float | None]:
    """A picture within a file, the right side up."""
    from PIL import ImageOps

    image = _opened(path)
    try:
        image.seek(index)
        _refuse_large(image.width, image.height, most_pixels, most_side)
        dpi = _dpi_of(image)
        return ImageOps.exif_transpose(image), dpi
    except (Refused, MemoryError):
        raise
    # Whatever a decoder raises about a caller's file, the file is what is wrong.
    except Exception as error:
        raise Refused(f"cannot be read: {error}") from None


def _opened(path: str) -> Picture:
    from PIL import Image

    # The bounds are the server's.
    Image.MAX_IMAGE_PIXELS = None
    try:
        return Image.open(path, formats=FORMATS)
    except MemoryError:
        raise
    # What it says names our own copy of the file, and little else.
    except Exception:
        raise Refused("is not a readable picture") from None


def _is_upright(image: Picture) -> bool:
    # Asked for what it does not begin with, a PNG is unpacked to see whether it ends with it.
    if image.format == "PNG" and "exif" not in image.info:
        return True
    return bool(image.getexif().get(ORIENTATION, 1) == 1)


def _dpi_of(image: Picture) -> float | None:
    value = image.info.get("dpi")
    dpi = float(value[0]) if value else 0.0
    return round(dpi, 2) if LEAST_DPI <= dpi <= MOST_DPI else None


def _refuse_large(width: int, height: int, most_pixels: int, most_side: int, at: str = "") -> None:
    if width * height > most_pixels or max(width, height) > most_side:
        raise Refused(
            f"has {width} x {height} pixels{at}; {most_pixels / 1e6:g} million are allowed, and {most_side} on a side",
            True,
        )


def _without_colour(image: Picture) -> Picture:
    """Most pages have none, and are a third of the work without it."""
    from PIL import ImageChops

    if image.mode in ("1", "L"):
        return image
    if image.mode in ("I;16", "I;16B", "I", "F"):
        return _scaled(image)
    if image.mode in ("RGBA", "LA", "PA", "P"):
        image = _on_white(image)
    # To convert what is so already would be a copy of a hundred million pixels.
    colours = image if image.mode == "RGB" else image.convert("RGB")
    red, green, blue = colours.split()
    is_grey = not ImageChops.difference(red, green).getbbox() and not ImageChops.difference(green, blue).getbbox()
    return green if is_grey else colours


def _scaled(image: Picture) -> Picture:
    """Of more than 8 bits, which PIL would cut off at 255."""
    least, most = image.convert("F").getextrema()
    factor = 255 / (most - least or 1)
    return image.convert("F").point(lambda value: value * factor - least * factor).convert("L")


def _on_white(image: Picture) -> Picture:
    from PIL import Image

    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    page = Image.new("RGB", layer.size, "white")
    page.paste(layer, mask=layer.getchannel("A"))
    return page


ORDERS: dict[str, Callable[..., Answer]] = {"look": look, "draw": draw}


def answered(line: bytes) -> Answer:
    order = orjson.loads(line)
    try:
        return ORDERS[order.pop("do")](**order)
    except Refused as refused:
        return {"refused": str(refused), "is_too_large": refused.is_too_large}, b""
    except MemoryError:
        return {"refused": "needs more memory than there is for one page", "is_too_large": True}, b""
    # The process serves on; whoever asked is told.
    except Exception as error:
        return {"refused": f"cannot be read: {type(error).__name__}: {error}", "is_too_large": False}, b""


def serve(orders: BinaryIO, answers: BinaryIO) -> None:
    """Until nobody orders any more."""
    while line := orders.readline():
        facts, content = answered(line)
        answers.write(orjson.dumps({**facts, "bytes": len(content)}) + b"\n")
        answers.write(content)
        answers.flush()


if __name__ == "__main__":
    if sys.platform == "linux":
        # What a file makes of itself beyond this is an error, not the end of the machine.
        most_bytes = int(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))
    os.nice(5)
    # What libraries print is no answer.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        serve(sys.stdin.buffer, channel)
    except BrokenPipeError:
        pass
