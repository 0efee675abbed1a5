"""The tiny pipelines, each made once for all tests that need it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests import pipelines


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the tiny pipeline of that name; it is only read."""
    root = tmp_path_factory.mktemp("pipelines")
    return cache(lambda name: pipelines.saved(name, root / name))
