"""What models work on, seen in a real browser by somebody who did not ask for it, on the real cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
from playwright.async_api import expect

from tests.live import LiveCluster, until
from tests.page.looking import HOSTILE, Eyes, opened
from tests.painted import Journal, painting


def test_a_request_of_somebody_else_is_seen_with_its_steps_and_previews_and_stopped(
    eyes: Eyes, live: LiveCluster, tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "steps")

    async def scene(uid: str) -> None:
        body = {"model": uid, "prompt": HOSTILE, "num_inference_steps": 200, "partial_images": 3, "stream": True}
        asked = {"json": body, "headers": {"x-request-id": "not-of-the-page"}, "timeout": 60}
        async with httpx.AsyncClient(base_url=live.url) as client, eyes.tab() as page:
            # How fast it draws is known by then.
            await client.post("/v1/images/generations", json={"model": uid, "prompt": "first"}, timeout=30)
            drawing = asyncio.create_task(client.post("/v1/images/generations", **asked))
            await opened(page, live, "requests")
            shown = page.get_by_role("region", name="not-of-the-page")
            await expect(shown).to_contain_text("of 200")
            await expect(shown).to_contain_text("left")
            await expect(shown.locator("img")).to_have_attribute("data-preview", "1", timeout=30_000)
            assert await shown.locator("img").evaluate("image => image.naturalWidth") == 64
            assert HOSTILE not in await page.locator("main").inner_text()
            told = (await client.get("/v1/requests")).text
            assert uid in told and "onerror" not in told
            await shown.get_by_role("button", name="Stop").click()
            await expect(shown).to_have_count(0)
            assert "cancelled" in (await drawing).text
        # The step that it was at is the last one.
        await asyncio.to_thread(until, lambda: journal.steps(HOSTILE) == journal.after(HOSTILE, 0.5), within=10)
        assert journal.steps(HOSTILE) < 200

    with painting(live, "page-watched", step_seconds=0.1, journal=str(journal.path)) as uid:
        eyes.run(scene(uid))


def test_a_job_shows_previews_while_it_is_under_way_and_its_picture_then(eyes: Eyes, live: LiveCluster) -> None:
    async def scene(uid: str) -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", uid)
            await page.get_by_label("Steps").fill("40")
            await page.get_by_label("In the background").check()
            await page.get_by_role("button", name="Draw").click()
            table = page.get_by_role("table")
            job = page.get_by_role("region").filter(has=page.get_by_role("link", name=uid), has_not=table)
            await expect(job).to_have_count(1)
            await expect(job.locator("img[data-preview]")).to_have_count(1, timeout=30_000)
            await job.get_by_role("button", name="Show").click(timeout=30_000)
            assert await job.locator("img").evaluate("image => image.naturalWidth") == 64
            await job.get_by_role("button", name="Forget").click()
            await expect(job).to_have_count(0)

    with painting(live, "page-job", step_seconds=0.1) as uid:
        eyes.run(scene(uid))
