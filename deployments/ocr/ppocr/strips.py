"""Lines cut out of a page as strips for the reading net: upright and all of one height."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deployments.ocr.ppocr.finding import Floats, Pixels

HEIGHT = 48
#: Lines are read at four fifths of their width: that is four fifths of the work, and the result is no worse.
NARROW = 0.8
FULL = 1.0
#: Strips are padded to multiples of this width, alone as well as in a batch, so that both give the same text.
STEP = 32
#: A wider strip is cut in gaps between its words, because the cost of attention grows with the square of the width.
WIDEST = 1600
#: Size of the input of the net that tells whether a line is upside down.
GLANCE = (HEIGHT, 192)


def cut_out(pixels: Pixels, corners: Floats) -> Pixels:
    """The quadrilateral as an upright rectangle with its first corner at the upper left."""
    import cv2

    width = max(1, round(max(_length(corners, 0, 1), _length(corners, 3, 2))))
    height = max(1, round(max(_length(corners, 0, 3), _length(corners, 1, 2))))
    straight = _upright_slice(pixels, corners)
    if straight is not None:
        return straight
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    how = cv2.getPerspectiveTransform(corners.astype(np.float32), target)
    size = (width, height)
    cut: Pixels = cv2.warpPerspective(pixels, how, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return cut


def _upright_slice(pixels: Pixels, corners: Floats) -> Pixels | None:
    """The same by slicing, for a quadrilateral with sides parallel to those of the page; None for any other."""
    (left, top), (right, _), (_, bottom), _ = corners
    exact = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    if right <= left or bottom <= top or float(np.abs(exact - corners).max()) > 1.0:
        return None
    x0, y0, x1, y1 = round(float(left)), round(float(top)), round(float(right)), round(float(bottom))
    cut = pixels[max(y0, 0) : max(y1, y0 + 1), max(x0, 0) : max(x1, x0 + 1)]
    return cut if cut.size else None


def strips_of(cut: Pixels, stretch: float) -> list[Pixels]:
    """The line as one strip, or as several where it is too long."""
    import cv2

    height, width = cut.shape[:2]
    wide = max(8, math.ceil(HEIGHT * width / height * stretch))
    how = cv2.INTER_AREA if height > 1.5 * HEIGHT else cv2.INTER_LINEAR
    strip: Pixels = cv2.resize(cut, (wide, HEIGHT), interpolation=how)
    places = gaps_in(strip, math.ceil(wide / WIDEST))
    return [strip[:, left:right] for left, right in zip((0, *places), (*places, wide), strict=True)]


def gaps_in(strip: Pixels, parts: int) -> list[int]:
    """Where to cut a strip into `parts` of about the same length: near each even cut, in the widest gap."""
    if parts < 2:
        return []
    spread = strip.mean(axis=2).std(axis=0)
    smooth = np.convolve(spread, np.ones(9) / 9, "same")
    width = strip.shape[1]
    reach = width // parts // 4
    places = []
    for part in range(1, parts):
        middle = width * part // parts
        start = middle - reach
        places.append(start + int(np.argmin(smooth[start : middle + reach])))
    return places


def filled(strip: Pixels) -> Floats:
    """The strip in numbers from -1 to 1, colours first, padded with zeros on the right."""
    width = strip.shape[1]
    wide = math.ceil(width / STEP) * STEP
    padded = np.zeros((3, HEIGHT, wide), np.float32)
    padded[:, :, :width] = (strip.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)
    return padded


def glance(cut: Pixels) -> Floats:
    """The middle of a line, for the net that tells whether it is upside down."""
    import cv2

    height, width = cut.shape[:2]
    longest = height * GLANCE[1] // GLANCE[0]
    start = max(0, (width - longest) // 2)
    part = cut[:, start : start + longest]
    wide = min(GLANCE[1], max(8, math.ceil(HEIGHT * part.shape[1] / height)))
    small = cv2.resize(part, (wide, HEIGHT), interpolation=cv2.INTER_AREA if height > HEIGHT else cv2.INTER_LINEAR)
    padded = np.zeros((3, *GLANCE), np.float32)
    padded[:, :, :wide] = (small.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)
    return padded


def upside_down(cuts: Sequence[NDArray[np.uint8]]) -> list[Pixels]:
    return [np.ascontiguousarray(cut[::-1, ::-1]) for cut in cuts]


def _length(corners: Floats, first: int, other: int) -> float:
    return float(np.linalg.norm(corners[first] - corners[other]))
