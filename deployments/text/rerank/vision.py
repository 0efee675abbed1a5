"""Vision-language models as rerankers: asked whether a document answers a query, either of which may be a picture, how
much likelier yes is than no."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, Field

from cluster import errors
from cluster.weights.memory import MemoryPlan
from cluster.worker.family import Batched, BatchHints, Example, Params, Prepared, Prospect, Setup
from deployments.device import dtype_for, torch_for
from deployments.pictures import grey, opened
from deployments.text.engine_limits import TORCH_BATCH_TOKENS
from deployments.text.facts import RerankFacts
from deployments.text.loading import LONG_TEXT
from deployments.text.needs import vision_plan_of
from deployments.text.rerank.judging import (
    INSTRUCTION,
    MARKS,
    JudgedPair,
    JudgedPicture,
    JudgingPrompt,
    SeenSize,
    judged,
)
from deployments.text.rerank.requests import EXAMPLE
from deployments.text.tokenizing import EncoderOptions, truncation_of
from deployments.vectors import Arrays, Floats, refused_unless_finite, sigmoid


class VisionRerankOptions(EncoderOptions):
    instruction: str = Field(default=INSTRUCTION, description="What a document is to be judged by.")
    min_pixels: int = Field(
        default=4 * 32 * 32, ge=1, description="Smaller pictures are enlarged before they are read."
    )
    max_pixels: int = Field(default=1800 * 32 * 32, ge=1, description="Larger pictures are made smaller.")
    long_documents: str = Field(
        default="truncate",
        pattern="^(truncate|error)$",
        description="What is done with a document that does not fit: cut its text, or refuse it.",
    )


class VisionRerankers(Batched):
    engines: ClassVar[tuple[str, ...]] = ("transformers", "sentence_transformers", "torch", "vision")
    abilities: ClassVar[tuple[str, ...]] = ("rerank", "rerank_image")
    Options: ClassVar[type[BaseModel]] = VisionRerankOptions
    example: Example = EXAMPLE

    @classmethod
    def plan(cls, prospect: Prospect) -> MemoryPlan:
        return vision_plan_of(prospect, cls.number_format(prospect))

    def load(self, setup: Setup) -> RerankFacts:
        self._torch = torch_for(setup)
        from transformers import AutoImageProcessor, AutoTokenizer, Qwen3VLForConditionalGeneration
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        self._options: VisionRerankOptions = setup.options
        common = {"local_files_only": True}
        safe = {} if setup.allow_pickle else {"use_safetensors": True}
        attention = self._options.attn_implementation
        setup.report(0.1)
        model = Qwen3VLForConditionalGeneration.from_pretrained(
            setup.folder,
            dtype=dtype_for(self._options.torch_dtype, setup),
            **({"attn_implementation": attention} if attention else {}),
            **safe,
            **common,
        )
        setup.report(0.8)
        # Without torchvision: the processor of pictures has a way through Pillow, that of videos has none.
        self._processor = AutoImageProcessor.from_pretrained(setup.folder, backend="pil", do_resize=False, **common)
        self._fitting = smart_resize
        tokenizer = AutoTokenizer.from_pretrained(setup.folder, padding_side="left", **common)
        if missing := {*MARKS, "yes", "no"} - set(tokenizer.get_vocab()):
            raise errors.LoadFailed(
                f"{setup.entry.name} is no reranker of pictures: its vocabulary lacks {', '.join(sorted(missing))}."
            )
        limits = (model.config.text_config.max_position_embeddings, setup.entry.max_tokens, self._options.max_tokens)
        self._prompt = JudgingPrompt(tokenizer, min(limit for limit in limits if limit))
        yes, no = (model.lm_head.weight[tokenizer.convert_tokens_to_ids(word)] for word in ("yes", "no"))
        self._towards_yes = (yes.float() - no.float()).detach().to(setup.device)
        # The rest of the table of all words is not kept.
        self._model = model.model.to(setup.device).eval()
        self.pace = BatchHints(batch_tokens=TORCH_BATCH_TOKENS if setup.device == "cpu" else None, pads=True)
        largest = {"image": grey(isqrt(self._options.max_pixels))}
        self.largest = Example([{**largest, "text": LONG_TEXT}], {"query": largest}, "rerank_image")
        return RerankFacts(
            max_tokens=self._prompt.encoder.max_tokens,
            dtype=str(self._model.dtype).removeprefix("torch."),
            packed=False,
            type=setup.entry.facts.get("type", "normal"),
        )

    def prepare(self, ability: str, items: Sequence[object], params: Params) -> Prepared:
        policy = params.get("long_documents") or self._options.long_documents
        if policy == "chunk":
            raise errors.BadRequest("This model does not read documents in parts.", "long_documents")
        query = judged(params.get("query"), "The query", "the query", "query", self._seen)
        documents = [
            judged(item, f"Input {index}", "the document", "documents", self._seen) for index, item in enumerate(items)
        ]
        pairs = self._prompt.of(
            query,
            documents,
            params.get("instruction") or self._options.instruction,
            "NONE" if policy == "error" else truncation_of(params),
            params.get("max_tokens_per_doc"),
        )
        tokens = [len(pair.tokens) for pair in pairs]
        return Prepared(pairs, tokens, identities=[pair.identity for pair in pairs])

    def run(self, batch: Sequence[JudgedPair]) -> Sequence[object]:
        files = {picture.digest: picture for pair in batch for picture in pair.pictures}
        pixels = {digest: self._pixels_of(picture) for digest, picture in files.items()}
        opened = [_shown(pair, pixels) for pair in batch]
        legible = [(pair, arrays) for pair, arrays in zip(batch, opened, strict=True) if isinstance(arrays, list)]
        logits = iter(self._logits([pair for pair, _ in legible], [array for _, arrays in legible for array in arrays]))
        return [next(logits) if isinstance(arrays, list) else arrays for arrays in opened]

    def pack(self, outputs: list[Floats], params: Params) -> Floats:
        logits = np.asarray(outputs, dtype=np.float32).reshape(-1)
        return logits if params.get("raw_scores") else sigmoid(logits)

    def set_threads(self, threads: int) -> None:
        self._torch.set_num_threads(threads)

    def _seen(self, width: int, height: int) -> SeenSize:
        """Of whole squares, of which each is a token."""
        side = int(self._processor.patch_size) * int(self._processor.merge_size)
        height, width = self._fitting(height, width, side, self._options.min_pixels, self._options.max_pixels)
        return SeenSize(width, height, width * height // side**2)

    def _pixels_of(self, picture: JudgedPicture) -> Arrays | errors.BadRequest:
        """Unpacked only now, so that documents that wait take no more than their files."""
        try:
            image = opened(picture.data, picture.owner, "documents", on_white=True)
        except errors.BadRequest as error:
            return error
        # Before it becomes an array: most pictures are larger.
        smaller = image.resize((picture.size.width, picture.size.height), self._processor.resample)
        return dict(self._processor(images=[smaller], return_tensors="np"))

    def _logits(self, batch: Sequence[JudgedPair], pictures: Sequence[Arrays]) -> list[Floats | errors.BadRequest]:
        if not batch:
            return []
        torch = self._torch
        arrays = self._prompt.encoder.features([pair.tokens for pair in batch])
        if pictures:
            arrays |= {name: np.concatenate([picture[name] for picture in pictures]) for name in pictures[0]}
            arrays["mm_token_type_ids"] = (arrays["input_ids"] == self._prompt.mark).astype(np.int64)
        tensors = {name: torch.from_numpy(array).to(self._model.device) for name, array in arrays.items()}
        with torch.inference_mode():
            last = self._model(**tensors, use_cache=False).last_hidden_state[:, -1]
            logits: Floats = (last.float() @ self._towards_yes).cpu().numpy()
        return refused_unless_finite(list(logits))


def _shown(pair: JudgedPair, pixels: Mapping[bytes, Arrays | errors.BadRequest]) -> list[Arrays] | errors.BadRequest:
    """Its pictures, or why one of them cannot be read."""
    arrays = []
    for picture in pair.pictures:
        read = pixels[picture.digest]
        if isinstance(read, errors.BadRequest):
            return read
        arrays.append(read)
    return arrays
