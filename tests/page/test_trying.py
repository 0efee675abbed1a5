"""Models tried in a real browser, on the real cluster: what is shown is what they answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pypdfium2
from playwright.async_api import Page, expect

from tests.live import LiveCluster
from tests.page.looking import HOSTILE, Eyes, opened, row
from tests.page.test_page import AXE, FAULTS
from tests.painted import filled, is_near, painted_colour, painting
from tests.painted import opened as opened_picture
from tests.read_pages import document, reading

TEXTS = ["the first page", "here is\ntwo", f"{HOSTILE[:20]}", "four words are here", "the last\nof them all"]
#: The places of the boxes of a page, as shares of its picture: left, top, right, bottom.
BOXES = """page => {
  const whole = page.querySelector("img").getBoundingClientRect();
  return [...page.querySelectorAll("polygon")].map((polygon) => {
    const box = polygon.getBoundingClientRect();
    const across = [box.left, box.right].map((x) => (x - whole.left) / whole.width);
    const along = [box.top, box.bottom].map((y) => (y - whole.top) / whole.height);
    return [across[0], along[0], across[1], along[1]];
  });
}"""


def test_two_rerankers_are_compared_beside_the_order_that_was_given(
    eyes: Eyes, live: LiveCluster, reranker: str, letters: str
) -> None:
    documents = ["Salt is won from the sea.", "What moves the tides?", "zzz"]

    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", reranker)
            await page.get_by_label("Query").fill("What moves the tides?")
            await page.get_by_label("Documents").fill("\n".join(documents))
            await page.get_by_label("Beside it").select_option(letters)
            await page.get_by_role("button", name="Rank").click()
            await expect(page.get_by_role("region", name=letters)).to_be_visible()
            await no_faults(page)
            before = page.get_by_role("list", name="Before").get_by_role("listitem")
            await expect(before).to_have_count(3)
            assert [text[1:] for text in await before.all_text_contents()] == documents
            for uid in (reranker, letters):
                ranked = page.get_by_role("region", name=uid).get_by_role("listitem")
                await expect(ranked.first).to_contain_text("What moves the tides? was 2.")
                answer = live.post("/v1/rerank", {"model": uid, "query": documents[1], "documents": documents}).json()
                shown = [float(text[:5]) for text in await ranked.all_text_contents()]
                assert shown == [float(f"{result['relevance_score']:.3f}") for result in answer["results"]]

    eyes.run(scene())


def test_texts_lie_on_a_plane_as_near_as_they_are_alike(eyes: Eyes, live: LiveCluster, embedder: str) -> None:
    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", embedder)
            texts = [
                "The moon pulls at the sea.",
                "The moon draws the sea.",
                "Bread needs flour.",
                "Bread is of flour.",
            ]
            await page.get_by_label("Texts").fill("\n".join(texts))
            await page.get_by_role("button", name="Embed").click()
            places = page.get_by_role("img", name="The texts on a plane").locator("g")
            await expect(places).to_have_count(4)
            await no_faults(page)
            boxes = [await places.nth(at).locator("circle").bounding_box() for at in range(4)]
            (moon, also_moon, bread, also_bread) = [(box["x"], box["y"]) for box in boxes if box is not None]
            assert apart(moon, also_moon) < apart(moon, bread) > apart(bread, also_bread)

    eyes.run(scene())


def apart(one: tuple[float, float], other: tuple[float, float]) -> float:
    return ((one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2) ** 0.5


def test_a_picture_is_made_again_from_its_receipt_and_is_equal_or_not(eyes: Eyes, live: LiveCluster) -> None:
    async def scene(uid: str) -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", uid)
            await page.get_by_label("Seed").fill("11")
            await page.get_by_role("button", name="Draw").click()
            await page.get_by_role("button", name="Make it again").click()
            await expect(page.get_by_text("equal, byte for byte")).to_be_visible()
            await page.get_by_text("Receipt", exact=True).click()
            await expect(page.locator("dl")).to_contain_text("seed11")

            async def other(route: Any) -> None:
                body = json.loads(route.request.post_data)
                await route.continue_(post_data=json.dumps({**body, "seed": 12}))

            await page.route("**/v1/images/generations", other)
            await page.get_by_role("button", name="Make it again").click()
            await expect(page.get_by_text("not equal")).to_be_visible()

    with painting(live, "page-prover") as uid:
        eyes.run(scene(uid))


async def is_in_place(page: Page, number: int, told: dict[str, Any]) -> None:
    shown = page.get_by_role("region", name=f"Page {number}")
    assert await shown.locator("img").evaluate("image => image.naturalWidth") > 0
    lines = [line for block in told["blocks"] for line in block["lines"]]
    boxes = await shown.evaluate(BOXES)
    sides = (told["width"], told["height"], told["width"], told["height"])
    assert len(boxes) == len(lines)
    for box, line in zip(boxes, lines, strict=True):
        assert overlap(box, [value / side for value, side in zip(line["bbox"], sides, strict=True)]) > 0.9


def overlap(one: list[float], other: list[float]) -> float:
    """What both cover, of what either does."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def test_the_pages_of_a_pdf_come_in_order_with_boxes_in_their_places_and_as_a_searchable_pdf(
    eyes: Eyes, live: LiveCluster, tmp_path: Path
) -> None:
    file = tmp_path / f"{HOSTILE[:7]}.pdf"
    file.write_bytes(document(*TEXTS))

    async def scene(uid: str) -> None:
        asked = {"data": {"model": uid, "output_format": "json"}, "files": {"image": file.read_bytes()}}
        answer = httpx.post(f"{live.url}/v1/images/ocr", **asked, timeout=30).json()
        async with eyes.tab() as page:
            await opened(page, live, "models", uid)
            await page.locator("input[type=file]").set_input_files(file)
            await page.get_by_role("button", name="Read", exact=True).click()
            await expect(page.get_by_text("5 of 5 pages")).to_be_visible(timeout=30_000)
            sheets = page.locator("section.split")
            names = [await sheets.nth(at).get_attribute("aria-label") for at in range(await sheets.count())]
            assert names == [f"Page {number}" for number in range(1, 6)]
            for number, told in enumerate(answer["pages"], 1):
                await is_in_place(page, number, told)
            await no_faults(page)
            last = page.get_by_role("region", name="Page 5")
            await last.get_by_role("button", name="of them all").click()
            await expect(last.locator("polygon").last).to_have_attribute("data-lit", "true")
            await last.locator("polygon").first.hover()
            await expect(last.get_by_role("button", name="the last")).to_have_attribute("data-lit", "true")
            async with page.expect_download() as download:
                await page.get_by_role("button", name="Searchable PDF").click()
            pdf = pypdfium2.PdfDocument(await (await download.value).path())
            assert len(pdf) == 5 and "four words are here" in pdf[3].get_textpage().get_text_bounded()

    with reading(live, "page-of-pdf") as uid:
        eyes.run(scene(uid))


