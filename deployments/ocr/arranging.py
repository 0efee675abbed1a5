"""Reading order: lines that were found on a page become rows, columns and paragraphs.

Works on boxes that stand straight; whoever has a page that does not turns it first.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

#: A column's lines are so wide, in heights of their own; what is narrower may be cells of a table.
COLUMN_HEIGHTS = 8.0
#: So much of a column's width is filled by most of its lines.
COLUMN_FILL = 0.6
#: Fewer lines side by side are no columns.
COLUMN_LINES = 3
#: Boxes that share this part of the lower one's height stand in one row.
SAME_ROW = 0.5
#: A new paragraph begins where the pitch of rows grows, or the size of letters changes, by so much.
PARAGRAPH_PITCH = 1.4
PARAGRAPH_SIZE = 1.35


class TextBox(NamedTuple):
    """A box with text in it; `number` is the caller's."""

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


#: Pieces side by side, from left to right.
Row = list[TextBox]


def paragraphs(pieces: Sequence[TextBox]) -> list[list[Row]]:
    """Rows of pieces, a list to each paragraph, in the order in which they are read."""
    return [paragraph for column in columns(pieces) for paragraph in _paragraphs(rows(column))]


# ------------------------------------------------------------------------------------------------ columns


def columns(pieces: Sequence[TextBox]) -> list[list[TextBox]]:
    """What is read from top to bottom without looking aside."""
    gutter = _best_gutter(pieces)
    if gutter is None:
        return [list(pieces)]
    found: list[list[TextBox]] = []
    plain: list[TextBox] = []
    for part in _between_crossings(pieces, gutter):
        sides = _sides(part, gutter)
        if not _are_columns(sides):
            plain += part
            continue
        if plain:
            found += columns(plain)
            plain = []
        found += [column for side in sides for column in columns(side)]
    return found + (columns(plain) if plain else [])


def _best_gutter(pieces: Sequence[TextBox]) -> float | None:
    """Where to cut from top to bottom so that most of the page becomes columns."""
    lefts = sorted(piece.left for piece in pieces)
    if len(lefts) < 2 * COLUMN_LINES:
        return None
    usual = median(piece.height for piece in pieces)
    # Left edges of columns: many lines begin there.
    starts = [x for i, x in enumerate(lefts) if i and x - lefts[i - 1] > usual]
    best, most = None, 0
    for start in starts:
        gutter = start - usual / 4
        covered = sum(len(part) for part in _between_crossings(pieces, gutter) if _are_columns(_sides(part, gutter)))
        if covered > most:
            best, most = gutter, covered
    return best


def _between_crossings(pieces: Sequence[TextBox], gutter: float) -> list[list[TextBox]]:
    """Runs of pieces from the top down, parted by those that stand on the gutter, which are runs of their own."""
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
    # Columns beside columns are filled by several lines to the row.
    in_rows = median(sum(piece.width for piece in row) for row in rows(side))
    return usual >= COLUMN_HEIGHTS * median(piece.height for piece in side) and in_rows >= COLUMN_FILL * extent


def _overlap(one: Sequence[TextBox], other: Sequence[TextBox]) -> float:
    top = max(min(piece.top for piece in side) for side in (one, other))
    bottom = min(max(piece.bottom for piece in side) for side in (one, other))
    return bottom - top


# --------------------------------------------------------------------------------------- rows, paragraphs


def rows(pieces: Sequence[TextBox]) -> list[Row]:
    found: list[Row] = []
    for piece in sorted(pieces, key=lambda piece: piece.middle):
        row = found[-1] if found else None
        if row is not None and _shared_height(row, piece) >= SAME_ROW:
            row.append(piece)
        else:
            found.append([piece])
    return [sorted(row, key=lambda piece: piece.left) for row in found]


def _shared_height(row: Row, piece: TextBox) -> float:
    """With the piece nearest to it of those in the row, as a share of the lower one."""
    near = min(row, key=lambda other: max(other.left - piece.right, piece.left - other.right))
    if min(near.right, piece.right) - max(near.left, piece.left) > 0.5 * min(near.width, piece.width):
        return 0.0
    shared = min(near.bottom, piece.bottom) - max(near.top, piece.top)
    return shared / max(min(near.height, piece.height), 1e-6)


def _paragraphs(column: Sequence[Row]) -> list[list[Row]]:
    pitches = [_middle(row) - _middle(before) for before, row in zip(column, column[1:], strict=False)]
    usual = median(pitches) if pitches else 0.0
    found: list[list[Row]] = [[column[0]]] if column else []
    for before, row, pitch in zip(column, column[1:], pitches, strict=False):
        sizes = sorted((_height(before), _height(row)))
        if pitch > PARAGRAPH_PITCH * usual or sizes[1] > PARAGRAPH_SIZE * sizes[0]:
            found.append([])
        found[-1].append(row)
    return found


def _middle(row: Row) -> float:
    return median(piece.middle for piece in row)


def _height(row: Row) -> float:
    return median(piece.height for piece in row)
