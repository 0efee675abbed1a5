"""Launching in a real browser, on the real cluster: with the keyboard, with typing errors, within the memory there is,
and while somebody reloads the page."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.async_api import Page, expect

from tests.live import LiveCluster, until
from tests.page.looking import Eyes, line, opened, row
from tests.page.test_trying import no_faults

#: Every share of a load that the page shows from now on.
SHARES = """() => {
  window.shares = new Set();
  const note = () => document.querySelectorAll(".progress .bar").forEach((bar) => shares.add(bar.ariaLabel));
  new MutationObserver(note).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


def test_the_printed_address_shows_the_models_that_serve(
    eyes: Eyes, live: LiveCluster, embedder: str, reranker: str
) -> None:
    async def scene() -> None:
        async with eyes.tab() as page:
            began = time.monotonic()
            await page.goto(live.url)
            for uid in (embedder, reranker):
                await expect(row(page, uid)).to_contain_text("READY")
            print(f"\ntwo READY models {time.monotonic() - began:.2f} s after the address was opened")
            assert page.url == f"{live.url}/ui/"

    eyes.run(scene())


async def tab_to(page: Page, what: str) -> None:
    """With the keyboard, as far as it takes: `what` says of the element `it` that it has the focus."""
    for _ in range(60):
        if await page.evaluate(f"(it => {what})(document.activeElement)"):
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"the keyboard does not lead to {what}")


def test_a_model_is_launched_with_the_keyboard_alone_and_becomes_ready(eyes: Eyes, live: LiveCluster) -> None:
    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live)
            await page.evaluate(SHARES)
            await page.keyboard.press("Control+k")
            await page.keyboard.type("launch")
            await page.keyboard.press("Enter")
            await tab_to(page, "it.type === 'search'")
            await page.keyboard.type("MiniLM-L6")
            await expect(page.locator("tbody tr")).to_have_count(1)
            await tab_to(page, "it.textContent === 'all-MiniLM-L6-v2'")
            await page.keyboard.press("Enter")
            await expect(page.get_by_label("Plan")).to_contain_text("fits")
            await tab_to(page, "it.name === 'model_uid'")
            await page.keyboard.type("by-keys")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("heading", name="by-keys")).to_be_visible()
            await expect(page.locator("tbody tr")).to_contain_text("READY", timeout=40_000)
            assert await page.evaluate("shares.size") > 0

    eyes.run(scene())
    with live.client() as client:
        client.terminate_model("by-keys")


def test_a_name_with_a_typing_error_is_answered_with_the_nearest_one(eyes: Eyes, live: LiveCluster) -> None:
    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live, "launch", "embedding", "all-MiniLM-L6-v3")
            await expect(page.get_by_role("alert")).to_contain_text("the nearest are all-MiniLM-L6-v2")
            await page.get_by_role("link", name="all-MiniLM-L6-v2").click()
            await expect(page.get_by_role("heading", name="Launch all-MiniLM-L6-v2")).to_be_visible()
            await expect(page.get_by_role("alert")).to_have_count(0)

    eyes.run(scene())


@contextmanager
def little_room(live: LiveCluster) -> Iterator[None]:
    """There is room for the model in bfloat16, and for half of what float32 takes more."""
    launch = {"model_name": "all-MiniLM-L6-v2", "model_type": "embedding", "model_uid": "squeezed"}
    full, less = (
        live.post("/v1/models?dry_run=true", launch | more).json() for more in ({}, {"torch_dtype": "bfloat16"})
    )
    filling = full["room_bytes"] - (full["claim_bytes"] + less["claim_bytes"]) // 2
    with live.client() as client:
        client.launch_model("echo", model_uid="filler", memory=filling)
        try:
            yield
        finally:
            for uid in {"filler", "squeezed"} & {status.uid for status in client.statuses()}:
                client.terminate_model(uid)
        until(lambda: not {"filler", "squeezed"} & set(client.list_models()), within=15)


def test_a_plan_that_does_not_fit_offers_what_does_and_a_click_makes_it_fit(eyes: Eyes, live: LiveCluster) -> None:
    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live, "launch", "embedding", "all-MiniLM-L6-v2")
            await page.get_by_label("model_uid").fill("squeezed")
            plan = page.get_by_label("Plan")
            await expect(plan).to_contain_text("does not fit")
            await expect(plan.get_by_role("row").first).to_contain_text("float32")
            await plan.get_by_role("button", name="torch_dtype=bfloat16").click()
            await expect(plan.get_by_role("row").first).to_contain_text("bfloat16")
            await expect(plan).not_to_contain_text("does not fit")
            await page.get_by_role("button", name="Launch").click()
            await expect(page.get_by_role("heading", name="squeezed")).to_be_visible()
            await expect(page.locator("tbody tr")).to_contain_text("READY", timeout=40_000)

    with little_room(live):
        eyes.run(scene())
        with live.client() as client:
            assert client.status("squeezed").wanted.spec.options == {"torch_dtype": "bfloat16"}


