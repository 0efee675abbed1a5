"""One page, from its pixels to its text: find, turn, cut out, read, put in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from cluster.worker.family import Progress
from deployments.ocr.arranging import Row, TextBox, paragraphs
from deployments.ocr.page import Block, Line, RecognisedPage, Word, bounds, page_of
from deployments.ocr.pictures import PageImage
from deployments.ocr.ppocr import direction, finding, letters, strips
from deployments.ocr.ppocr.finding import Floats, Found, Pixels
from deployments.ocr.ppocr.letters import Letter
from deployments.ocr.ppocr.nets import Nets
from deployments.ocr.requests import Reading
from deployments.ocr.sharing import Sharing

#: Lines with a letter that is less certain, or with letters so narrow, are looked at once more, at full width.
SURE = 0.6
NARROW_LETTERS = 13
#: Lines that are less sure are left out where the request does not say.
LEAST_SCORE = 0.5
#: Lines that say whether the page is upside down; in between these shares of them it is tried.
VOTERS = 8
UPRIGHT, TURNED = 0.25, 0.75
#: Letters so many times as high as the page's are a title's.
TITLE = 1.5
TITLE_ROWS = 2


class ReadLine(NamedTuple):
    """A line that was read: its corners in the page's pixels, in reading direction."""

    corners: Floats
    line: list[Letter]

    @property
    def score(self) -> float:
        return letters.score_of(self.line)


class PageReader:
    """The nets, shared by all pages under way."""

    def __init__(self, nets: Nets) -> None:
        self.nets = nets
        self._detecting = Sharing("detecting", nets.detect, threads=nets.threads, room=nets.room)
        self._turning = Sharing("turning", nets.turn, threads=nets.threads, room=nets.room)
        self._reading = Sharing("reading", nets.read, threads=nets.threads, room=nets.room)

    def set_threads(self, threads: int) -> None:
        self.nets.set_threads(threads)
        for sharing in (self._detecting, self._turning, self._reading):
            sharing.set_threads(threads)

    def read(self, sheet: PageImage, reading: Reading, course: Progress) -> RecognisedPage:
        pixels: Pixels = np.ascontiguousarray(np.asarray(sheet.image)[:, :, ::-1])
        course.tell(0.05, "finding text")
        found = self._find(pixels, course)
        course.tell(0.3, "reading")
        lines, slope = self._read(pixels, [one.corners for one in found], reading, course)
        course.tell(0.95, "putting in order")
        least = LEAST_SCORE if reading.min_score is None else reading.min_score
        kept = [one for one in lines if one.score >= least and letters.text_of(one.line)]
        width, height = sheet.size
        blocks = arranged(kept, slope, "words" in reading.features)
        return page_of(width, height, blocks, dpi=sheet.dpi, angle=_told(slope))

    # ---------------------------------------------------------------------------------------------- finding

    def _find(self, pixels: Pixels, course: Progress) -> list[Found]:
        found = self._look(pixels, finding.FIRST_LOOK, course)
        if finding.wants_second_look(pixels, found):
            found = self._look(pixels, finding.SECOND_LOOK, course)
        return found

    def _look(self, pixels: Pixels, area: int, course: Progress) -> list[Found]:
        course.check()
        (answer,) = self._detecting.answers([finding.seen(pixels, area)], course)
        height, width = pixels.shape[:2]
        return finding.lines_in(answer, width, height)

    # ---------------------------------------------------------------------------------------------- reading

    def _read(
        self, pixels: Pixels, found: Sequence[Floats], reading: Reading, course: Progress
    ) -> tuple[list[ReadLine], float]:
        """All lines, and by how many degrees the page is turned clockwise."""
        slope = direction.page_slope(found)
        standing = [direction.turned_to(corners, slope) for corners in found]
        if reading.turn and self._is_upside_down(pixels, standing, course):
            slope += 180
            standing = [direction.half_turned(corners) for corners in standing]
        along = [corners for corners in standing if not direction.runs_across(corners)]
        across = [corners for corners in standing if direction.runs_across(corners)]
        read = self._lines(pixels, along, course)
        return read + self._labels(pixels, across, course), slope

    def _is_upside_down(self, pixels: Pixels, found: Sequence[Floats], course: Progress) -> bool:
        longest = sorted(found, key=lambda corners: -float(np.linalg.norm(corners[1] - corners[0])))[:VOTERS]
        if not longest:
            return False
        cuts = [strips.cut_out(pixels, corners) for corners in longest]
        votes = [vote > 0.5 for vote in self._turning.answers([strips.glance(cut) for cut in cuts], course)]
        share = sum(votes) / len(votes)
        if share <= UPRIGHT or share >= TURNED:
            return bool(share >= TURNED)
        upright = self._texts(cuts, strips.NARROW, course)
        turned = self._texts(strips.upside_down(cuts), strips.NARROW, course)
        return sum(map(letters.score_of, turned)) > sum(map(letters.score_of, upright))

    def _lines(self, pixels: Pixels, found: Sequence[Floats], course: Progress) -> list[ReadLine]:
        cuts = [strips.cut_out(pixels, corners) for corners in found]
        texts = self._texts(cuts, strips.NARROW, course)
        unsure = [place for place, (cut, line) in enumerate(zip(cuts, texts, strict=True)) if _is_unsure(cut, line)]
        again = self._texts([cuts[place] for place in unsure], strips.FULL, course)
        for place, line in zip(unsure, again, strict=True):
            texts[place] = max(texts[place], line, key=letters.weakest)
        return [ReadLine(corners, line) for corners, line in zip(found, texts, strict=True)]

    def _labels(self, pixels: Pixels, found: Sequence[Floats], course: Progress) -> list[ReadLine]:
        """What stands across the page is read each way, and upright: whichever makes most sense."""
        ways = [
            self._lines(pixels, [turn(corners) for corners in found], course)
            for turn in (lambda c: c, direction.quarter_turned, lambda c: np.roll(c, -1, axis=0))
        ]
        return [max(same, key=lambda one: one.score) for same in zip(*ways, strict=True)]

    def _texts(self, cuts: Sequence[Pixels], stretch: float, course: Progress) -> list[list[Letter]]:
        course.check()
        parts = [strips.strips_of(cut, stretch) for cut in cuts]
        flat = [strips.filled(strip) for line in parts for strip in line]
        # Wide ones first: the last batches are short, and the cores are done at about one time.
        order = sorted(range(len(flat)), key=lambda place: -flat[place].shape[-1])
        answers: list[Any] = [None] * len(flat)
        for place, said in zip(order, self._reading.answers([flat[place] for place in order], course), strict=True):
            answers[place] = said
        said = iter(zip(answers, flat, strict=True))
        return [self._line(line, [next(said) for _ in line]) for line in parts]

    def _line(self, parts: Sequence[Pixels], answers: Sequence[tuple[Any, Floats]]) -> list[Letter]:
        widths = [part.shape[1] for part in parts]
        read = [
            letters.letters(said, self.nets.alphabet, width / filled.shape[-1])
            for (said, filled), width in zip(answers, widths, strict=True)
        ]
        return letters.joined(read, widths)


