from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

import deployments
from cluster import errors
from deployments.text.tokenizing import Encoded, TextEncoder, copied, fitting, truncation_of

TOKENIZER = Path(deployments.__file__).parent / "text" / "rerank" / "ce-tiny" / "tokenizer.json"


def tokenizer(**fields: Any) -> PreTrainedTokenizerFast:
    names = ["input_ids", "token_type_ids", "attention_mask"]
    fields = {"pad_token": "[PAD]", "model_input_names": names, **fields}
    return PreTrainedTokenizerFast(tokenizer_file=str(TOKENIZER), **fields)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(tokenizer(), max_tokens=8)


def test_a_copy_of_a_tokenizer_shares_its_vocabulary_and_cuts_in_its_own_way() -> None:
    own = tokenizer(additional_special_tokens=["<one>", "<two>"]).backend_tokenizer
    copy = copied(own)
    copy.enable_truncation(3)
    copy.no_padding()
    text = "one <two> three [MASK] four"
    assert own.encode(text, add_special_tokens=False).ids[:3] == copy.encode(text, add_special_tokens=False).ids
    assert copy.get_added_tokens_decoder() == own.get_added_tokens_decoder()
    assert (own.truncation or {}).get("max_length") != 3


LONG = "one two three four five six seven eight nine ten"
WORDS = LONG.split()


def words(encoder: TextEncoder, encoded: Encoded) -> list[str]:
    return encoder.tokens_of(encoded.ids)


# ------------------------------------------------------------------------------------------------------ encoding


def test_texts_become_ids(encoder: TextEncoder) -> None:
    (found,) = encoder.encode(["one two"])
    assert words(encoder, found) == ["[CLS]", "one", "two", "[SEP]"]
    assert (len(found), list(found.type_ids)) == (4, [0, 0, 0, 0])


def test_pairs_become_ids_of_two_types(encoder: TextEncoder) -> None:
    (found,) = encoder.encode([("one", "two")])
    assert words(encoder, found) == ["[CLS]", "one", "[SEP]", "two", "[SEP]"]
    assert list(found.type_ids) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("truncate", "kept"), [("END", WORDS[:6]), ("START", WORDS[-6:])], ids=["the end is cut", "the start is cut"]
)
def test_long_texts_are_cut(encoder: TextEncoder, truncate: str, kept: list[str]) -> None:
    (found,) = encoder.encode([LONG], truncate)
    assert words(encoder, found) == ["[CLS]", *kept, "[SEP]"]


@pytest.mark.parametrize("truncate", ["END", "START"])
def test_a_text_is_cut_to_fewer_tokens_than_the_model_reads(encoder: TextEncoder, truncate: str) -> None:
    for most in (3, 4, 5, 8, 100):
        (encoded,) = encoder.encode([LONG], truncate, most=most)
        kept = min(most, 8) - 2
        read = words(encoder, encoded)[1:-1]
        assert read == (WORDS[:kept] if truncate == "END" else WORDS[-kept:])
    assert len(encoder.encode(["one"], most=5)[0]) == 3
    with pytest.raises(errors.BadRequest, match="Of 2 tokens the model takes 2 around the text"):
        encoder.encode([LONG], most=2)


def test_of_a_long_pair_the_longer_part_is_cut(encoder: TextEncoder) -> None:
    (found,) = encoder.encode([("one two", LONG)])
    assert words(encoder, found) == ["[CLS]", "one", "two", "[SEP]", "one", "two", "three", "[SEP]"]


def test_a_text_that_may_not_be_cut_is_refused_with_its_place_and_length(encoder: TextEncoder) -> None:
    with pytest.raises(errors.InputTooLong) as caught:
        encoder.encode(["one", LONG], "NONE")
    assert caught.value.message == ("Input 1 has 12 tokens, the model reads 8; shorten it or allow truncation.")
    assert caught.value.param == "input"