def test_a_model_dozes_and_wakes_and_its_bounds_say_how_long_requests_may_wait(eyes: Eyes, live: LiveCluster) -> None:
    async def scene() -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", "dozer")
            await expect(page.get_by_role("button", name="Wake")).to_have_count(0)
            await page.get_by_role("button", name="Let it doze").click()
            await expect(page.get_by_text("DOZING")).to_be_visible(timeout=30_000)
            await page.get_by_role("button", name="Wake").click()
            await expect(page.locator("h1 + .state")).to_have_text("READY", timeout=30_000)
            await page.get_by_text("Follow the load").click()
            await page.get_by_label("At most").fill("2")
            await page.get_by_label("Seconds").fill("7.5")
            await page.keyboard.press("Enter")
            await expect(page.locator("details")).to_contain_text("More come where requests wait for longer than 7.5 s")
            await page.goto(f"{live.url}/ui/#/models")
            await expect(row(page, "dozer").get_by_title("longer than 7.5 s")).to_be_visible()

    with live.client() as client:
        client.launch_model("echo", model_uid="dozer")
        eyes.run(scene(), within_s=90)
        client.terminate_model("dozer")


async def no_faults(page: Page) -> None:
    if AXE.exists():
        # Through the debugger, which the policy does not bind.
        await page.evaluate(AXE.read_text() + "; undefined")
        assert await page.evaluate(FAULTS) == []


async def masked(page: Page, *wanted: tuple[int, int, bool]) -> None:
    """Waits until the mask is painted at those places of the picture, or not."""
    pixels = [f"surface.getImageData({x}, {y}, 1, 1).data[3] === 255" for x, y, _ in wanted]
    look = f"canvas => {{ const surface = canvas.getContext('2d'); return [{', '.join(pixels)}] }}"
    for _ in range(100):
        shown = await page.locator("canvas").evaluate(look)
        if shown == [white for *_, white in wanted]:
            return
        await page.wait_for_timeout(50)
    raise AssertionError(f"{wanted}, and not {shown}")


async def drag(page: Page, *spots: tuple[float, float]) -> None:
    """Over the mask, with the brush; by shares of its width and height."""
    box = await page.locator("canvas").bounding_box()
    assert box is not None
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in spots]
    await page.mouse.move(*at[0])
    await page.mouse.down()
    for spot in at[1:]:
        await page.mouse.move(*spot, steps=4)
    await page.mouse.up()


def test_a_mask_is_painted_taken_back_and_inverted_and_only_what_is_white_is_drawn_anew(
    eyes: Eyes, live: LiveCluster, tmp_path: Path
) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(filled("red", (64, 48)))

    async def scene(uid: str) -> None:
        async with eyes.tab() as page:
            await opened(page, live, "models", uid)
            await page.get_by_text("Replace a part of a picture").click()
            await page.get_by_label("Picture to change").set_input_files(file)
            await page.get_by_label("Width").fill("16")
            await page.locator("canvas").scroll_into_view_if_needed()
            await drag(page, (0.2, 0.2), (0.2, 0.8))
            await masked(page, (13, 24, True), (50, 24, False))
            await page.get_by_role("button", name="Undo").click()
            await masked(page, (13, 24, False))
            await page.get_by_role("button", name="Redo").click()
            await masked(page, (13, 24, True))
            await page.get_by_role("button", name="Erase").click()
            await page.locator("canvas").scroll_into_view_if_needed()
            await drag(page, (0.2, 0.8))
            await masked(page, (13, 38, False), (13, 12, True))
            await page.get_by_role("button", name="Undo").click()
            await no_faults(page)
            await page.set_viewport_size({"width": 700, "height": 800})
            await masked(page, (13, 24, True), (50, 24, False))
            await page.get_by_role("button", name="Invert").click()
            await masked(page, (13, 24, False), (50, 24, True))
            await page.get_by_label("What comes in its place").fill("a wood")
            await page.get_by_role("button", name="Replace", exact=True).click()
            result = page.get_by_alt_text("Picture with the replacement")
            await expect(result).to_be_visible(timeout=30_000)
            picture = opened_picture((await result.get_attribute("src") or "").partition(",")[2]).convert("RGB")
            assert picture.size == (64, 48)
            assert is_near(picture.getpixel((13, 24)), (255, 0, 0))
            assert is_near(picture.getpixel((50, 24)), painted_colour("a wood"))

    with painting(live, "page-mask") as uid:
        eyes.run(scene(uid))
