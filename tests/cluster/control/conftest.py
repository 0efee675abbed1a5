from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_look_at() -> Iterator[None]:
    """Every scene collects its garbage, to find tasks whose error nobody took; what was there before is left out."""
    gc.freeze()
    yield
    gc.unfreeze()
