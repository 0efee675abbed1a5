"""The nets as modules of transformers, for GPUs: pages or lines of one size go through in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deployments.ocr.ppocr import conversion
from deployments.ocr.ppocr.finding import Floats
from deployments.ocr.ppocr.letters import Said, twins_in
from deployments.ocr.ppocr.nets import DETECTING, READING, TURNING, alphabet_of
from deployments.ocr.ppocr.onnx_nets import Turning

#: Pixels in one batch of pages or strips: enough to keep a GPU busy.
BATCH_PIXELS = 4_000_000

if TYPE_CHECKING:
    from torch import Tensor


class TorchNets:
    name = "torch"

    def __init__(self, folder: Path, device: str, threads: int) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device)
        #: A GPU computes one batch after another.
        self.threads = 1
        self._detecting = conversion.detecting(folder / DETECTING).to(self._device)
        net, characters = conversion.reading(folder / READING)
        self._reading = net.to(self._device)
        # Transformers has no class for this net, which takes a millisecond on CPU.
        self._turning = Turning(folder / TURNING)
        self.alphabet: Sequence[str] = alphabet_of(characters)
        self._twins = torch.from_numpy(twins_in(self.alphabet)).to(self._device)

    def set_threads(self, threads: int) -> None:
        if self._device.type == "cpu":
            self._torch.set_num_threads(threads)

    def room(self, shape: tuple[int, ...]) -> int:
        return BATCH_PIXELS // (shape[-1] * shape[-2])

    def detect(self, pages: Sequence[Floats]) -> list[Floats]:
        with self._torch.inference_mode():
            answers = self._detecting(self._on_device(pages)).last_hidden_state
            return list(answers[:, 0].float().cpu().numpy())

    def read(self, strips: Sequence[Floats]) -> list[Said]:
        torch = self._torch
        with torch.inference_mode():
            steps = self._reading(self._on_device(strips)).last_hidden_state
            scores, classes = steps.max(dim=-1)
            others = self._twins[classes]
            twins = torch.where(others > 0, steps.gather(-1, others[..., None])[..., 0], 0)
            parts = (classes.cpu().numpy(), scores.float().cpu().numpy(), twins.float().cpu().numpy())
        return [Said(*arrays) for arrays in zip(*parts, strict=True)]

    def turn(self, glances: Sequence[Floats]) -> list[float]:
        return self._turning.answers(glances)

    def _on_device(self, values: Sequence[Floats]) -> Tensor:
        return self._torch.from_numpy(np.stack(values)).to(self._device, non_blocking=True)
