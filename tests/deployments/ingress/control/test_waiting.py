from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.launch import Wanted
from cluster.status import ModelStatus
from tests.attacks.standing_in import StandIn, asked, run, settings
from tests.cluster.statuses import make_status, make_worker


class Launching(StandIn):
    """Accepts every launch, and then returns these statuses one after the other."""

    def __init__(self, *statuses: ModelStatus) -> None:
        super().__init__()
        self.statuses = list(statuses)

    async def launch(self, wanted: Wanted, by_name: bool) -> ModelStatus:
        return make_status("m")

    async def status(self, uid: str, *_: Any) -> ModelStatus:
        return self.statuses.pop(0)


def launch(home: Path, *statuses: ModelStatus) -> tuple[int, Any]:
    answers = []

    async def scene() -> None:
        async with asked(settings(home), Launching(*statuses)) as client:
            body = {"model_name": "echo", "model_uid": "m", "replica": 2}
            answers.append(await client.post("/v1/models", json=body, timeout=20))

    run(scene())
    return answers[0].status_code, answers[0].json()


def test_a_launch_is_answered_once_it_is_ready(tmp_path: Path) -> None:
    assert launch(tmp_path, make_status("m", version=1), make_status("m", "READY", version=2)) == (
        200,
        {"model_uid": "m", "generation": 1},
    )


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (make_status("m", "FAILED", error_code="load_failed", reason="Bad weights."), "load_failed"),
        (
            make_status(
                "m",
                "DEGRADED",
                replica=2,
                workers=(make_worker(0, "READY"), make_worker(1, "FAILED", error_code="load_failed", reason="Bad.")),
            ),
            "load_failed",
        ),
        (make_status("m", "WAITING", error_code="does_not_fit", reason="m fits nowhere."), "does_not_fit"),
        (make_status("m", "READY", generation=2), "launch_cancelled"),
    ],
    ids=["for good", "in one of its replicas", "for want of room", "as another one replaced it"],
)
def test_a_launch_that_failed_is_answered_at_once(tmp_path: Path, status: ModelStatus, code: str) -> None:
    _, body = launch(tmp_path, make_status("m", version=1), status)
    assert body["error"]["code"] == code
