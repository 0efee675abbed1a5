"""Encoded prompts are kept as long as there is room."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image

from deployments.image.encodings import Encodings


class Encoder:
    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()

    def encode(self, prompt: Any, **options: Any) -> tuple[torch.Tensor, None]:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.asked.append(prompt)
        found = torch.full((1, 25), float(len(self.asked)))
        with self._lock:
            self.at_once -= 1
        return found, None


def nothing() -> None:
    pass


def test_the_same_words_are_encoded_once() -> None:
    encoder, encodings = Encoder(), Encodings()
    encode = encodings.wrap(encoder.encode, "model", nothing)
    first, again = encode("a cat", device=torch.device("cpu")), encode("a cat", device=torch.device("cpu"))
    assert first[0] is again[0]
    assert encoder.asked == ["a cat"]
    assert (encodings.hits, encodings.bytes) == (1, 100)


def test_other_words_options_or_adapters_are_encoded_anew() -> None:
    encoder, encodings = Encoder(), Encodings()
    encode = encodings.wrap(encoder.encode, "plain", nothing)
    inked = encodings.wrap(encoder.encode, "inked", nothing)
    for given in (
        {"prompt": "a"},
        {"prompt": "b"},
        {"prompt": "a", "clip_skip": 1},
        {"prompt": "a", "clip_skip": True},
    ):
        encode(**given)
    encode(["a"])
    inked(prompt="a")
    assert len(encoder.asked) == 6
    assert encodings.hits == 0


def test_what_comes_with_a_picture_is_not_kept() -> None:
    encoder, encodings = Encoder(), Encodings()
    encode = encodings.wrap(encoder.encode, "model", nothing)
    for _ in range(2):
        encode("a cat", image=Image.new("RGB", (2, 2)))
        encode("a cat", embeds=torch.ones(2))
    assert len(encoder.asked) == 4
    assert encodings.bytes == 0


def test_the_longest_unused_goes_when_memory_is_short() -> None:
    encoder, encodings = Encoder(), Encodings(most_bytes=250)
    encode = encodings.wrap(encoder.encode, "model", nothing)
    for prompt in ("a", "b", "a", "c", "a", "b"):
        encode(prompt)
    assert encoder.asked == ["a", "b", "c", "b"]
    assert encodings.bytes == 200


def test_what_is_larger_than_all_room_is_given_and_not_kept() -> None:
    encoder, encodings = Encoder(), Encodings(most_bytes=99)
    encode = encodings.wrap(encoder.encode, "model", nothing)
    assert encode("a")[0].tolist() == [[1.0] * 25]
    assert encode("a")[0].tolist() == [[2.0] * 25]
    assert encodings.bytes == 0


def test_adapters_are_in_force_before_and_only_when_something_is_encoded() -> None:
    order: list[str] = []
    encodings = Encodings()

    def encode(prompt: str) -> torch.Tensor:
        order.append(prompt)
        return torch.ones(1)

    wrapped = encodings.wrap(encode, "model", lambda: order.append("adapted"))
    wrapped("a")
    wrapped("a")
    assert order == ["adapted", "a"]


def test_one_is_encoded_at_a_time() -> None:
    encoder, encodings = Encoder(), Encodings()
    encode = encodings.wrap(encoder.encode, "model", nothing)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(encode, ["a", "b", "c", "d"] * 20))
    assert encoder.most_at_once == 1
    assert len(encoder.asked) == 4
    assert encodings.hits == 76


def test_what_fails_is_not_remembered() -> None:
    encodings, failures = Encodings(), [ValueError("too long")]

    def encode(prompt: str) -> torch.Tensor:
        if failures:
            raise failures.pop()
        return torch.ones(1)

    wrapped = encodings.wrap(encode, "model", nothing)
    try:
        wrapped("a")
    except ValueError as error:
        assert str(error) == "too long"
    assert wrapped("a").tolist() == [1.0]
