"""What each kind of process counts, and how the counts of many processes become one page.

Every process keeps its own registry; its samples travel as plain metric families and carry who they are from, so that
nothing has to be added up here: Prometheus does that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

from cluster.batching import Batcher

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TOKENS = (16, 64, 256, 1024, 4096, 16384, 65536)

Samples = list[Metric]


class WorkerMetrics:
    """One worker: its queue, its batches, its answers."""

    def __init__(self, model: str, replica: str) -> None:
        self._registry = CollectorRegistry()
        names, values = ("model", "replica"), (model, replica)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, names, registry=self._registry).labels(*values)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, text, names, buckets=buckets, registry=self._registry).labels(*values)

        self._queue_items = gauge("cluster_queue_items", "Inputs waiting before the model.")
        self._queue_tokens = gauge("cluster_queue_tokens", "Tokens waiting before the model.")
        self._wait = histogram("cluster_queue_wait_seconds", "Time a request waited in the queue.", SECONDS)
        self._batch_items = histogram("cluster_batch_items", "Inputs in one batch.", SIZES)
        self._batch_tokens = histogram("cluster_batch_tokens", "Tokens in one batch.", TOKENS)
        self._batch_seconds = histogram("cluster_batch_seconds", "Time the model took for one batch.", SECONDS)
        self._seconds = histogram("cluster_inference_seconds", "Time in the worker, waiting included.", SECONDS)
        self._tokens = Counter("cluster_tokens", "Tokens answered.", names, registry=self._registry).labels(*values)
        self._errors = Counter(
            "cluster_inference_errors", "Requests a worker failed, by kind.", (*names, "code"), registry=self._registry
        )
        self._speed = gauge("cluster_tokens_per_second", "Tokens the model computes per second while it computes.")
        self._shared = gauge(
            "cluster_shared_inputs", "Inputs answered by what was computed for somebody else just then."
        )
        self._cache_bytes = gauge("cluster_cache_bytes", "Bytes of the answers that are kept.")
        self._cache_hits = gauge("cluster_cache_hits", "Inputs that were answered from what is kept.")
        self._cache_misses = gauge("cluster_cache_misses", "Inputs that were looked for there in vain.")
        self._load = gauge("cluster_load_seconds", "Time from start to READY.")
        self._memory = gauge("cluster_worker_memory_bytes", "Memory of the worker when it was READY.")
        self._labels = values

    def queue(self, batcher: Batcher) -> None:
        self._queue_items.set(batcher.waiting)
        self._queue_tokens.set(batcher.waiting_tokens)
        self._speed.set(batcher.speed)
        self._shared.set(batcher.shared)
        if batcher.cache is not None:
            self._cache_bytes.set(batcher.cache.bytes)
            self._cache_hits.set(batcher.cache.hits)
            self._cache_misses.set(batcher.cache.misses)

    def batch(self, items: int, tokens: int, seconds: float) -> None:
        self._batch_items.observe(items)
        self._batch_tokens.observe(tokens)
        self._batch_seconds.observe(seconds)

    def answered(self, waited: float, seconds: float, tokens: int) -> None:
        self._wait.observe(waited)
        self._seconds.observe(seconds)
        self._tokens.inc(tokens)

    def failed(self, code: str) -> None:
        self._errors.labels(*self._labels, code).inc()

    def loaded(self, seconds: float, memory_bytes: int) -> None:
        self._load.set(seconds)
        self._memory.set(memory_bytes)

    def collect(self) -> Samples:
        return list(self._registry.collect())


class IngressMetrics:
    """One ingress replica: what came in and what went out."""

    def __init__(self, ingress: str) -> None:
        self._registry = CollectorRegistry()
        self.ingress = ingress
        self._requests = Counter(
            "cluster_http_requests",
            "Requests, by route and status.",
            ("ingress", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "cluster_http_seconds", "Time of a request.", ("ingress", "route"), buckets=SECONDS, registry=self._registry
        )
        self._errors = Counter(
            "cluster_errors", "Error answers, by kind.", ("ingress", "code"), registry=self._registry
        )
        self._retries = Counter(
            "cluster_retries", "Calls sent again to another worker.", ("ingress", "model"), registry=self._registry
        )
        self._gathered = Histogram(
            "cluster_gathered_requests",
            "Requests in one call to a worker.",
            ("ingress",),
            buckets=SIZES,
            registry=self._registry,
        ).labels(ingress)
        self._stalls = Histogram(
            "cluster_loop_stall_seconds",
            "How late a timer of the ingress came: it answered nobody meanwhile.",
            ("ingress",),
            buckets=SECONDS,
            registry=self._registry,
        ).labels(ingress)
        self._longest_stall = Gauge(
            "cluster_loop_longest_stall_seconds",
            "The longest of these since it was last asked.",
            ("ingress",),
            registry=self._registry,
        ).labels(ingress)
        self._longest = 0.0
        #: Looking one up by its labels costs more than counting.
        self._of_route: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def request(self, route: str, status: int, seconds: float) -> None:
        found = self._of_route.get((route, status))
        if found is None:
            found = (
                self._requests.labels(self.ingress, route, str(status)),
                self._seconds.labels(self.ingress, route),
            )
            self._of_route[route, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def error(self, code: str) -> None:
        self._errors.labels(self.ingress, code).inc()

    def retry(self, model: str) -> None:
        self._retries.labels(self.ingress, model).inc()

    def gathered(self, requests: int) -> None:
        self._gathered.observe(requests)

    def stalled(self, seconds: float) -> None:
        self._stalls.observe(seconds)
        self._longest = max(self._longest, seconds)

    def collect(self) -> Samples:
        self._longest_stall.set(self._longest)
        self._longest = 0.0
        return list(self._registry.collect())


def gauge_family(name: str, text: str, rows: Iterable[tuple[dict[str, str], float]]) -> Metric:
    """A gauge made from what is known now, for facts that are derived and not counted."""
    family = Metric(name, text, "gauge")
    for labels, value in rows:
        family.add_sample(name, labels, value)
    return family


def page(samples: Iterable[Metric], sees: Callable[[str], bool] = lambda uid: True) -> bytes:
    """The text page of families from any number of processes, for somebody who may see these models."""

    class Merged:
        def collect(self) -> Iterator[Metric]:
            merged: dict[str, Metric] = {}
            for family in samples:
                known = merged.get(family.name)
                if known is None:
                    known = merged[family.name] = Metric(family.name, family.documentation, family.type)
                known.samples += [
                    one for one in family.samples if "model" not in one.labels or sees(one.labels["model"])
                ]
            yield from merged.values()

    return bytes(generate_latest(Merged()))
