"""What people do with the page, in a real browser, on the real cluster with real models."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page, TimeoutError, expect

from tests.live import LiveCluster, free_port, until
from tests.page.looking import HOSTILE, Eyes, line, opened, row
from tests.painted import Journal, painting
from tests.read_pages import picture, reading

#: Every picture that the page shows from now on.
SOURCES = """() => {
  window.sources = new Set();
  const note = () => document.querySelectorAll("main img").forEach((image) => sources.add(image.src));
  new MutationObserver(note).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


def test_a_model_is_launched_scaled_and_terminated_and_a_killed_worker_comes_back(
    eyes: Eyes, live: LiveCluster
) -> None:
    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live, "launch", "echo", "echo")
            await expect(page.get_by_label("Plan")).to_contain_text("fits")
            await page.get_by_label("model_uid").fill("from-page")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("heading", name="from-page")).to_be_visible()
            workers = page.locator("tbody tr")
            await expect(workers).to_contain_text("READY")
            await page.get_by_role("button", name="One replica more").click()
            await expect(workers.filter(has_text="READY")).to_have_count(2, timeout=20_000)
            os.kill(live.worker_pids("from-page")[0], signal.SIGKILL)
            await expect(workers.filter(has_text="READY")).to_have_count(1)
            await expect(workers.filter(has_text="READY")).to_have_count(2, timeout=20_000)
            before = live.worker_pids("from-page")
            await page.get_by_role("button", name="Restart").click()
            await page.get_by_role("dialog").get_by_role("button", name="Restart").click()
            for pid in before:
                await expect(workers.filter(has_text=f"{pid}")).to_have_count(0, timeout=20_000)
            await expect(workers.filter(has_text="READY")).to_have_count(2, timeout=20_000)
            await page.get_by_text("Follow the load").click()
            await page.get_by_label("At most").fill("3")
            await page.keyboard.press("Enter")
            await expect(page.get_by_role("group", name="Replicas")).to_contain_text("2 of 1–3")
            await page.locator("main").get_by_role("link", name="Events").click()
            await expect(page.locator("tbody")).to_contain_text("Restart model")
            await expect(page.locator("tbody")).to_contain_text("Starting worker")
            await page.get_by_role("button", name="Terminate").click()
            await page.get_by_role("dialog").get_by_role("button", name="Terminate").click()
            await expect(page.get_by_role("heading", name="Models")).to_be_visible()
            await expect(row(page, "from-page")).to_have_count(0)
            await page.goto(f"{live.url}/ui/#/events")
            its = page.locator("tbody tr").filter(has=page.get_by_role("link", name="from-page"))
            await expect(its.filter(has_text="Terminate model")).to_have_count(1)

    eyes.run(scene())


def test_behind_a_gateway_the_page_says_which_cluster_it_shows_and_shows_another(
    eyes: Eyes, live: LiveCluster, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    words = ["gateway", "--port", url.rpartition(":")[2], "--cell", f"one={live.url}", "--cell", f"two={live.url}"]
    asked: list[tuple[str, str | None]] = []

    async def scene() -> None:
        async with eyes.tab() as page:
            page.on("request", lambda request: asked.append((request.url, request.headers.get("x-cell"))))
            await page.goto(f"{url}/ui/#/models")
            await expect(row(page, "gated")).to_contain_text("READY")
            shown = page.get_by_label("The cluster that is shown")
            await expect(shown).to_have_value("one")
            await shown.select_option("two")
            await expect(line(page)).to_have_text("Live")
            await expect(row(page, "gated")).to_contain_text("READY")
            await page.goto(f"{url}/ui/#/models/gated/events")
            await expect(page.locator("tbody")).to_contain_text("Starting worker")
            await expect(shown).to_have_value("two")

    with live.client() as client:
        client.launch_model("echo", model_uid="gated")
        gateway = subprocess.Popen(live.command_line(*words), env={**live.environment, "CLUSTER_HOME": str(tmp_path)})
        try:
            until(lambda: answers(url), within=20)
            eyes.run(scene())
        finally:
            gateway.terminate()
            gateway.wait(10)
            client.terminate_model("gated")
    assert (f"{url}/v1/models/gated/events", "two") in asked
    assert f"{url}/v1/changes?cell=two" in [address for address, _ in asked]


def is_idle(live: LiveCluster, uid: str) -> bool:
    with live.client() as client:
        return client.scale_of(uid)["requests"] < 0.01


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.HTTPError:
        return False


def test_a_launch_that_cannot_be_is_refused_in_the_words_of_the_server(eyes: Eyes, live: LiveCluster) -> None:
    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live, "launch", "echo", "echo")
            await page.get_by_text("More options").click()
            await page.get_by_label("memory", exact=False).first.fill("9000GiB")
            plan = page.get_by_label("Plan")
            await expect(plan).to_contain_text("does not fit")
            await expect(plan).to_contain_text("fits on no node")
            await page.get_by_label("memory", exact=False).first.fill("much")
            await expect(plan.get_by_role("alert")).to_contain_text("memory takes a size such as 2GiB")

    eyes.run(scene())


