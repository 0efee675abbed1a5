"""Ten thousand lines of a log in a real browser: searched, paused and followed, and text whatever they say."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Page, expect

from tests.cluster.statuses import make_status
from tests.page.looking import HOSTILE, Eyes
from tests.page.test_page import Shown, serving

LINES = 10_000
RED = "\x1b[31mred\x1b[0m"
#: Frames that were drawn in a second of scrolling through all lines, and the longest that one took.
SCROLLING = """async () => {
  const log = document.querySelector("pre.log");
  const times = [];
  await new Promise((done) => {
    const began = performance.now();
    const step = (now) => {
      times.push(now);
      log.scrollTop = log.scrollHeight * Math.min(1, (now - began) / 1000);
      now - began < 1000 ? requestAnimationFrame(step) : done();
    };
    requestAnimationFrame(step);
  });
  const pauses = times.slice(1).map((time, place) => time - times[place]);
  return [times.length, Math.max(...pauses)];
}"""


class Writing(Shown):
    def __init__(self) -> None:
        super().__init__(make_status("m", "READY"))
        self.lines = [f"line {number:05}" for number in range(LINES - 3)] + [HOSTILE, f"is {RED}", "ValueError: no"]

    async def logs(self, uid: str, lines: int) -> list[str]:
        return self.lines[-lines:]


async def drawn(page: Page) -> int:
    return await page.locator("pre.log > div > div").count()


def test_ten_thousand_lines_are_followed_searched_and_paused_and_stay_text(eyes: Eyes, tmp_path: Path) -> None:
    async def scene() -> None:
        supervisor = Writing()
        async with serving(tmp_path, supervisor) as url, eyes.tab() as page:
            await page.goto(f"{url}/ui/#/models/m/logs")
            log, count = page.locator("pre.log"), page.get_by_text("10000 lines")
            await expect(count).to_be_visible()
            await expect(log).to_contain_text(HOSTILE)
            await expect(log).to_contain_text("is red")
            await expect(log.locator(".bad")).to_have_text("ValueError: no")
            assert await page.locator("main img, main script").count() == 0
            # Most lines are not in the document, and none that anybody could see is missing.
            assert 20 < await drawn(page) < 200
            await log.evaluate("log => (log.scrollTop = log.scrollHeight / 2)")
            await page.get_by_label("Follow").uncheck()
            await expect(log).to_contain_text("line 05000")
            frames, longest = await page.evaluate(SCROLLING)
            print(f"\n{frames} frames in a second of scrolling through {LINES} lines, the longest {longest:.0f} ms")
            supervisor.lines = [*supervisor.lines[1:], "written later"]
            await page.get_by_label("Search the lines").fill("written")
            await expect(page.get_by_text("0 of 10000 lines")).to_be_visible()
            await page.get_by_label("Follow").check()
            await expect(log).to_have_text("written later")
            await page.get_by_label("Search the lines").fill("LINE 0777")
            await expect(page.get_by_text("10 of 10000 lines")).to_be_visible()
            await expect(log.locator("div > div")).to_have_count(10)

    eyes.run(scene())
