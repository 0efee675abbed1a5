from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.cluster.worker.held_workers import Held, Streamed


@pytest.fixture(autouse=True)
def held() -> Iterator[type[Held]]:
    """Lets the model run at first. Afterwards restores the root logger, to which every worker adds a handler."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    Held.gate.set()
    Held.entered.clear()
    Held.seen.clear()
    Streamed.steps.clear()
    yield Held
    Held.gate.set()
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)
