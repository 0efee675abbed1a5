"""What the real command says a launch would claim, beside what the real cluster says was claimed for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertForSequenceClassification

from tests.live import LiveCluster, until
from tests.pipelines import saved as saved_pipeline
from tests.tiny import SIZES, saved, tokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    root = tmp_path_factory.mktemp("claims")

    def made(kind: str) -> str:
        place: Path = root / kind
        if not place.exists():
            if kind == "classifier":
                config = BertConfig(**SIZES, num_labels=2)
                saved(place, BertForSequenceClassification, config, tokenizer(types=True))
            else:
                saved_pipeline(kind, place)
        return str(place)

    return made


LAUNCHES = [
    pytest.param("all-MiniLM-L6-v2", "embedding", {}, id="embedding"),
    pytest.param("all-MiniLM-L6-v2", "embedding", {"model-engine": "torch_bf16"}, id="embedding, an engine"),
    pytest.param("all-MiniLM-L6-v2", "embedding", {"max-tokens": "64", "n-gpu": "none"}, id="embedding, no card"),
    pytest.param("all-MiniLM-L6-v2", "embedding", {"memory": "1500MB", "replica": "2"}, id="embedding, so much"),
    pytest.param("ce-tiny", "rerank", {}, id="rerank"),
    pytest.param("classifier", "classify", {}, id="classify"),
    pytest.param("ppocr-v6", "ocr", {}, id="ocr"),
    pytest.param("sd15", "image", {}, id="image"),
    pytest.param("flux", "image", {"cpu-offload": "model", "max-pixels": "65536"}, id="image, offload without a card"),
    pytest.param("flux_wide", "image", {"transformer-quantization": "nf4", "vae-tiling": "true"}, id="image, packed"),
]


@pytest.mark.parametrize(("name", "type", "options"), LAUNCHES)
def test_a_dry_run_says_what_the_launch_then_claims(
    live: LiveCluster, folders: Callable[[str], str], name: str, type: str, options: dict[str, str]
) -> None:
    words = ["launch", "--model-name", name, "--model-type", type, "--model-uid", "claimed"]
    if name in ("classifier", "sd15", "flux", "flux_wide"):
        words += ["--model-path", folders(name)]
    words += [word for option, value in options.items() for word in (f"--{option}", value)]
    # What another test has terminated may still be leaving.
    until(lambda: _claimed(live) == _claimed_by_models(live), within=60, why="a claim is nobody's")
    before = _claimed(live)
    fit = _json(live, *words, "--dry-run", "--json")
    assert fit["fits"] and fit["card_bytes"] == 0 and fit["claim_bytes"] > 0
    if "memory" not in options and "plan" in fit:
        # Another test may have launched the same, and then what it takes is known.
        least = fit["measured"]["memory_bytes"] if "measured" in fit else fit["plan"]["peak_bytes"]
        assert fit["claim_bytes"] >= least > 0
    replica = int(options.get("replica", 1))
    assert len(fit["nodes"]) == replica
    try:
        launched = live.command(*words, timeout=240)
        assert launched.returncode == 0, launched.stderr
        status = _json(live, "status", "claimed", "--json")
        claims = [worker["claim_bytes"] for worker in status["workers"]]
        assert claims == [_expected(live, words, fit)] * replica
        assert _claimed(live) - before == sum(claims)
    finally:
        live.command("terminate", "claimed")
        until(lambda: _claimed(live) == _claimed_by_models(live), within=60, why="a claim is left")
        assert _claimed(live) == before


def _expected(live: LiveCluster, words: list[str], fit: dict[str, Any]) -> int:
    """What was said before, or measured since, where that was more."""
    measured = _json(live, *words, "--dry-run", "--json").get("measured", {"memory_bytes": 0})
    return max(int(fit["claim_bytes"]), int(measured["memory_bytes"]))


def test_what_cannot_be_loaded_does_not_fit(live: LiveCluster, tmp_path: Path) -> None:
    words = ("launch", "--model-name", "mine", "--model-type", "embedding", "--dry-run", "--model-path")
    nowhere = live.command(*words, str(tmp_path / "nowhere"))
    assert nowhere.returncode != 0 and "does not exist on" in nowhere.stderr
    empty = live.command(*words, str(tmp_path))
    assert empty.returncode != 0 and "has no weights" in empty.stderr
    unknown = live.command("launch", "-n", "all-MiniLM-L6-v2", "--dimension", "4", "--dry-run")
    assert unknown.returncode != 0 and "did you mean 'dimensions'?" in unknown.stderr.lower()


def test_a_launch_that_does_not_fit_is_refused_with_what_would_make_it_smaller(live: LiveCluster) -> None:
    words = ("launch", "--model-name", "FLUX.1-Kontext-dev", "--model-type", "image", "--dry-run")
    fit = live.command(*words, "--json")
    assert fit.returncode == 4
    body = json.loads(fit.stdout)
    assert not body["fits"] and body["card_bytes"] == 0
    assert body["claim_bytes"] == body["plan"]["peak_bytes"] > body["room_bytes"]
    assert {part["lives_on"] for part in body["plan"]["components"]} == {"main memory"}
    assert [rung for rung in body["ladder"] if rung["claim_bytes"] < body["claim_bytes"]]
    shown = live.command(*words)
    assert "WITH" in shown.stdout and "--vae-tiling true" in shown.stdout
    launched = live.command(*words[:-1])
    assert launched.returncode == 4, "what a dry run refuses is not launched either"


def _json(live: LiveCluster, *words: str) -> dict[str, Any]:
    done = live.command(*words)
    assert done.returncode == 0, done.stderr
    body: dict[str, Any] = json.loads(done.stdout)
    return body


def _claimed(live: LiveCluster) -> int:
    """Of the main memory of all nodes."""
    with live.client() as client:
        return sum(row["mem_claimed"] for row in client.cluster_info(detailed=True))


def _claimed_by_models(live: LiveCluster) -> int:
    with live.client() as client:
        return sum(worker.claim_bytes for status in client.statuses() for worker in status.workers)
