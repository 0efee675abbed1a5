from __future__ import annotations

import json

import pytest

from cluster.settings import Settings
from deployments import catalog_with, model_types
from deployments.ingress.xinference import (
    own_type,
    registered_type,
    registration_words,
    types_called,
    xinference_type,
)

#: The types of which Xinference's client makes handles.
THEIR_TYPES = {"LLM", "embedding", "rerank", "image", "audio", "video", "flexible"}


def test_every_type_of_ours_is_one_that_xinferences_client_can_open() -> None:
    for type in model_types().values():
        for family in type.families.values():
            word = xinference_type(type.name, family.abilities)
            assert word in THEIR_TYPES
            assert word == {"ocr": "image", "classify": "flexible", "llm": "LLM"}.get(type.name, type.name)
    assert xinference_type("language", ("chat", "generate")) == "LLM"


@pytest.mark.parametrize(
    ("type", "name", "own"),
    [
        ("image", "ppocr-v6", "ocr"),
        ("image", "GOT-OCR2_0", "ocr"),
        ("IMAGE", "got-ocr2.0", "ocr"),
        ("image", "FLUX.1-dev", "image"),
        ("ocr", "ppocr-v6", "ocr"),
        ("embedding", "ppocr-v6", "embedding"),
        ("image", "bge-m3", "image"),
        ("image", "nowhere", "image"),
        ("", "ppocr-v6", ""),
        # Its clients say LLM where nobody said a type.
        ("LLM", "bge-m3", ""),
        ("LLM", "nowhere", "LLM"),
    ],
)
def test_a_model_is_meant_by_xinferences_word_for_its_type(type: str, name: str, own: str) -> None:
    settings = Settings()
    assert own_type(type, name, catalog_with([], settings), settings) == own


def test_models_of_several_types_are_listed_under_one_word() -> None:
    words = {word: types_called(word, Settings()) for word in ("image", "flexible", "embedding", "ocr", "audio")}
    assert words == {
        "image": ["image", "ocr"],
        "flexible": ["flexible", "classify"],
        "embedding": ["embedding"],
        "ocr": ["ocr"],
        "audio": ["audio"],
    }


@pytest.mark.parametrize(
    ("said", "own"),
    [
        ({"model_family": "ocr", "model_ability": ["ocr"]}, "ocr"),
        ({"model_family": "ocr"}, "ocr"),
        ({"model_ability": "ocr"}, "ocr"),
        ({"model_family": "stable_diffusion", "model_ability": ["text2image", "image2image"]}, "image"),
        ({"model_ability": ["text2image", "ocr"]}, "image"),
        ({"model_ability": {"ocr": 1}}, "image"),
        ({}, "image"),
    ],
)
def test_an_image_model_that_reads_is_registered_as_one_that_reads(said: dict[str, object], own: str) -> None:
    assert registered_type("image", json.dumps(said), Settings()) == own


@pytest.mark.parametrize("text", ["{", "[1]", '"ocr"', "[[model]]"])
def test_what_is_no_registration_of_xinferences_keeps_its_type(text: str) -> None:
    assert registered_type("ocr", text, Settings()) == "ocr"
    assert registered_type("image", text, Settings()) == "image"
    assert registered_type("audio", text, Settings()) == "audio"


def test_every_model_has_what_xinferences_command_line_prints() -> None:
    settings = Settings()
    catalog = catalog_with([], settings)
    for entry in (entry for type in catalog.types() for entry in catalog.of_type(type)):
        words = registration_words(entry, settings)
        assert words["model_ability"], entry.name
        assert "dimensions" in words
        assert words.get("model_family") == {"image": "stable_diffusion", "ocr": "ocr"}.get(entry.type)
