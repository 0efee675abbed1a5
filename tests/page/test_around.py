"""What is around the page in a real browser: a path that a proxy puts before it, many tabs, and narrow windows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web
from playwright.async_api import Page, expect

from deployments.ingress.control.fleet_news import MOST_OF_ONE
from tests.cluster.statuses import make_status
from tests.live import free_port
from tests.page.looking import Eyes, line, row
from tests.page.test_page import serving, some

PREFIX = "/tools/cluster"
#: A headless browser takes all of its tabs for visible.
HIDE = """hidden => {
  Object.defineProperty(document, "hidden", {configurable: true, get: () => hidden});
  document.dispatchEvent(new Event("visibilitychange"));
}"""
#: Links of the navigation that cannot be seen or reached by scrolling it.
LOST = """nav => [...nav.querySelectorAll("a")].filter((link) => {
  link.scrollIntoView({inline: "nearest", block: "nearest"});
  const [own, room] = [link.getBoundingClientRect(), nav.getBoundingClientRect()];
  return own.left < room.left - 1 || own.right > room.right + 1 || own.right > innerWidth;
}).map((link) => link.textContent)"""


@asynccontextmanager
async def behind_a_path(url: str) -> AsyncIterator[str]:
    """A proxy that takes its path away, as people configure them, and passes everything else on."""

    async def passed_on(request: web.Request) -> web.StreamResponse:
        target = url + request.raw_path.removeprefix(PREFIX)
        body = await request.read()
        asked = {"data": body or None, "headers": request.headers, "allow_redirects": False}
        ask = client.request(request.method, target, **asked)
        async with ask as answer:
            own = ("Content-Length", "Transfer-Encoding", "Connection", "Date", "Server")
            kept = {name: value for name, value in answer.headers.items() if name not in own}
            passed = web.StreamResponse(status=answer.status, headers=kept)
            await passed.prepare(request)
            async for piece in answer.content.iter_any():
                await passed.write(piece)
            await passed.write_eof()
            return passed

    app = web.Application()
    app.router.add_route("*", PREFIX + "/{rest:.*}", passed_on)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as client:
            yield f"http://127.0.0.1:{port}{PREFIX}"
    finally:
        await runner.cleanup()


def test_behind_a_path_of_a_proxy_everything_is_found_and_done(eyes: Eyes, tmp_path: Path) -> None:
    strays: list[str] = []

    async def scene() -> None:
        supervisor = some()
        async with serving(tmp_path, supervisor) as url, behind_a_path(url) as outside, eyes.tab() as page:
            page.on("request", lambda request: None if f"{PREFIX}/" in request.url else strays.append(request.url))
            await page.goto(f"{outside}/")
            await expect(line(page)).to_have_text("Live")
            assert page.url == f"{outside}/ui/"
            supervisor.show(make_status("behind", "READY"))
            await expect(row(page, "behind")).to_contain_text("READY")
            await page.goto(f"{outside}/ui/#/models/ready-one/code")
            await expect(page.locator("pre").first).to_contain_text(f"'{outside}/")
            await page.goto(f"{outside}/ui/#/launch/rerank/ce-tiny")
            await page.get_by_role("button", name="Launch", exact=True).click()
            await expect(page).to_have_url(f"{outside}/ui/#/models/ce-tiny/replicas")
            assert [wanted.uid for wanted in supervisor.launched] == ["ce-tiny"]

    eyes.run(scene())
    assert [url for url in strays if not url.startswith(("data:", "blob:"))] == []


def test_eight_tabs_of_one_browser_are_all_alive(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        supervisor = some()
        async with serving(tmp_path, supervisor) as url, eyes.tab() as first:
            tabs: list[Page] = [first]
            for number in range(8):
                tab = tabs[-1] if number == 0 else await first.context.new_page()
                await tab.goto(f"{url}/ui/")
                await expect(row(tab, "ready-one")).to_be_visible()
                if number < 7:
                    # Somebody looks at the next one.
                    await tab.evaluate(HIDE, True)
                tabs.append(tab)
            supervisor.show(make_status("meanwhile", "READY"))
            await expect(row(tabs[-1], "meanwhile")).to_be_visible()
            await first.evaluate(HIDE, False)
            await expect(row(first, "meanwhile")).to_be_visible()
            await expect(line(first)).to_have_text("Live")

    eyes.run(scene())


@asynccontextmanager
async def all_places_taken(url: str) -> AsyncIterator[None]:
    """As many pages are open as one address may have."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        answers = [await client.get(f"{url}/v1/changes") for _ in range(MOST_OF_ONE)]
        assert {answer.status for answer in answers} == {200}
        yield
        for answer in answers:
            answer.close()


def test_a_page_for_which_there_is_no_room_says_so_and_asks_again_when_it_was_told_to(
    eyes: Eyes, tmp_path: Path
) -> None:
    said = f"{MOST_OF_ONE} pages are open from this address already"
    tries: list[str] = []

    async def scene() -> None:
        async with serving(tmp_path, some()) as url, eyes.tab() as page, eyes.tab(language="zh-CN") as other:
            await page.clock.install()
            page.on("request", lambda request: tries.append(request.resource_type))
            async with all_places_taken(url):
                await page.goto(f"{url}/ui/")
                await expect(page.get_by_text(f"{said}: close some. The page goes on trying.")).to_be_visible()
                await other.goto(f"{url}/ui/")
                await expect(other.get_by_text(f"{said}: close some. 页面会继续重试。")).to_be_visible()
                await page.clock.fast_forward(8_000)
                await page.clock.fast_forward(1_000)
                assert tries.count("eventsource") == 1
                await expect(line(page)).to_have_text("Connecting")
            await page.clock.fast_forward(2_000)
            await expect(line(page)).to_have_text("Live")
            await expect(page.get_by_text(said)).to_have_count(0)
            await expect(row(page, "ready-one")).to_be_visible()

    eyes.run(scene())


def test_in_a_narrow_window_each_screen_is_reached_and_the_present_one_is_in_sight(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        async with serving(tmp_path, some()) as url, eyes.tab(width=390) as page:
            await page.goto(f"{url}/ui/#/about")
            await expect(page.get_by_role("heading", name="About")).to_be_visible()
            current = page.locator("nav a[aria-current]").first
            box = await current.bounding_box()
            assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390
            assert await page.locator("header nav").evaluate(LOST) == []

    eyes.run(scene())
