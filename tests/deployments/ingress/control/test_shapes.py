from __future__ import annotations

import pytest

from cluster.facts import SentFacts
from cluster.routes import ModelRoutes, ServedModel
from cluster.status import ModelState, WorkerState
from deployments.ingress.control.shapes import replica_state, xinference_row
from deployments.text.facts import EmbeddingFacts


@pytest.mark.parametrize("state", WorkerState)
def test_only_a_worker_that_serves_is_called_ready(state: WorkerState) -> None:
    assert (replica_state(state) == "READY") == (state in (WorkerState.READY, WorkerState.SUSPECT))


@pytest.mark.parametrize(
    ("state", "word"),
    [("LOADING", "CREATING"), ("DRAINING", "TERMINATING"), ("FAILED", "ERROR"), ("GONE", "ERROR")],
)
def test_xinference_has_words_for_the_others(state: str, word: str) -> None:
    assert replica_state(WorkerState(state)) == word


def test_a_model_is_listed_in_the_words_of_xinference_and_then_in_its_own() -> None:
    launched = ServedModel(
        type="embedding", name="bge", engine="auto", cards=(0, 2), languages=("en",), max_tokens=8192
    )
    facts = SentFacts.of(EmbeddingFacts(max_tokens=512, dimensions=8, packed=True))
    model = ModelRoutes("m", ("embed",), (), ModelState.READY, launched=launched, facts=facts)
    assert xinference_row(model) == {
        "model_type": "embedding",
        "cluster_type": "embedding",
        "address": "",
        "accelerators": ["0", "2"],
        "model_name": "bge",
        "model_engine": "auto",
        "model_format": "",
        "model_family": "",
        "model_hub": "",
        "model_revision": None,
        "quantization": "none",
        "language": ["en"],
        "max_tokens": 512,
        "dimensions": 8,
        "model_ability": ["embed"],
        "controlnet": None,
        "replica": 1,
        "packed": True,
    }
    assert model.max_tokens == 512, "what was loaded is closer to the truth than the catalogue"
