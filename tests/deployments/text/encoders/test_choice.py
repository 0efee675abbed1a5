from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cluster import errors
from deployments.text.encoders import choice
from deployments.text.encoders.choice import Trial, choose, cosine, rank_agreement, remember, remembered

EXACT = Trial("torch", short_ms=10, tokens_per_s=1_000, cosine=1.0, rank=1.0)


def trial(engine: str = "onnx", **values: float) -> Trial:
    return Trial(engine, **{"short_ms": 10, "tokens_per_s": 1_000, "cosine": 0.999, "rank": 0.999, **values})


# --------------------------------------------------------------------------------------------------------- choosing


def test_the_cheapest_is_chosen_and_the_others_are_good() -> None:
    fast = trial(short_ms=5, tokens_per_s=2_000)
    trials = [Trial(**vars(EXACT)), fast, trial("onnx_int8", short_ms=8)]
    assert choose(trials, 0.98, 0.98) is fast
    assert [one.verdict for one in trials] == ["good", "chosen", "good"]


@pytest.mark.parametrize("untrue", [{"cosine": 0.97}, {"rank": 0.97}], ids=str)
def test_what_is_fast_and_not_true_enough_is_left(untrue: dict[str, float]) -> None:
    fast, exact = trial(short_ms=1, tokens_per_s=9_000, **untrue), Trial(**vars(EXACT))
    assert choose([exact, fast], 0.98, 0.98) is exact
    assert fast.verdict.startswith("not accurate enough: cosine 0.98 and rank 0.98")


def test_more_is_asked_of_an_engine_by_those_who_want_it() -> None:
    fast, exact = trial(short_ms=1), Trial(**vars(EXACT))
    assert choose([exact, fast], 0.9999, 0.5) is exact


def test_a_short_text_and_many_count_the_same() -> None:
    """An engine that is four times as fast at one of them and a quarter as fast at the other is no gain."""
    short, many = trial(short_ms=2.5, tokens_per_s=250), trial(short_ms=40, tokens_per_s=4_000)
    assert short.cost == pytest.approx(many.cost) == pytest.approx(EXACT.cost)


def test_what_could_not_run_keeps_its_reason_and_is_not_chosen() -> None:
    broken, exact = Trial("onnx", verdict="cannot run it: no library"), Trial(**vars(EXACT))
    assert choose([broken, exact], 0.98, 0.98) is exact
    assert broken.verdict == "cannot run it: no library"


def test_no_engine_at_all_is_a_failure() -> None:
    with pytest.raises(errors.LoadFailed, match="No engine could run the model"):
        choose([Trial("torch", verdict="cannot run it")], 0.98, 0.98)


# --------------------------------------------------------------------------------------------------------- nearness


def vectors(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((20, 8)).astype(np.float32)


def test_the_same_vectors_agree() -> None:
    assert rank_agreement(vectors(), vectors()) == pytest.approx(1)
    assert cosine(vectors()[0], vectors()[0]) == pytest.approx(1)


def test_the_length_of_vectors_does_not_matter() -> None:
    assert rank_agreement(vectors() * 5, vectors()) == pytest.approx(1)
    assert cosine(vectors()[0] * 5, vectors()[0]) == pytest.approx(1)


def test_other_vectors_do_not_agree_and_near_ones_almost_do() -> None:
    noise = np.random.default_rng(2).standard_normal((20, 8)) * 0.01
    assert abs(rank_agreement(vectors(), vectors(1))) < 0.3
    assert 0.95 < rank_agreement(vectors() + noise, vectors()) < 1


@pytest.mark.parametrize("shape", [(6,), (6, 1)], ids=str)
def test_scores_agree_when_they_put_things_in_the_same_order(shape: tuple[int, ...]) -> None:
    scores = np.array([3.0, -1.0, 2.0, 0.5, 9.0, -4.0]).reshape(shape)
    assert rank_agreement(list(scores * 2 + 1), list(scores)) == pytest.approx(1)
    assert rank_agreement(list(-scores), list(scores)) == pytest.approx(-1)


def test_nearness_of_two_scores_is_that_on_the_scale_of_scores() -> None:
    assert cosine(np.array([40.0]), np.array([90.0])) == pytest.approx(1)
    assert cosine(np.array([0.0]), np.array([90.0])) == pytest.approx(0.5)
    assert cosine(np.array([-90.0]), np.array([90.0])) == pytest.approx(0)


# ------------------------------------------------------------------------------------------------------ remembering

CONDITIONS = {"cpu": "abc", "threads": 2, "asked": (0.98, 0.98)}


def test_trials_are_remembered_under_the_same_conditions(tmp_path: Path) -> None:
    trials = [trial(), Trial("torch", verdict="chosen")]
    remember(tmp_path / "model", CONDITIONS, trials)
    assert remembered(tmp_path / "model", CONDITIONS) == trials
    assert os.listdir(tmp_path / "model") == ["choice.json"]


@pytest.mark.parametrize("changed", [{"cpu": "other"}, {"threads": 4}, {"asked": (0.9, 0.98)}], ids=str)
def test_other_conditions_are_tried_anew(tmp_path: Path, changed: dict[str, object]) -> None:
    remember(tmp_path, CONDITIONS, [trial()])
    assert remembered(tmp_path, {**CONDITIONS, **changed}) is None


@pytest.mark.parametrize("text", ["", "{", "{}"])
def test_a_memory_that_is_broken_is_none(tmp_path: Path, text: str) -> None:
    assert remembered(tmp_path, CONDITIONS) is None
    (tmp_path / "choice.json").write_text(text)
    assert remembered(tmp_path, CONDITIONS) is None


def test_the_machine_is_told_by_its_processor_and_its_libraries() -> None:
    told = choice.machine()
    assert told == choice.machine() and told["versions"]["torch"]
