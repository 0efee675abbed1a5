"""A document model at work: it writes down several pages at once, each until its text ends, repeats itself endlessly or
is no longer wanted."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from cluster import errors
from cluster.value import JsonObject
from cluster.worker.family import Progress
from deployments.ocr.documents import repetition
from deployments.ocr.documents.kinds import Kind

if TYPE_CHECKING:
    import PIL.Image
    from torch import Tensor
    from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

    Images: TypeAlias = Sequence[PIL.Image.Image]

log = logging.getLogger("cluster.worker.worker")


class WritingLimits(NamedTuple):
    """The settings that pages must have in common to be written together."""

    task: str
    max_new_tokens: int
    temperature: float = 0.0
    no_repeat_ngram_size: int = 0


@dataclass(frozen=True, eq=False)
class PageToWrite:
    """One page to write down."""

    image: PIL.Image.Image
    prompt: str
    limits: WritingLimits
    #: Tokens of the prompt and the text together; None for no limit besides that of the text.
    max_length: int | None
    progress: Progress


class Written(NamedTuple):
    text: str
    prompt_tokens: int
    output_tokens: int
    truncated: bool
    repetition: bool


@dataclass
class _Row:
    """The state of one page in a batch."""

    page: PageToWrite
    tokens: list[int] = field(default_factory=list)
    error: errors.ClusterError | None = None
    #: The number of tokens to keep, where the text repeats itself after them.
    end: int | None = None
    is_full: bool = False
    #: The model ended the text.
    is_done: bool = False

    @property
    def is_over(self) -> bool:
        return self.error is not None or self.end is not None or self.is_full or self.is_done


class Writer:
    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, kind: Kind) -> None:
        self._model = model
        self._processor = processor
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._kind = kind
        # Texts are generated behind the prompts, so all prompts of a batch must end at the same position.
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def write(self, pages: Sequence[PageToWrite]) -> list[Written | Exception]:
        """A text or an error for each page. If a batch fails, each page is tried alone, to get only its own error."""
        try:
            return self._written(pages)
        # A model library can raise anything; the pages that cannot be read get it as their answer.
        except Exception as error:
            if len(pages) == 1:
                return [_as_known(error)]
            log.warning("%d pages could not be written together, each is tried alone: %s", len(pages), error)
            return [answer for page in pages for answer in self.write([page])]

    def _written(self, pages: Sequence[PageToWrite]) -> list[Written | Exception]:
        import torch

        inputs = self._inputs(pages).to(self._model.device, dtype=self._model.dtype)
        lengths = self._prompt_lengths(inputs, len(pages))
        rows = [_Row(page) for page in pages]
        watch = _Watch(rows, self._written_start(inputs), lengths, pages[0].limits.max_new_tokens, self._ends)
        with torch.inference_mode():
            self._model.generate(**inputs, **self._settings(pages[0].limits), stopping_criteria=[watch])
        return [self._answer(row, length) for row, length in zip(rows, lengths, strict=True)]

    # ---------------------------------------------------------------------------------------- what goes in

    @property
    def _starts_anew(self) -> bool:
        """Whether the generated tokens do not begin with the prompt, because an encoder reads it."""
        return bool(self._model.config.is_encoder_decoder)

    def _written_start(self, inputs: Mapping[str, Tensor]) -> int:
        if not self._starts_anew:
            return int(inputs["input_ids"].shape[1])
        started = inputs.get("decoder_input_ids")
        return 1 if started is None else int(started.shape[1])

    def _prompt_lengths(self, inputs: Mapping[str, Tensor], count: int) -> list[int]:
        mask = inputs.get("attention_mask")
        if self._starts_anew or mask is None:
            return [self._written_start(inputs)] * count
        return [int(length) for length in mask.sum(dim=1)]

    def _inputs(self, pages: Sequence[PageToWrite]) -> BatchFeature:
        images = [page.image for page in pages]
        kind, task = self._kind, pages[0].limits.task
        if kind.style == "start":
            return self._started(images, [page.prompt for page in pages])
        arguments = {"return_tensors": "pt", **kind.arguments.get(task, {})}
        if kind.style == "made":
            return self._processor(images, padding=True, **arguments)
        if kind.style == "plain":
            return self._processor(images=images, text=[page.prompt for page in pages], padding=True, **arguments)
        texts = [self._chat(page) for page in pages]
        return self._processor(images=[[image] for image in images], text=texts, padding=True, **arguments)

    def _chat(self, page: PageToWrite) -> str:
        content = [{"type": "image"}]
        if page.prompt:
            content.append({"type": "text", "text": page.prompt})
        messages = [{"role": "user", "content": content}]
        return str(self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def _started(self, images: Images, prompts: Sequence[str]) -> BatchFeature:
        """Inputs of models that take no prompt, only the beginning of their answer."""
        from transformers import BatchFeature

        pixels = self._processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
        inputs = {"pixel_values": pixels}
        if prompts[0]:
            words = self._tokenizer(list(prompts), add_special_tokens=False, return_tensors="pt")
            inputs["decoder_input_ids"] = words["input_ids"]
        return BatchFeature(inputs)

    def _settings(self, limits: WritingLimits) -> JsonObject:
        settings: JsonObject = {"max_new_tokens": limits.max_new_tokens, "do_sample": limits.temperature > 0}
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
        """Tokens that end a text: the model's own, and the padding of a page that is done before others."""
        ends = self._model.generation_config.eos_token_id
        listed = ends if isinstance(ends, (list, tuple)) else [ends]
        return frozenset((*listed, self._tokenizer.pad_token_id))

    def _has_stopped(self, tokens: Sequence[int]) -> bool:
        text = self._tokenizer.decode(tokens).rstrip()
        return any(text.endswith(stop) for stop in self._kind.stops)

    def _text(self, tokens: Sequence[int]) -> str:
        text = str(self._tokenizer.decode(tokens, skip_special_tokens=not self._kind.keeps_tags))
        for mark in (
            *self._kind.stops,
            *(str(token) for token in self._tokenizer.all_special_tokens if _is_mark(str(token))),
        ):
            text = text.replace(mark, "")
        return text.strip()


