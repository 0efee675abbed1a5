"""Embedding models in the layout of sentence-transformers: loaded by it, run by hand so that callers share batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cluster import errors
from cluster.family import Example, Prepared, Setup
from deployments.device import loading_arguments, torch_for
from deployments.text import Encoded, TextEncoder, passes, truncation_of


class EmbeddingOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    torch_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    normalize: bool | None = Field(default=None, description="Vectors of length 1; by default as the model has it.")
    dimensions: int | None = Field(default=None, gt=0, description="Keep the first dimensions only (Matryoshka).")
    max_tokens: int | None = Field(default=None, gt=0, description="Read fewer tokens of a text than the model can.")
    prompt_name: str | None = Field(default=None, description="Prompt to use when a request names none.")
    token_ids: Literal["model", "cl100k"] = Field(
        default="model", description="What token ids in a request mean: the model's own, or OpenAI's cl100k."
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = None


class SentenceTransformers:
    engines: ClassVar[tuple[str, ...]] = ("sentence_transformers",)
    abilities: ClassVar[tuple[str, ...]] = ("embed", "tokens")
    Options: ClassVar[type[BaseModel]] = EmbeddingOptions
    example: ClassVar[Example] = Example(["The weather is lovely today.", "It is raining."], {}, "embed")

    def load(self, setup: Setup) -> Mapping[str, Any]:
        self._torch = torch_for(setup)
        from sentence_transformers import SentenceTransformer

        setup.report(0.3)
        options: EmbeddingOptions = setup.options
        self._options = options
        arguments = loading_arguments(setup, options.torch_dtype, options.attn_implementation)
        self._model = SentenceTransformer(str(setup.folder), **arguments).eval()
        setup.report(0.9)
        self._prompts = {**setup.entry.facts.get("prompts", {}), **{k: v for k, v in self._model.prompts.items() if v}}
        self._default_prompt = options.prompt_name or self._model.default_prompt_name
        if self._default_prompt is not None and self._default_prompt not in self._prompts:
            raise errors.BadOption(_no_prompt(self._default_prompt, self._prompts), None, "prompt_name")
        limit = self._model.max_seq_length or setup.entry.max_tokens or 512
        self._encoder = TextEncoder(self._model.tokenizer, min(limit, options.max_tokens or limit))
        self._dimensions = int(self._vectors([self._encoder.encode(["size"])[0]]).shape[1])
        return {
            "dimensions": min(options.dimensions or self._dimensions, self._dimensions),
            "max_tokens": self._encoder.max_tokens,
            "dtype": str(next(self._model.parameters()).dtype).removeprefix("torch."),
            "prompts": sorted(self._prompts),
        }

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        if ability == "tokens":
            return Prepared([], [0], answers=self._encoder.tokens_of([int(token) for token in items]))
        self._check(params)
        truncate = truncation_of(params)
        prompt = self._prompt(params)
        encoded: list[Encoded | None] = [None] * len(items)
        texts: list[tuple[int, str]] = []
        for position, item in enumerate(items):
            if isinstance(item, list) and self._options.token_ids == "model":
                encoded[position] = self._encoder.encode_ids(item, truncate, position)
            else:
                texts.append((position, prompt + _text_of(item)))
        places = [position for position, _ in texts]
        found = self._encoder.encode([text for _, text in texts], truncate, places)
        for position, one in zip(places, found, strict=True):
            encoded[position] = one
        values = [one for one in encoded if one is not None]
        return Prepared(values, [len(one) for one in values])

    def run(self, batch: Sequence[Encoded]) -> Sequence[Any]:
        outputs: list[Any] = [None] * len(batch)
        for positions in passes([len(one) for one in batch]):
            for position, vector in zip(positions, self._vectors([batch[p] for p in positions]), strict=True):
                outputs[position] = vector
        return outputs

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        vectors = np.stack(outputs) if outputs else np.empty((0, self._dimensions), np.float32)
        dimensions = params.get("dimensions") or self._options.dimensions
        normalize = params.get("normalize", self._options.normalize)
        if dimensions is not None and dimensions < self._dimensions:
            # A cut vector is not of length 1 any more; the model's own convention is kept.
            is_unit = bool(len(vectors)) and abs(float(np.linalg.norm(vectors[0])) - 1) < 1e-3
            vectors = vectors[:, :dimensions]
            normalize = is_unit if normalize is None else normalize
        if normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def set_threads(self, threads: int) -> None:
        self._torch.set_num_threads(threads)

    def _vectors(self, batch: Sequence[Encoded]) -> Any:
        torch = self._torch
        with torch.inference_mode():
            features = {
                name: torch.from_numpy(array).to(self._model.device)
                for name, array in self._encoder.features(batch).items()
            }
            return self._model(features)["sentence_embedding"].float().cpu().numpy()

    def _check(self, params: Mapping[str, Any]) -> None:
        dimensions = params.get("dimensions")
        if dimensions is not None and not 1 <= dimensions <= self._dimensions:
            raise errors.BadRequest(
                f"dimensions must be 1 to {self._dimensions} for this model, not {dimensions}.", None, "dimensions"
            )

    def _prompt(self, params: Mapping[str, Any]) -> str:
        """The text before the text. Dialects have words for roles of their own, which every model may ignore; any other
        name must be one of its prompts."""
        if params.get("prompt") is not None:
            return str(params["prompt"])
        name = params.get("prompt_name")
        if name is None:
            return self._prompts.get(self._default_prompt, "") if self._default_prompt else ""
        for spelled in (name, ROLES.get(name), *SYNONYMS.get(ROLES.get(name, name), ())):
            if spelled in self._prompts:
                return str(self._prompts[spelled])
        if name in ROLES:
            return ""
        raise errors.BadRequest(_no_prompt(name, self._prompts), None, "prompt_name")


#: What Cohere, Jina and Voyage call the role of a text.
ROLES = {
    "query": "query",
    "document": "document",
    "passage": "document",
    "search_query": "query",
    "search_document": "document",
    "retrieval.query": "query",
    "retrieval.passage": "document",
    "classification": "classification",
    "clustering": "clustering",
}
SYNONYMS = {"document": ("passage", "corpus"), "query": ("s2p_query", "web_search_query")}


def _no_prompt(name: str, prompts: Mapping[str, str]) -> str:
    return f"The model has no prompt {name!r}; it has {', '.join(sorted(prompts)) or 'none'}."


def _text_of(item: Any) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, dict) and isinstance(item.get("text"), str):
        return str(item["text"])
    if isinstance(item, list):
        return _openai_text(item)
    raise errors.InvalidBody(f"An input is a text or a list of token ids, not {type(item).__name__}.", None, "input")


def _openai_text(ids: list[int]) -> str:
    import tiktoken

    try:
        return str(tiktoken.get_encoding("cl100k_base").decode(ids))
    except (KeyError, TypeError, ValueError) as error:
        raise errors.InvalidBody(f"The token ids are not cl100k ones: {error}.", None, "input") from None
    except OSError as error:
        raise errors.BadRequest(f"The cl100k vocabulary is not on this machine and cannot be had: {error}.") from None
