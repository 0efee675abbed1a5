"""A real browser that looks at the page, and what it must never have to complain of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager

from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from tests.attacks.browser import QUIET, browser
from tests.live import LiveCluster

#: What names, prompts, lines of logs and everything else may be without doing anything.
HOSTILE = "<img src=x onerror=alert(1)>\"'</td></table><script>alert(2)</script>{{7*7}}\u202e"
PATIENCE_S = 60.0


class Eyes:
    """One browser for several tests, and the loop that it lives on. Playwright's other interface would leave the
    process with greenlets, with which Python 3.11 can parse no source any more."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._playwright = self._loop.run_until_complete(async_playwright().start())
        launched = self._playwright.chromium.launch(executable_path=browser(), args=[*QUIET])
        self._browser: Browser = self._loop.run_until_complete(launched)

    def run(self, scene: Awaitable[None], within_s: float = PATIENCE_S) -> None:
        self._loop.run_until_complete(asyncio.wait_for(scene, within_s))

    def close(self) -> None:
        self._loop.run_until_complete(self._browser.close())
        self._loop.run_until_complete(self._playwright.stop())
        self._loop.close()

    @asynccontextmanager
    async def bare_tab(self) -> AsyncIterator[Page]:
        context = await self._browser.new_context()
        yield await context.new_page()
        await context.close()

    @asynccontextmanager
    async def tab(self, *, width: int = 1280, scheme: str = "light", language: str = "en-GB") -> AsyncIterator[Page]:
        """Fails the test if the page logs an error, breaks its policy, opens a box or asks another host."""
        context = await self._browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, locale=language, reduced_motion="reduce"
        )
        page = await context.new_page()
        page.set_default_timeout(15_000)
        complaints: list[str] = []
        hosts: set[str] = set()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if "//" in request.url else None)
        try:
            yield page
        finally:
            await context.close()
        # A browser writes down each answer that is an error, and each line that was cut.
        own = [text for text in complaints if not text.startswith("Failed to load resource")]
        assert own == []
        assert {host.rpartition(":")[0] for host in hosts} <= {"127.0.0.1"}


@contextmanager
def opened_eyes() -> Iterator[Eyes]:
    eyes = Eyes()
    yield eyes
    eyes.close()


def line(page: Page) -> Locator:
    """How the page says that its line to the server is."""
    return page.get_by_role("banner").get_by_role("status")


async def opened(page: Page, live: LiveCluster, *place: str) -> None:
    await page.goto(f"{live.url}/ui/#/{'/'.join(place)}")
    await expect(line(page)).to_have_text("Live")


def row(page: Page, name: str) -> Locator:
    """Of the model with that uid."""
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))
