"""What a worker counts."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cluster import errors
from cluster.figures import Doing, Figures
from cluster.metrics import SECONDS, SIZES, Samples
from cluster.tally import Counting
from cluster.worker.batching import Batcher

TOKENS = (16, 64, 256, 1024, 4096, 16384, 65536)


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
        self._shared = gauge("cluster_shared_inputs", "Inputs answered by a computation under way for another request.")
        self._cache_bytes = gauge("cluster_cache_bytes", "Bytes of the answers that are kept.")
        self._cache_hits = gauge("cluster_cache_hits", "Inputs that were answered from what is kept.")
        self._cache_misses = gauge("cluster_cache_misses", "Inputs that were looked for in the cache and not found.")
        self._load = gauge("cluster_load_seconds", "Time from start to READY.")
        self._memory = gauge("cluster_worker_memory_bytes", "Memory of the worker when it was READY.")
        self._labels = values
        #: The same for those who draw it: answers that took how long can be added up.
        self._ended = Counting()
        self._token_count = self._batches = self._batch_inputs = 0

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
        self._batches += 1
        self._batch_inputs += items

    def answered(self, waited: float, seconds: float, tokens: int) -> None:
        self._wait.observe(waited)
        self._seconds.observe(seconds)
        self._tokens.inc(tokens)
        self._ended.answered(seconds)
        self._token_count += tokens

    def failed(self, error: errors.ClusterError) -> None:
        self._errors.labels(*self._labels, error.code()).inc()
        # What its caller is to blame for, or has given up, is no error of the model.
        if error.status >= 500 or isinstance(error, errors.Overloaded):
            self._ended.failed()

    def figures(self, doing: Doing, memory_bytes: int) -> Figures:
        return Figures(self._ended.so_far, self._token_count, self._batches, self._batch_inputs, doing, memory_bytes)

    def loaded(self, seconds: float, memory_bytes: int) -> None:
        self._load.set(seconds)
        self._memory.set(memory_bytes)

    def collect(self) -> Samples:
        return list(self._registry.collect())