def _is_unsure(cut: Pixels, line: Sequence[Letter]) -> bool:
    width = strips.HEIGHT * cut.shape[1] / cut.shape[0] * strips.NARROW
    return letters.weakest(line) < SURE or width < NARROW_LETTERS * len(line)


# ------------------------------------------------------------------------------------------ putting in order


def arranged(lines: Sequence[ReadLine], slope: float, with_words: bool) -> list[Block]:
    pieces = [_piece(number, one.corners, slope) for number, one in enumerate(lines)]
    usual = median(piece.height for piece in pieces) if pieces else 0.0
    return [_block(lines, paragraph, usual, with_words) for paragraph in paragraphs(pieces)]


def _piece(number: int, corners: Floats, slope: float) -> TextBox:
    """Its box on the page turned back."""
    turn = math.radians(slope)
    x, y = corners.mean(axis=0)
    centre = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    along, down = corners[1] - corners[0], corners[3] - corners[0]
    width = abs(along[0] * math.cos(turn) + along[1] * math.sin(turn))
    height = abs(down[1] * math.cos(turn) - down[0] * math.sin(turn))
    if direction.runs_across(corners) or width < height / direction.CLEARLY_LONG:
        width, height = max(width, 1.0), max(height, 1.0)
    return TextBox(
        number,
        float(centre[0] - width / 2),
        float(centre[1] - height / 2),
        float(centre[0] + width / 2),
        float(centre[1] + height / 2),
    )


def _block(lines: Sequence[ReadLine], paragraph: Sequence[Row], usual: float, with_words: bool) -> Block:
    told = [_line_of([lines[piece.number] for piece in row], with_words) for row in paragraph]
    height = median(piece.height for row in paragraph for piece in row)
    is_title = height > TITLE * usual and len(paragraph) <= TITLE_ROWS
    box = bounds(point for line in told for point in line.polygon)
    scores = [line.score for line in told if line.score is not None]
    return Block(
        type="title" if is_title else "text",
        text="\n".join(line.text for line in told),
        bbox=box,
        polygon=_around(told),
        score=sum(scores) / len(scores),
        lines=tuple(told),
    )


def _line_of(row: Sequence[ReadLine], with_words: bool) -> Line:
    """What stands side by side, as one line."""
    corners = [row[0].corners[0], row[-1].corners[1], row[-1].corners[2], row[0].corners[3]]
    polygon = tuple((float(x), float(y)) for x, y in corners)
    count = sum(len(one.line) for one in row)
    return Line(
        text=" ".join(letters.text_of(one.line) for one in row),
        bbox=bounds(finding.as_polygon(np.concatenate([one.corners for one in row]))),
        polygon=polygon,
        score=sum(one.score * len(one.line) for one in row) / count,
        words=tuple(word for one in row for word in _words(one)) if with_words else (),
    )


def _words(read: ReadLine) -> list[Word]:
    corners = read.corners
    found = []
    for span in letters.words(read.line):
        upper = [corners[0] + (corners[1] - corners[0]) * place for place in (span.start, span.end)]
        lower = [corners[3] + (corners[2] - corners[3]) * place for place in (span.end, span.start)]
        polygon = tuple((float(x), float(y)) for x, y in (*upper, *lower))
        found.append(Word(span.text, bounds(polygon), polygon, span.score))
    return found


def _around(lines: Sequence[Line]) -> tuple[tuple[float, float], ...]:
    """The paragraph's corners: an upright box, where its lines are not all of one slope."""
    left, top, right, bottom = bounds(point for line in lines for point in line.polygon)
    return (left, top), (right, top), (right, bottom), (left, bottom)


def _told(slope: float) -> float:
    """From above -180 to 180, and none where it is too small to be seen."""
    angle = -((180 - slope) % 360 - 180)
    return 0.0 if abs(angle) < 0.2 else round(angle, 1)
