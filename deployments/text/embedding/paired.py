"""What models share that put texts and one other kind of input into one space; loaded by transformers alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cluster import errors
from cluster.value import JsonObject
from cluster.weights.memory import MemoryPlan
from cluster.worker.family import BatchHints, Params, Prepared, Prospect, Setup
from deployments.device import refuse_foreign_code, torch_for
from deployments.text.embedding.sentence_transformers import SentenceTransformers
from deployments.text.engine_limits import TORCH_BATCH_TOKENS
from deployments.text.facts import EmbeddingFacts
from deployments.text.needs import paired_plan_of
from deployments.text.tokenizing import Encoded, TextEncoder
from deployments.vectors import Arrays, Floats, refused_unless_finite

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.utils import ModelOutput


@dataclass(frozen=True, slots=True)
class Media:
    """A picture or a sound, as the arrays that the model reads."""

    arrays: Arrays


class Paired(SentenceTransformers):
    engines: ClassVar[tuple[str, ...]] = ("transformers", "sentence_transformers", "torch", "auto")
    #: What an item holds beside texts: image, audio.
    modality: ClassVar[str]
    #: What one such input counts for in a batch, in tokens.
    media_tokens: int = 256
    #: Texts are made as long as the model reads, which some were trained with.
    fills_texts: bool = False

    @classmethod
    def plan(cls, prospect: Prospect) -> MemoryPlan:
        if prospect.on_card:
            return super().plan(prospect)
        return paired_plan_of(prospect, cls.number_format(prospect), cls.modality)

    def load(self, setup: Setup) -> EmbeddingFacts:
        torch = self._torch = torch_for(setup)
        import transformers

        setup.report(0.3)
        self._options = options = setup.options
        dtype = "float32" if setup.device == "cpu" else "bfloat16"
        named = getattr(torch, dtype if options.torch_dtype == "auto" else options.torch_dtype)
        refuse_foreign_code(setup)
        folder, common = _inner(setup.folder), {"local_files_only": True, "trust_remote_code": setup.remote_code}
        safe = {} if setup.allow_pickle else {"use_safetensors": True}
        attention = {"attn_implementation": options.attn_implementation} if options.attn_implementation else {}
        loaded = transformers.AutoModel.from_pretrained(folder, dtype=named, **safe, **attention, **common)
        self._model = loaded.to(setup.device).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **common)
        most = getattr(self._model.config.text_config, "max_position_embeddings", 77)
        longest = min(most, tokenizer.model_max_length, options.max_tokens or most)
        self._encoder = TextEncoder(tokenizer, longest)
        self._prompts = dict(setup.entry.facts.get("prompts", {}))
        self._default_prompt = options.prompt_name
        self._prepare_media(folder, common)
        self._dimensions = len(self._texts(self._encoder.encode(["size"]))[0])
        self.pace = BatchHints(batch_tokens=TORCH_BATCH_TOKENS if setup.device == "cpu" else None, pads=True)
        dimensions = min(options.dimensions or self._dimensions, self._dimensions)
        return EmbeddingFacts(
            dimensions=dimensions, max_tokens=longest, dtype=str(named).removeprefix("torch."), packed=False
        )

    def prepare(self, ability: str, items: Sequence[object], params: Params) -> Prepared:
        if ability != f"embed_{self.modality}":
            return super().prepare(ability, items, params)
        self._check(params)
        values = [Media(self._read(_bytes_of(item, self.modality, index), index)) for index, item in enumerate(items)]
        return Prepared(values, [self.media_tokens] * len(values))

    def run(self, batch: Sequence[Any]) -> Sequence[object]:
        if not batch:
            return []
        vectors = self._media(batch) if isinstance(batch[0], Media) else self._texts(batch)
        return refused_unless_finite(list(vectors))

    def pack(self, outputs: list[Floats], params: Params) -> object:
        # Texts and what they are compared with differ in length; these models were trained on directions alone.
        wanted = params.get("normalize", self._options.normalize)
        normalize = wanted is None or wanted
        return super().pack(outputs, {**params, "normalize": normalize})

    def set_threads(self, threads: int) -> None:
        self._torch.set_num_threads(threads)

    def _texts(self, batch: Sequence[Encoded]) -> Floats:
        multiple = self._encoder.max_tokens if self.fills_texts else 1
        return self._features(self._model.get_text_features, self._encoder.features(batch, multiple))

    def _media(self, batch: Sequence[Media]) -> Floats:
        arrays = {name: np.stack([media.arrays[name] for media in batch]) for name in batch[0].arrays}
        return self._features(getattr(self._model, f"get_{self.modality}_features"), arrays)

    def _features(self, method: Callable[..., Tensor | ModelOutput], arrays: Arrays) -> Floats:
        torch = self._torch
        tensors = {name: torch.from_numpy(array).to(self._model.device) for name, array in arrays.items()}
        tensors = {
            name: tensor.to(self._model.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }
        with torch.inference_mode():
            answer = method(**tensors)
        array: Floats = getattr(answer, "pooler_output", answer).float().cpu().numpy()
        return array

    @abstractmethod
    def _prepare_media(self, folder: Path, common: JsonObject) -> None:
        """Loads what reads the other kind of input."""

    @abstractmethod
    def _read(self, data: bytes, place: int) -> Arrays:
        """One file as arrays; raises BadRequest for what cannot be read."""


def _bytes_of(item: object, modality: str, place: int) -> bytes:
    if isinstance(item, dict) and isinstance(item.get(modality), (bytes, bytearray, memoryview)):
        return bytes(item[modality])
    raise errors.InvalidBody(f"Input {place} is not an object with `{modality}`.", "input")


def _inner(folder: Path) -> Path:
    """Older versions of sentence-transformers kept the model in a subfolder."""
    inner = folder / "0_CLIPModel"
    return inner if inner.is_dir() else folder
