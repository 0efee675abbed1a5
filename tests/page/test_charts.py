"""Numbers of models in a real browser, as they come, with workers that are played."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect

from tests.attacks.standing_in import CountingWorker
from tests.cluster.statuses import make_status, make_worker
from tests.page.looking import Eyes, line
from tests.page.test_page import AXE, FAULTS, Shown, serving


def two_models() -> tuple[Shown, CountingWorker, CountingWorker]:
    claim = make_worker(state="READY", claim_bytes=2**30)
    supervisor = Shown(make_status("ann", "READY", workers=(claim,)), make_status("ben", "READY", workers=(claim,)))
    ann, ben = CountingWorker(), CountingWorker()
    supervisor.workers = {"ann": ann, "ben": ben}
    return supervisor, ann, ben


@contextlib.asynccontextmanager
async def working(*workers: CountingWorker) -> AsyncIterator[None]:
    """As many requests of each as it has a place in the list, again and again."""

    async def work() -> None:
        while True:
            for number, worker in enumerate(workers, 1):
                worker.work(number)
            await asyncio.sleep(0.1)

    at_work = asyncio.create_task(work())
    try:
        yield
    finally:
        at_work.cancel()


async def legible(page: Page) -> None:
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.evaluate(AXE.read_text())
    assert await page.evaluate(FAULTS) == []


def drawn(page: Page, title: str) -> Any:
    """The chart whose words begin like this."""
    return page.get_by_role("img", name=title)


def test_what_a_model_does_is_drawn_as_it_comes_and_said_in_words(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        supervisor, ann, ben = two_models()
        async with serving(tmp_path, supervisor) as url, working(ann, ben), eyes.tab(width=390, scheme="dark") as page:
            streams: list[str] = []
            page.on("request", lambda request: streams.append(request.url) if "/v1/changes" in request.url else None)
            await page.goto(f"{url}/ui/#/models/ann/charts")
            chart = drawn(page, "Waiting: inputs 4, at most 4")
            await expect(chart).to_be_visible()
            await expect(chart.locator("canvas")).to_have_count(1)
            await expect(drawn(page, "Main memory: used 1000 B, at most 1000 B; claimed now 1.0 GiB")).to_be_visible()
            busy = page.locator("figure").filter(has_text="Tokens a second").locator("b")
            await expect(busy).not_to_have_text("–")
            # It goes on without being asked for again.
            before = await busy.inner_text()
            await expect(busy).not_to_have_text(before, timeout=20_000)
            assert len([each for each in streams if "topics=figures%3Aann" in each]) == 1
            await legible(page)
            await page.get_by_role("button", name="24 h").click()
            await expect(page.get_by_role("button", name="24 h")).to_have_attribute("aria-pressed", "true")
            await expect(page.locator("main [aria-busy]")).to_have_count(0)
            await page.get_by_role("link", name="Models", exact=True).click()
            await expect(line(page)).to_have_text("Live")

    eyes.run(scene())


def test_requests_shows_what_each_worker_does_and_all_of_them_together(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        supervisor, ann, ben = two_models()
        async with serving(tmp_path, supervisor) as url, eyes.tab() as page:
            await page.goto(f"{url}/ui/#/requests")
            rows = page.get_by_role("region", name="Queues and batches").locator("tbody tr")
            await expect(rows).to_have_count(2)
            await expect(rows.first.locator("td").nth(1)).to_have_text("4")
            await expect(rows.first.locator("td").nth(5)).to_have_text("0")
            async with working(ben):
                await expect(rows.nth(1).locator("td").nth(5)).not_to_have_text("0")
            await expect(drawn(page, "Waiting: inputs 8, at most 8")).to_be_visible()
            await legible(page)
            # A worker that is gone is no row any more.
            supervisor.workers["ann"] = None
            supervisor.version += 1
            await expect(rows).to_have_count(1)

    eyes.run(scene())
