"""What the nets of PP-OCR answer, whatever runs them, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from deployments.ocr.ppocr.finding import Floats
from deployments.ocr.ppocr.letters import Said

#: In the folder of the weights.
DETECTING = "PP-OCRv6_det_small.onnx"
READING = "PP-OCRv6_rec_small.onnx"
TURNING = "ch_ppocr_mobile_v2.0_cls_mobile.onnx"


class Nets(Protocol):
    name: str
    threads: int
    #: Of the classes that the reading net tells apart; the first is no letter.
    alphabet: Sequence[str]

    def detect(self, pages: Sequence[Floats]) -> list[Floats]:
        """For each pixel how likely it is inside of a line."""

    def read(self, strips: Sequence[Floats]) -> list[Said]: ...

    def turn(self, glances: Sequence[Floats]) -> list[float]:
        """How likely each line is upside down."""

    def room(self, shape: tuple[int, ...]) -> int:
        """How many of such a shape one call should have."""

    def set_threads(self, threads: int) -> None: ...


def alphabet_of(characters: str) -> tuple[str, ...]:
    """From what the reading net's file has: a letter to the line. Behind all of them is the space."""
    return ("", *characters.split("\n"), " ")
