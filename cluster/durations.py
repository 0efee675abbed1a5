"""How long a model stays after a request, as Ollama's users write it."""

from __future__ import annotations

import math
import re
from typing import Any

from cluster.names import quoted

#: Seconds of each unit.
UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)(ns|us|µs|ms|s|m|h)")
#: What goes at once goes as soon as it has had nothing to do for a moment.
AT_ONCE_S = 0.001


def keep_alive_s(value: Any) -> float:
    """`"5m"`, `"1h30m"`, `300` and `"300"` in seconds; infinite where it is negative: for ever. Raises ValueError."""
    number = _number_in(value)
    if number is None or math.isnan(number):
        raise ValueError(f"keep_alive takes seconds or a duration such as 5m, or -1 for ever, not {quoted(value)}")
    return math.inf if number < 0 else number


def idle_limit_s(keep_alive: float) -> float:
    """After how long without a request a model rests that is kept alive so long; 0 for never."""
    return 0.0 if math.isinf(keep_alive) else max(keep_alive, AT_ONCE_S)


def _number_in(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    digits = text.removeprefix("-").removeprefix("+")
    sign = -1.0 if text.startswith("-") else 1.0
    if re.fullmatch(r"\d{1,15}(\.\d{1,9})?", digits):
        return sign * float(digits)
    if re.fullmatch(f"(?:{_PART.pattern})+", digits):
        return sign * sum(float(number) * UNITS[unit] for number, unit in _PART.findall(digits))
    return None
