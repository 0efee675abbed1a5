from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_look_at() -> Iterator[None]:
    """Each scene collects garbage, to find tasks whose error nobody has read. Objects from before are frozen, so that
    this is quick."""
    gc.freeze()
    yield
    gc.unfreeze()
