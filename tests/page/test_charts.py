"""Numbers of models in a real browser, as they come, with workers that are played."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect

from cluster.status import CanaryStatus, ModelStatus, VersionFigures
from tests.attacks.standing_in import CountingWorker
from tests.cluster.statuses import make_status, make_worker
from tests.page.looking import Eyes, line, row
from tests.page.test_page import AXE, FAULTS, Shown, serving
from tests.page.test_screens import Keeping


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
            assert len([each for each in streams if "topic=figures%3Aann" in each]) == 1
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


def on_trial(requests: int, failed: int, **fields: Any) -> ModelStatus:
    canary = CanaryStatus(
        generation=2,
        old_generation=1,
        percent=10,
        why=f"{requests} requests, {failed} failed",
        next="It takes all requests when it has served for 60 s; generation 1 comes back if more fail.",
        new=VersionFigures(requests=requests, failed=failed, median_s=0.25),
        old=VersionFigures(requests=90, median_s=0.05, slowest_s=1.5),
    )
    workers = (make_worker(state="READY"), make_worker(state="READY", generation=2).model_copy(update={"id": "new"}))
    return make_status("m", "READY", generation=2, workers=workers, canary=canary, **fields)


def test_a_version_on_trial_is_shown_beside_the_old_one_until_that_is_decided(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        supervisor = Keeping(on_trial(10, 0))
        async with serving(tmp_path, supervisor) as url, eyes.tab(width=390) as page:
            await page.goto(f"{url}/ui/")
            await expect(row(page, "m")).to_contain_text("a new version gets 10 %")
            await page.goto(f"{url}/ui/#/models/m/replicas")
            trial = page.get_by_role("region", name="A new version is on trial")
            await expect(trial.get_by_role("row", name="New generation 2 · 10 % 10 0 250 ms –")).to_be_visible()
            await expect(trial.get_by_role("row", name="Old generation 1 · 90 % 90 0 50 ms 1.5 s")).to_be_visible()
            await expect(trial).to_contain_text("generation 1 comes back if more fail")
            await expect(page.get_by_role("rowheader", name="0 generation 2")).to_be_visible()
            await legible(page)
            supervisor.show(on_trial(20, 2))
            await expect(trial.get_by_role("row", name="New generation 2 · 10 % 20 2")).to_be_visible()
            supervisor.happen("The canary (generation 2) is given up for generation 1: 2 of 20 failed", uid="m")
            supervisor.show(make_status("m", "READY"))
            await expect(trial).to_have_count(0)
            await page.goto(f"{url}/ui/#/events/m")
            await expect(page.get_by_text("is given up for generation 1")).to_be_visible()

    eyes.run(scene())
