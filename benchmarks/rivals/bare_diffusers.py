"""The diffusers pipeline in a loop in one process, as its own documentation shows it: no server, nothing between.

    python -m benchmarks.rivals.bare_diffusers FOLDER SIDE STEPS GUIDANCE

Reads orders as lines of JSON and answers each with one.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.image_models import Model

ROOT = Path(__file__).parents[2]
#: Of the JPEGs that all write: Pillow's own, which is the only one that Xinference has.
QUALITY = 75


class Bare:
    """The process, from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.processes = [psutil.Process(process.pid)]

    def loop(self, asked: Sequence[tuple[str, int]], seconds: float, at_once: int = 1) -> list[float]:
        """Seconds that each call took, of `at_once` pictures; at least one call, then until the time is up."""
        return self._order(asked=asked, seconds=seconds, at_once=at_once)["took"]

    def pictures(self, asked: Sequence[tuple[str, int]]) -> list[bytes]:
        """One of each, as files."""
        return [base64.b64decode(one) for one in self._order(asked=asked)["pictures"]]

    def _order(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"The bare pipeline ended with {self._process.wait()}; its log says why.")
        return json.loads(answer)


@contextmanager
def started(model: Model, folder: Path, log: Path) -> Iterator[Bare]:
    words = [sys.executable, "-m", __name__, str(folder), str(model.side), str(model.steps), str(model.guidance)]
    with log.open("ab") as errors:
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT
        )
        try:
            yield Bare(process)
        finally:
            process.kill()
            process.wait()


class _Loop:
    """The process, from inside."""

    def __init__(self, folder: str, side: int, steps: int, guidance: float) -> None:
        import torch
        from diffusers import DiffusionPipeline

        self._torch = torch
        self._pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
        self._pipe.set_progress_bar_config(disable=True)
        self._fixed = {"width": side, "height": side, "num_inference_steps": steps, "guidance_scale": guidance}

    def answer(self, asked: Sequence[tuple[str, int]], seconds: float | None = None, at_once: int = 1) -> Any:
        if seconds is None:
            return {"pictures": [base64.b64encode(self._drawn([one])[0]).decode() for one in asked]}
        took: list[float] = []
        while sum(took) < seconds or not took:
            first = len(took) * at_once
            chosen = [asked[(first + place) % len(asked)] for place in range(at_once)]
            began = time.perf_counter()
            self._drawn(chosen)
            took.append(time.perf_counter() - began)
        return {"took": took}

    def _drawn(self, asked: Sequence[tuple[str, int]]) -> list[bytes]:
        found = self._pipe(
            prompt=[prompt for prompt, _ in asked],
            generator=[self._torch.Generator().manual_seed(seed) for _, seed in asked],
            **self._fixed,
        )
        return [_written(image) for image in found.images]


def _written(image: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, "JPEG", quality=QUALITY)
    return target.getvalue()


def main() -> None:
    folder, side, steps, guidance = sys.argv[1:]
    loop = _Loop(folder, int(side), int(steps), float(guidance))
    for line in sys.stdin:
        print(json.dumps(loop.answer(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
