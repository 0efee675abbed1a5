"""What texts and page numbers of one caller may cost: both are limited before any work is done on them."""

from __future__ import annotations

import contextlib
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cluster import errors
from deployments.ocr.http.documents import numbers_of
from deployments.text.tokenizing import MOST_WHOLE, TextEncoder
from tests.deployments.text.test_tokenizing import tokenizer

WORDS = "the harbour lies quiet under morning fog while two fishing boats return with lamps still burning".split()


def prose(characters: int, seed: int = 7) -> str:
    dice = random.Random(seed)
    return " ".join(dice.choices(WORDS, k=characters // 6))[:characters]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(tokenizer(), max_tokens=512)


# --------------------------------------------------------------------------------------------------------- long texts


class Cost(NamedTuple):
    #: The growth of memory at its peak.
    megabytes: float
    seconds: float


def cost_of(call: Callable[[], Any]) -> Cost:
    def status(name: str) -> float:
        return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1000

    # Makes the kernel measure the peak from here on.
    Path("/proc/self/clear_refs").write_text("5")
    held, began = status("VmRSS"), time.perf_counter()
    with contextlib.suppress(errors.BadRequest, errors.TooLarge):
        call()
    return Cost(status("VmHWM") - held, time.perf_counter() - began)


@pytest.fixture(scope="module")
def long_text() -> str:
    return prose(8_000_000)


LONG: dict[str, Callable[[TextEncoder, str], Any]] = {
    "a long text": lambda encoder, text: encoder.encode([text]),
    "a long text, its end": lambda encoder, text: encoder.encode([text], "START"),
    "a long text that may not be cut": lambda encoder, text: encoder.encode([text], "NONE"),
    "a pair of long texts": lambda encoder, text: encoder.encode([(text, text)]),
    "a long document": lambda encoder, text: encoder.encode_pairs("why", [text]),
    "a long question": lambda encoder, text: encoder.encode_pairs(text, ["a", "b"]),
    "a long document in parts": lambda encoder, text: encoder.encode_chunks("why", [text]),
    "a long text by its tokens": lambda encoder, text: encoder.describe([text], True),
    "a million spaces": lambda encoder, text: encoder.encode([" " * 1_000_000]),
    "a word without end": lambda encoder, text: encoder.encode(["x" * 1_000_000]),
    "many texts": lambda encoder, text: encoder.encode([text[at : at + 8192] for at in range(0, 4_000_000, 8192)]),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("call", LONG.values(), ids=LONG)
def test_a_text_costs_what_is_read_of_it(
    encoder: TextEncoder, long_text: str, call: Callable[[TextEncoder, str], Any]
) -> None:
    cost = cost_of(lambda: call(encoder, long_text))
    print(f"{cost.megabytes:.0f} MB, {cost.seconds:.2f} s")
    assert cost.megabytes < 60


@pytest.mark.parametrize("truncate", ["END", "START"])
@pytest.mark.parametrize(
    "text",
    [
        prose(40_000),
        "unbelievably" * 3 + "." * 6000 + prose(5000),
        " " * 30_000 + prose(9000) + " " * 30_000,
        "x" * 30_000 + " " + prose(9000) + " " + "y" * 30_000,
        "漢字かな" * 5000,
        "\u0301e\u0301" * 9000,
    ],
    ids=["prose", "dots", "spaces around", "words without end around", "no spaces", "accents"],
)
def test_that_a_text_is_cut_before_it_is_tokenised_does_not_show(
    encoder: TextEncoder, text: str, truncate: str
) -> None:
    side = "left" if truncate == "START" else "right"
    whole = encoder._cut[side].encode(text)
    (found,) = encoder.encode([text], truncate)
    assert found.ids == whole.ids and found.type_ids == whole.type_ids
    (paired,) = encoder.encode_pairs("why", [text], truncate)
    assert list(paired.ids) == encoder._cut[side].encode("why", text).ids


def test_what_may_not_be_cut_is_refused_by_what_was_counted(encoder: TextEncoder, long_text: str) -> None:
    with pytest.raises(errors.InputTooLong, match=r"Input 1 has \d+ tokens or more, the model reads 512; shorten it"):
        encoder.encode(["short", long_text], "NONE")
    with pytest.raises(errors.InputTooLong, match=f"Input 0 has 8000000 characters, {MOST_WHOLE} of one text are read"):
        encoder.encode_chunks("why", [long_text])


# ------------------------------------------------------------------------------------------------------- page numbers


@pytest.mark.parametrize(
    "pages",
    [
        "1-9999," * 2000 + "1",
        ["1-9999"] * 2000,
        "1-1000," * 900 + "1",
        "," * 10_000_000,
        "1" + " " * 1_000_000 + "x",
        ["1" + " " * 1_000_000 + "x"] * 20,
        "1" * 1_000_000,
    ],
    ids=["many ranges", "a list of ranges", "the same pages", "commas", "spaces", "many spaces", "digits"],
)
def test_page_numbers_are_counted_before_they_are_written_out(pages: Any) -> None:
    began = time.perf_counter()
    with pytest.raises((errors.TooLarge, errors.InvalidBody)) as raised:
        numbers_of(pages, 10_000, "a.pdf", 1000)
    seconds = time.perf_counter() - began
    print(f"{seconds * 1000:.0f} ms: {raised.value.message}")
    assert seconds < 1.0 and raised.value.param == "pages" and len(raised.value.message) < 300
