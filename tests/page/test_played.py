"""What is tried on the page without a cluster: masks that are painted, and answers of models beside each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Page, Route, expect

from tests.page.looking import HOSTILE, Eyes
from tests.page.staged import UIDS, Staged, shown, told
from tests.page.test_page import serving
from tests.page.test_trying import drag, masked, no_faults
from tests.painted import filled


async def editor(page: Page, url: str, picture: Path) -> None:
    await page.goto(f"{url}/ui/#/models/{UIDS['text2image']}/try")
    await page.get_by_text("Replace a part of a picture").click()
    await page.get_by_label("Picture to change").set_input_files(picture)
    await page.get_by_label("Width").fill("12")
    await page.locator("canvas").scroll_into_view_if_needed()


async def saved(page: Page) -> Image.Image:
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Save the mask").click()
    return Image.open(await (await download.value).path()).convert("L")


def test_a_mask_is_drawn_with_a_lasso_softened_saved_and_loaded_again(eyes: Eyes, tmp_path: Path) -> None:
    picture, mask = tmp_path / f"{HOSTILE[:7]}.png", tmp_path / "mask.png"
    picture.write_bytes(filled("red", (80, 60)))

    async def scene() -> None:
        async with serving(tmp_path, Staged()) as url, eyes.tab() as page:
            await editor(page, url, picture)
            await page.get_by_role("button", name="Lasso").click()
            await drag(page, (0.1, 0.1), (0.5, 0.1), (0.5, 0.6), (0.1, 0.6))
            # What is within, and not the line itself.
            await masked(page, (24, 20, True), (38, 30, True), (60, 20, False), (24, 45, False))
            hard = await saved(page)
            assert hard.size == (80, 60)
            assert (hard.getpixel((24, 20)), hard.getpixel((60, 20))) == (255, 0)
            await page.get_by_label("Soft edge").fill("6")
            soft = await saved(page)
            # Around the edge it is neither white nor black.
            assert any(20 < float(soft.getpixel((x, 20)) or 0) < 235 for x in range(35, 50))
            # The request's words, and how large all is shown, change nothing of it.
            await page.get_by_label("Soft edge").fill("0")
            await page.get_by_label("What comes in its place").fill("a wood")
            await page.get_by_role("button", name="Larger").click()
            await expect(page.get_by_text("150 %")).to_be_visible()
            await masked(page, (24, 20, True), (60, 20, False))
            await drag(page, (0.52, 0.7), (0.58, 0.7), (0.58, 0.78), (0.52, 0.78))
            await masked(page, (44, 44, True), (24, 20, True))
            hard.point(lambda value: 255 - value).save(mask)
            await page.get_by_label("Mask from a file").set_input_files(mask)
            await masked(page, (24, 20, False), (60, 20, True))
            await page.get_by_role("button", name="Undo").click()
            await masked(page, (24, 20, True), (60, 20, False))
            await no_faults(page)
            mask.write_bytes(b"no picture")
            await page.get_by_label("Mask from a file").set_input_files(mask)
            await expect(page.get_by_role("alert")).to_be_visible()

    eyes.run(scene())


def test_a_mask_is_painted_with_keys_alone(eyes: Eyes, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(filled("red", (80, 60)))

    async def scene() -> None:
        async with serving(tmp_path, Staged()) as url, eyes.tab() as page:
            await editor(page, url, picture)
            await page.get_by_role("button", name="Larger").focus()
            await page.keyboard.press("Tab")
            await page.keyboard.press("Tab") if await page.evaluate(
                "document.activeElement.tagName !== 'CANVAS'"
            ) else None
            assert await page.evaluate("document.activeElement.tagName") == "CANVAS"
            await expect(page.locator(".brush-cursor")).to_be_visible()
            # From the middle, half the width of the brush at once.
            for _ in range(3):
                await page.keyboard.press("ArrowLeft")
            await masked(page, (22, 30, False))
            await page.keyboard.press("Space")
            await masked(page, (22, 30, True), (60, 30, False))
            await page.keyboard.down("Space")
            for key in ("Shift+ArrowUp", "ArrowRight", "ArrowRight"):
                await page.keyboard.press(key)
            await masked(page, (22, 8, True), (34, 6, True))
            # It is no part of the mask before the bar is let go.
            await page.keyboard.press("Escape")
            await masked(page, (22, 8, False), (22, 30, True))
            await page.keyboard.up("Space")

    eyes.run(scene())


def test_two_embedding_models_are_compared_text_by_text(eyes: Eyes, tmp_path: Path) -> None:
    vectors: dict[str, list[list[float]]] = {
        UIDS["embed"]: [[1, 0], [1, 0.1], [0, 1]],
        "other-embed": [[1, 0, 0], [0, 1, 0], [0, 1, 0.2]],
    }

    async def embedded(route: Route) -> None:
        body: dict[str, Any] = json.loads(route.request.post_data or "")
        rows = [{"embedding": vector} for vector in vectors[body["model"]]]
        await route.fulfill(**told({"data": rows, "usage": {"total_tokens": 3}}))

    async def scene() -> None:
        supervisor = Staged()
        supervisor.show(Staged.model("other-embed", "embed"))
        async with serving(tmp_path, supervisor) as url, eyes.tab(width=390) as page:
            await page.goto(f"{url}/ui/")
            await page.route("**/v1/embeddings", embedded)
            await shown(page, f"models/{UIDS['embed']}/try")
            await page.get_by_label("Texts").fill("one\ntwo\nthree")
            await page.get_by_label("Beside it").select_option("other-embed")
            await page.get_by_role("button", name="Embed").click()
            pairs = {UIDS["embed"]: "Nearest are 1 and 2: 0.995.", "other-embed": "Nearest are 2 and 3: 0.981."}
            for uid, nearest in pairs.items():
                model = page.get_by_role("region", name=uid, exact=True)
                await expect(model).to_contain_text(nearest)
                await expect(model.locator(".matrix td")).to_have_count(9)
                await expect(model.get_by_role("img", name="The texts on a plane").locator("g")).to_have_count(3)
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            await no_faults(page)
            await page.get_by_label("Beside it").select_option("")
            await page.get_by_role("button", name="Embed").click()
            await expect(page.locator(".matrix td")).to_have_count(9)

    eyes.run(scene())
