"""Model types for tests and benchmarks. They do quickly, or wrongly, what real models do slowly and well.

They are loaded by `CLUSTER_PLUGINS=tests.families`. The worker, the queue, the routes and everything else around them
are real.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.facts import ModelFacts
from cluster.worker.family import AnyFamily, Batched, BatchHints, Example, Prepared, Progress, Setup, Stepped
from deployments import ModelType
from deployments.image import pictures
from deployments.image.facts import ImageFacts
from deployments.image.requests import Drawing, DrawnPicture
from deployments.text.facts import ClassifyFacts, EmbeddingFacts
from deployments.vectors import Rows, SparseRows, unit
from tests.speaking import Speaking


class EchoOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    load_seconds: float = 0.0
    load_error: str | None = None
    run_seconds: float = 0.0
    #: Computes its own example and nothing else.
    run_error: str | None = None
    #: Any value that a test wants to set and that means nothing.
    steps: int = 1


@dataclass(frozen=True, kw_only=True)
class EchoFacts(ModelFacts):
    pid: int
    cards: str


class Echo(Batched):
    """Answers with its input. An item can also be an order: see `run`."""

    engines: ClassVar[tuple[str, ...]] = ("echo",)
    abilities: ClassVar[tuple[str, ...]] = ("infer",)
    Options: ClassVar[type[BaseModel]] = EchoOptions
    example: Example = Example(["hello"], {}, "infer")
    _breaks = False

    def load(self, setup: Setup) -> ModelFacts:
        self._options: EchoOptions = setup.options
        deadline = time.monotonic() + self._options.load_seconds
        while time.monotonic() < deadline:
            setup.report(1 - (deadline - time.monotonic()) / self._options.load_seconds)
            threading.Event().wait(0.05)
        if self._options.load_error:
            raise ValueError(self._options.load_error)
        return EchoFacts(pid=os.getpid(), cards=os.environ.get("CUDA_VISIBLE_DEVICES", ""))

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        if any(item == "bad" for item in items):
            raise errors.BadRequest("An item is bad.", "items")
        return Prepared(list(items), [1] * len(items))

    def run(self, batch: Sequence[Any]) -> Sequence[Any]:
        pause = self._options.run_seconds + max((item["sleep"] for item in batch if _orders(item, "sleep")), default=0)
        if pause:
            time.sleep(pause)
        if self._options.run_error and any(item not in self.example.items for item in batch):
            raise ValueError(self._options.run_error)
        for item in batch:
            if _orders(item, "hold"):
                self._held = b"x" * item["hold"]
        self._breaks = self._breaks or any(_orders(item, "break") for item in batch)
        if self._breaks:
            raise ValueError("told to fail from here on")
        if any(_orders(item, "crash") for item in batch):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(_orders(item, "raise") for item in batch):
            raise ValueError("told to raise")
        return list(batch)

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        return outputs


class Narrow(Echo):
    """Computes no more than four inputs at once, so that callers wait for each other."""

    pace: BatchHints = BatchHints(batch_tokens=4)


def _orders(item: Any, what: str) -> bool:
    return isinstance(item, dict) and what in item


class Vectors(Echo):
    """Always answers 32 x 384 floats: the answer of an embedding model, without the model."""

    abilities: ClassVar[tuple[str, ...]] = ("embed",)
    example: Example = Example(["hello"], {}, "embed")
    rows: ClassVar[Any] = np.random.default_rng(0).standard_normal((32, 384), dtype=np.float32)

    def run(self, batch: Sequence[Any]) -> Sequence[Any]:
        return [None] * len(batch)

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        return self.rows


class LettersOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class LettersFacts(ClassifyFacts, EmbeddingFacts):
    """The facts that the routes of embeddings and of labels read."""


class Letters(Batched):
    """Everything that a text model can do, with letters for tokens, so that a test can work out the answers by hand.

    Token ids are code points between a 1 and a 2; a vector counts letters by their code point modulo 8.
    """

    engines: ClassVar[tuple[str, ...]] = ("letters",)
    abilities: ClassVar[tuple[str, ...]] = (
        "embed",
        "embed_sparse",
        "embed_tokens",
        "embed_all",
        "embed_image",
        "embed_audio",
        "rerank",
        "classify",
        "tokenize",
        "decode",
        "tokens",
    )
    Options: ClassVar[type[BaseModel]] = LettersOptions
    example: Example = Example(["hello"], {}, "embed")
    LIMIT: ClassVar[int] = 32
    LABELS: ClassVar[tuple[str, ...]] = ("vowel", "consonant", "other")
    PROMPTS: ClassVar[Mapping[str, str]] = {"query": "q: "}

    def load(self, setup: Setup) -> ModelFacts:
        self._times: dict[str, int] = {}
        return LettersFacts(dimensions=8, max_tokens=self.LIMIT, dtype="float32", labels=self.LABELS, exclusive=True)

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        # `run` is not told what the values are for, so each value says it.
        values = [(ability, self._read(ability, item, params, place), params) for place, item in enumerate(items)]
        if ability in ("tokenize", "decode", "tokens"):
            return Prepared([], [len(items)], answers=[self._answer(*value) for value in values])
        return Prepared(values, [len(value[1]) for value in values], key=ability)

    def _read(self, ability: str, item: Any, params: Mapping[str, Any], place: int) -> Any:
        if ability in ("embed_image", "embed_audio"):
            kind = ability.removeprefix("embed_")
            if set(item) != {kind} or not isinstance(item[kind], bytes):
                raise errors.BadRequest(f"Input {place} is no {kind}.", "input")
            return list(item[kind])
        if ability in ("decode", "tokens"):
            return item
        prompt = params.get("prompt", self.PROMPTS.get(params.get("prompt_name", ""), ""))
        if ability == "classify" and isinstance(item, list):
            item = "".join(item)
        ids = item if isinstance(item, list) else [1, *map(ord, prompt + item), 2]
        if ability == "tokenize":
            return ids if params.get("add_special_tokens", True) else ids[1:-1]
        dimensions = params.get("dimensions") or 8
        if dimensions > 8:
            raise errors.BadRequest(f"dimensions must be 1 to 8 for this model, not {dimensions}.", "dimensions")
        limit = params.get("max_tokens_per_doc", params.get("most_tokens", self.LIMIT))
        policy = params.get("long_documents", "truncate")
        if len(ids) <= limit or policy == "chunk":
            return ids
        if params.get("truncate") == "NONE" or policy == "error":
            raise errors.InputTooLong(f"Input {place} has {len(ids)} tokens, the model reads {limit}.", "input")
        return ids[-limit:] if params.get("truncate") == "START" else ids[:limit]

    def run(self, batch: Sequence[Any]) -> Sequence[Any]:
        return [self._answer(*value) for value in batch]

    def _answer(self, ability: str, ids: Any, params: Mapping[str, Any]) -> Any:
        match ability:
            case "embed_sparse":
                return self._sparse(ids)
            case "embed_tokens":
                return self._several(ids)
            case "embed_all":
                kinds = {"dense": self._vector, "sparse": self._sparse, "tokens": self._several}
                return {kind: kinds[kind](ids) for kind in params["kinds"]}
            case "rerank":
                return self._score(ids, params)
            case "classify":
                return self._classes(ids, params)
            case "tokenize":
                special = [id < 3 for id in ids]
                tokens = [_letter(id) for id in ids]
                before = sum(special[:1])
                start = [place - before if id > 2 else 0 for place, id in enumerate(ids)]
                stop = [place + 1 - before if id > 2 else 0 for place, id in enumerate(ids)]
                return {"ids": ids, "tokens": tokens, "special": special, "start": start, "stop": stop}
            case "decode":
                skips = params.get("skip_special_tokens", True)
                return "".join(_letter(id) for id in ids if id > 2 or not skips)
            case "tokens":
                return _letter(ids)
            case _:
                return self._vector(ids, params)

    def _vector(self, ids: Sequence[int], params: Mapping[str, Any] = MappingProxyType({})) -> Any:
        vector = np.bincount(np.asarray(ids) % 8, minlength=8).astype(np.float32)
        if ids[1:-1] == list(map(ord, "again")):
            # The first number of this text's vector is how often it was computed; an answer from a cache has the old
            # number.
            key = str(ids)
            if params.get("cache", True) is False or key not in self._times:
                self._times[key] = self._times.get(key, 0) + 1
            vector[0] = self._times[key]
            return vector
        vector = vector[: params.get("dimensions") or 8]
        return vector if params.get("normalize") is False else unit(vector)

    def _sparse(self, ids: Sequence[int]) -> tuple[Any, Any]:
        indices, counts = np.unique(ids, return_counts=True)
        return indices, (counts / 2).astype(np.float32)

    def _several(self, ids: Sequence[int]) -> Any:
        return np.eye(8, dtype=np.float32)[np.asarray(ids) % 8]

    def _score(self, ids: Sequence[int], params: Mapping[str, Any]) -> Any:
        """The share of the query's letters that the best part of the document has, as a logit."""
        wanted = set(map(ord, params["query"]))
        parts = [ids[at : at + self.LIMIT] for at in range(0, len(ids), self.LIMIT)]
        logit = max(8 * len(wanted & set(part)) / max(1, len(wanted)) - 4 for part in parts)
        return np.float32(logit if params.get("raw_scores") else 1 / (1 + np.exp(-logit)))

    def _classes(self, ids: Sequence[int], params: Mapping[str, Any]) -> list[float]:
        kinds = ["vowel" if id in set(b"aeiou") else "consonant" if id in range(97, 123) else "other" for id in ids]
        scores = np.array([kinds.count(label) for label in self.LABELS], np.float32)
        return list(scores if params.get("raw_scores") else np.exp(scores) / np.exp(scores).sum())

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        if not outputs or isinstance(outputs[0], np.floating):
            return np.asarray(outputs, np.float32)
        if isinstance(outputs[0], dict):
            return {kind: self.pack([output[kind] for output in outputs], params) for kind in outputs[0]}
        if isinstance(outputs[0], tuple):
            return SparseRows.of(outputs)
        if isinstance(outputs[0], list):
            return {"scores": np.array(outputs, np.float32), "labels": [list(self.LABELS)] * len(outputs)}
        return Rows.of(outputs) if outputs[0].ndim == 2 else np.stack(outputs)


class PaintingOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    #: The number of steps of a picture, and the time that each takes.
    steps: int = 4
    step_seconds: float = 0.0
    #: A file to which every step is written as a line: the prompt and the number of the step.
    journal: str | None = None
    #: The abilities of this model, out of those of the family.
    able: tuple[str, ...] = ("text2image", "image2image", "inpainting")
    #: The step at which it fails, if the prompt is `told to fail`.
    fails_at: int = 2


class Painting(Stepped):
    """Draws a square at once, and takes as many steps for it as a real model that draws for minutes.

    The colour comes from the prompt and the place of the square from the seed. An input picture shows through as far as
    it is not redrawn, and under a mask only the white part is drawn.
    """

    engines: ClassVar[tuple[str, ...]] = ("painting",)
    abilities: ClassVar[tuple[str, ...]] = ("text2image", "image2image", "inpainting")
    Options: ClassVar[type[BaseModel]] = PaintingOptions
    example: Example = Example(["a square"], {"width": 16, "height": 16}, "text2image")
    pace: BatchHints = BatchHints(parallel=4)
    MOST_PIXELS: ClassVar[int] = 2_000_000

    def load(self, setup: Setup) -> ModelFacts:
        self._options: PaintingOptions = setup.options
        return ImageFacts(
            steps=self._options.steps,
            tasks=self._options.able,
            loras=("blue",),
            pipeline="painting",
            offload=None,
            components={},
            resolution=64,
            max_pixels=self.MOST_PIXELS,
            scheduler="none",
            samplers="diffusion",
            attention_backend="none",
            caches=(),
            batching={},
        )

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        try:
            drawing = Drawing.model_validate(dict(params))
        except ValidationError as error:
            raise errors.InvalidBody(str(error)) from None
        if drawing.width and drawing.height and drawing.width * drawing.height > self.MOST_PIXELS:
            raise errors.BadRequest(f"This model draws {self.MOST_PIXELS} pixels at most.", "size")
        first = drawing.seed if isinstance(drawing.seed, list) else [drawing.seed if drawing.seed is not None else 7]
        seeds = first if isinstance(drawing.seed, list) else [first[0] + place for place in range(drawing.n)]
        given = [pictures.read_colours(data, self.MOST_PIXELS, "image") for data in drawing.images]
        tokens = [1] * drawing.n
        values = [(ability, drawing, seed, given) for seed in seeds]
        return Prepared(values, tokens, costs=[float(self._steps(drawing))] * drawing.n)

    def _steps(self, drawing: Drawing) -> int:
        return drawing.num_inference_steps or self._options.steps

    def stream(self, value: Any, course: Progress) -> DrawnPicture:
        ability, drawing, seed, given = value
        final = self._painted(ability, drawing, seed, given)
        steps, previews = self._steps(drawing), drawing.partial_images
        shown = {steps * (place + 1) // (previews + 1) for place in range(previews)}
        for step in range(1, steps + 1):
            course.check()
            time.sleep(self._options.step_seconds)
            if drawing.prompt == "told to fail" and step == self._options.fails_at:
                raise ValueError("told to fail")
            self._note(drawing, step)
            course.tell(step / steps, "denoising", step, steps)
            if step in shown:
                preview = Image.blend(Image.new("RGB", final.size), final, step / steps)
                course.show(pictures.written(preview, "jpeg", 80, {}))
        width, height = final.size
        told = {"prompt": drawing.prompt, "seed": seed, "num_inference_steps": steps, "width": width, "height": height}
        asked = drawing.model_dump(exclude_unset=True, exclude={"images", "mask", "control_image", "seed", "n"})
        receipt = {**asked, **told, "task": ability, "model": "painting"}
        data = pictures.written(final, drawing.output_format, drawing.output_compression, receipt)
        return DrawnPicture(data, drawing.output_format, width, height, seed, receipt)

    def _painted(self, ability: str, drawing: Drawing, seed: int, given: Sequence[Any]) -> Any:
        own = given[0].size if given else (64, 64)
        size = drawing.width or own[0], drawing.height or own[1]
        image = Image.new("RGB", size, painted_colour(drawing.prompt))
        place = seed % (size[0] - 8), seed % (size[1] - 8)
        ImageDraw.Draw(image).rectangle((*place, place[0] + 7, place[1] + 7), "black")
        if ability == "image2image":
            strength = 0.5 if drawing.strength is None else drawing.strength
            return Image.blend(given[0].resize(size), image, strength)
        if ability == "inpainting":
            assert drawing.mask is not None
            mask = pictures.read(drawing.mask, self.MOST_PIXELS, "mask").convert("L").resize(size)
            return Image.composite(image, given[0].resize(size), mask)
        return image

    def _note(self, drawing: Drawing, step: int) -> None:
        if self._options.journal:
            with open(self._options.journal, "a") as journal:
                journal.write(f"{drawing.prompt} {step}\n")

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        return outputs


def painted_colour(prompt: str) -> tuple[int, int, int]:
    """The colour that `Painting` uses for a prompt; it is never black."""
    red, green, blue = hashlib.sha256(prompt.encode()).digest()[:3]
    return red | 64, green | 64, blue | 64


def _letter(id: int) -> str:
    return {1: "[CLS]", 2: "[SEP]"}.get(id, chr(id))


def _entry(name: str, family: str) -> Entry:
    source = Source(hub="package", id="tests")
    return Entry(name=name, type="echo", family=family, sources=(source,), facts={"claim_bytes": 50_000_000})


FAMILIES: dict[str, type[AnyFamily]] = {
    "echo": Echo,
    "narrow": Narrow,
    "vectors": Vectors,
    "letters": Letters,
    "painting": Painting,
    "speaking": Speaking,
}
TYPES = (
    ModelType(
        name="echo",
        families=FAMILIES,
        entries=tuple(_entry(name, name) for name in FAMILIES),
    ),
)
