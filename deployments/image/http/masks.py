"""Pictures and masks that come with a request: judged by their heads, turned into what models expect.

Functions here are slow and belong in a thread. What a model reads in a picture is the worker's affair.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from cluster import errors
from deployments.image import pictures

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

#: How files of the formats that are taken begin; checked before a decoder sees them.
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM")


def size_of(data: bytes, param: str) -> tuple[int, int]:
    """Width and height as the head of the file has them; nothing is unpacked."""
    from PIL import Image

    if not data.startswith(MAGIC):
        raise errors.InvalidBody(f"{param} is not a picture: it must be a PNG, JPEG, WebP, GIF or BMP file.", param)
    try:
        with Image.open(io.BytesIO(data), formats=pictures.FORMATS) as image:
            width, height = image.size
            return width, height
    except Image.DecompressionBombError as error:
        raise errors.TooLarge(f"{param} is too large: {error}", param) from None
    # Whatever a decoder raises about the head of a caller's file, the file is what is wrong.
    except Exception as error:
        raise errors.InvalidBody(f"{param} is not a readable picture: {error}.", param) from None


def pixels_of(files: Sequence[tuple[str, bytes]], most: int) -> int:
    """Pixels of all pictures of a request together, refused when they are too many."""
    total = 0
    for param, data in files:
        width, height = size_of(data, param)
        total += width * height
        if total > most:
            raise errors.TooLarge(
                f"The pictures of the request have {total / 1e6:.1f} million pixels or more, {most / 1e6:.1f} million "
                "are allowed.",
                param,
            )
    return total


def edit_mask(data: bytes, most: int, param: str = "mask") -> bytes:
    """White where a picture is to be repainted. OpenAI's masks are transparent there; one that is transparent nowhere
    is black and white."""
    from PIL import ImageChops

    mask = pictures.read(data, most, param)
    if mask.mode in ("RGBA", "LA", "PA") or "transparency" in mask.info:
        alpha = mask.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] < 255:
            return as_png(ImageChops.invert(alpha))
    return as_png(mask.convert("RGB").convert("L"))


def plain_mask(data: bytes, most: int, param: str = "mask_image") -> bytes:
    """White where a picture is to be repainted, whatever is transparent."""
    return as_png(pictures.read(data, most, param).convert("RGB").convert("L"))


class Inpaint(NamedTuple):
    """How masks are prepared in the web interface that made these fields known."""

    blur: float = 0.0
    is_inverted: bool = False
    #: Redraw only the surroundings of what is masked, at the size of a whole picture.
    is_only_masked: bool = False
    padding: int = 0


class Cut(NamedTuple):
    """The part of a picture that is redrawn."""

    image: bytes
    mask: bytes
    #: Where it was cut out; None when it is the whole.
    box: tuple[int, int, int, int] | None


def cut(image: bytes, mask: bytes, how: Inpaint, aspect: float | None, most: int) -> Cut:
    """The part of a picture that is to be redrawn, and its mask, at the picture's own scale."""
    from PIL import ImageChops, ImageFilter

    picture = pictures.read_colours(image, most, "init_images")
    marked = pictures.read(mask, most, "mask").convert("RGB").convert("L").resize(picture.size)
    if how.is_inverted:
        marked = ImageChops.invert(marked)
    if how.blur:
        marked = marked.filter(ImageFilter.GaussianBlur(how.blur))
    box = marked.point(lambda value: 255 if value > 127 else 0).getbbox() if how.is_only_masked else None
    if box is None:
        return Cut(as_png(picture), as_png(marked), None)
    around_it = around(box, how.padding, aspect or picture.width / picture.height, picture.size)
    return Cut(as_png(picture.crop(around_it)), as_png(marked.crop(around_it)), around_it)


def around(
    box: tuple[int, int, int, int], padding: int, aspect: float, size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """The box with its surroundings, as wide for its height as the picture that will be drawn, within `size`."""
    left, top, right, bottom = box[0] - padding, box[1] - padding, box[2] + padding, box[3] + padding
    width, height = min(right - left, size[0]), min(bottom - top, size[1])
    wider, higher = max(width, min(size[0], round(height * aspect))), max(height, min(size[1], round(width / aspect)))
    x, y = (left + right - wider) // 2, (top + bottom - higher) // 2
    x, y = min(max(x, 0), size[0] - wider), min(max(y, 0), size[1] - higher)
    return x, y, x + wider, y + higher


def pasted(drawn: bytes, image: bytes, whole_mask: Cut, most: int) -> bytes:
    """A redrawn part put back into its picture, with the notes of the part's file on how it was made."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    assert whole_mask.box is not None
    box = whole_mask.box
    part = pictures.read(drawn, most, "image")
    info = PngInfo()
    for name, text in part.info.items():
        if isinstance(text, str):
            info.add_itxt(name, text)
    size = box[2] - box[0], box[3] - box[1]
    canvas = pictures.read_colours(image, most, "init_images")
    mask = pictures.read(whole_mask.mask, most, "mask")
    canvas.paste(part.convert("RGB").resize(size, Image.Resampling.LANCZOS), box, mask)
    target = io.BytesIO()
    canvas.save(target, "PNG", pnginfo=info)
    return target.getvalue()


def fitted(data: bytes, size: tuple[int, int], mode: int, most: int, param: str) -> bytes:
    """A picture brought to another shape by cutting off (1) or by adding borders (2)."""
    from PIL import ImageOps

    image = pictures.read_colours(data, most, param)
    return as_png(ImageOps.fit(image, size) if mode == 1 else ImageOps.pad(image, size))


def texts_in(data: bytes, most: int) -> dict[str, str]:
    """What the file of a picture says about it."""
    info = pictures.read(data, most, "image").info
    comment = info.get("comment")
    texts = {name: text for name, text in info.items() if isinstance(text, str)}
    return texts | ({"receipt": comment.decode(errors="replace")} if isinstance(comment, bytes) else {})


def as_png(image: Picture) -> bytes:
    target = io.BytesIO()
    image.save(target, "PNG", compress_level=1)
    return target.getvalue()
