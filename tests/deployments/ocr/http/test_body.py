from __future__ import annotations

from typing import Any

import pytest

from cluster import errors
from deployments.ocr.http.body import of_fields
from deployments.ocr.http.xinference import MEANINGLESS


@pytest.mark.parametrize("written", [[1, 2, 30, 40], "[1,2,30,40]", "(1, 2, 30, 40)", "1,2,30,40"])
def test_a_region_is_read_however_it_is_written(written: Any) -> None:
    assert of_fields({"region": written})[0].region == (1, 2, 30, 40)


@pytest.mark.parametrize("written", [[1, 2, 3], [5, 0, 5, 1], [0, 9, 1, 8], [-1, 0, 1, 1], "left", "1," * 100, 5, {}])
def test_what_is_no_region_is_refused(written: Any) -> None:
    with pytest.raises(errors.InvalidBody, match="region"):
        of_fields({"region": written})


def test_the_whole_page_is_read_where_no_region_is_chosen() -> None:
    assert of_fields({})[0].region is None and of_fields({"region": ""})[0].region is None


def test_options_of_xinferences_models_become_ours_or_nothing() -> None:
    ask, reading = of_fields({"ocr_type": "format", "return_dict": True, **dict.fromkeys(MEANINGLESS, "x")})
    assert (ask.output_format, reading.params()) == ("json", {"task": "parse"})
    ask, reading = of_fields({"ocr_type": "ocr", "return_dict": False})
    assert (ask.output_format, reading.task) == ("text", "ocr")
    assert of_fields({"ocr_type": ""})[1].params() == {}


def test_our_own_word_comes_before_theirs() -> None:
    ask, reading = of_fields({"ocr_type": "format", "task": "table", "return_dict": True, "output_format": "html"})
    assert (ask.output_format, reading.task) == ("html", "table")


@pytest.mark.parametrize("kind", ["fancy", 5, []])
def test_an_unknown_way_to_read_is_refused(kind: Any) -> None:
    with pytest.raises(errors.InvalidBody, match="ocr_type takes ocr or format"):
        of_fields({"ocr_type": kind})
