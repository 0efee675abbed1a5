"""Pictures in a chat on the page, in a real browser: only a model that sees is offered any."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from playwright.async_api import Route, expect

from tests.page.looking import Eyes
from tests.page.staged import Staged, answers, shown
from tests.page.test_page import Shown, serving
from tests.painted import filled


def test_a_picture_goes_with_the_next_message_to_a_model_that_sees(eyes: Eyes, tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(filled("red", (40, 30)))
    bodies: list[Any] = []

    async def answer(route: Route) -> None:
        bodies.append(route.request.post_data_json)
        await route.fulfill(**answers("It is red.")["chat"][1])

    async def scene() -> None:
        sees = Staged.model("seeing", "chat", about={"sees": True})
        supervisor = Shown(sees, Staged.model("blind", "chat"))
        async with serving(tmp_path, supervisor) as url, eyes.tab() as page:
            await page.route("**/v1/chat/completions", answer)
            await page.goto(f"{url}/ui/")
            await expect(page.locator("tbody tr").first).to_be_visible()
            await shown(page, "models/blind/try")
            await expect(page.get_by_label("Message")).to_be_visible()
            assert await page.locator("input[type=file]").count() == 0
            await shown(page, "models/seeing/try")
            await page.get_by_label("Add pictures").set_input_files(file)
            for words in ("What is it?", "Why?"):
                await page.get_by_label("Message").fill(words)
                await page.get_by_role("button", name="Send").click()
                bubbles = page.get_by_role("list", name="Conversation").get_by_role("listitem")
                await expect(bubbles.last).to_have_text("It is red.")
            picture = bubbles.first.get_by_role("img")
            await expect(picture).to_be_visible()
            assert await picture.evaluate("image => image.naturalWidth") == 40

    eyes.run(scene())
    url = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    first, second = ([message["content"] for message in body["messages"]] for body in bodies)
    assert first == [parts] and second == [parts, "It is red.", "Why?"]
