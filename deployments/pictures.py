"""Pictures that models read: of few formats, and of a size that is checked before they are unpacked."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cluster import errors

if TYPE_CHECKING:
    from PIL import Image

#: Larger pictures are not decoded: a small file can hold a very large one.
MOST_PIXELS = 50_000_000
#: Memory of unpacking a picture, for each of its pixels: Pillow has 4 bytes for one, and a picture is there as it came,
#: with its transparency, which is there once more by itself, and on white.
OPENING_BYTES = 13
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def opened(
    data: bytes, where: str, param: str = "input", *, on_white: bool = False, upright: bool = False
) -> Image.Image:
    """A picture in colours, its first frame where it has several. What is transparent keeps the colour that is stored
    beneath, or becomes white; `upright`: turned as its camera says that it was held. Errors call it `where`."""
    from PIL import ImageOps

    with _refusing_unreadable(where, param):
        picture = _checked(data, where, param)
        if upright:
            ImageOps.exif_transpose(picture, in_place=True)
        return _on_white(picture) if on_white else picture.convert("RGB")


def size_of(data: bytes, where: str, param: str = "input") -> tuple[int, int]:
    """Width and height, from the beginning of the file; nothing is unpacked."""
    with _refusing_unreadable(where, param):
        picture = _checked(data, where, param)
        return int(picture.width), int(picture.height)


def grey(side: int) -> bytes:
    """A file to try a model with."""
    from PIL import Image

    target = io.BytesIO()
    Image.new("RGB", (side, side), "grey").save(target, "PNG")
    return target.getvalue()


def _checked(data: bytes, where: str, param: str) -> Image.Image:
    from PIL import Image

    picture = Image.open(io.BytesIO(data), formats=FORMATS)
    if picture.width * picture.height > MOST_PIXELS:
        raise errors.BadRequest(
            f"{where} has {picture.width} x {picture.height} pixels; at most {MOST_PIXELS:,} are decoded.", param
        )
    return picture


@contextmanager
def _refusing_unreadable(where: str, param: str) -> Iterator[None]:
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError:
        raise errors.BadRequest(f"{where} is not a readable picture; {', '.join(FORMATS)} are.", param) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise errors.BadRequest(f"{where} is a picture that cannot be read: {error}.", param) from None


def _on_white(picture: Image.Image) -> Image.Image:
    from PIL import Image

    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture.convert("RGB")
    above = picture.convert("RGBA")
    page = Image.new("RGB", above.size, "white")
    page.paste(above, mask=above.getchannel("A"))
    return page
