"""Pictures that models read: of few formats, and of a size that is checked before they are unpacked."""

from __future__ import annotations

import io
import struct
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
#: What Pillow raises for files that are broken.
BROKEN = (OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, struct.error)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def opened(
    data: bytes, where: str, param: str = "input", *, on_white: bool = False, upright: bool = False
) -> Image.Image:
    """A picture in colours, its first frame where it has several. What is transparent keeps the colour that is stored
    beneath, or becomes white; `upright`: turned as its camera says that it was held. Errors call it `where`."""
    with _refusing_unreadable(where, param):
        picture = _checked(data, where, param)
        if upright:
            picture = _upright(picture)
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
    # What a file says wrongly of itself ends in many ways.
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise errors.BadRequest(f"{where} is a picture that cannot be read: {error}.", param) from None


def _upright(picture: Image.Image) -> Image.Image:
    """By its orientation alone: Pillow's own way writes all of the EXIF anew, and fails where a part of it is odd."""
    from PIL import ExifTags, Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    # Of a TIFF file Pillow turns the picture itself when it is loaded, and forgets the orientation.
    picture.load()
    turn = turns.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    return picture if turn is None else picture.transpose(turn)


def _on_white(picture: Image.Image) -> Image.Image:
    from PIL import Image

    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture.convert("RGB")
    above = picture.convert("RGBA")
    page = Image.new("RGB", above.size, "white")
    page.paste(above, mask=above.getchannel("A"))
    return page
