"""The text of a line from the reading net's answer for each step along it, and the place of each word."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: The class of a step at which no letter begins.
BLANK = 0
#: Capitals and digits that look alike. The rest of the word says which one is meant.
TWINS = {"0": "O", "1": "I", "2": "Z", "5": "S", "8": "B"}
TWINS |= {letter: digit for digit, letter in TWINS.items()}
#: The least score that the net must give to the twin for it to be considered.
LEAST_TWIN = 0.002


class Said(NamedTuple):
    """The net's answer for a line: the likeliest class of each step, with its score."""

    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    #: The score of that class's twin, where it has one.
    twins: NDArray[np.float32]


class Letter(NamedTuple):
    text: str
    score: float
    #: Along the strip, from 0 to 1.
    place: float
    #: The letter that it may be instead.
    twin: str = ""


class Span(NamedTuple):
    """A word with its start and end along the line, from 0 to 1."""

    text: str
    score: float
    start: float
    end: float


def letters(said: Said, alphabet: Sequence[str], share: float = 1.0) -> list[Letter]:
    """`share`: the part of the steps that belongs to the strip and not to its padding."""
    classes, scores, twins = said
    steps = len(classes) * share
    begins = (classes != BLANK) & np.concatenate([[True], classes[1:] != classes[:-1]])
    line = []
    for step in np.flatnonzero(begins):
        text = alphabet[classes[step]]
        twin = TWINS.get(text, "") if twins[step] >= LEAST_TWIN else ""
        line.append(Letter(text, float(scores[step]), min((float(step) + 0.5) / steps, 1.0), twin))
    return settled(line)


def twins_in(alphabet: Sequence[str]) -> NDArray[np.int64]:
    """For each class the class of its twin; BLANK where it has none."""
    places = {letter: index for index, letter in enumerate(alphabet)}
    return np.array([places.get(TWINS.get(letter, ""), BLANK) if letter else BLANK for letter in alphabet])


def settled(line: Sequence[Letter]) -> list[Letter]:
    """The line with doubtful letters decided by the rest of their word: ROOFS, not R00FS."""
    settled_line: list[Letter] = []
    start = 0
    for end in range(len(line) + 1):
        if end == len(line) or line[end].text.isspace():
            settled_line += _settled_word(line[start:end])
            settled_line += line[end : end + 1]
            start = end + 1
    return settled_line


def _settled_word(word: Sequence[Letter]) -> list[Letter]:
    certain = [letter.text for letter in word if not letter.twin and letter.text.isalnum()]
    if len(certain) < 2:
        return list(word)
    if all(text.isupper() for text in certain):
        return [_of_kind(letter, str.isupper) for letter in word]
    if all(text.isdigit() for text in certain):
        return [_of_kind(letter, str.isdigit) for letter in word]
    return list(word)


def _of_kind(letter: Letter, kind: Callable[[str], bool]) -> Letter:
    return letter._replace(text=letter.twin) if letter.twin and kind(letter.twin) else letter


def joined(parts: Sequence[Sequence[Letter]], widths: Sequence[int]) -> list[Letter]:
    """The letters of a line that was read in parts with these widths."""
    width_of_all, before = sum(widths), 0
    line: list[Letter] = []
    for part, width in zip(parts, widths, strict=True):
        if line and part:
            line.append(Letter(" ", 1.0, before / width_of_all))
        line += [letter._replace(place=(before + letter.place * width) / width_of_all) for letter in part]
        before += width
    return line


def text_of(line: Sequence[Letter]) -> str:
    return " ".join("".join(letter.text for letter in line).split())


def score_of(line: Sequence[Letter]) -> float:
    return sum(letter.score for letter in line) / len(line) if line else 0.0


def weakest(line: Sequence[Letter]) -> float:
    """The score of the least certain letter. Spaces do not count: they always score low."""
    return min((letter.score for letter in line if not letter.text.isspace()), default=0.0)


def words(line: Sequence[Letter]) -> Iterator[Span]:
    """The words of a line. A word begins halfway between its first letter and the space before it, and ends likewise,
    but at most the usual width of a letter away."""
    usual = _usual_width(line)
    start = 0
    for index in range(len(line) + 1):
        if index == len(line) or line[index].text.isspace():
            if start < index:
                yield _span(line, start, index, usual)
            start = index + 1


def _span(line: Sequence[Letter], start: int, end: int, usual: float) -> Span:
    first, last = line[start], line[end - 1]
    left = (
        first.place - usual / 2 if start == 0 else max((line[start - 1].place + first.place) / 2, first.place - usual)
    )
    right = last.place + usual / 2 if end == len(line) else min((last.place + line[end].place) / 2, last.place + usual)
    word = line[start:end]
    return Span("".join(letter.text for letter in word), score_of(word), max(left, 0.0), min(max(right, left), 1.0))


def _usual_width(line: Sequence[Letter]) -> float:
    if len(line) < 2:
        return 1.0
    return float(np.median(np.diff([letter.place for letter in line])))