def test_a_model_that_has_no_place_any_more_says_so_for_each_node(eyes: Eyes, live: LiveCluster) -> None:
    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live)
            await expect(row(page, "homeless")).to_contain_text("READY")
            for pid in live.worker_pids("homeless"):
                os.kill(pid, signal.SIGKILL)
            await expect(row(page, "homeless")).to_contain_text("fits on no node (127.0.0.1: cordoned", timeout=30_000)
            await page.get_by_role("link", name="Nodes").click()
            await page.get_by_role("button", name="Open").click()
            await page.get_by_role("link", name="Models").first.click()
            await expect(row(page, "homeless")).to_contain_text("READY", timeout=40_000)

    with live.client() as client:
        client.launch_model("echo", model_uid="homeless")
        client.mark_node("127.0.0.1", "cordoned")
        try:
            eyes.run(scene(), within_s=90)
        finally:
            client.mark_node("127.0.0.1", "open")
            client.terminate_model("homeless")


def test_a_page_that_is_loaded_again_shows_how_far_a_launch_is(eyes: Eyes, live: LiveCluster) -> None:
    async def share(page: Page) -> int:
        bar = page.locator(".progress .bar")
        return int((await bar.get_attribute("aria-label") or "").split()[0])

    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live, "launch", "echo", "echo")
            await page.get_by_label("model_uid").fill("slow-load")
            await page.get_by_text("Options of echo models").click()
            await page.get_by_label("load_seconds").fill("6")
            await page.get_by_role("button", name="Launch", exact=True).click()
            await expect(page.locator(".progress")).to_contain_text("loading")
            before = await share(page)
            await page.reload()
            await expect(line(page)).to_have_text("Live")
            assert before <= await share(page) < 100
            await expect(page.locator("tbody tr")).to_contain_text("READY", timeout=40_000)

    eyes.run(scene())
    with live.client() as client:
        client.terminate_model("slow-load")


def test_a_terminated_model_comes_back_as_it_was_if_that_was_a_mistake(eyes: Eyes, live: LiveCluster) -> None:
    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", "mistaken")
            await page.get_by_role("button", name="Terminate").click()
            await page.get_by_role("dialog").get_by_role("button", name="Terminate").click()
            await expect(page.get_by_text("mistaken was terminated")).to_be_visible()
            await expect(row(page, "mistaken")).to_have_count(0)
            await page.get_by_role("button", name="Undo").click()
            await expect(row(page, "mistaken")).to_contain_text("READY", timeout=40_000)
            await expect(page.get_by_text("mistaken was terminated")).to_have_count(0)

    with live.client() as client:
        client.launch_model("echo", model_uid="mistaken", steps=3, envs={"OMP_NUM_THREADS": "1"})
        before = client.export()
        eyes.run(scene(), within_s=90)
        assert [row for row in client.export() if row.get("model_uid") == "mistaken"] == [
            row for row in before if row.get("model_uid") == "mistaken"
        ]
        client.terminate_model("mistaken")


def test_a_launched_model_is_edited_and_the_page_says_first_what_that_changes(eyes: Eyes, live: LiveCluster) -> None:
    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", "edited", "edit")
            changes = page.get_by_label("What changes")
            await expect(changes).to_contain_text("Nothing yet")
            await expect(page.get_by_role("button", name="Apply")).to_be_disabled()
            await page.get_by_text("Options of echo models").click()
            await expect(page.get_by_label("steps")).to_have_value("3")
            await page.get_by_label("steps").fill("5")
            await expect(changes.get_by_role("row").last).to_have_text("steps35")
            await expect(changes).to_contain_text("New workers take the place of these")
            await expect(page.get_by_label("Plan")).to_contain_text("fits")
            await no_faults(page)
            await page.get_by_text("More options").click()
            await page.get_by_label("canary").fill("10")
            await expect(changes).to_contain_text("At first 10 % of the requests go to one new worker")
            await page.get_by_label("canary").fill("")
            await expect(changes).not_to_contain_text("At first")
            before = live.worker_pids("edited")
            await page.get_by_role("button", name="Apply").click()
            await expect(page.locator("tbody tr").filter(has_text=str(before[0]))).to_have_count(0, timeout=40_000)
            await expect(page.locator("tbody tr").filter(has_text="READY")).to_have_count(1)
            await page.get_by_role("link", name="Edit").click()
            await page.get_by_text("More options").click()
            await page.get_by_label("pinned").check()
            await expect(changes).to_contain_text("Nothing is loaded again")
            await expect(page.get_by_label("Plan")).to_have_count(0)
            await page.get_by_role("button", name="Apply").click()
            await expect(page.locator("tbody tr").filter(has_text="READY")).to_have_count(1)

    with live.client() as client:
        client.launch_model("echo", model_uid="edited", steps=3, envs={"OMP_NUM_THREADS": "1"})
        eyes.run(scene(), within_s=120)
        (after,) = [row for row in client.export() if row.get("model_uid") == "edited"]
        client.terminate_model("edited")
    assert (after["steps"], after["pinned"], after["envs"]) == (5, True, {"OMP_NUM_THREADS": "1"})
