from __future__ import annotations

import pytest

from cluster.runtime.heartbeat import Beat
from cluster.runtime.watchdog import LONGEST_PAUSE_S, RayState, Step, hung, next_step, pause_before


@pytest.mark.parametrize(
    ("view", "step"),
    [
        (RayState(raylet_lives=True, gcs_lives=True, is_durable=True, seconds_since_gcs=1.0), "nothing"),
        (
            RayState(raylet_lives=True, gcs_lives=False, is_durable=True, seconds_since_gcs=float("inf")),
            "replace gcs",
        ),
        # Without the notes of the last run, its processes could never be found again.
        (
            RayState(raylet_lives=True, gcs_lives=False, is_durable=False, seconds_since_gcs=float("inf")),
            "start again",
        ),
        # The notes must not mislead the new watchdog either.
        (RayState(raylet_lives=True, gcs_lives=False, is_durable=True, seconds_since_gcs=2.0), "start again"),
        (
            RayState(raylet_lives=False, gcs_lives=True, is_durable=True, seconds_since_gcs=float("inf")),
            "start again",
        ),
        (
            RayState(raylet_lives=False, gcs_lives=False, is_durable=True, seconds_since_gcs=float("inf")),
            "start again",
        ),
    ],
)
def test_what_is_done_about_an_end_follows_from_whose_it_is(view: RayState, step: Step) -> None:
    assert next_step(view) == step


def test_who_shows_no_sign_of_life_has_hung_and_nobody_else_has() -> None:
    signs = [
        Beat("ingress", 1, 2.0),
        Beat("ingress", 2, 11.0),
        Beat("supervisor", 3, 11.0),
        Beat("supervisor", 4, 16.0),
    ]
    assert [beat.pid for beat in hung(signs)] == [2, 4]


def test_starts_that_follow_each_other_wait_longer_and_longer() -> None:
    assert pause_before([], 1000.0) == 0
    pauses = [pause_before([1000.0] * count, 1001.0) for count in range(1, 10)]
    assert pauses[:4] == [1, 2, 4, 8] and pauses[-1] == LONGEST_PAUSE_S
    assert pause_before([0.0, 10.0, 990.0], 1000.0) == 1
