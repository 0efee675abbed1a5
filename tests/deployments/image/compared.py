"""How pipelines are compared in tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FolderOf = Callable[[str], Path]


def kinds_in(part: Any) -> set[str]:
    return {type(module).__name__ for module in part.modules()}


def away(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())
