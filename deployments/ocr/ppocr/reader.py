"""One page, from its pixels to its text: find, turn, cut out, read, put in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from cluster.worker.family import Progress
from deployments.ocr.arranging import Row, TextBox, paragraphs
from deployments.ocr.page import Block, Line, RecognisedPage, Word, bounds, page_of
from deployments.ocr.pictures import ScannedPage, SentPage
from deployments.ocr.ppocr import direction, finding, letters, strips
from deployments.ocr.ppocr.finding import Floats, FoundLine, Pixels
from deployments.ocr.ppocr.letters import Letter, Said
from deployments.ocr.ppocr.nets import Nets
from deployments.ocr.requests import Reading
from deployments.ocr.sharing import Sharing

#: A line is read a second time, at full width, when its least certain letter scores less than SURE, or when its letters
#: are narrower than NARROW_LETTERS pixels.
SURE = 0.6
NARROW_LETTERS = 13
#: Strips that are made numbers for the net at once, at most 1 MB each.
STRIPS_AT_ONCE = 64
#: Rows of a page that are made numbers at once.
UNPACKED_ROWS = 256
#: Lines with a lower score are left out, where the request does not set min_score.
LEAST_SCORE = 0.5
#: So many of the longest lines vote on whether the page is upside down. When the share of votes for it is between the
#: two limits, these lines are read both ways, and the better result decides.
VOTERS = 8
UPRIGHT, TURNED = 0.25, 0.75
#: A paragraph of at most TITLE_ROWS rows whose letters are TITLE times as high as usual on the page is a title.
TITLE = 1.5
TITLE_ROWS = 2


class ReadLine(NamedTuple):
    """A line that was read, with its corners in pixels of the page, in reading direction."""

    corners: Floats
    line: list[Letter]

    @property
    def score(self) -> float:
        return letters.score_of(self.line)


class PageReader:
    """Reads pages, many at once: their pieces share batches of the nets."""

    def __init__(self, nets: Nets) -> None:
        self.nets = nets
        threads, room = nets.threads, nets.room
        self._detecting = Sharing[Floats, Floats]("detecting", nets.detect, threads=threads, room=room)
        self._turning = Sharing[Floats, float]("turning", nets.turn, threads=threads, room=room)
        self._reading = Sharing[Floats, Said]("reading", nets.read, threads=threads, room=room)

    def close(self) -> None:
        for sharing in (self._detecting, self._turning, self._reading):
            sharing.close()

    def set_threads(self, threads: int) -> None:
        self.nets.set_threads(threads)
        self._detecting.set_threads(threads)
        self._turning.set_threads(threads)
        self._reading.set_threads(threads)

    def read(self, page: SentPage, reading: Reading, progress: Progress) -> RecognisedPage:
        pixels, dpi = _unpacked(page.opened())
        progress.tell(0.05, "finding text")
        boxes = self._find(pixels, progress)
        progress.tell(0.3, "reading")
        lines, slope = self._read(pixels, [line.corners for line in boxes], reading, progress)
        progress.tell(0.95, "putting in order")
        least = LEAST_SCORE if reading.min_score is None else reading.min_score
        kept = [line for line in lines if line.score >= least and letters.text_of(line.line)]
        height, width = pixels.shape[:2]
        blocks = arranged(kept, slope, "words" in reading.features)
        return page_of(width, height, blocks, dpi=dpi, angle=_angle(slope))

    # ---------------------------------------------------------------------------------------------- finding

    def _find(self, pixels: Pixels, progress: Progress) -> list[FoundLine]:
        boxes = self._look(pixels, finding.FIRST_LOOK, progress)
        if finding.wants_second_look(pixels, boxes):
            boxes = self._look(pixels, finding.SECOND_LOOK, progress)
        return boxes

    def _look(self, pixels: Pixels, area: int, progress: Progress) -> list[FoundLine]:
        progress.check()
        (answer,) = self._detecting.answers([finding.seen(pixels, area)], progress)
        height, width = pixels.shape[:2]
        return finding.lines_in(answer, width, height)

    # ---------------------------------------------------------------------------------------------- reading

    def _read(
        self, pixels: Pixels, quads: Sequence[Floats], reading: Reading, progress: Progress
    ) -> tuple[list[ReadLine], float]:
        """All lines, and by how many degrees the page is turned clockwise."""
        slope = direction.page_slope(quads)
        standing = [direction.turned_to(corners, slope) for corners in quads]
        if reading.turn and self._is_upside_down(pixels, standing, progress):
            slope += 180
            standing = [direction.half_turned(corners) for corners in standing]
        along = [corners for corners in standing if not direction.runs_across(corners)]
        across = [corners for corners in standing if direction.runs_across(corners)]
        read = self._lines(pixels, along, progress)
        return read + self._labels(pixels, across, progress), slope

    def _is_upside_down(self, pixels: Pixels, quads: Sequence[Floats], progress: Progress) -> bool:
        longest = sorted(quads, key=lambda corners: -float(np.linalg.norm(corners[1] - corners[0])))[:VOTERS]
        if not longest:
            return False
        cuts = [strips.cut_out(pixels, corners) for corners in longest]
        votes = [vote > 0.5 for vote in self._turning.answers([strips.glance(cut) for cut in cuts], progress)]
        share = sum(votes) / len(votes)
        if share <= UPRIGHT or share >= TURNED:
            return bool(share >= TURNED)
        upright = self._texts(cuts, strips.NARROW, progress)
        turned = self._texts(strips.upside_down(cuts), strips.NARROW, progress)
        return sum(map(letters.score_of, turned)) > sum(map(letters.score_of, upright))

    def _lines(self, pixels: Pixels, quads: Sequence[Floats], progress: Progress) -> list[ReadLine]:
        cuts = [strips.cut_out(pixels, corners) for corners in quads]
        texts = self._texts(cuts, strips.NARROW, progress)
        unsure = [index for index, (cut, line) in enumerate(zip(cuts, texts, strict=True)) if _is_unsure(cut, line)]
        again = self._texts([cuts[index] for index in unsure], strips.FULL, progress)
        for index, line in zip(unsure, again, strict=True):
            texts[index] = max(texts[index], line, key=letters.weakest)
        return [ReadLine(corners, line) for corners, line in zip(quads, texts, strict=True)]

    def _labels(self, pixels: Pixels, quads: Sequence[Floats], progress: Progress) -> list[ReadLine]:
        """Text that runs across the page: read as it is and in both directions along its longer side, and the reading
        with the best score is kept."""
        ways = [
            self._lines(pixels, [turn(corners) for corners in quads], progress)
            for turn in (lambda c: c, direction.quarter_turned, lambda c: np.roll(c, -1, axis=0))
        ]
        return [max(same, key=lambda line: line.score) for same in zip(*ways, strict=True)]

    def _texts(self, cuts: Sequence[Pixels], stretch: float, progress: Progress) -> list[list[Letter]]:
        progress.check()
        parts = [strips.strips_of(cut, stretch) for cut in cuts]
        flat = [strip for line in parts for strip in line]
        answers = self._said(flat, progress)
        numbers = iter(range(len(flat)))
        return [self._line(line, [answers[next(numbers)] for _ in line]) for line in parts]

    def _said(self, flat: Sequence[Pixels], progress: Progress) -> dict[int, tuple[Said, int]]:
        """For each strip what the net makes of it, and the width to which it was padded."""
        # Wide strips first, so that the last batches are short and all cores finish at about the same time.
        order = sorted(range(len(flat)), key=lambda index: -flat[index].shape[1])
        answers: dict[int, tuple[Said, int]] = {}
        # As numbers for the net a strip takes four times as much as in pixels, so they are not made of all at once.
        for start in range(0, len(order), STRIPS_AT_ONCE):
            group = order[start : start + STRIPS_AT_ONCE]
            padded = [strips.filled(flat[index]) for index in group]
            widths = [strip.shape[-1] for strip in padded]
            answers |= zip(group, zip(self._reading.answers(padded, progress), widths, strict=True), strict=True)
        return answers

    def _line(self, parts: Sequence[Pixels], answers: Sequence[tuple[Said, int]]) -> list[Letter]:
        """The letters of a line, from the answers for its strips and the widths to which they were padded."""
        widths = [part.shape[1] for part in parts]
        read = [
            letters.letters(said, self.nets.alphabet, width / padded)
            for (said, padded), width in zip(answers, widths, strict=True)
        ]
        return letters.joined(read, widths)


def _unpacked(sheet: ScannedPage) -> tuple[Pixels, float | None]:
    """The page's numbers, blue first, and its dots per inch. A few rows at a time: Pillow makes an array of a whole
    picture out of two copies of it."""
    width, height = sheet.size
    pixels: Pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, UNPACKED_ROWS):
        bottom = min(top + UNPACKED_ROWS, height)
        pixels[top:bottom] = np.asarray(sheet.image.crop((0, top, width, bottom)))[:, :, ::-1]
    return pixels, sheet.dpi


def _is_unsure(cut: Pixels, line: Sequence[Letter]) -> bool:
    width = strips.HEIGHT * cut.shape[1] / cut.shape[0] * strips.NARROW
    return letters.weakest(line) < SURE or width < NARROW_LETTERS * len(line)


# ------------------------------------------------------------------------------------------ putting in order


def arranged(lines: Sequence[ReadLine], slope: float, with_words: bool) -> list[Block]:
    boxes = [_piece(number, line.corners, slope) for number, line in enumerate(lines)]
    usual = median(box.height for box in boxes) if boxes else 0.0
    return [_block(lines, paragraph, usual, with_words) for paragraph in paragraphs(boxes)]


def _piece(number: int, corners: Floats, slope: float) -> TextBox:
    """The box of a line on the page as it would be upright."""
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
    merged = [_line_of([lines[piece.number] for piece in row], with_words) for row in paragraph]
    height = median(piece.height for row in paragraph for piece in row)
    is_title = height > TITLE * usual and len(paragraph) <= TITLE_ROWS
    box = bounds(point for line in merged for point in line.polygon)
    scores = [line.score for line in merged if line.score is not None]
    return Block(
        type="title" if is_title else "text",
        text="\n".join(line.text for line in merged),
        bbox=box,
        polygon=_around(merged),
        score=sum(scores) / len(scores),
        lines=tuple(merged),
    )


def _line_of(row: Sequence[ReadLine], with_words: bool) -> Line:
    """Pieces of text side by side, as one line."""
    corners = [row[0].corners[0], row[-1].corners[1], row[-1].corners[2], row[0].corners[3]]
    polygon = tuple((float(x), float(y)) for x, y in corners)
    count = sum(len(line.line) for line in row)
    return Line(
        text=" ".join(letters.text_of(line.line) for line in row),
        bbox=bounds(finding.as_polygon(np.concatenate([line.corners for line in row]))),
        polygon=polygon,
        score=sum(line.score * len(line.line) for line in row) / count,
        words=tuple(word for line in row for word in _words(line)) if with_words else (),
    )


def _words(read: ReadLine) -> list[Word]:
    corners = read.corners
    words = []
    for span in letters.words(read.line):
        upper = [corners[0] + (corners[1] - corners[0]) * share for share in (span.start, span.end)]
        lower = [corners[3] + (corners[2] - corners[3]) * share for share in (span.end, span.start)]
        polygon = tuple((float(x), float(y)) for x, y in (*upper, *lower))
        words.append(Word(span.text, bounds(polygon), polygon, span.score))
    return words


def _around(lines: Sequence[Line]) -> tuple[tuple[float, float], ...]:
    """The corners of a paragraph: of an upright box, because its lines may differ in slope."""
    left, top, right, bottom = bounds(point for line in lines for point in line.polygon)
    return (left, top), (right, top), (right, bottom), (left, bottom)


def _angle(slope: float) -> float:
    """The angle of the page in an answer: above -180 and up to 180, and 0 where it is too small to see."""
    angle = -((180 - slope) % 360 - 180)
    return 0.0 if abs(angle) < 0.2 else round(angle, 1)
