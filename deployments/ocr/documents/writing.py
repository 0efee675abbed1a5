"""A document model at work: pages under way are written down together, each until it ends, repeats or is given up."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cluster import errors
from cluster.worker.family import Progress
from deployments.ocr.documents import repetition
from deployments.ocr.documents.kinds import Kind

log = logging.getLogger("cluster.worker.worker")


class WritingLimits(NamedTuple):
    """What pages must have in common to be written together."""

    task: str
    max_new_tokens: int
    temperature: float = 0.0
    no_repeat_ngram_size: int = 0


@dataclass(frozen=True, eq=False)
class PageToWrite:
    """One page to write down."""

    image: Any
    prompt: str
    limits: WritingLimits
    #: Of the prompt and what is written together; None for no other limit.
    max_length: int | None
    course: Progress


class Written(NamedTuple):
    text: str
    prompt_tokens: int
    output_tokens: int
    truncated: bool
    repetition: bool


@dataclass
class _Row:
    """How far one page of a batch is."""

    order: PageToWrite
    tokens: list[int] = field(default_factory=list)
    error: errors.ClusterError | None = None
    #: Where it began to repeat itself.
    end: int | None = None
    is_full: bool = False
    #: The model said that it is done.
    is_done: bool = False

    @property
    def is_over(self) -> bool:
        return self.error is not None or self.end is not None or self.is_full or self.is_done


class Writer:
    def __init__(self, model: Any, processor: Any, kind: Kind) -> None:
        self._model = model
        self._processor = processor
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._kind = kind
        # What is written comes behind the prompts, which therefore must all end in one place.
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def write(self, orders: Sequence[PageToWrite]) -> list[Written | Exception]:
        """Several that fail together are tried one by one: each is told only of its own fault."""
        try:
            return self._written(orders)
        except Exception as error:
            if len(orders) == 1:
                return [_as_known(error)]
            log.warning("%d pages could not be written together, each is tried alone: %s", len(orders), error)
            return [one for order in orders for one in self.write([order])]

    def _written(self, orders: Sequence[PageToWrite]) -> list[Written | Exception]:
        import torch

        inputs = self._inputs(orders).to(self._model.device, dtype=self._model.dtype)
        lengths = self._prompt_lengths(inputs, len(orders))
        rows = [_Row(order) for order in orders]
        watch = _Watch(rows, self._written_start(inputs), lengths, orders[0].limits.max_new_tokens, self._ends)
        with torch.inference_mode():
            self._model.generate(**inputs, **self._settings(orders[0].limits), stopping_criteria=[watch])
        return [self._answer(row, length) for row, length in zip(rows, lengths, strict=True)]

    # ---------------------------------------------------------------------------------------- what goes in

    @property
    def _starts_anew(self) -> bool:
        """Whether what is written does not begin with the prompt: an encoder has read that."""
        return bool(self._model.config.is_encoder_decoder)

    def _written_start(self, inputs: Mapping[str, Any]) -> int:
        if not self._starts_anew:
            return int(inputs["input_ids"].shape[1])
        started = inputs.get("decoder_input_ids")
        return 1 if started is None else int(started.shape[1])

    def _prompt_lengths(self, inputs: Mapping[str, Any], count: int) -> list[int]:
        mask = inputs.get("attention_mask")
        if self._starts_anew or mask is None:
            return [self._written_start(inputs)] * count
        return [int(length) for length in mask.sum(dim=1)]

    def _inputs(self, orders: Sequence[PageToWrite]) -> Any:
        images = [order.image for order in orders]
        kind, task = self._kind, orders[0].limits.task
        if kind.style == "start":
            return self._started(images, [order.prompt for order in orders])
        arguments = {"return_tensors": "pt", **kind.arguments.get(task, {})}
        if kind.style == "made":
            return self._processor(images, padding=True, **arguments)
        if kind.style == "plain":
            return self._processor(images=images, text=[order.prompt for order in orders], padding=True, **arguments)
        texts = [self._chat(order) for order in orders]
        return self._processor(images=[[image] for image in images], text=texts, padding=True, **arguments)

    def _chat(self, order: PageToWrite) -> str:
        content: list[dict[str, Any]] = [{"type": "image"}]
        if order.prompt:
            content.append({"type": "text", "text": order.prompt})
        messages = [{"role": "user", "content": content}]
        return str(self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def _started(self, images: Sequence[Any], prompts: Sequence[str]) -> Any:
        """For models that take no words but those that their answer begins with."""
        from transformers import BatchFeature

        pixels = self._processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
        inputs = {"pixel_values": pixels}
        if prompts[0]:
            words = self._tokenizer(list(prompts), add_special_tokens=False, return_tensors="pt")
            inputs["decoder_input_ids"] = words["input_ids"]
        return BatchFeature(inputs)

    def _settings(self, limits: WritingLimits) -> dict[str, Any]:
        settings: dict[str, Any] = {"max_new_tokens": limits.max_new_tokens, "do_sample": limits.temperature > 0}
        if limits.temperature > 0:
            settings["temperature"] = limits.temperature
        if limits.no_repeat_ngram_size:
            settings["no_repeat_ngram_size"] = limits.no_repeat_ngram_size
        if self._kind.stops:
            settings |= {"stop_strings": list(self._kind.stops), "tokenizer": self._tokenizer}
        return settings | {"pad_token_id": self._tokenizer.pad_token_id}

    # --------------------------------------------------------------------------------------- what comes out

    def _answer(self, row: _Row, prompt_tokens: int) -> Written | Exception:
        if row.error is not None:
            return row.error
        tokens = row.tokens[: row.end]
        is_done = row.is_done or self._has_stopped(tokens)
        truncated = row.end is None and not is_done
        return Written(self._text(tokens), prompt_tokens, len(tokens), truncated, row.end is not None)

    @property
    def _ends(self) -> frozenset[int]:
        """Tokens behind which nothing follows; a page that is done is filled up while others are written."""
        ends = self._model.generation_config.eos_token_id
        known = ends if isinstance(ends, (list, tuple)) else [ends]
        return frozenset((*known, self._tokenizer.pad_token_id))

    def _has_stopped(self, tokens: Sequence[int]) -> bool:
        text = self._tokenizer.decode(tokens).rstrip()
        return any(text.endswith(stop) for stop in self._kind.stops)

    def _text(self, tokens: Sequence[int]) -> str:
        text = str(self._tokenizer.decode(tokens, skip_special_tokens=not self._kind.keeps_tags))
        for mark in (
            *self._kind.stops,
            *(str(one) for one in self._tokenizer.all_special_tokens if _is_mark(str(one))),
        ):
            text = text.replace(mark, "")
        return text.strip()


def _is_mark(token: str) -> bool:
    """Of the special tokens, those that say how text begins and ends and nothing about the page."""
    return token.strip("<>|/[]").lower() in (
        "s",
        "bos",
        "eos",
        "pad",
        "unk",
        "cls",
        "sep",
        "im_end",
        "im_start",
        "endoftext",
    )


class _Watch:
    """Asked at each token: which pages need no more."""

    def __init__(
        self, rows: Sequence[_Row], start: int, lengths: Sequence[int], most: int, ends: frozenset[int]
    ) -> None:
        self._rows = rows
        self._start = start
        self._lengths = lengths
        self._most = most
        self._ends = ends

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        import torch

        written = input_ids[:, self._start :]
        count = int(written.shape[1])
        looks = count % repetition.EVERY == 0 or count >= self._most
        for place, row in enumerate(self._rows):
            if not row.is_over:
                self._look(row, place, written, count, looks)
        over = [row.is_over for row in self._rows]
        return torch.tensor(over, device=input_ids.device)

    def _look(self, row: _Row, place: int, written: Any, count: int, looks: bool) -> None:
        try:
            row.order.course.check()
        except errors.ClusterError as error:
            row.error = error
            return
        token = int(written[place, -1])
        if token in self._ends:
            row.is_done = True
            return
        row.tokens.append(token)
        if looks:
            row.order.course.tell(min(count / self._most, 1.0), "writing", count, self._most)
            row.end = repetition.begins_to_repeat(row.tokens)
        longest = row.order.max_length
        row.is_full = longest is not None and self._lengths[place] + count >= longest


def _as_known(error: Exception) -> Exception:
    if isinstance(error, errors.ClusterError):
        return error
    return errors.InferenceFailed(f"{type(error).__name__}: {error}")
