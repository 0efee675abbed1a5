"""Texts and pictures in one space: CLIP, SigLIP and models of their make."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from cluster import errors
from deployments.text.embedding.paired import Paired

#: A picture of more is not decoded: a small file can hold a very large one.
MOST_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class Clip(Paired):
    engines: ClassVar[tuple[str, ...]] = (*Paired.engines, "clip")
    abilities: ClassVar[tuple[str, ...]] = ("embed", "embed_image", "tokenize", "decode", "tokens")
    modality: ClassVar[str] = "image"

    def _prepare_media(self, folder: Path, common: Mapping[str, Any]) -> None:
        import transformers

        config = self._model.config
        self._processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", **common)
        self.media_tokens = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        self.fills_texts = config.model_type.startswith("siglip")

    def _read(self, data: bytes, place: int) -> Mapping[str, Any]:
        picture = opened(data, place)
        return {"pixel_values": self._processor(images=[picture], return_tensors="np")["pixel_values"][0]}


def opened(data: bytes, place: int) -> Any:
    """A picture in colours, its first frame where it has several."""
    from PIL import Image, UnidentifiedImageError

    try:
        found = Image.open(io.BytesIO(data), formats=FORMATS)
        if found.width * found.height > MOST_PIXELS:
            raise errors.BadRequest(
                f"Input {place} has {found.width} x {found.height} pixels; at most {MOST_PIXELS:,} are decoded.",
                "input",
            )
        return found.convert("RGB")
    except UnidentifiedImageError:
        raise errors.BadRequest(
            f"Input {place} is no picture that can be read; {', '.join(FORMATS)} are.", "input"
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise errors.BadRequest(f"Input {place} is a picture that cannot be read: {error}.", "input") from None
