"""What launches were measured to take, which counts where it is more than what they were expected to take. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from cluster.launch import Needs, Wanted
from cluster.value import Value

#: Measurements that a supervisor takes over from the one before.
MOST_PEAKS = 1000


class Peak(Value):
    """The most that a worker of such a launch took until it was READY, after a warm-up at the largest size allowed."""

    model: str
    needs: Needs
    #: Seconds since 1970.
    measured: float = 0.0


Peaks = Mapping[str, Peak]


def key_of(wanted: Wanted, *, on_card: bool) -> str:
    """Equal for launches that load the same weights in the same way on the same kind of device."""
    entry, source, spec = wanted.entry, wanted.source, wanted.spec
    told = {
        "source": [source.hub, source.id, source.revision, source.path, source.variant, sorted(source.exclude)],
        "family": wanted.family,
        "options": {**entry.options, **spec.options},
        "engine": spec.model_engine,
        "quantization": spec.quantization,
        "envs": spec.envs,
        "cards": spec.n_gpu if on_card else None,
        "on_card": on_card,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:32]


def peak_of(wanted: Wanted, peaks: Peaks, *, on_card: bool) -> Peak | None:
    """What was measured of such a launch, unless the launch itself says how much to claim."""
    return peaks.get(key_of(wanted, on_card=on_card)) if peaks and wanted.spec.memory is None else None


def needs_of(wanted: Wanted, peaks: Peaks, *, on_card: bool) -> Needs:
    """What is expected, or measured where that is more: on CPU a warm-up may stop short of the largest picture."""
    expected, peak = wanted.needs(on_card=on_card), peak_of(wanted, peaks, on_card=on_card)
    return expected if peak is None else larger(expected, peak.needs)


def larger(one: Needs, other: Needs) -> Needs:
    """The larger of both, of main memory and of cards."""
    return Needs(
        memory_bytes=max(one.memory_bytes, other.memory_bytes), card_bytes=max(one.card_bytes, other.card_bytes)
    )


def oldest(peaks: Peaks) -> list[str]:
    """The keys of those that are too many."""
    return sorted(peaks, key=lambda key: peaks[key].measured)[: max(len(peaks) - MOST_PEAKS, 0)]
