"""The program tesseract as an OCR engine, on machines where it is installed."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from tempfile import NamedTemporaryFile
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from cluster import environment, errors
from cluster.worker.family import BatchHints, Example, Prepared, Progress, Setup, Stepped
from deployments.ocr.asked import BLANK_PAGE, page_in, reading_of
from deployments.ocr.facts import OcrFacts
from deployments.ocr.page import Block, Box, Line, RecognisedPage, Word, bounds, page_of, rectangle
from deployments.ocr.pictures import ScannedPage, SentPage
from deployments.ocr.requests import LANGUAGES, Reading
from deployments.ocr.room import PageRoom, most_unpacked

PROGRAM = "tesseract"
#: Values of `--psm`. 3 works out the layout of a page; 1 also finds which way up it is, for which it needs `osd` data.
ANY_LAYOUT, ANY_DIRECTION = "3", "1"
#: How often it is checked whether somebody still waits for the page.
LOOK_S = 0.1

Cell = Mapping[str, str]


class TesseractOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    max_pixels: int = Field(default=60_000_000, ge=10_000, le=300_000_000)


class Tesseract(Stepped):
    engines: ClassVar[tuple[str, ...]] = ("tesseract",)
    abilities: ClassVar[tuple[str, ...]] = ("ocr",)
    Options: ClassVar[type[BaseModel]] = TesseractOptions
    example: Example = Example([BLANK_PAGE], {}, "ocr")

    def load(self, setup: Setup) -> OcrFacts:
        if shutil.which(PROGRAM) is None:
            raise errors.LoadFailed("The program tesseract is not installed: apt-get install tesseract-ocr.")
        options: TesseractOptions = setup.options
        self._most_pixels = options.max_pixels
        self._data = frozenset(_output(PROGRAM, "--list-langs").splitlines()[1:])
        self._languages = frozenset(short for short, long in LANGUAGES.items() if long in self._data)
        if not self._data - {"osd"}:
            raise errors.LoadFailed("tesseract has no languages: apt-get install tesseract-ocr-eng.")
        self.pace = BatchHints(parallel=max(1, setup.threads))
        self._room = PageRoom(most_unpacked(self._most_pixels, self.pace.parallel))
        version = _output(PROGRAM, "--version").splitlines()[0]
        languages = tuple(sorted(self._languages))
        return OcrFacts(engine=version, languages=languages, max_pixels=self._most_pixels)

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        reading = reading_of(params, tasks=("ocr", "layout"), languages=self._languages, generates=False)
        page = page_in(items, self._most_pixels)
        return Prepared([(page, reading)], [1], costs=[page.pixels / 1e6])

    def stream(self, value: tuple[SentPage, Reading], progress: Progress) -> RecognisedPage:
        page, reading = value
        with self._room.taken(page.pixels, progress):
            return self._read(page.opened(), reading, progress)

    def _read(self, sheet: ScannedPage, reading: Reading, progress: Progress) -> RecognisedPage:
        progress.tell(0.1, "reading")
        table = self._table(sheet, reading, progress)
        width, height = sheet.size
        blocks = list(_blocks(table, reading))
        return page_of(width, height, blocks, dpi=sheet.dpi)

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        return outputs

    def _table(self, sheet: ScannedPage, reading: Reading, progress: Progress) -> list[Cell]:
        chosen = [LANGUAGES[code] for code in reading.languages] or sorted(self._data & {"eng"} or self._data - {"osd"})
        layout = ANY_DIRECTION if reading.turn and "osd" in self._data else ANY_LAYOUT
        with NamedTemporaryFile(suffix=".png") as file:
            file.write(_as_png(sheet))
            file.flush()
            words = [PROGRAM, file.name, "-", "-l", "+".join(dict.fromkeys(chosen)), "--psm", layout, "tsv"]
            output = _watched(words, progress)
        return list(csv.DictReader(io.StringIO(output), delimiter="\t", quoting=csv.QUOTE_NONE))


def _blocks(table: Iterable[Cell], reading: Reading) -> Iterable[Block]:
    words = [row for row in table if row["level"] == "5" and row["text"].strip()]
    for _, paragraph in groupby(words, key=lambda row: (row["block_num"], row["par_num"])):
        lines = [_line(list(row), reading) for _, row in groupby(paragraph, key=lambda row: row["line_num"])]
        least = reading.min_score or 0.0
        lines = [line for line in lines if (line.score or 0.0) >= least]
        if lines:
            box = bounds(point for line in lines for point in line.polygon)
            score = sum(line.score or 0.0 for line in lines) / len(lines)
            text = "\n".join(line.text for line in lines)
            yield Block("text", text, box, rectangle(box), score=score, lines=tuple(lines))


def _line(row: Sequence[Cell], reading: Reading) -> Line:
    words = tuple(Word(cell["text"], _box(cell), rectangle(_box(cell)), float(cell["conf"]) / 100) for cell in row)
    box = bounds(point for word in words for point in word.polygon)
    score = sum(word.score or 0.0 for word in words) / len(words)
    text = " ".join(word.text for word in words)
    return Line(text, box, rectangle(box), score, words if "words" in reading.features else ())


def _box(cell: Cell) -> Box:
    left, top, width, height = (float(cell[name]) for name in ("left", "top", "width", "height"))
    return left, top, left + width, top + height


def _as_png(sheet: ScannedPage) -> bytes:
    target = io.BytesIO()
    sheet.image.save(target, "PNG", compress_level=1, **({"dpi": (sheet.dpi, sheet.dpi)} if sheet.dpi else {}))
    return target.getvalue()


def _output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, env=environment.for_child()).stdout


def _watched(words: Sequence[str], progress: Progress) -> str:
    """What the program prints. It is killed as soon as nobody waits for the page any more."""
    pipe, variables = subprocess.PIPE, environment.for_child(OMP_THREAD_LIMIT="1")
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, env=variables) as process:
        try:
            while True:
                try:
                    output, complaint = process.communicate(timeout=LOOK_S)
                    break
                except subprocess.TimeoutExpired:
                    progress.check()
        finally:
            if process.poll() is None:
                process.kill()
    if process.returncode:
        raise errors.InferenceFailed(f"tesseract failed: {complaint.decode(errors='replace').strip()[-300:]}")
    return output.decode()
