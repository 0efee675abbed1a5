"""Whose background jobs are whose."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from cluster.keys import new_key
from deployments.ingress.auth import CALLER_HEADER
from tests.attacks.standing_in import Slow, StandIn, asked, run, settings

JOBS = "/v1/images/jobs"


@pytest.mark.parametrize("auth", ["on", "off"])
def test_those_who_share_a_key_have_their_own_jobs_and_the_key_itself_has_all_of_them(
    tmp_path: Path, auth: str
) -> None:
    """Also where the cell asks for no key."""
    made = {"shared": new_key("gateway", ["list", "infer"]), "other": new_key("other", ["list", "infer"])}
    root, root_text = new_key("root", ["admin"])

    def sent(name: str, caller: str = "") -> dict[str, str]:
        text = made[name][1] if name in made else root_text
        return {"Authorization": f"Bearer {text}", **({CALLER_HEADER: caller * 16} if caller else {})}

    async def test() -> None:
        worker = Slow()
        supervisor = StandIn({"m": worker}, [key for key, _ in made.values()] + [root])
        async with asked(settings(tmp_path, auth=auth), supervisor) as client:

            async def ids(headers: dict[str, str]) -> list[str]:
                return [row["id"] for row in (await client.get(JOBS, headers=headers)).json()["data"]]

            async def begun(headers: dict[str, str]) -> str:
                body = {"model": "m", "prompt": "a", "background": True}
                answer = await client.post("/v1/images/generations", json=body, headers=headers)
                assert answer.status_code == 202, answer.text
                return str(answer.json()["id"])

            anns, whole = await begun(sent("shared", "a")), await begun(sent("shared"))
            assert await ids(sent("shared", "a")) == [anns] and await ids(sent("shared", "b")) == []
            for holder in ("shared", "root"):
                assert set(await ids(sent(holder))) == {anns, whole}
            if auth == "on":
                assert await ids(sent("other")) == await ids(sent("root", "a")) == []
            for headers in (sent("shared", "b"), *([sent("other")] if auth == "on" else [])):
                assert (await client.delete(f"{JOBS}/{anns}", headers=headers)).status_code == 404
            assert (await client.get(f"{JOBS}/{whole}", headers=sent("shared", "a"))).status_code == 404
            for id in (anns, whole):
                stopped: httpx.Response = await client.delete(f"{JOBS}/{id}", headers=sent("shared"))
                assert stopped.json()["status"] == "cancelled"

    run(test())
