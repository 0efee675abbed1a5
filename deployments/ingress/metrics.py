"""What an ingress counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cluster.metrics import SECONDS, SIZES, Samples


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
        series = self._of_route.get((route, status))
        if series is None:
            series = (
                self._requests.labels(self.ingress, route, str(status)),
                self._seconds.labels(self.ingress, route),
            )
            self._of_route[route, status] = series
        series[0].inc()
        series[1].observe(seconds)

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
