"""The picture of a page, read from a file. Its size is checked before its pixels are unpacked, and they are unpacked
only when the page is read: a page that waits takes no more than its file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from cluster import errors
from cluster.value import JsonObject
from deployments.ocr.requests import MOST_SIDE

if TYPE_CHECKING:
    import PIL.Image

#: Memory of opening a page, for each of its pixels: Pillow has 4 bytes for one in colours, and a page that is turned or
#: comes in other colours is there twice for a moment.
OPENING_BYTES = 8
#: Rows whose transparent parts are made white at once.
BLENDED_ROWS = 256


class ScannedPage(NamedTuple):
    """The picture of a page to read."""

    #: In three colours; what was transparent is white.
    image: PIL.Image.Image
    dpi: float | None

    @property
    def size(self) -> tuple[int, int]:
        width, height = self.image.size
        return int(width), int(height)


class SentPage(NamedTuple):
    """The file of a page whose picture is not unpacked yet."""

    data: bytes
    pixels: int
    #: What it is called in errors.
    param: str

    def opened(self) -> ScannedPage:
        from PIL import Image

        with _refusing_unreadable(self.param):
            image = Image.open(io.BytesIO(self.data))
            image.load()
            return ScannedPage(_on_white(_upright(image)), _dpi(image.info))


def sent(data: bytes, most_pixels: int, param: str = "image") -> SentPage:
    """Looks at the beginning of the file, which says how large the picture is."""
    from PIL import Image

    if not data:
        raise errors.BadRequest(f"{param} has no bytes.", param)
    try:
        with _refusing_unreadable(param):
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise errors.BadRequest(
            f"{param} has too many pixels, {most_pixels / 1e6:.0f} million are allowed: {error}", param
        ) from None
    _refuse_large(image.width, image.height, most_pixels, param)
    return SentPage(data, image.width * image.height, param)


@contextmanager
def _refusing_unreadable(param: str) -> Iterator[None]:
    from PIL import UnidentifiedImageError

    try:
        yield
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise errors.BadRequest(f"{param} is not a readable picture: {error}.", param) from None


def cut_out(sheet: ScannedPage, box: tuple[float, float, float, float]) -> bytes | None:
    """That part of the page as a PNG file; None where the box has no area on the page."""
    width, height = sheet.size
    left, top, right, bottom = box
    inside = max(round(left), 0), max(round(top), 0), min(round(right), width), min(round(bottom), height)
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        return None
    target = io.BytesIO()
    sheet.image.crop(inside).save(target, "PNG")
    return target.getvalue()


def _refuse_large(width: int, height: int, most_pixels: int, param: str) -> None:
    if width * height > most_pixels or max(width, height) > MOST_SIDE:
        raise errors.BadRequest(
            f"{param} has {width} x {height} pixels; {most_pixels / 1e6:.0f} million are allowed, and {MOST_SIDE} on a "
            "side.",
            param,
        )


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """As its camera was held. A page that lies right is not copied: each copy takes 4 bytes for a pixel."""
    from PIL import ImageOps

    ImageOps.exif_transpose(image, in_place=True)
    return image


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit values at 255 instead of scaling them.
        image = image.point(lambda value: value / 256).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return _blended(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _blended(image: PIL.Image.Image) -> PIL.Image.Image:
    """What is transparent becomes white, a few rows at a time."""
    from PIL import Image

    page = Image.new("RGB", image.size)
    for top in range(0, image.height, BLENDED_ROWS):
        rows = (0, top, image.width, min(top + BLENDED_ROWS, image.height))
        strip = image.crop(rows).convert("RGBA")
        page.paste(Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip).convert("RGB"), rows)
    return page


def _dpi(info: JsonObject) -> float | None:
    try:
        dpi = float(info["dpi"][0])
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
        return None
    return round(dpi, 1) if 1 < dpi < 10_000 else None
