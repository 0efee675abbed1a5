"""Pictures for tests, and a model that draws them: what is sent, what comes back, how many steps it takes."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from tests.families import painted_colour
from tests.live import LiveCluster, until


@contextmanager
def painting(live: LiveCluster, uid: str, **options: Any) -> Iterator[str]:
    """The uid of a model that draws, which runs only as long as it is needed: requests without a model name use any
    model that fits."""
    with live.client() as client:
        yield client.launch_model("painting", model_uid=uid, **options)
        client.terminate_model(uid)
        until(lambda: uid not in client.list_models(), within=10)


@contextmanager
def painting_quick_and_slow(live: LiveCluster, name: str, journal: Journal, step_seconds: float) -> Iterator[str]:
    """The uid of a model that draws at once. Beside it runs `<name>-slow`, whose steps are written into the journal."""
    slow = painting(live, f"{name}-slow", step_seconds=step_seconds, journal=str(journal.path))
    with painting(live, f"{name}-painter") as uid, slow:
        yield uid


def filled(colour: Any = "red", size: tuple[int, int] = (64, 48), mode: str = "RGB", format: str = "PNG") -> bytes:
    target = io.BytesIO()
    Image.new(mode, size, colour).save(target, format)
    return target.getvalue()


def half(left: Any, right: Any, size: tuple[int, int] = (64, 48), mode: str = "RGB") -> bytes:
    """A picture with two halves of different colours."""
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    target = io.BytesIO()
    image.save(target, "PNG")
    return target.getvalue()


def opened(data: bytes | str) -> Image.Image:
    """Opens a picture from bytes or base64."""
    return Image.open(io.BytesIO(base64.b64decode(data) if isinstance(data, str) else data))


def as_uri(data: bytes, type: str = "image/png") -> str:
    return f"data:{type};base64,{base64.b64encode(data).decode()}"


def corners(image: Image.Image) -> tuple[Any, Any]:
    """The colours at the left and right end of the lowest row, where the square of a seed near 7 is not."""
    image = image.convert("RGB")
    return image.getpixel((0, image.height - 1)), image.getpixel((image.width - 1, image.height - 1))


def blended(first: Any, second: Any, share: float = 0.5) -> tuple[int, ...]:
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def is_near(found: Any, wanted: Any, most: int = 2) -> bool:
    return all(abs(a - b) <= most for a, b in zip(found, wanted, strict=True))


class Journal:
    """The steps that a model took for each prompt."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def steps(self, prompt: str) -> int:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return sum(line.rpartition(" ")[0] == prompt for line in lines)

    def __len__(self) -> int:
        return len(self.path.read_text().splitlines()) if self.path.exists() else 0

    def wait_for(self, prompt: str, steps: int) -> int:
        """Returns as a step ends, so that what the test does next happens early in the next step."""
        before = self.steps(prompt)
        until(lambda: self.steps(prompt) >= max(steps, before + 1), within=15, why=f"no step for {prompt}")
        return self.steps(prompt)

    def after(self, prompt: str, seconds: float) -> int:
        time.sleep(seconds)
        return self.steps(prompt)


__all__ = [
    "Journal",
    "as_uri",
    "blended",
    "corners",
    "filled",
    "half",
    "is_near",
    "opened",
    "painted_colour",
    "painting",
    "painting_quick_and_slow",
]
