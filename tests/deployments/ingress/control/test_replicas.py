"""What is noted of who changes the processes of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.keys import new_key
from cluster.status import ModelStatus
from deployments.ingress.auth import CALLER_HEADER
from tests.attacks.standing_in import Slow, StandIn, asked, run, settings


class Restarting(StandIn):
    """Notes why models are restarted."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.reasons: list[str] = []

    async def restart(self, uid: str, reason: str) -> ModelStatus:
        self.reasons.append(reason)
        return await self.status(uid)


@pytest.mark.parametrize(
    ("auth", "reasons"),
    [("on", ["asked for with the key gateway; stuck", "asked for with the key gateway"]), ("off", ["stuck", ""])],
)
def test_a_restart_names_the_key_that_it_was_asked_for_with_where_there_is_one(
    tmp_path: Path, auth: str, reasons: list[str]
) -> None:
    """Also of somebody whom a gateway tells apart."""
    key, text = new_key("gateway", ["launch"])
    headers = {"Authorization": f"Bearer {text}", CALLER_HEADER: "a" * 16}

    async def test() -> None:
        supervisor = Restarting({"m": Slow()}, [key])
        async with asked(settings(tmp_path, auth=auth), supervisor) as client:
            for body in ({"reason": "stuck"}, {}):
                path = "/v1/models/m/restart?wait_ready=false"
                assert (await client.post(path, json=body, headers=headers)).status_code == 200
        assert supervisor.reasons == reasons

    run(test())
