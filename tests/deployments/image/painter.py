"""A runner like that of a worker, and pictures that are requested at random times."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cluster import errors
from cluster.weights.locate import locate
from cluster.worker.family import Setup
from deployments.image.diffusion import Diffusion
from deployments.image.resolved_drawing import ResolvedDrawing
from deployments.image.runner import Runner
from deployments.image.saturation import Saturation
from tests.pipelines import setup_of

SIDE = 64
PROMPTS = ("a cat", "a dog on the beach", "a red car", "mountains at dawn with snow on every single summit")


@dataclass
class Watched:
    """A `Progress` that records what it is told, and can be stopped."""

    stopped: bool = False
    told: list[tuple[float, str, int, int]] = field(default_factory=list)
    shown: list[bytes] = field(default_factory=list)
    #: Called with the number of each step that is reported.
    on_step: Callable[[int], None] = lambda step: None

    def check(self) -> None:
        if self.stopped:
            raise errors.RequestCancelled("Nobody waits for it.")

    def tell(self, fraction: float, stage: str, step: int = 0, steps: int = 0) -> None:
        self.told.append((fraction, stage, step, steps))
        self.on_step(step)

    def show(self, preview: bytes) -> None:
        self.shown.append(preview)


class Generous(Saturation):
    """Joins all calls that fit together, whether that is faster or not."""

    def cap(self, shape: Hashable) -> int:
        return self._bounds.get(shape, self._most)


class Painter:
    """A loaded model, and the way from a request to the numbers of its picture."""

    def __init__(self, setup: Setup) -> None:
        self.family = Diffusion()
        self.facts = self.family.load(setup)
        self.runner: Runner = self.family.runner

    @classmethod
    def of(cls, folder: Path, **launch: Any) -> Painter:
        setup = setup_of(folder, **launch)
        # Files that a launch names are where it says.
        painter = cls(replace(setup, fetch=lambda source: locate(source, home=folder, offline=True)))
        painter.runner.queue.denoiser.saturation = Generous()
        return painter

    def drawings(self, task: str = "text2image", prompt: str = "a cat", **params: Any) -> list[ResolvedDrawing]:
        free = {} if task != "text2image" else {"width": SIDE, "height": SIDE}
        given = {"images": (noise(),)} if task != "text2image" else {}
        given |= {"mask": white_square()} if task == "inpainting" else {}  # type: ignore[dict-item]
        asked = {"seed": 0, "num_inference_steps": 4, **free, **given, **params}
        return list(self.family.prepare(task, [prompt], asked).values)

    def drawing(self, task: str = "text2image", prompt: str = "a cat", **params: Any) -> ResolvedDrawing:
        (one,) = self.drawings(task, prompt, **params)
        return one

    def paint(self, drawing: ResolvedDrawing, progress: Any = None) -> Any:
        return self.runner.paint(drawing, progress or Watched())

    def at_random_times(self, drawings: Sequence[ResolvedDrawing], seed: int, within_s: float = 0.1) -> list[Any]:
        """Draws each in a thread of its own, and returns the pictures, or the exception of those that failed."""
        chance = random.Random(seed)
        delays = [chance.uniform(0, within_s) for _ in drawings]

        def later(drawing: ResolvedDrawing, delay: float) -> Any:
            time.sleep(delay)
            try:
                return self.paint(drawing)
            except Exception as error:
                return error

        with ThreadPoolExecutor(len(drawings)) as threads:
            return list(threads.map(later, drawings, delays))

    def is_at_rest(self) -> bool:
        """Whether nothing runs any more, and nothing is left over from what ran."""
        deadline = time.monotonic() + 5
        while not self.runner.queue.is_idle and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.runner.queue.is_idle and not getattr(self.runner.module, "is_cache_enabled", False)


def away(one: Any, other: Any) -> float:
    """The largest difference of two pictures, from 0 to 1."""
    for found in (one, other):
        if isinstance(found, Exception):
            raise found
    return float(np.abs(one - other).max())


@contextmanager
def one_thread() -> Iterator[None]:
    """With a single thread, as the painter computes here; several threads add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def noise(seed: int = 0, side: int = SIDE) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    return as_file(Image.fromarray(pixels))


def white_square(side: int = SIDE) -> bytes:
    mask = Image.new("L", (side, side), 0)
    mask.paste(255, (side // 4, side // 4, side * 3 // 4, side * 3 // 4))
    return as_file(mask)


def as_file(image: Any, format: str = "PNG", **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, format, **options)
    return target.getvalue()