def test_texts_are_embedded_and_ranked(eyes: Eyes, live: LiveCluster, embedder: str, reranker: str) -> None:
    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", embedder)
            await page.get_by_role("button", name="Embed").click()
            await expect(page.get_by_text("Nearest are 1 and 2")).to_be_visible()
            await page.evaluate(f"location.hash = '#/models/{reranker}'")
            await page.get_by_label("Documents").fill(f"Bread.\n{HOSTILE}\nThe moon pulls at the sea.")
            await page.get_by_role("button", name="Rank").click()
            ranked = page.get_by_role("list", name="Ranking").get_by_role("listitem")
            await expect(ranked).to_have_count(3)
            await expect(ranked.filter(has_text=HOSTILE)).to_have_count(1)

    eyes.run(scene())


def ran(name: str, code: str) -> str:
    """What the snippet prints."""
    words = ["bash", "-c", f"{code} -s"] if name == "curl" else [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{name}: {code}\n{done.stderr}"
    return done.stdout


#: What is tried, and what each way to say the same prints.
SNIPPETS = {
    "embedding": ("Embed", ["curl", "OpenAI (Python)", "cluster (Python)", "Xinference (Python)"]),
    "rerank": ("Rank", ["curl", "cluster (Python)", "Xinference (Python)"]),
}


@pytest.mark.parametrize("type", SNIPPETS)
def test_each_snippet_runs_as_it_is_shown_and_answers_as_the_page_does(
    eyes: Eyes, live: LiveCluster, embedder: str, reranker: str, type: str
) -> None:
    button, names = SNIPPETS[type]
    code: dict[str, str] = {}

    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", embedder if type == "embedding" else reranker)
            answers = page.expect_response(lambda answer: "/v1/" in answer.url and answer.request.method == "POST")
            async with answers as answer:
                await page.get_by_role("button", name=button).click()
            body = await (await answer.value).json()
            code["answer"] = str(body["data"][0]["embedding"][0] if type == "embedding" else body["results"][0])
            await page.get_by_role("link", name="Code").click()
            shown = page.locator("main section")
            assert await shown.locator("h2").all_text_contents() == names
            for name in names:
                code[name] = await page.get_by_label(name, exact=True).locator("pre").text_content() or ""

    eyes.run(scene())
    first = code.pop("answer")
    with ThreadPoolExecutor(len(code)) as threads:
        for printed in threads.map(ran, code, code.values()):
            # The number, to as many digits as every client keeps.
            assert re.search(r"-?\d\.\d{4}", first)[0] in printed


def test_a_picture_comes_about_step_by_step_and_can_be_stopped(eyes: Eyes, live: LiveCluster, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "steps")

    async def scene(uid: str) -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", uid)
            await page.get_by_label("Prompt").fill(HOSTILE)
            await page.evaluate(SOURCES)
            await page.get_by_role("button", name="Draw").click()
            shown = page.locator("main img")
            await expect(shown).to_have_attribute("data-whole", "false")
            await expect(shown).to_have_attribute("data-whole", "true")
            assert await shown.evaluate("image => image.naturalWidth") == 64
            # Three previews, and the picture.
            assert await page.evaluate("sources.size") == 4
            await page.get_by_label("Prompt").fill("endless")
            await page.get_by_label("Steps").fill("200")
            await page.get_by_role("button", name="Draw").click()
            await expect(page.get_by_text("of 200")).to_be_visible()
            await page.get_by_role("button", name="Stop").click()
            await expect(page.get_by_role("button", name="Draw")).to_be_enabled()
            await asyncio.to_thread(until, lambda: is_idle(live, uid), within=15)
            # The step that it was at is the last one.
            await asyncio.to_thread(until, lambda: journal.steps("endless") == journal.after("endless", 0.5), within=10)
            assert journal.steps("endless") < 200

    with painting(live, "page-painter", step_seconds=0.1, journal=str(journal.path)) as uid:
        eyes.run(scene(uid))


def test_a_picture_that_is_begun_comes_though_its_tab_is_closed(eyes: Eyes, live: LiveCluster, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "steps")

    async def scene(uid: str) -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", uid)
            await page.get_by_label("Prompt").fill("a lighthouse")
            await page.get_by_label("Steps").fill("20")
            await page.get_by_label("In the background").check()
            await page.get_by_role("button", name="Draw").click()
            await expect(page.get_by_text("of 20")).to_be_visible()
            await asyncio.to_thread(until, lambda: journal.steps("a lighthouse") >= 5, within=15)
        async with eyes.tab() as page:
            await opened(page, live, "requests")
            # Those of other tests are kept for a while as well.
            table = page.get_by_role("table")
            job = page.get_by_role("region").filter(has=page.get_by_role("link", name=uid), has_not=table)
            await job.get_by_role("button", name="Show").click()
            assert await job.locator("img").evaluate("image => image.naturalWidth") == 64
            await job.get_by_role("button", name="Forget").click()
            await expect(job).to_have_count(0)

    with painting(live, "page-leaver", step_seconds=0.1, journal=str(journal.path)) as uid:
        eyes.run(scene(uid))


def test_the_lines_of_a_page_and_their_places_light_each_other(eyes: Eyes, live: LiveCluster, tmp_path: Path) -> None:
    file = tmp_path / "page.png"
    file.write_bytes(picture("first line\nsecond <b>line</b>"))

    async def scene(uid: str) -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", uid)
            await page.locator("input[type=file]").set_input_files(file)
            await page.get_by_role("button", name="Read", exact=True).click()
            lines = page.get_by_role("list", name="Lines").get_by_role("button")
            await expect(lines).to_have_count(2)
            await expect(lines.last).to_contain_text("second <b>line</b>")
            await lines.last.click()
            await expect(page.locator("polygon").last).to_have_attribute("data-lit", "true")
            assert await page.locator("main img").evaluate("image => image.naturalWidth") == 280

    with reading(live, "page-reader") as uid:
        eyes.run(scene(uid))


async def stopped_on_its_way(page: Page) -> None:
    """A small model ends some stories before anybody could stop them."""
    for _ in range(6):
        await page.get_by_label("Message").fill(f"Tell a very long story of {HOSTILE}.")
        await page.keyboard.press("Enter")
        try:
            await page.get_by_role("button", name="Stop").click(timeout=5000)
            return
        except TimeoutError:
            await expect(page.get_by_role("button", name="Send")).to_be_enabled(timeout=30_000)
    raise AssertionError("no answer took long enough to be stopped")


def test_an_answer_comes_word_by_word_and_can_be_stopped(eyes: Eyes, live: LiveCluster, talker: str) -> None:
    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", talker)
            said = page.get_by_role("list", name="Conversation").get_by_role("listitem")
            await page.get_by_label("Tokens").fill("12")
            await page.get_by_label("Message").fill("Say a word.")
            await page.keyboard.press("Enter")
            await expect(page.get_by_text("a second")).to_be_visible(timeout=30_000)
            assert await said.last.text_content()
            await page.get_by_label("Tokens").fill("")
            await stopped_on_its_way(page)
            await expect(said.filter(has_text=HOSTILE)).not_to_have_count(0)
            await expect(page.get_by_role("button", name="Send")).to_be_enabled()
            assert await page.locator("main img, main script").count() == 0

    eyes.run(scene())
