"""How the web page is served; what it shows is tested in a browser, in tests/page."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from deployments.ingress.control.page import FOLDER
from tests.attacks.standing_in import StandIn, asked, run, settings

FILES = {"": "index.html", "page.js": "page.js", "page.css": "page.css"}
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_a_browser_is_led_to_the_page_and_a_program_is_told_that_the_server_lives(tmp_path: Path) -> None:
    async def scene() -> None:
        async with asked(settings(tmp_path), StandIn()) as client:
            for path, headers in (("/", BROWSER), ("/ui", {})):
                answer = await client.get(path, headers=headers)
                # Relative, so that a path that a proxy puts before it stays.
                assert (answer.status_code, answer.headers["location"]) == (307, "ui/")
            assert (await client.get("/")).json()["status"] == "ok"

    run(scene())


def test_each_file_is_served_under_a_policy_that_lets_in_nothing_from_elsewhere(tmp_path: Path) -> None:
    async def scene() -> None:
        async with asked(settings(tmp_path), StandIn()) as client:
            for name, file in FILES.items():
                answer = await client.get(f"/ui/{name}")
                assert answer.content == (FOLDER / file).read_bytes()
                policy = answer.headers["content-security-policy"]
                for part in ("default-src 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"):
                    assert part in policy
                assert "unsafe" not in policy and "http" not in policy
                assert answer.headers["x-content-type-options"] == "nosniff"
            for name in ("other.js", "../ingress/app.py", "%2e%2e/ingress/app.py", "page.js/"):
                assert (await client.get(f"/ui/{name}", follow_redirects=False)).status_code in (404, 307)

    run(scene())


def test_a_browser_that_has_a_file_is_told_so_and_others_get_it_packed(tmp_path: Path) -> None:
    async def scene() -> None:
        async with asked(settings(tmp_path), StandIn()) as client:
            first = await client.get("/ui/page.js", headers={"accept-encoding": "gzip"})
            assert first.headers["content-encoding"] == "gzip" and "no-cache" in first.headers["cache-control"]
            for tag in (first.headers["etag"], f"W/{first.headers['etag']}"):
                again = await client.get("/ui/page.js", headers={"if-none-match": tag})
                assert again.status_code == 304 and not again.content
                assert "content-security-policy" in again.headers
            plain = await client.get("/ui/page.js", headers={"accept-encoding": "identity", "if-none-match": '"x"'})
            assert plain.status_code == 200 and "content-encoding" not in plain.headers

    run(scene())


def test_the_page_is_small_and_names_no_other_host() -> None:
    script = (FOLDER / "page.js").read_bytes()
    assert len(gzip.compress(script)) < 120_000
    for path in FOLDER.iterdir():
        addresses = set(re.findall(r"https?://[^\s'\"`)\\]+", path.read_text()))
        assert all(address.startswith("http://www.w3.org/") for address in addresses), (path, addresses)


@pytest.mark.parametrize("word", ["innerHTML", "eval(", "new Function", "document.write"])
def test_nothing_of_our_own_makes_markup_or_code_of_text(word: str) -> None:
    sources = (path for path in (FOLDER.parents[1] / "page" / "src").rglob("*.ts*"))
    assert not [path.name for path in sources if word in path.read_text()]
