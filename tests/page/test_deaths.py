"""Processes are killed while somebody looks at them in a real browser: a worker, the supervisor, the server itself."""

from __future__ import annotations

import os
import signal

from playwright.async_api import expect

from tests.faults.traffic import traffic
from tests.live import LiveCluster
from tests.page.looking import Eyes, line, opened, row

#: Every state of a row that the page shows from now on.
STATES = """uid => {
  window.states = new Set();
  const note = () => document.querySelectorAll("tbody tr").forEach((row) => states.add(row.innerText));
  new MutationObserver(note).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


def test_a_worker_that_is_killed_is_seen_to_be_lost_and_back_while_requests_go_on(
    eyes: Eyes, live: LiveCluster
) -> None:
    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", "mortal", "replicas")
            ready = page.locator("tbody tr").filter(has_text="READY")
            await expect(ready).to_have_count(2)
            await page.evaluate(STATES)
            victim = live.worker_pids("mortal")[0]
            os.kill(victim, signal.SIGKILL)
            await expect(page.locator("tbody tr").filter(has_text=str(victim))).to_have_count(0, timeout=30_000)
            await expect(ready).to_have_count(2, timeout=40_000)
            shown = await page.evaluate("[...states].join()")
            assert "LOST" in shown or "LOADING" in shown

    with live.client() as client:
        client.launch_model("echo", model_uid="mortal", replica=2)
        with traffic(live.url, "mortal", 2) as seen:
            eyes.run(scene(), within_s=90)
        client.terminate_model("mortal")
    assert seen.failures == [] and seen.ok > 0


def test_while_the_control_plane_restarts_the_page_says_so_and_models_answer(
    eyes: Eyes, live: LiveCluster, embedder: str
) -> None:
    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", embedder)
            for process in live.named("SupervisorActor"):
                process.kill()
            await page.get_by_role("button", name="Embed").click()
            await expect(page.get_by_text("Nearest are 1 and 2")).to_be_visible()
            banner = page.get_by_text("The control plane restarts")
            await expect(banner).to_be_visible()
            await expect(line(page)).to_have_text("Live")
            await page.evaluate("location.hash = '#/models'")
            await expect(row(page, embedder)).to_contain_text("READY", timeout=30_000)
            await expect(banner).to_have_count(0, timeout=30_000)

    eyes.run(scene())


def test_a_server_that_is_killed_is_lost_and_found_again_with_all_that_was_typed(
    eyes: Eyes, live: LiveCluster, embedder: str
) -> None:
    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", embedder)
            await page.get_by_label("Texts").fill("typed before")
            (server,) = live.named("ray::ServeReplica")
            server.kill()
            await expect(line(page)).to_have_text("Lost")
            await expect(page.get_by_text("This is what was known at")).to_be_visible()
            await expect(page.get_by_role("heading", name=embedder)).to_be_visible()
            await expect(line(page)).to_have_text("Live", timeout=50_000)
            await expect(page.get_by_label("Texts")).to_have_value("typed before")
            await page.get_by_role("button", name="Embed").click()
            await expect(page.get_by_text("1 vector of 384 numbers")).to_be_visible(timeout=30_000)

    eyes.run(scene(), within_s=120)
