"""Pages for tests, and a model that reads them. A page holds its text as a pattern of squares, which can still be read
after the page was drawn larger, saved as JPEG or put into a PDF.

The model is loaded by `CLUSTER_PLUGINS=tests.read_pages`. The worker, the routes and everything else around it are
real.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from pydantic import BaseModel, ConfigDict

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.worker.family import BatchHints, Example, Prepared, Progress, Setup, Stepped
from deployments import ModelType
from deployments.ocr.asked import page_in, reading_of
from deployments.ocr.facts import OcrFacts
from deployments.ocr.page import Block, Line, RecognisedPage, Usage, Word, bounds, page_of, rectangle
from deployments.ocr.requests import Reading
from tests.live import LiveCluster, until

#: The number of squares on each side. The first two bytes that they hold are the length of the text.
SIDE = 28
#: The text of the example.
PROBE = "example"
#: The places of lines and words, as shares of the page.
LEFT, TOP, LINE, LETTER = 0.1, 0.1, 0.05, 0.015


def page(text: str, size: tuple[int, int] = (280, 280)) -> Image.Image:
    data = len(text.encode()).to_bytes(2, "big") + text.encode()
    bits = "".join(f"{byte:08b}" for byte in data).ljust(SIDE * SIDE, "0")
    assert len(bits) == SIDE * SIDE, f"{text!r} is too long for a page"
    squares = Image.new("L", (SIDE, SIDE), 255)
    squares.putdata([0 if bit == "1" else 255 for bit in bits])
    return squares.resize(size, Image.Resampling.NEAREST)


def picture(text: str, format: str = "PNG", size: tuple[int, int] = (280, 280), **more: Any) -> bytes:
    target = io.BytesIO()
    page(text, size).save(target, format, **more)
    return target.getvalue()


def document(*texts: str, format: str = "PDF", dpi: int = 72) -> bytes:
    """A PDF or TIFF of several pages."""
    first, *others = map(page, texts)
    target = io.BytesIO()
    how = {"resolution": dpi} if format == "PDF" else {"dpi": (dpi, dpi)}
    first.save(target, format, save_all=True, append_images=others, **how)
    return target.getvalue()


def text_of(image: Image.Image) -> str:
    width, height = image.size
    grey = image.convert("L")
    at = [((2 * place + 1) * width // (2 * SIDE), (2 * place + 1) * height // (2 * SIDE)) for place in range(SIDE)]
    bits = "".join("1" if grey.getpixel((x, y)) < 128 else "0" for _, y in at for x, _ in at)
    data = bytes(int(bits[start : start + 8], 2) for start in range(0, len(bits) - 7, 8))
    try:
        return data[2 : 2 + int.from_bytes(data[:2], "big")].decode()
    except UnicodeDecodeError:
        raise errors.BadRequest("Nothing on the picture can be read.", "image") from None


def read(image: Image.Image, text: str) -> RecognisedPage:
    """The page in the form of an answer; the place of each word follows from the text."""
    width, height = image.size
    lines = []
    for row, said in enumerate(text.splitlines()):
        words, at = [], LEFT
        for word in said.split():
            top, end = TOP + row * 2 * LINE, at + len(word) * LETTER
            box = (round(at * width), round(top * height), round(end * width), round((top + LINE) * height))
            words.append(Word(word, box, rectangle(box), 0.9))
            at = end + LETTER
        box = bounds(point for word in words for point in word.polygon)
        lines.append(Line(said, box, rectangle(box), 0.9, tuple(words)))
    if not lines:
        return RecognisedPage(width, height)
    block = Block(text=text, bbox=bounds(p for line in lines for p in line.polygon), score=0.9, lines=tuple(lines))
    return page_of(width, height, [block], usage=Usage(1, 1, len(text.split())))


class ReaderOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    #: The time that each page takes.
    seconds: float = 0.0
    #: A file in which it records which pages it begins and ends to read.
    journal: str | None = None
    #: Shows each word as soon as it is read.
    shows: bool = False
    parallel: int = 2
    takes_prompt: bool = True


class Reader(Stepped):
    """A word on a page can be an order: `sleep:0.5` takes longer, `fail` raises, `refuse` is an error of the page."""

    engines: ClassVar[tuple[str, ...]] = ("reading",)
    abilities: ClassVar[tuple[str, ...]] = ("ocr",)
    Options: ClassVar[type[BaseModel]] = ReaderOptions
    example: Example = Example([picture(PROBE)], {}, "ocr")

    def load(self, setup: Setup) -> OcrFacts:
        self._options: ReaderOptions = setup.options
        self._lock = threading.Lock()
        self.pace = BatchHints(parallel=self._options.parallel)
        return OcrFacts()

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        reading = reading_of(params, tasks=("ocr",), languages=None, generates=self._options.takes_prompt)
        return Prepared([(page_in(items, 100_000_000).opened().image, reading)], [1], costs=[1.0])

    def stream(self, value: Any, course: Progress) -> RecognisedPage:
        image, reading = value
        text = text_of(image)
        self._note("begin", text)
        words = text.split()
        slept = sum(float(word.partition(":")[2]) for word in words if word.startswith("sleep:"))
        for step, word in enumerate(words, 1):
            self._pass((self._options.seconds + slept) / len(words), course)
            course.tell(step / len(words), "reading", step, len(words))
            if self._options.shows:
                course.show(f"{word} ".encode())
        if "fail" in words:
            raise ValueError("told to fail")
        if "refuse" in words:
            raise errors.BadRequest("The page was told to be refused.", "image")
        self._note("end", text)
        return read(image, self._told(text, reading))

    def _told(self, text: str, reading: Reading) -> str:
        """The page with the parameters of the request, so that a test sees that they arrived."""
        asked = {"prompt": reading.prompt, "languages": " ".join(reading.languages)}
        return "\n".join([text, *(f"{name} {value}" for name, value in asked.items() if value)])

    def _pass(self, seconds: float, course: Progress) -> None:
        until_then = time.monotonic() + seconds
        course.check()
        while (left := until_then - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))
            course.check()

    def _note(self, what: str, text: str) -> None:
        # Probes read the example as well.
        if self._options.journal and text != PROBE:
            with self._lock, open(self._options.journal, "a") as journal:
                journal.write(f"{what} {text!r}\n")

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        return outputs


class Journal:
    """The pages that a model began and ended to read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def count(self, what: str) -> int:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return sum(line.startswith(what) for line in lines)


@contextmanager
def reading(live: LiveCluster, uid: str, **options: Any) -> Iterator[str]:
    """The uid of a model that reads, which runs only as long as it is needed: requests without a model name need it to
    be the only one."""
    with live.client() as client:
        yield client.launch_model("reading", model_uid=uid, **options)
        client.terminate_model(uid)
        until(lambda: uid not in client.list_models(), within=10)


TYPES = (
    ModelType(
        name="reading",
        families={"reading": Reader},
        entries=(
            Entry(
                name="reading",
                type="reading",
                family="reading",
                sources=(Source(hub="package", id="tests"),),
                facts={"claim_bytes": 50_000_000},
            ),
        ),
    ),
)
