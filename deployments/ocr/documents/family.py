"""Document models of transformers as a family: one class for all of them. A model's files say of which kind it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from cluster import errors
from cluster.weights.inventory import Inventory
from cluster.weights.memory import BYTES_OF_DTYPE, MemoryPlan, PlannedPart, weight_bytes
from cluster.worker.family import (
    UNKNOWN_WEIGHT_BYTES,
    BatchHints,
    Example,
    Prepared,
    Progress,
    Prospect,
    Setup,
    Stepped,
)
from deployments.device import dtype_for
from deployments.ocr.asked import BLANK_PAGE, page_in, reading_of
from deployments.ocr.documents.kinds import KINDS, Kind, kind_in
from deployments.ocr.documents.plan import DocumentSizes, document_plan
from deployments.ocr.documents.writing import PageToWrite, Writer, WritingLimits, Written
from deployments.ocr.facts import OcrFacts
from deployments.ocr.page import Block, RecognisedPage, Usage, page_of
from deployments.ocr.pictures import OPENING_BYTES, ScannedPage, SentPage, cut_out
from deployments.ocr.requests import MOST_TOKENS, Reading
from deployments.ocr.room import PageRoom, most_unpacked
from deployments.ocr.sharing import Sharing

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

#: Pages written at once, where the launch does not say. On a GPU, a further page takes memory but hardly any time.
PAGES_ON_A_CARD, PAGES_ON_CPU = 16, 2
#: Tokens written for the example at most.
EXAMPLE_TOKENS = 8
#: Expected tokens of a page, for the order of the queue, where the request does not limit them.
USUAL_TOKENS = 1000
#: The most that a kind writes of itself; room is planned for so many.
MOST_USUAL_TOKENS = max(kind.max_new_tokens for kind in KINDS.values())


class DocumentOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    torch_dtype: str = Field(default="auto", pattern="^(auto|float32|float16|bfloat16)$")
    max_pixels: int = Field(default=60_000_000, ge=10_000, le=300_000_000)
    #: Pages that are written together.
    batch_pages: int | None = Field(default=None, ge=1, le=256)
    #: The most tokens that a request may ask for.
    max_new_tokens: int = Field(default=MOST_TOKENS, ge=1, le=MOST_TOKENS)


class Documents(Stepped):
    engines: ClassVar[tuple[str, ...]] = ("transformers",)
    abilities: ClassVar[tuple[str, ...]] = ("ocr",)
    Options: ClassVar[type[BaseModel]] = DocumentOptions
    example: Example = Example([BLANK_PAGE], {"max_new_tokens": EXAMPLE_TOKENS}, "ocr")

    @classmethod
    def plan(cls, prospect: Prospect) -> MemoryPlan:
        entry, options, inventory = prospect.entry, prospect.options, prospect.weights()
        dtype = cls.number_format(prospect)
        item = BYTES_OF_DTYPE[dtype]
        size = weight_bytes(inventory, item) if inventory is not None else entry.weight_bytes
        pages = options.batch_pages or (PAGES_ON_A_CARD if prospect.on_card else PAGES_ON_CPU)
        home = "card" if prospect.on_card else "main memory"
        return document_plan(
            PlannedPart("model", entry.family, dtype, "none", size or UNKNOWN_WEIGHT_BYTES, home),
            _sizes_in(inventory),
            pages=pages,
            new_tokens=min(options.max_new_tokens, MOST_USUAL_TOKENS),
            page_bytes=OPENING_BYTES * most_unpacked(options.max_pixels, pages),
            item=item,
            on_card=prospect.on_card,
        )

    def load(self, setup: Setup) -> OcrFacts:
        self._options: DocumentOptions = setup.options
        self._kind = kind_in(setup.folder)
        setup.report(0.1)
        processor = processor_in(setup, self._kind)
        setup.report(0.2)
        model = _model(setup, self._kind, self._options.torch_dtype)
        setup.report(0.9)
        self._start = _start_of(self._kind, model, processor)
        pages = self._options.batch_pages or (PAGES_ON_CPU if setup.device == "cpu" else PAGES_ON_A_CARD)
        self._sharing = Sharing[PageToWrite, Written](
            "writing",
            Writer(model, processor, self._kind).write,
            threads=1,
            room=lambda limits: pages,
            kind=lambda page: page.limits,
        )
        self._room = PageRoom(most_unpacked(self._options.max_pixels, pages))
        self.pace = BatchHints(parallel=pages)
        setup.report(1.0)
        return OcrFacts(
            engine="transformers",
            model_class=self._kind.model,
            dtype=str(model.dtype).removeprefix("torch."),
            tasks=tuple(self._kind.prompts),
            batch_pages=pages,
        )

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        takes_prompt = self._kind.style != "made"
        reading = reading_of(params, tasks=tuple(self._kind.prompts), languages=None, generates=takes_prompt)
        most = reading.max_new_tokens
        if most is not None and most > self._options.max_new_tokens:
            raise errors.BadRequest(
                f"max_new_tokens is {most}, {self._options.max_new_tokens} are allowed here.", "max_new_tokens"
            )
        page = page_in(items, self._options.max_pixels)
        return Prepared([(page, reading)], [1], costs=[float(most or USUAL_TOKENS)])

    def stream(self, value: tuple[SentPage, Reading], progress: Progress) -> RecognisedPage:
        page, reading = value
        with self._room.taken(page.pixels, progress):
            sheet = page.opened()
            (written,) = self._sharing.answers([self._to_write(sheet, reading, progress)], progress)
            return self._page(sheet, reading, written)

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        return outputs

    def set_threads(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)

    def unload(self) -> None:
        self._sharing.close()

    def _to_write(self, sheet: ScannedPage, reading: Reading, progress: Progress) -> PageToWrite:
        limits = WritingLimits(
            reading.task,
            reading.max_new_tokens or min(self._kind.max_new_tokens, self._options.max_new_tokens),
            reading.temperature or 0.0,
            reading.no_repeat_ngram_size or 0,
        )
        prompt = reading.prompt or self._kind.prompts[reading.task] or self._start
        return PageToWrite(sheet.image, prompt, limits, reading.max_length, progress)

    def _page(self, sheet: ScannedPage, reading: Reading, written: Written) -> RecognisedPage:
        width, height = sheet.size
        blocks = self._kind.answer_to(reading.task)(written.text, width, height)
        if "figures" in reading.features:
            blocks = [_with_picture(block, sheet) for block in blocks]
        return page_of(
            width,
            height,
            blocks,
            dpi=sheet.dpi,
            usage=Usage(1, written.prompt_tokens, written.output_tokens),
            truncated=written.truncated,
            repetition=written.repetition,
        )


def _sizes_in(inventory: Inventory | None) -> DocumentSizes:
    if inventory is None:
        return DocumentSizes.of({}, {})
    inner = inventory.config("processor_config.json").get("image_processor")
    pictures = inventory.config("preprocessor_config.json") or (inner if isinstance(inner, dict) else {})
    return DocumentSizes.of(inventory.config(), pictures)


def _with_picture(block: Block, sheet: ScannedPage) -> Block:
    """With its picture, if the block is a drawing and not text."""
    if block.type not in ("figure", "chart") or block.bbox is None:
        return block
    return block._replace(picture=cut_out(sheet, block.bbox))


def processor_in(setup: Setup, kind: Kind) -> ProcessorMixin:
    from transformers import AutoProcessor
    from transformers.utils import is_torchvision_available

    try:
        if kind.takes_videos and not is_torchvision_available():
            return _for_pictures(setup.folder)
        return AutoProcessor.from_pretrained(str(setup.folder), local_files_only=True)
    except ImportError as error:
        raise errors.LoadFailed(
            f"The processor of {setup.entry.name} needs a library that is not installed: {error}. Install torchvision."
        ) from error


def _for_pictures(folder: Path) -> ProcessorMixin:
    """GLM's processor without the part for videos."""
    from transformers import AutoImageProcessor, AutoTokenizer, Glm46VProcessor, ProcessorMixin  # noqa: F811

    class ForPictures(Glm46VProcessor):  # type: ignore[misc]
        def __init__(
            self,
            image_processor: BaseImageProcessor,
            tokenizer: PreTrainedTokenizerBase,
            chat_template: str | None = None,
        ) -> None:
            self.image_token, self.video_token = "<|image|>", "<|video|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            self.video_start_id = tokenizer.convert_tokens_to_ids("<|begin_of_video|>")
            self.video_end_id = tokenizer.convert_tokens_to_ids("<|end_of_video|>")
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    images = AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)
    return ForPictures(images, tokenizer, tokenizer.chat_template)


def _model(setup: Setup, kind: Kind, dtype: str) -> PreTrainedModel:
    import transformers

    cls = getattr(transformers, kind.model)
    model = cls.from_pretrained(
        str(setup.folder),
        dtype=dtype_for(dtype, setup),
        local_files_only=True,
        use_safetensors=None if setup.allow_pickle else True,
    )
    return model.to(setup.device).eval()


def _start_of(kind: Kind, model: PreTrainedModel, processor: ProcessorMixin) -> str:
    """The text that an answer begins with, for models that are given their task in that way."""
    if kind.style != "start":
        return ""
    start = model.generation_config.decoder_start_token_id
    if start is None:
        start = getattr(model.config, "decoder_start_token_id", None)
    return str(processor.tokenizer.convert_ids_to_tokens(start)) if start is not None else ""
