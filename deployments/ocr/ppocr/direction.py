"""Which way the text of a page runs: its slope, and the first corner of every line."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from deployments.ocr.ppocr.finding import Floats

#: Only lines that are so many times as long as high count for the slope of the page.
LONG = 2.5
#: A line at a right angle to the others runs across the page if it is so many times as long as high.
CLEARLY_LONG = 3.0


def slope_of(corners: Floats) -> float:
    """Degrees between the x axis and the longer side, from -45 to 135."""
    along, across = corners[1] - corners[0], corners[2] - corners[1]
    x, y = along if np.hypot(*along) >= np.hypot(*across) else across
    return (math.degrees(math.atan2(y, x)) + 45) % 180 - 45


def page_slope(lines: Sequence[Floats]) -> float:
    """The slope of most of the text, weighted by length: around 0 for a page that is upright or upside down, around 90
    for one on its side."""
    long = [corners for corners in lines if max(_sides(corners)) >= LONG * min(_sides(corners))]
    weights = {True: 0.0, False: 0.0}
    slopes: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for corners in long:
        slope, length = slope_of(corners), max(_sides(corners))
        slopes[slope > 45].append((slope, length))
        weights[slope > 45] += length
    chosen = slopes[weights[True] > weights[False]]
    return _weighted_median(chosen) if chosen else 0.0


def turned_to(corners: Floats, slope: float) -> Floats:
    """The same corners, beginning so that the side from the first to the second has the slope of the page."""
    direction = np.array([math.cos(math.radians(slope)), math.sin(math.radians(slope))])
    clockwise = corners if _is_clockwise(corners) else corners[::-1]
    along = [float(np.dot(_unit(clockwise[(index + 1) % 4] - clockwise[index]), direction)) for index in range(4)]
    return np.roll(clockwise, -int(np.argmax(along)), axis=0)


def runs_across(corners: Floats) -> bool:
    """Whether a line, its corners ordered by the slope of the page, is much higher than wide: a label on its side."""
    along, down = _sides(corners)
    return down > CLEARLY_LONG * along


def half_turned(corners: Floats) -> Floats:
    return np.roll(corners, 2, axis=0)


def quarter_turned(corners: Floats) -> Floats:
    return np.roll(corners, 1, axis=0)


def _sides(corners: Floats) -> tuple[float, float]:
    return float(np.linalg.norm(corners[1] - corners[0])), float(np.linalg.norm(corners[2] - corners[1]))


def _unit(vector: Floats) -> Floats:
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector


def _is_clockwise(corners: Floats) -> bool:
    """On a page, where y grows downwards."""
    x, y = corners[:, 0], corners[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) > 0


def _weighted_median(values: list[tuple[float, float]]) -> float:
    ordered = sorted(values)
    half = sum(weight for _, weight in ordered) / 2
    for value, weight in ordered:
        half -= weight
        if half <= 0:
            return value
    return ordered[-1][0]