def test_a_text_that_just_fits_is_not_cut(encoder: TextEncoder) -> None:
    text = " ".join(WORDS[:6])
    assert encoder.encode([text], "NONE") == encoder.encode([text], "END") == encoder.encode([text], "START")


@pytest.mark.parametrize(
    "text", ["", "   ", "\x00", "漢字 ü 🙂", "a" * 5000, "\ud83d".encode("utf-8", "replace").decode()]
)
def test_any_text_can_be_encoded(encoder: TextEncoder, text: str) -> None:
    (found,) = encoder.encode([text])
    assert 2 <= len(found) <= 8


def test_no_texts_are_no_ids(encoder: TextEncoder) -> None:
    assert encoder.encode([]) == []


def test_no_call_changes_what_another_one_sees(encoder: TextEncoder) -> None:
    """This would fail with one tokenizer whose truncation is switched on and off."""
    expected = {way: encoder.encode([LONG], way) for way in ("END", "START")}
    found: list[bool] = []

    def encode(way: str) -> None:
        found.extend(encoder.encode([LONG], way) == expected[way] for _ in range(100))

    threads = [threading.Thread(target=encode, args=(way,)) for way in expected for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 400


# ----------------------------------------------------------------------------------------------------------- ids


def test_ids_are_used_as_they_are(encoder: TextEncoder) -> None:
    assert encoder.encode_ids([5, 6, 7], "END") == Encoded([5, 6, 7], [0, 0, 0])


@pytest.mark.parametrize(("truncate", "kept"), [("END", range(8)), ("START", range(4, 12))])
def test_long_ids_are_cut(encoder: TextEncoder, truncate: str, kept: range) -> None:
    assert encoder.encode_ids(range(12), truncate).ids == list(kept)


def test_ids_that_may_not_be_cut_are_refused(encoder: TextEncoder) -> None:
    with pytest.raises(errors.InputTooLong, match="12 tokens, the model reads 8"):
        encoder.encode_ids(range(12), "NONE")


def test_no_token_ids_are_no_input(encoder: TextEncoder) -> None:
    with pytest.raises(errors.InvalidBody, match="Input 3 has no token ids"):
        encoder.encode_ids([], "END", 3)


@pytest.mark.parametrize("token", [-1, 10**9, 1.0, "1", True, None])
def test_ids_that_are_not_the_models_are_refused(encoder: TextEncoder, token: object) -> None:
    with pytest.raises(errors.InvalidBody) as caught:
        encoder.encode_ids([5, token], "END")  # type: ignore[list-item]
    assert caught.value.message.startswith(f"Token id {token!r} is not in the model's vocabulary of 30522;")


def test_ids_are_told_as_tokens(encoder: TextEncoder) -> None:
    (found,) = encoder.encode(["one two"])
    assert encoder.tokens_of(found.ids) == ["[CLS]", "one", "two", "[SEP]"]
    assert encoder.tokens_of([10**6]) == [""]


@pytest.mark.parametrize("token", [-1, 2**32, 10**30])
def test_ids_that_no_vocabulary_has_are_refused(encoder: TextEncoder, token: int) -> None:
    try:
        assert encoder.tokens_of([token]) == [""]
    except errors.BadRequest:
        pass


# ------------------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize(("side", "shorter"), [("right", [7, 0, 0]), ("left", [0, 0, 7])])
def test_a_batch_is_padded_to_its_longest(side: str, shorter: list[int]) -> None:
    encoder = TextEncoder(tokenizer(padding_side=side), 8)
    found = encoder.features([Encoded([4, 5, 6], [0, 0, 1]), Encoded([7], [0])])
    assert found["input_ids"].tolist() == [[4, 5, 6], shorter]
    assert found["attention_mask"].tolist() == [[1, 1, 1], [int(token > 0) for token in shorter]]
    assert found["token_type_ids"].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert all(array.dtype == np.int64 for array in found.values())


def test_a_model_gets_only_what_it_takes() -> None:
    encoder = TextEncoder(tokenizer(model_input_names=["input_ids", "attention_mask"]), 8)
    assert set(encoder.features([Encoded([1], [0])])) == {"input_ids", "attention_mask"}


def test_lengths_are_rounded_up_within_what_the_model_reads() -> None:
    encoder = TextEncoder(tokenizer(), 10)
    assert encoder.features([Encoded([1] * 3, [0] * 3)], multiple=8)["input_ids"].shape == (1, 8)
    assert encoder.features([Encoded([1] * 9, [0] * 9)], multiple=8)["input_ids"].shape == (1, 10)


def test_packed_texts_stand_in_one_row_with_positions_of_their_own(encoder: TextEncoder) -> None:
    found = encoder.packed_features([Encoded([4, 5, 6], [0, 0, 1]), Encoded([7], [0])], first_position=2)
    assert found["input_ids"].tolist() == [[4, 5, 6, 7]]
    assert found["position_ids"].tolist() == [[2, 3, 4, 2]]
    assert found["token_type_ids"].tolist() == [[0, 0, 1, 0]]


# --------------------------------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize("most", [8, 9, 16, 33, 512])
@pytest.mark.parametrize("truncate", ["END", "START"])
def test_pairs_are_what_the_tokenizer_makes_of_them(most: int, truncate: str) -> None:
    """The first text is encoded once and joined to the others by our code; the tokens must be the same."""
    encoder = TextEncoder(tokenizer(), most)
    dice = random.Random(most)
    for _ in range(100):
        first = " ".join(dice.choices([*WORDS, "unbelievable", "ü"], k=dice.randint(0, 30)))
        seconds = [" ".join(dice.choices([*WORDS, "漢字"], k=dice.randint(0, 40))) for _ in range(3)]
        expected = encoder.encode([(first, second) for second in seconds], truncate)
        assert encoder.encode_pairs(first, seconds, truncate) == expected


@pytest.mark.parametrize(
    ("lengths", "most", "kept"),
    [((3, 4), 7, (3, 4)), ((2, 20), 10, (2, 8)), ((20, 2), 10, (8, 2)), ((9, 9), 7, (3, 4)), ((12, 10), 9, (5, 4))],
)
def test_of_two_texts_the_longer_is_cut_first(lengths: tuple[int, int], most: int, kept: tuple[int, int]) -> None:
    assert fitting(*lengths, most) == kept


def test_a_document_too_long_is_refused_with_its_place(encoder: TextEncoder) -> None:
    with pytest.raises(errors.InputTooLong, match="Input 1 has 14 tokens, the model reads 8"):
        encoder.encode_pairs("one", ["two", LONG], "NONE")


def test_a_document_is_cut_to_the_tokens_that_it_may_have(encoder: TextEncoder) -> None:
    (found,) = encoder.encode_pairs("one", [LONG], "END", 2)
    assert words(encoder, found) == ["[CLS]", "one", "[SEP]", "one", "two", "[SEP]"]


def test_a_long_document_is_read_in_parts_of_which_none_is_lost(encoder: TextEncoder) -> None:
    found, parts = encoder.encode_chunks("one", ["two", LONG, ""])
    assert parts == [1, 3, 1]
    assert sum((words(encoder, one)[3:-1] for one in found[1:4]), []) == WORDS
    assert all(len(one) <= 8 for one in found)


# -------------------------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    ("asked", "means"),
    [
        ({}, "END"),
        ({"truncate": None}, "END"),
        ({"truncate": True}, "END"),
        ({"truncate": False}, "NONE"),
        ({"truncate": "start"}, "START"),
        ({"truncate": "END"}, "END"),
        ({"truncate": "None"}, "NONE"),
    ],
)
def test_truncation_is_asked_for_in_any_spelling(asked: dict[str, Any], means: str) -> None:
    assert truncation_of(asked) == means


@pytest.mark.parametrize("asked", ["MIDDLE", "", 1, 0, ["END"]])
def test_truncation_that_is_none_is_refused(asked: object) -> None:
    with pytest.raises(errors.BadRequest, match="truncate takes"):
        truncation_of({"truncate": asked})
