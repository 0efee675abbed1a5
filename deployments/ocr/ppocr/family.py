"""PP-OCR as a family: the weights that the rapidocr package has, on CPU and on a card."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from cluster.worker.family import BatchHints, Example, Prepared, Progress, Setup, Stepped
from deployments.ocr.asked import BLANK_PAGE, reading_of, sheet_in
from deployments.ocr.facts import OcrFacts
from deployments.ocr.page import RecognisedPage
from deployments.ocr.pictures import PageImage
from deployments.ocr.ppocr.nets import Nets
from deployments.ocr.ppocr.onnx_nets import OnnxNets
from deployments.ocr.ppocr.reader import PageReader
from deployments.ocr.ppocr.torch_nets import TorchNets
from deployments.ocr.requests import Reading

#: Pages under way at once, for each core: one is computed, and another is made ready or put in order.
PAGES_PER_CORE = 2
LEAST_PAGES = 4
#: On a card the pages fill batches.
PAGES_ON_A_CARD = 16

#: What its one alphabet has all letters of.
LANGUAGES = frozenset(
    "af az bs ca cs cy da de en es et eu fi fr ga gl hr hu id is it ja ku la lb lt lv mi ms mt nl no oc pl pt qu ro sk "
    "sl sq sv sw tl tr uz vi zh zh-hans zh-hant".split()
)
#: What it has no use for: it reads what stands there, whatever the page is.
TASKS = ("ocr", "parse", "layout")


class PpOcrOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    max_pixels: int = Field(default=60_000_000, ge=10_000, le=300_000_000)


class PpOcr(Stepped):
    engines: ClassVar[tuple[str, ...]] = ("onnxruntime", "torch")
    abilities: ClassVar[tuple[str, ...]] = ("ocr",)
    Options: ClassVar[type[BaseModel]] = PpOcrOptions
    #: Made anew when it is loaded: whoever only knows of the family needs no library to draw.
    example: Example = Example([BLANK_PAGE], {}, "ocr")

    def load(self, setup: Setup) -> OcrFacts:
        options: PpOcrOptions = setup.options
        self._most_pixels = options.max_pixels
        setup.report(0.2)
        nets = _nets(setup)
        self._reader = PageReader(nets)
        self.example = Example([drawn_page()], {}, "ocr")
        pages = PAGES_ON_A_CARD if setup.device != "cpu" else max(LEAST_PAGES, PAGES_PER_CORE * setup.threads)
        self.pace = BatchHints(parallel=pages)
        setup.report(1.0)
        return OcrFacts(
            engine=nets.name,
            alphabet=len(nets.alphabet),
            languages=tuple(sorted(LANGUAGES)),
            max_pixels=self._most_pixels,
        )

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        reading = reading_of(params, tasks=TASKS, languages=LANGUAGES, generates=False)
        sheet = sheet_in(items, self._most_pixels)
        width, height = sheet.size
        return Prepared([(sheet, reading)], [1], costs=[width * height / 1e6])

    def stream(self, value: tuple[PageImage, Reading], course: Progress) -> RecognisedPage:
        sheet, reading = value
        return self._reader.read(sheet, reading, course)

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        return outputs

    def set_threads(self, threads: int) -> None:
        self._reader.set_threads(threads)


def drawn_page() -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (640, 480), "white")
    letters = ImageFont.load_default(28)
    for row in range(10):
        ImageDraw.Draw(image).text((40, 30 + 42 * row), f"line {row} of a page", "black", letters)
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


def _nets(setup: Setup) -> Nets:
    asked = (setup.engine or "").lower()
    if asked == "torch" or (asked != "onnxruntime" and setup.device != "cpu"):
        return TorchNets(setup.folder, setup.device, setup.threads)
    return OnnxNets(setup.folder, setup.threads)
