"""Reading order: the lines of a page become rows, columns and paragraphs.

Works on upright boxes: the caller turns the boxes of a page that is not upright.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

#: Lines of a column are at least so many times as wide as high; narrower ones may be cells of a table.
COLUMN_HEIGHTS = 8.0
#: Most rows of a column fill at least this share of its width.
COLUMN_FILL = 0.6
#: A column has at least so many lines.
COLUMN_LINES = 3
#: Two boxes are in one row if they overlap vertically by this share of the lower box's height.
SAME_ROW = 0.5
#: A new paragraph begins where the distance between rows, or the height of letters, changes by this factor.
PARAGRAPH_PITCH = 1.4
PARAGRAPH_SIZE = 1.35


class TextBox(NamedTuple):
    """A box with text in it. The caller knows it by its `number`."""

    number: int
    left: float
    top: float
    right: float
    bottom: float

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


#: Boxes side by side, from left to right.
Row = list[TextBox]


def paragraphs(pieces: Sequence[TextBox]) -> list[list[Row]]:
    """The rows of each paragraph, in reading order."""
    return [paragraph for column in columns(pieces) for paragraph in _paragraphs(rows(column))]


# ------------------------------------------------------------------------------------------------ columns


def columns(pieces: Sequence[TextBox]) -> list[list[TextBox]]:
    """Groups of boxes, each of which is read from top to bottom as a whole."""
    gutter = _best_gutter(pieces)
    if gutter is None:
        return [list(pieces)]
    done: list[list[TextBox]] = []
    plain: list[TextBox] = []
    for part in _between_crossings(pieces, gutter):
        sides = _sides(part, gutter)
        if not _are_columns(sides):
            plain += part
            continue
        if plain:
            done += columns(plain)
            plain = []
        done += [column for side in sides for column in columns(side)]
    return done + (columns(plain) if plain else [])


def _best_gutter(pieces: Sequence[TextBox]) -> float | None:
    """Where to cut the page from top to bottom so that as many boxes as possible are in columns."""
    lefts = sorted(piece.left for piece in pieces)
    if len(lefts) < 2 * COLUMN_LINES:
        return None
    usual = median(piece.height for piece in pieces)
    # Candidates for the left edge of a column: left edges of boxes with a gap before them.
    starts = [x for i, x in enumerate(lefts) if i and x - lefts[i - 1] > usual]
    best, most = None, 0
    for start in starts:
        gutter = start - usual / 4
        covered = sum(len(part) for part in _between_crossings(pieces, gutter) if _are_columns(_sides(part, gutter)))
        if covered > most:
            best, most = gutter, covered
    return best


def _between_crossings(pieces: Sequence[TextBox], gutter: float) -> list[list[TextBox]]:
    """Runs of boxes from the top down: boxes that cross the gutter and boxes that do not take turns."""
    parts: list[list[TextBox]] = []
    was_crossing = None
    for piece in sorted(pieces, key=lambda piece: piece.middle):
        crosses = piece.left < gutter < piece.right
        if was_crossing is None or crosses != was_crossing:
            parts.append([])
        parts[-1].append(piece)
        was_crossing = crosses
    return parts


def _sides(part: Sequence[TextBox], gutter: float) -> tuple[list[TextBox], list[TextBox]]:
    left = [piece for piece in part if piece.right <= gutter]
    return left, [piece for piece in part if piece.right > gutter]


def _are_columns(sides: tuple[list[TextBox], list[TextBox]]) -> bool:
    return all(map(_is_column, sides)) and _overlap(*sides) > 0


def _is_column(side: Sequence[TextBox]) -> bool:
    if len(side) < COLUMN_LINES:
        return False
    extent = max(piece.right for piece in side) - min(piece.left for piece in side)
    usual = median(piece.width for piece in side)
    # A side that itself has several columns is filled by several boxes to a row.
    in_rows = median(sum(piece.width for piece in row) for row in rows(side))
    return usual >= COLUMN_HEIGHTS * median(piece.height for piece in side) and in_rows >= COLUMN_FILL * extent


def _overlap(first: Sequence[TextBox], other: Sequence[TextBox]) -> float:
    top = max(min(piece.top for piece in side) for side in (first, other))
    bottom = min(max(piece.bottom for piece in side) for side in (first, other))
    return bottom - top


# --------------------------------------------------------------------------------------- rows, paragraphs


def rows(pieces: Sequence[TextBox]) -> list[Row]:
    made: list[Row] = []
    for piece in sorted(pieces, key=lambda piece: piece.middle):
        row = made[-1] if made else None
        if row is not None and _shared_height(row, piece) >= SAME_ROW:
            row.append(piece)
        else:
            made.append([piece])
    return [sorted(row, key=lambda piece: piece.left) for row in made]


def _shared_height(row: Row, piece: TextBox) -> float:
    """The vertical overlap with the nearest box of the row, as a share of the lower box's height."""
    near = min(row, key=lambda other: max(other.left - piece.right, piece.left - other.right))
    if min(near.right, piece.right) - max(near.left, piece.left) > 0.5 * min(near.width, piece.width):
        return 0.0
    shared = min(near.bottom, piece.bottom) - max(near.top, piece.top)
    return shared / max(min(near.height, piece.height), 1e-6)


def _paragraphs(column: Sequence[Row]) -> list[list[Row]]:
    pitches = [_middle(row) - _middle(before) for before, row in zip(column, column[1:], strict=False)]
    usual = median(pitches) if pitches else 0.0
    made: list[list[Row]] = [[column[0]]] if column else []
    for before, row, pitch in zip(column, column[1:], pitches, strict=False):
        sizes = sorted((_height(before), _height(row)))
        if pitch > PARAGRAPH_PITCH * usual or sizes[1] > PARAGRAPH_SIZE * sizes[0]:
            made.append([])
        made[-1].append(row)
    return made


def _middle(row: Row) -> float:
    return median(piece.middle for piece in row)


def _height(row: Row) -> float:
    return median(piece.height for piece in row)
