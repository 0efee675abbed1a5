"""Texts and pictures in one space: CLIP, SigLIP and similar models."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from cluster.value import JsonObject
from cluster.worker.family import Example
from deployments.pictures import grey, opened
from deployments.text.embedding.paired import Paired
from deployments.vectors import Arrays


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
        self.largest = Example([{self.modality: grey(config.vision_config.image_size)}], {}, "embed_image")

    def _read(self, data: bytes, place: int) -> Arrays:
        picture = opened(data, f"Input {place}")
        return {"pixel_values": self._processor(images=[picture], return_tensors="np")["pixel_values"][0]}
