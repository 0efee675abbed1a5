"""Pictures as files: read within limits, and written with a receipt that says how they were made."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, TypeAlias

from cluster import errors
from cluster.value import JsonObject
from deployments.image.requests import Format

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray

#: Rows of pixels of one, three or four numbers from 0 to 1.
Pixels: TypeAlias = "NDArray[np.float32]"

#: The only formats that are decoded. Pillow knows dozens more, some of which start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
#: Most bytes of a receipt in a JPEG, where it is a single segment of the file.
MOST_COMMENT = 65_000
#: Compression level of PNG: above it, files hardly get smaller and large pictures take seconds.
PNG_EFFORT = 4


def read(data: bytes, most_pixels: int, param: str) -> PIL.Image.Image:
    """A picture in its own colours. Its size is checked before its pixels are unpacked."""
    from PIL import Image, ImageOps

    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > most_pixels:
            raise errors.BadRequest(
                f"{param} has {width} x {height} pixels, {most_pixels / 1e6:.1f} million are allowed.", param
            )
        image.load()
        return ImageOps.exif_transpose(image)
    except errors.BadRequest:
        raise
    # A decoder can raise anything about a broken file, and the file is the caller's.
    except Exception as error:
        raise errors.BadRequest(f"{param} is not a readable picture: {error}.", param) from None


def read_colours(data: bytes, most_pixels: int, param: str) -> PIL.Image.Image:
    """A picture in three colours; what is transparent becomes white."""
    from PIL import Image

    image = read(data, most_pixels, param)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow would keep the lower eight bits instead of scaling.
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    return image.convert("RGB")


def from_pixels(pixels: Pixels) -> PIL.Image.Image:
    """A picture from rows of pixels of one, three or four numbers between 0 and 1."""
    import numpy as np
    from PIL import Image

    eight_bit = (np.asarray(pixels) * 255).round().clip(0, 255).astype("uint8")
    return Image.fromarray(eight_bit[..., 0] if eight_bit.shape[-1] == 1 else eight_bit)


def written(image: PIL.Image.Image, format: Format, quality: int, receipt: JsonObject) -> bytes:
    """The bytes of the file. PNG and JPEG contain the receipt, so that a picture still says how it was made when it is
    passed on."""
    from PIL.PngImagePlugin import PngInfo

    target = io.BytesIO()
    text = json.dumps(receipt, sort_keys=True)
    if format == "png":
        info = PngInfo()
        info.add_itxt("receipt", text)
        info.add_itxt("parameters", parameters_of(receipt))
        image.save(target, "PNG", compress_level=PNG_EFFORT, pnginfo=info)
    elif format == "jpeg":
        comment = text.encode() if len(text) < MOST_COMMENT else b""
        image.convert("RGB").save(target, "JPEG", quality=quality, comment=comment)
    else:
        image.save(target, "WEBP", quality=quality)
    return target.getvalue()


def parameters_of(receipt: JsonObject) -> str:
    """The receipt in the form that other programs read from a PNG file."""
    lines = [str(receipt.get("prompt", ""))]
    if receipt.get("negative_prompt"):
        lines.append(f"Negative prompt: {receipt['negative_prompt']}")
    named = {
        "Steps": receipt.get("num_inference_steps"),
        "Sampler": receipt.get("sampler_name") or receipt.get("scheduler"),
        "CFG scale": receipt.get("guidance_scale"),
        "Seed": receipt.get("seed"),
        "Size": f"{receipt.get('width')}x{receipt.get('height')}",
        "Model": receipt.get("model"),
        "Denoising strength": receipt.get("strength"),
    }
    lines.append(", ".join(f"{name}: {value}" for name, value in named.items() if value is not None))
    return "\n".join(lines)
