"""Text from what the reading net says of each step along a line, and the place of each word in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Class of a step at which no letter begins.
BLANK = 0
#: Capitals and digits of one shape: which of them it is, is seen from the word.
TWINS = {"0": "O", "1": "I", "2": "Z", "5": "S", "8": "B"}
TWINS |= {letter: digit for digit, letter in TWINS.items()}
#: How likely the other must be by what the net sees alone.
LEAST_TWIN = 0.002


class Said(NamedTuple):
    """The likeliest class of each step, and how likely."""

    classes: NDArray[np.int64]
    scores: NDArray[np.float32]
    #: How likely the twin of that class is, where it has one.
    twins: NDArray[np.float32]


class Letter(NamedTuple):
    text: str
    score: float
    #: Along the strip, as a share of its width.
    place: float
    #: What it may be instead.
    twin: str = ""


class Span(NamedTuple):
    """A word, and from where to where along the line."""

    text: str
    score: float
    start: float
    end: float


def letters(said: Said, alphabet: Sequence[str], share: float = 1.0) -> list[Letter]:
    """`share`: what part of the steps are of the strip, and not of what it was filled up with."""
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
    """For each class that of its twin; the blank for those that have none."""
    places = {letter: place for place, letter in enumerate(alphabet)}
    return np.array([places.get(TWINS.get(letter, ""), BLANK) if letter else BLANK for letter in alphabet])


def settled(line: Sequence[Letter]) -> list[Letter]:
    """With the twin taken wherever all that is certain of a word is of its kind: ROOFS, not R00FS."""
    found: list[Letter] = []
    start = 0
    for end in range(len(line) + 1):
        if end == len(line) or line[end].text.isspace():
            found += _settled_word(line[start:end])
            found += line[end : end + 1]
            start = end + 1
    return found


def _settled_word(word: Sequence[Letter]) -> list[Letter]:
    certain = [one.text for one in word if not one.twin and one.text.isalnum()]
    if len(certain) < 2:
        return list(word)
    if all(text.isupper() for text in certain):
        return [_of_kind(one, str.isupper) for one in word]
    if all(text.isdigit() for text in certain):
        return [_of_kind(one, str.isdigit) for one in word]
    return list(word)


def _of_kind(one: Letter, kind: Callable[[str], bool]) -> Letter:
    return one._replace(text=one.twin) if one.twin and kind(one.twin) else one


def joined(parts: Sequence[Sequence[Letter]], widths: Sequence[int]) -> list[Letter]:
    """The letters of a line that was read in parts of those widths."""
    whole, before = sum(widths), 0
    found: list[Letter] = []
    for part, width in zip(parts, widths, strict=True):
        if found and part:
            found.append(Letter(" ", 1.0, before / whole))
        found += [one._replace(place=(before + one.place * width) / whole) for one in part]
        before += width
    return found


def text_of(line: Sequence[Letter]) -> str:
    return " ".join("".join(one.text for one in line).split())


def score_of(line: Sequence[Letter]) -> float:
    return sum(one.score for one in line) / len(line) if line else 0.0


def weakest(line: Sequence[Letter]) -> float:
    """The score of the letter that is least certain; spaces always are."""
    return min((one.score for one in line if not one.text.isspace()), default=0.0)


def words(line: Sequence[Letter]) -> Iterator[Span]:
    """From halfway to the letter before to halfway to the one behind, but no wider than letters of the line are."""
    usual = _usual_width(line)
    start = 0
    for place in range(len(line) + 1):
        if place == len(line) or line[place].text.isspace():
            if start < place:
                yield _span(line, start, place, usual)
            start = place + 1


def _span(line: Sequence[Letter], start: int, end: int, usual: float) -> Span:
    first, last = line[start], line[end - 1]
    left = (
        first.place - usual / 2 if start == 0 else max((line[start - 1].place + first.place) / 2, first.place - usual)
    )
    right = last.place + usual / 2 if end == len(line) else min((last.place + line[end].place) / 2, last.place + usual)
    word = line[start:end]
    return Span("".join(one.text for one in word), score_of(word), max(left, 0.0), min(max(right, left), 1.0))


def _usual_width(line: Sequence[Letter]) -> float:
    if len(line) < 2:
        return 1.0
    return float(np.median(np.diff([one.place for one in line])))
