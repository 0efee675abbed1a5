from __future__ import annotations

import pytest
from pydantic import ValidationError

from cluster import errors
from deployments.ocr.asked import reading_of
from deployments.ocr.requests import Reading


@pytest.mark.parametrize("name", ["de", "DE", "deu", "de-AT", "de_CH"])
def test_a_language_is_known_by_any_of_its_codes(name: str) -> None:
    assert Reading(languages=(name,)).languages == ("de",)


def test_scripts_of_one_language_are_kept_apart() -> None:
    assert Reading(languages=("zh-Hant", "chi_sim", "chi_tra")).languages == ("zh-hant", "zh", "zh-hant")


@pytest.mark.parametrize(
    "asked",
    [
        {"languages": ["klingon"]},
        {"task": "translate"},
        {"features": ["smell"]},
        {"min_score": float("nan")},
        {"max_new_tokens": 0},
        {"max_new_tokens": 10**9},
        {"prompt": "x" * 10_000},
        {"save_dir": "/etc"},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_what_is_out_of_bounds_is_refused(asked: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Reading.model_validate(asked)


def test_only_what_was_asked_travels_to_the_worker() -> None:
    asked = Reading(task="table", languages=("eng",))
    assert asked.params() == {"task": "table", "languages": ("en",)}
    assert Reading.model_validate(asked.params()) == asked


def test_a_model_refuses_what_it_cannot_do_and_says_what_it_can() -> None:
    known = {"tasks": ("ocr",), "languages": {"en", "de"}, "generates": False}
    with pytest.raises(errors.BadRequest, match="does ocr, not formula"):
        reading_of({"task": "formula"}, **known)
    with pytest.raises(errors.BadRequest, match="does not read 'ru'; it reads de, en"):
        reading_of({"languages": ["ru"]}, **known)
    with pytest.raises(errors.BadRequest, match="takes no prompt"):
        reading_of({"prompt": "be nice"}, **known)
    assert reading_of({"prompt": "be nice", "prompt_is_optional": True}, **known).prompt is None
    takes = {**known, "generates": True}
    assert reading_of({"prompt": "be nice", "prompt_is_optional": True}, **takes).prompt == "be nice"
    with pytest.raises(errors.InvalidBody, match="klingon"):
        reading_of({"languages": ["klingon"]}, **known)
