"""Where text is on a page: the input of the detecting net, and the lines (quadrilaterals) in the map it returns."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from deployments.ocr.page import Polygon

if TYPE_CHECKING:
    from cv2.typing import MatLike, RotatedRect

    Rectangle: TypeAlias = RotatedRect | tuple[tuple[float, float], tuple[float, float], float]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

#: Pixels of the page as the net first gets it. Finding text takes far fewer pixels than reading it.
FIRST_LOOK = 400_000
#: Pixels of a second pass, made where the first found text that is small for it, or seems to have missed some.
SECOND_LOOK = 1_600_000
#: Lines of fewer pixels in height, in the net's input, are close to those that it misses.
SMALL = 11.0
#: The share of all edges on the page that may lie outside of the lines, and the strength from which it is an edge.
LEFT_OUT = 0.03
EDGE = 60
#: Sides that the net takes are multiples of this.
STRIDE = 32
MOST_ENLARGED = 3.0

#: From these scores on a pixel is text, and a region (by its mean) is a line.
PIXEL_SCORE, LINE_SCORE = 0.3, 0.5
#: The map marks only the inner part of a line, which is enlarged by this factor.
GROWN = 1.6
MOST_LINES = 3000
MOST_LOOKED_AT = 2 * MOST_LINES


class FoundLine(NamedTuple):
    """A line that was found, with its corners in pixels of the page, in order around it but beginning anywhere."""

    corners: Floats
    score: float


def scale_for(width: int, height: int, area: int) -> float:
    return min(MOST_ENLARGED, math.sqrt(area / (width * height)))


def seen(pixels: Pixels, area: int) -> Floats:
    """The input of the net: the page scaled to about `area` pixels, in numbers from -1 to 1, colours first."""
    import cv2

    height, width = pixels.shape[:2]
    scale = scale_for(width, height, area)
    size = (_in_strides(width * scale), _in_strides(height * scale))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.ascontiguousarray((small.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1))


def _in_strides(length: float) -> int:
    return max(STRIDE, round(length / STRIDE) * STRIDE)


def lines_in(answer: Floats, width: int, height: int) -> list[FoundLine]:
    """The lines that a map shows, on a page of that size."""
    import cv2

    mask = cv2.dilate((answer > PIXEL_SCORE).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    factor = np.array([width / answer.shape[1], height / answer.shape[0]], np.float32)
    lines = [line for contour in contours[:MOST_LOOKED_AT] if (line := _line_of(answer, contour)) is not None]
    inside = np.array([width, height], np.float32)
    return [FoundLine((line.corners * factor).clip(0, inside), line.score) for line in lines[:MOST_LINES]]


def _line_of(answer: Floats, contour: MatLike) -> FoundLine | None:
    import cv2

    centre, (width, height), angle = cv2.minAreaRect(contour)
    if min(width, height) < 3:
        return None
    score = _mean_inside(answer, corners_of((centre, (width, height), angle)))
    if score < LINE_SCORE:
        return None
    margin = width * height * GROWN / (width + height)
    return FoundLine(corners_of((centre, (width + margin, height + margin), angle)), score)


def _mean_inside(answer: Floats, corners: Floats) -> float:
    import cv2

    left, top = np.floor(corners.min(axis=0)).astype(int).clip(0)
    right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 1
    part = answer[top:bottom, left:right]
    mask = np.zeros(part.shape, np.uint8)
    cv2.fillPoly(mask, [(corners - [left, top]).astype(np.int32)], 1)
    return float(cv2.mean(part, mask)[0])


def wants_second_look(pixels: Pixels, lines: list[FoundLine]) -> bool:
    """Whether a larger picture of the page may show more lines, and the page has the pixels for one."""
    height, width = pixels.shape[:2]
    scale = scale_for(width, height, FIRST_LOOK)
    if scale >= MOST_ENLARGED:
        return False
    sides = [min(_lengths(line.corners)) * scale for line in lines]
    if sides and float(np.percentile(sides, 10)) < SMALL:
        return True
    return _share_outside(pixels, lines) > LEFT_OUT


def _lengths(corners: Floats) -> tuple[float, float]:
    return float(np.linalg.norm(corners[1] - corners[0])), float(np.linalg.norm(corners[2] - corners[1]))


def _share_outside(pixels: Pixels, lines: list[FoundLine]) -> float:
    import cv2

    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    edges = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > EDGE
    all_edges = int(np.count_nonzero(edges))
    if all_edges < 50:
        return 0.0
    mask = np.zeros(grey.shape, np.uint8)
    for line in lines:
        cv2.fillPoly(mask, [line.corners.astype(np.int32)], 1)
    return int(np.count_nonzero(edges & (mask == 0))) / all_edges


def corners_of(rectangle: Rectangle) -> Floats:
    import cv2

    corners: Floats = cv2.boxPoints(rectangle)
    return corners


def as_polygon(corners: Floats) -> Polygon:
    return tuple((float(x), float(y)) for x, y in corners)
