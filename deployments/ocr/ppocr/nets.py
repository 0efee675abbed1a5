"""The interface of PP-OCR's nets, whatever library runs them, and the names of their files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from deployments.ocr.ppocr.finding import Floats
from deployments.ocr.ppocr.letters import Said

#: Files in the folder of the weights.
DETECTING = "PP-OCRv6_det_small.onnx"
READING = "PP-OCRv6_rec_small.onnx"
TURNING = "ch_ppocr_mobile_v2.0_cls_mobile.onnx"


class Nets(Protocol):
    name: str
    threads: int
    #: The letter of each class of the reading net; the first class is no letter.
    alphabet: Sequence[str]

    def detect(self, pages: Sequence[Floats]) -> list[Floats]:
        """For each pixel of each page, how likely it is inside of a line."""

    def read(self, strips: Sequence[Floats]) -> list[Said]: ...

    def turn(self, glances: Sequence[Floats]) -> list[float]:
        """How likely each line is upside down."""

    def room(self, shape: tuple[int, ...]) -> int:
        """How many inputs of such a shape one call should have."""

    def set_threads(self, threads: int) -> None: ...


def alphabet_of(characters: str) -> tuple[str, ...]:
    """The alphabet from the metadata of the reading net's file, which has one letter on each line. The space, which is
    the last class, is not in the file."""
    return ("", *characters.split("\n"), " ")
