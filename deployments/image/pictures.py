"""Pictures as files: read within bounds, written with a receipt of how they were made."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from cluster import errors
from deployments.image.requests import Format

#: What is decoded at all: the library knows dozens more, some of which run other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
#: A receipt in a JPEG is one segment of the file.
MOST_COMMENT = 65_000
#: Effort of PNG: beyond this, files hardly shrink and large pictures take seconds.
PNG_EFFORT = 4


def read(data: bytes, most_pixels: int, param: str) -> Any:
    """A picture in the colours it has; its size is read before anything is unpacked."""
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
    # Whatever a decoder raises about a caller's file, the file is what is wrong.
    except Exception as error:
        raise errors.BadRequest(f"{param} is no picture that can be read: {error}.", param) from None


def read_colours(data: bytes, most_pixels: int, param: str) -> Any:
    """Three colours, what is transparent on white."""
    from PIL import Image

    image = read(data, most_pixels, param)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    if image.mode.startswith("I"):
        # Sixteen bits of grey, of which the library would keep the lower eight.
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    return image.convert("RGB")


def from_pixels(pixels: Any) -> Any:
    """A picture from rows of pixels of one, three or four numbers between 0 and 1."""
    import numpy as np
    from PIL import Image

    eight_bit = (np.asarray(pixels) * 255).round().clip(0, 255).astype("uint8")
    return Image.fromarray(eight_bit[..., 0] if eight_bit.shape[-1] == 1 else eight_bit)


def written(image: Any, format: Format, quality: int, receipt: Mapping[str, Any]) -> bytes:
    """The file; PNG and JPEG carry the receipt, so that a picture that was passed on still says how it was made."""
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


def parameters_of(receipt: Mapping[str, Any]) -> str:
    """The same in the line that other programs read out of a PNG."""
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
