from __future__ import annotations

import math
from typing import Any

import pytest

from cluster.durations import AT_ONCE_S, idle_limit_s, keep_alive_s
from cluster.launch import LaunchSpec


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("300ms", 0.3),
        (300, 300.0),
        ("300", 300.0),
        (2.5, 2.5),
        (0, 0.0),
        ("0", 0.0),
        ("0s", 0.0),
        (-1, math.inf),
        ("-1", math.inf),
        ("-1m", math.inf),
    ],
)
def test_durations_mean_what_they_mean_to_ollama(text: Any, seconds: float) -> None:
    assert keep_alive_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["soon", "5 minutes", "5d", "m", "", "-", True, [], {}, math.nan, "1e3"])
def test_anything_else_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="such as 5m"):
        keep_alive_s(text)


def test_for_ever_is_no_limit_and_at_once_is_the_shortest() -> None:
    assert idle_limit_s(math.inf) == 0.0
    assert idle_limit_s(0.0) == AT_ONCE_S > 0
    assert idle_limit_s(300.0) == 300.0


@pytest.mark.parametrize(("keep_alive", "idle_sleep_s"), [("5m", 300.0), (-1, 0.0), (0, AT_ONCE_S), (None, None)])
def test_a_launch_may_say_it_in_ollamas_words(keep_alive: Any, idle_sleep_s: float | None) -> None:
    spec = LaunchSpec.model_validate({"model_name": "m", "keep_alive": keep_alive})
    assert (spec.idle_sleep_s, spec.keep_alive) == (idle_sleep_s, None)
    assert LaunchSpec.model_validate(spec.model_dump()) == spec


def test_a_launch_says_it_once() -> None:
    with pytest.raises(ValueError, match="give one of them"):
        LaunchSpec.model_validate({"model_name": "m", "keep_alive": "5m", "idle_sleep_s": 5})
    with pytest.raises(ValueError, match="such as 5m"):
        LaunchSpec.model_validate({"model_name": "m", "keep_alive": "soon"})
