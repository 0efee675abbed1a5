"""The page in a real browser, with the real app and a stand-in for the supervisor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import expect

from cluster.keys import Key, new_key
from cluster.status import ModelStatus
from tests.attacks.standing_in import StandIn, served, settings
from tests.cluster.statuses import make_status, make_worker
from tests.cluster.weights.test_removal import downloaded
from tests.live import ROOT, free_port
from tests.page.looking import Eyes, line, row

AXE = ROOT / "page" / "node_modules" / "axe-core" / "axe.min.js"
#: What is as it should be need not be told.
FAULTS = """() => axe.run({resultTypes: ["violations"]})
  .then((found) => found.violations.map((each) => `${each.id}: ${each.nodes.map((node) => node.html)}`))"""


class Shown(StandIn):
    """Its statuses are those that the test says."""

    def __init__(self, *statuses: ModelStatus, keys: tuple[Key, ...] = ()) -> None:
        super().__init__({status.uid: None for status in statuses}, keys)
        self.statuses = {status.uid: status for status in statuses}

    def _statuses(self) -> list[ModelStatus]:
        return list(self.statuses.values())

    def show(self, *statuses: ModelStatus) -> None:
        self.statuses |= {status.uid: status for status in statuses}
        self.news += 1

    def revoke_all(self) -> None:
        self.keys = ()
        self.version += 1


def some() -> Shown:
    loading = make_worker(stage="downloading", progress=0.4, done_bytes=2**30, total_bytes=3 * 2**30, node="n0")
    return Shown(
        make_status("ready-one", "READY", workers=(make_worker(state="READY", node="n0", claim_bytes=2**30),)),
        make_status("loading-one", workers=(loading,)),
        make_status("broken", "FAILED", reason="broken fits on no node (n0: 1 of 16 GiB free)."),
    )


@asynccontextmanager
async def serving(home: Path, supervisor: Shown, port: int = 0, **fields: Any) -> AsyncIterator[str]:
    async with served(settings(home, port=port or free_port(), **fields), supervisor) as url:
        yield url


def test_a_browser_is_led_to_the_page_and_sees_changes_without_reloading(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        supervisor = some()
        async with serving(tmp_path, supervisor) as url, eyes.tab() as page:
            await page.goto(url)
            await expect(line(page)).to_have_text("Live")
            assert page.url == f"{url}/ui/"
            await expect(row(page, "loading-one")).to_contain_text("40 %")
            await expect(row(page, "broken")).to_contain_text("fits on no node")
            supervisor.show(make_status("new-one", "READY"))
            await expect(row(page, "new-one")).to_contain_text("READY")

    eyes.run(scene())


def test_markup_from_text_is_impossible_even_by_mistake(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(tmp_path, some()) as url, eyes.bare_tab() as page:
            await page.goto(f"{url}/ui/")
            refusal = "() => { try { document.body.innerHTML = '<b>x</b>' } catch (error) { return error.name } }"
            assert await page.evaluate(refusal) == "TypeError"

    eyes.run(scene())


def test_a_server_that_ended_is_said_to_be_gone_and_found_again(eyes: Eyes, tmp_path: Path) -> None:
    port = free_port()
    kept, later = (Shown(*(make_status(f"{name}{number:03}", "READY") for number in range(99))) for name in "kl")

    async def scene() -> None:
        async with eyes.tab() as page:
            other = await page.context.new_page()
            async with serving(tmp_path, kept, port) as url:
                await page.goto(f"{url}/ui/")
                await expect(row(page, "k098")).to_be_visible()
                await page.evaluate("scrollTo(0, 900)")
                await other.goto(f"{url}/ui/#/weights")
                await expect(other.get_by_text("Nothing was downloaded yet")).to_be_visible()
            await expect(line(page)).to_have_text("Lost")
            await expect(line(other)).to_have_text("Lost")
            await expect(page.get_by_text("The server does not answer")).to_be_visible()
            await expect(row(page, "k098")).to_be_visible()
            if AXE.exists():
                # Through the debugger, which the policy does not bind.
                await page.evaluate(AXE.read_text() + "; undefined")
                assert await page.evaluate(FAULTS) == []
            downloaded(tmp_path, "c1", model_safetensors="weights")
            async with serving(tmp_path, later, port):
                await expect(row(page, "l098")).to_have_count(1, timeout=20_000)
                await expect(row(page, "k098")).to_have_count(0)
                await expect(line(page)).to_have_text("Live")
                # The banner above is gone, and browsers keep what is looked at where it is.
                assert abs(await page.evaluate("scrollY") - 900) < 120
                # What was asked for meanwhile is asked for again.
                await expect(other.get_by_role("row").filter(has_text="a/b")).to_be_visible(timeout=20_000)

    eyes.run(scene())


def test_where_keys_are_asked_for_one_logs_in_and_is_out_when_the_key_is_revoked(eyes: Eyes, tmp_path: Path) -> None:
    key, text = new_key("ann", ["list", "infer"], ["mine"])
    supervisor = Shown(make_status("mine", "READY"), make_status("theirs", "READY"), keys=(key,))

    async def scene() -> None:
        async with serving(tmp_path, supervisor, auth="on") as url, eyes.tab() as page:
            await page.goto(f"{url}/ui/")
            await expect(line(page)).to_have_text("Locked")
            for typed in ("ck-wrong", text):
                await page.get_by_label("Key").fill(typed)
                await page.keyboard.press("Enter")
                if typed != text:
                    await expect(page.get_by_role("alert")).to_contain_text("unknown or was revoked")
            await expect(row(page, "mine")).to_be_visible()
            await expect(row(page, "theirs")).to_have_count(0)
            # It may look and ask, not launch.
            await expect(page.get_by_role("link", name="Launch")).to_have_count(0)
            await expect(page.get_by_role("button", name="Terminate")).to_have_count(0)
            kept = await page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
            assert text not in kept and text not in await page.content()
            await page.evaluate("location.hash = '#/keys'")
            await expect(page.get_by_text("lacks the scope admin")).to_be_visible()
            supervisor.revoke_all()
            await expect(line(page)).to_have_text("Locked")

    eyes.run(scene())


def test_the_page_speaks_the_language_of_its_reader(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(tmp_path, some()) as url, eyes.tab(language="zh-CN") as page:
            await page.goto(f"{url}/ui/")
            await expect(page.get_by_role("heading", name="模型")).to_be_visible()
            await page.evaluate("location.hash = '#/about'")
            await page.get_by_role("combobox").first.select_option("en")
            await expect(page.get_by_role("heading", name="About")).to_be_visible()
            assert await page.evaluate("document.documentElement.lang") == "en"

    eyes.run(scene())


def test_a_model_is_reached_with_the_keyboard_alone(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(tmp_path, some()) as url, eyes.tab() as page:
            await page.goto(f"{url}/ui/")
            await expect(row(page, "ready-one")).to_be_visible()
            await page.keyboard.press("Tab")
            await page.keyboard.press("Enter")
            assert await page.evaluate("document.activeElement.id") == "main"
            for _ in range(20):
                await page.keyboard.press("Tab")
                if await page.evaluate("document.activeElement.textContent") == "ready-one":
                    break
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("heading", name="ready-one")).to_be_visible()
            await page.keyboard.press("Control+k")
            await page.keyboard.type("broken")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("heading", name="broken")).to_be_visible()
            await expect(page.get_by_role("dialog")).to_have_count(0)

    eyes.run(scene())
