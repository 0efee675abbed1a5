"""The picture of a page, read from a file. Its size is checked before its pixels are unpacked."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

from cluster import errors
from cluster.value import JsonObject
from deployments.ocr.requests import MOST_SIDE

if TYPE_CHECKING:
    import PIL.Image


class ScannedPage(NamedTuple):
    """The picture of a page to read."""

    #: In three colours; what was transparent is white.
    image: PIL.Image.Image
    dpi: float | None

    @property
    def size(self) -> tuple[int, int]:
        width, height = self.image.size
        return int(width), int(height)


def opened(data: bytes, most_pixels: int, param: str = "image") -> ScannedPage:
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not data:
        raise errors.BadRequest(f"{param} has no bytes.", param)
    try:
        image = Image.open(io.BytesIO(data))
        _refuse_large(image.width, image.height, most_pixels, param)
        image.load()
        dpi = _dpi(image.info)
        return ScannedPage(_on_white(ImageOps.exif_transpose(image)), dpi)
    except Image.DecompressionBombError as error:
        raise errors.BadRequest(
            f"{param} has too many pixels, {most_pixels / 1e6:.0f} million are allowed: {error}", param
        ) from None
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


def _on_white(image: PIL.Image.Image) -> PIL.Image.Image:
    from PIL import Image

    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit values at 255 instead of scaling them.
        image = image.point(lambda value: value / 256).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _dpi(info: JsonObject) -> float | None:
    try:
        dpi = float(info["dpi"][0])
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
        return None
    return round(dpi, 1) if 1 < dpi < 10_000 else None
