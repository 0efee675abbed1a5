"""Texts and pictures in one space: CLIP, SigLIP and similar models."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cluster import errors
from cluster.value import JsonObject
from cluster.worker.family import Example
from deployments.text.embedding.paired import Paired
from deployments.vectors import Arrays

if TYPE_CHECKING:
    from PIL import Image

#: Larger pictures are not decoded: a small file can hold a very large one.
MOST_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class Clip(Paired):
    engines: ClassVar[tuple[str, ...]] = (*Paired.engines, "clip")
    abilities: ClassVar[tuple[str, ...]] = ("embed", "embed_image", "tokenize", "decode", "tokens")
    modality: ClassVar[str] = "image"

    def _prepare_media(self, folder: Path, common: JsonObject) -> None:
        import transformers

        config = self._model.config
        self._processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", **common)
        self.media_tokens = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        self.fills_texts = config.model_type.startswith("siglip")
        # Pictures take more of the model than texts do.
        self.largest = Example([{self.modality: _grey(config.vision_config.image_size)}], {}, "embed_image")

    def _read(self, data: bytes, place: int) -> Arrays:
        picture = opened(data, place)
        return {"pixel_values": self._processor(images=[picture], return_tensors="np")["pixel_values"][0]}


def _grey(side: int) -> bytes:
    from PIL import Image

    target = io.BytesIO()
    Image.new("RGB", (side, side), "grey").save(target, "PNG")
    return target.getvalue()


def opened(data: bytes, place: int) -> Image.Image:
    """A picture in colours, its first frame where it has several."""
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MOST_PIXELS:
            raise errors.BadRequest(
                f"Input {place} has {picture.width} x {picture.height} pixels; at most {MOST_PIXELS:,} are decoded.",
                "input",
            )
        return picture.convert("RGB")
    except UnidentifiedImageError:
        raise errors.BadRequest(
            f"Input {place} is not a readable picture; {', '.join(FORMATS)} are.", "input"
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise errors.BadRequest(f"Input {place} is a picture that cannot be read: {error}.", "input") from None
