"""What a page in a real browser can do to a server on the same machine, with and without our check of its origin."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.attacks.browser import PATIENCE_S, browser, hosted, visited
from tests.attacks.standing_in import StandIn, run, served, settings
from tests.live import free_port

#: Sends one launch that needs no preflight and one that needs it, and tries to read which models are served.
PAGE = """<!doctype html><script>
const body = JSON.stringify({model_name: "echo", model_uid: "from-a-page"});
const send = async (type) => {
  try { await fetch("%(url)s/v1/models?wait_ready=false", {method: "POST", body, headers: {"content-type": type}}); }
  catch {}
};
const read = async () => {
  try { return (await (await fetch("%(url)s/v1/models")).json()).object; }
  catch { return "nothing"; }
};
(async () => {
  await send("text/plain");
  await send("application/json");
  await fetch("/told?" + encodeURIComponent("read " + await read()));
})();
</script>"""


@pytest.fixture(autouse=True, scope="module")
def _needs_a_browser() -> None:
    browser()


def seen_by_a_page(home: Path, lets_in: tuple[str, ...] = (), name: str = "localhost") -> tuple[str, list[str]]:
    """What the page could read, and the models that it launched, on a server with these settings."""
    port, supervisor = free_port(), StandIn()
    read: list[str] = []

    async def test() -> None:
        page = PAGE % {"url": f"http://{'127.0.0.1' if name == 'localhost' else name}:{port}"}
        async with hosted(page, name) as (origin, told):
            fields = {"allowed_origins": origin, "allowed_hosts": name}
            place = settings(home, port=port, **{setting: fields[setting] for setting in lets_in})
            async with served(place, supervisor), visited(origin, name):
                read.append(await asyncio.wait_for(told.get(), PATIENCE_S))

    run(test())
    return read[0], [wanted.uid for wanted in supervisor.launched]


def test_a_page_neither_reads_nor_launches(tmp_path: Path) -> None:
    assert seen_by_a_page(tmp_path) == ("read nothing", [])


def test_the_same_page_does_both_where_it_is_let_in(tmp_path: Path) -> None:
    """The launch that was sent as plain text is refused even then."""
    assert seen_by_a_page(tmp_path, ("allowed_origins",)) == ("read list", ["from-a-page"])


def test_a_name_that_leads_here_does_not_make_a_page_its_own(tmp_path: Path) -> None:
    stranger = "stranger.example"
    assert seen_by_a_page(tmp_path, ("allowed_origins",), stranger) == ("read nothing", [])
    assert seen_by_a_page(tmp_path, ("allowed_origins", "allowed_hosts"), stranger) == ("read list", ["from-a-page"])
