"""PP-OCR as a family, on CPU and on GPUs. The weights come with the rapidocr package."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from cluster.weights.memory import HOST_BYTES, PROCESS_BYTES, MemoryPlan, PlannedPart
from cluster.worker.family import BatchHints, Example, Prepared, Progress, Prospect, Setup, Stepped
from deployments.ocr.asked import BLANK_PAGE, page_in, reading_of
from deployments.ocr.facts import OcrFacts
from deployments.ocr.page import RecognisedPage
from deployments.ocr.pictures import OPENING_BYTES, SentPage
from deployments.ocr.ppocr.nets import Nets
from deployments.ocr.ppocr.onnx_nets import OnnxNets
from deployments.ocr.ppocr.reader import PageReader
from deployments.ocr.ppocr.torch_nets import TorchNets
from deployments.ocr.requests import Reading
from deployments.ocr.room import PageRoom, most_unpacked

#: Pages under way at once for each core: while one is computed, another is prepared or put in order.
PAGES_PER_CORE = 2
LEAST_PAGES = 4
#: On a GPU, so many pages fill its batches.
PAGES_ON_A_CARD = 16

#: Languages all of whose letters are in its one alphabet.
LANGUAGES = frozenset(
    "af az bs ca cs cy da de en es et eu fi fr ga gl hr hu id is it ja ku la lb lt lv mi ms mt nl no oc pl pt qu ro sk "
    "sl sq sv sw tl tr uz vi zh zh-hans zh-hant".split()
)
#: All of them do the same: the nets read any page in the same way.
TASKS = ("ocr", "parse", "layout")


#: Its nets on CPU, with what onnxruntime keeps of the largest picture in which text is looked for, and of reading a
#: page of usual density.
NETS_BYTES = 230_000_000
#: Of a page, for each of its pixels: what opening it takes, or later its colours, what is found in grey, and what stays
#: in the heap of the picture as it was opened. Measured with 60 and 100 megapixels: 7.4 and 8.6.
PIXEL_BYTES = OPENING_BYTES + 1
#: Of a card, with full batches.
CARD_BYTES = 1_500_000_000


class PpOcrOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    max_pixels: int = Field(default=60_000_000, ge=10_000, le=300_000_000)


class PpOcr(Stepped):
    engines: ClassVar[tuple[str, ...]] = ("onnxruntime", "torch")
    abilities: ClassVar[tuple[str, ...]] = ("ocr",)
    Options: ClassVar[type[BaseModel]] = PpOcrOptions
    #: Replaced by a page of text when the model is loaded: drawing it takes a library.
    example: Example = Example([BLANK_PAGE], {}, "ocr")

    @classmethod
    def plan(cls, prospect: Prospect) -> MemoryPlan:
        """With one page of the largest size, or as many of usual size as have the same pixels."""
        weights = prospect.entry.weight_bytes or 0
        options: PpOcrOptions = prospect.options
        at_once = PAGES_ON_A_CARD if prospect.on_card else LEAST_PAGES
        page = PIXEL_BYTES * most_unpacked(options.max_pixels, at_once)
        home = "card" if prospect.on_card else "main memory"
        part = PlannedPart("nets", prospect.entry.family, "float32", "none", weights, home)
        if prospect.on_card:
            fixed = CARD_BYTES - weights
            return MemoryPlan((part,), 0, fixed, 0, CARD_BYTES, max(HOST_BYTES, PROCESS_BYTES + page))
        fixed = PROCESS_BYTES + NETS_BYTES - weights
        return MemoryPlan((part,), page, fixed, 0, weights + page + fixed)

    def load(self, setup: Setup) -> OcrFacts:
        options: PpOcrOptions = setup.options
        self._most_pixels = options.max_pixels
        setup.report(0.2)
        nets = _nets(setup)
        self._reader = PageReader(nets)
        self.example = Example([drawn_page()], {}, "ocr")
        self.largest = Example([largest_page(self._most_pixels)], {}, "ocr")
        pages = PAGES_ON_A_CARD if setup.device != "cpu" else max(LEAST_PAGES, PAGES_PER_CORE * setup.threads)
        self.pace = BatchHints(parallel=pages)
        self._room = PageRoom(most_unpacked(self._most_pixels, pages))
        setup.report(1.0)
        return OcrFacts(
            engine=nets.name,
            alphabet=len(nets.alphabet),
            languages=tuple(sorted(LANGUAGES)),
            max_pixels=self._most_pixels,
        )

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        reading = reading_of(params, tasks=TASKS, languages=LANGUAGES, generates=False)
        page = page_in(items, self._most_pixels)
        return Prepared([(page, reading)], [1], costs=[page.pixels / 1e6])

    def stream(self, value: tuple[SentPage, Reading], progress: Progress) -> RecognisedPage:
        page, reading = value
        with self._room.taken(page.pixels, progress):
            return self._reader.read(page, reading, progress)

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        return outputs

    def set_threads(self, threads: int) -> None:
        self._reader.set_threads(threads)

    def unload(self) -> None:
        self._reader.close()


def drawn_page() -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (640, 480), "white")
    letters = ImageFont.load_default(28)
    for row in range(10):
        ImageDraw.Draw(image).text((40, 30 + 42 * row), f"line {row} of a page", "black", letters)
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


def largest_page(pixels: int) -> bytes:
    """A grey page of so many pixels with a few large lines, and with small ones that are only seen in the second look:
    no other page of the size takes more."""
    from PIL import Image

    side = math.isqrt(pixels)
    with Image.open(io.BytesIO(drawn_page())) as drawn:
        small = drawn.convert("L")
    page = small.resize((side, side), Image.Resampling.NEAREST)
    inset = small.resize((side // 4, side // 4), Image.Resampling.NEAREST)
    for place in ((0, 0), (side - inset.width, 0), (side - inset.width, side - inset.height)):
        page.paste(inset, place)
    target = io.BytesIO()
    page.save(target, "PNG", compress_level=1)
    return target.getvalue()


def _nets(setup: Setup) -> Nets:
    engine = (setup.engine or "").lower()
    if engine == "torch" or (engine != "onnxruntime" and setup.device != "cpu"):
        return TorchNets(setup.folder, setup.device, setup.threads)
    return OnnxNets(setup.folder, setup.threads)