def _is_mark(token: str) -> bool:
    """Whether a special token only marks a beginning or an end, and says nothing about the page."""
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
    """The stopping criterion of `generate`: called after each token, says which pages are done."""

    def __init__(
        self, rows: Sequence[_Row], start: int, lengths: Sequence[int], most: int, ends: frozenset[int]
    ) -> None:
        self._rows = rows
        self._start = start
        self._lengths = lengths
        self._most = most
        self._ends = ends

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        import torch

        written = input_ids[:, self._start :]
        count = int(written.shape[1])
        looks = count % repetition.EVERY == 0 or count >= self._most
        for index, row in enumerate(self._rows):
            if not row.is_over:
                self._look(row, index, written, count, looks)
        over = [row.is_over for row in self._rows]
        return torch.tensor(over, device=input_ids.device)

    def _look(self, row: _Row, index: int, written: Tensor, count: int, looks: bool) -> None:
        try:
            row.page.progress.check()
        except errors.ClusterError as error:
            row.error = error
            return
        token = int(written[index, -1])
        if token in self._ends:
            row.is_done = True
            return
        row.tokens.append(token)
        if looks:
            row.page.progress.tell(min(count / self._most, 1.0), "writing", count, self._most)
            row.end = repetition.begins_to_repeat(row.tokens)
        longest = row.page.max_length
        row.is_full = longest is not None and self._lengths[index] + count >= longest


def _as_known(error: Exception) -> Exception:
    if isinstance(error, errors.ClusterError):
        return error
    return errors.InferenceFailed(f"{type(error).__name__}: {error}")
