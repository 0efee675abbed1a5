"""Whose uploaded documents are whose."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.keys import new_key
from deployments.ingress.auth import CALLER_HEADER
from tests.attacks.standing_in import StandIn, asked, run, settings

FILES = "/v1/files"


@pytest.mark.parametrize("auth", ["on", "off"])
def test_those_who_share_a_key_have_their_own_files_and_the_key_itself_has_all_of_them(
    tmp_path: Path, auth: str
) -> None:
    """Also where the cell asks for no key."""
    (shared, text), (other, other_text) = (new_key(name, ["list", "infer"]) for name in ("gateway", "other"))
    whole, stranger = ({"Authorization": f"Bearer {each}"} for each in (text, other_text))
    ann, ben = ({**whole, CALLER_HEADER: letter * 16} for letter in "ab")

    async def test() -> None:
        async with asked(settings(tmp_path, auth=auth), StandIn({}, [shared, other])) as client:

            async def uploaded(headers: dict[str, str]) -> str:
                answer = await client.post(FILES, files={"file": ("a.pdf", b"%PDF")}, headers=headers)
                return str(answer.json()["id"])

            async def ids(headers: dict[str, str]) -> set[str]:
                return {row["id"] for row in (await client.get(FILES, headers=headers)).json()["data"]}

            anns, own = await uploaded(ann), await uploaded(whole)
            assert (await ids(ann), await ids(ben), await ids(whole)) == ({anns}, set(), {anns, own})
            for headers in (ben, *([stranger] if auth == "on" else [])):
                assert (await client.get(f"{FILES}/{anns}/content", headers=headers)).status_code == 404
            assert (await client.get(f"{FILES}/{own}", headers=ann)).status_code == 404
            assert (await client.get(f"{FILES}/{anns}/content", headers=whole)).content == b"%PDF"
            assert (await client.delete(f"{FILES}/{anns}", headers=whole)).json()["deleted"] is True

    run(test())
