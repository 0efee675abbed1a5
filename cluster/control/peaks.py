"""What launches were measured to take, which counts instead of what they were expected to take. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from cluster.launch import Needs, Wanted
from cluster.status import Report
from cluster.value import Value

#: What a worker may take beyond what one like it was measured to take: its allocator cuts memory in other ways.
MARGIN = 0.05
#: Measurements that a supervisor takes over from the one before.
MOST_PEAKS = 1000


class Peak(Value):
    """The most that a worker of such a launch took until it was READY."""

    model: str
    needs: Needs
    #: Whether its warm-up was of the largest size that is allowed, with as many at once. Pictures of that size may take
    #: minutes on CPU, and then it was smaller.
    is_full: bool = False
    #: Seconds since 1970.
    measured: float = 0.0


Peaks = Mapping[str, Peak]


def key_of(wanted: Wanted, *, on_card: bool) -> str:
    """Equal for launches that load the same weights in the same way on the same kind of device."""
    entry, source, spec = wanted.entry, wanted.source, wanted.spec
    parts = {
        "source": [source.hub, source.id, source.revision, source.path, source.variant, sorted(source.exclude)],
        "family": wanted.family,
        "options": {**entry.options, **spec.options},
        "engine": spec.model_engine,
        "quantization": spec.quantization,
        "envs": spec.envs,
        "cards": spec.n_gpu if on_card else None,
        "on_card": on_card,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def peak_of(wanted: Wanted, peaks: Peaks, *, on_card: bool) -> Peak | None:
    """What was measured of such a launch, unless the launch itself says how much to claim."""
    return peaks.get(key_of(wanted, on_card=on_card)) if peaks and wanted.spec.memory is None else None


def needs_of(wanted: Wanted, peaks: Peaks, *, on_card: bool) -> Needs:
    """What is expected; what was measured at full size; or what was measured with less, if even that is more."""
    expected, peak = wanted.needs(on_card=on_card), peak_of(wanted, peaks, on_card=on_card)
    if peak is None:
        return expected
    return _with_margin(peak.needs) if peak.is_full else larger(expected, peak.needs)


def measured_by(wanted: Wanted, report: Report, needs: Needs) -> Peak:
    ended = report.created + report.load_seconds
    return Peak(model=wanted.entry.name, needs=needs, is_full=report.is_peak_full, measured=ended)


def merged(before: Peak | None, peak: Peak) -> Peak:
    """Of two measurements of such launches, the larger of each."""
    if before is None:
        return peak
    needs, is_full = larger(before.needs, peak.needs), before.is_full or peak.is_full
    if (needs, is_full) == (before.needs, before.is_full):
        return before
    return peak.model_copy(update={"needs": needs, "is_full": is_full})


def _with_margin(needs: Needs) -> Needs:
    return Needs(memory_bytes=int(needs.memory_bytes * (1 + MARGIN)), card_bytes=int(needs.card_bytes * (1 + MARGIN)))


def larger(one: Needs, other: Needs) -> Needs:
    """The larger of both, of main memory and of cards."""
    return Needs(
        memory_bytes=max(one.memory_bytes, other.memory_bytes), card_bytes=max(one.card_bytes, other.card_bytes)
    )


def oldest(peaks: Peaks) -> list[str]:
    """The keys of those that are too many."""
    return sorted(peaks, key=lambda key: peaks[key].measured)[: max(len(peaks) - MOST_PEAKS, 0)]
