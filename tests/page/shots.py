"""Pictures of every screen of the page, in both schemes and two widths: `make page-shots`, and then look at them.

Starts a cluster of its own with the two models of `make serve`, and one that draws; what these do not show is played.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from playwright.async_api import Page

from cluster.keys import new_key
from tests.cluster.weights.test_removal import downloaded
from tests.live import ROOT, LiveCluster
from tests.page.looking import Eyes, line, opened_eyes
from tests.page.staged import PLACES, UIDS, Staged, answered, tried
from tests.page.staged import shown as settled
from tests.page.test_page import serving
from tests.painted import filled

FOLDER = ROOT / "build" / "page-shots"
EMBEDDER, RERANKER = "all-MiniLM-L6-v2", "ce-tiny"
#: What is shown, and the button to press there.
SCREENS = {
    "models": ("models", ""),
    "embedding": (f"models/{EMBEDDER}", "Embed"),
    "rerank": (f"models/{RERANKER}", "Rank"),
    "picture": ("models/painter", "Draw"),
    "picture-code": ("models/painter/code", ""),
    "replicas": (f"models/{EMBEDDER}/replicas", ""),
    "logs": (f"models/{EMBEDDER}/logs", ""),
    "events": (f"models/{EMBEDDER}/events", ""),
    "edit": (f"models/{EMBEDDER}/edit", ""),
    "code": (f"models/{EMBEDDER}/code", ""),
    "launch": ("launch", ""),
    "plan": ("launch/image/FLUX.1-dev", ""),
    "requests": ("requests", ""),
    "nodes": ("nodes", ""),
    "weights": ("weights", ""),
    "registrations": ("registrations", ""),
    "register": ("registrations/new/rerank/ce-tiny", ""),
    "all-events": ("events", ""),
    "keys": ("keys", ""),
    "about": ("about", ""),
}
#: For the README, at twice the density.
SHOWN = {"models": "page-models.png", "embedding": "page-try.png"}
WINDOWS = [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]


async def shown(page: Page, url: str, name: str) -> None:
    place, button = SCREENS[name]
    await page.goto(f"{url}/ui/#/{place}")
    await line(page).filter(has_text="Live").wait_for()
    if button:
        await page.get_by_role("button", name=button, exact=True).click()
        await page.get_by_role("button", name=button, exact=True).and_(page.locator(":enabled")).wait_for()
    # A plan is asked for after a pause in the typing.
    await page.wait_for_timeout(1000)


async def pictures(eyes: Eyes, url: str) -> None:
    for width, scheme in WINDOWS:
        async with eyes.tab(width=width, scheme=scheme) as page:
            for name in SCREENS:
                await shown(page, url, name)
                await page.screenshot(path=FOLDER / f"{name}-{width}-{scheme}.png", full_page=True)


async def played(eyes: Eyes, home: Path) -> None:
    """Every screen and every tab with something on it, in Chinese too."""
    file = home / "page.png"
    file.write_bytes(filled("white", (600, 400)))
    downloaded(home, "c1", model_safetensors="weights")
    keys = (new_key("ann", ["list", "infer"], [UIDS["chat"]])[0], new_key("operators", ["admin"])[0])
    for (width, scheme), language in zip(WINDOWS, ("zh-CN", "en-GB", "en-GB", "zh-CN"), strict=True):
        tab = eyes.tab(width=width, scheme=scheme, language=language)
        async with serving(home, Staged(keys)) as url, tab as page:
            await page.goto(f"{url}/ui/")
            await answered(page, "The moon pulls at the sea.", UIDS["chat"])
            for place in (place for screen, places in PLACES.items() for place in (screen, *places)):
                await settled(page, place)
                if place.endswith("/try"):
                    await tried(page, file)
                # What was tried is answered by then, and a plan is there.
                await page.wait_for_timeout(500)
                name = f"played-{place.replace('/', '-')}-{width}-{scheme}.png"
                await page.screenshot(path=FOLDER / name, full_page=True)


async def for_the_readme(eyes: Eyes, url: str) -> None:
    async with eyes.tab(width=1100) as page:
        for name, file in SHOWN.items():
            await page.set_viewport_size({"width": 1100, "height": 330 if name == "models" else 640})
            await shown(page, url, name)
            await page.screenshot(path=ROOT / "docs" / file)


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as home:
        cluster = LiveCluster(Path(home))
        cluster.up()
        try:
            with cluster.client() as client, opened_eyes() as eyes:
                client.launch_model(EMBEDDER, "embedding", replica=2)
                client.launch_model(RERANKER, "rerank")
                eyes.run(for_the_readme(eyes, cluster.url))
                client.launch_model("painting", model_uid="painter", step_seconds=0.05)
                eyes.run(pictures(eyes, cluster.url), within_s=300)
                eyes.run(played(eyes, Path(home)), within_s=300)
        finally:
            cluster.down()
    print(f"{len(list(FOLDER.iterdir()))} pictures are in {FOLDER}")


if __name__ == "__main__":
    main()
