"""Makes one page of metrics from what many processes count.

Every process keeps its own registry. Its samples travel as plain metric families with labels that say which process
they are from, so nothing has to be added up here: Prometheus does that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
Samples = list[Metric]


def gauge_family(name: str, text: str, rows: Iterable[tuple[dict[str, str], float]]) -> Metric:
    """A gauge for values that are derived now instead of being counted."""
    family = Metric(name, text, "gauge")
    for labels, value in rows:
        family.add_sample(name, labels, value)
    return family


def page(samples: Iterable[Metric], sees: Callable[[str], bool] = lambda uid: True) -> bytes:
    """The text page of families from any number of processes, without the models that the reader may not see."""

    class Merged:
        def collect(self) -> Iterator[Metric]:
            merged: dict[str, Metric] = {}
            for family in samples:
                if family.name not in merged:
                    merged[family.name] = Metric(family.name, family.documentation, family.type)
                merged[family.name].samples += [
                    sample for sample in family.samples if "model" not in sample.labels or sees(sample.labels["model"])
                ]
            yield from merged.values()

    return bytes(generate_latest(Merged()))
