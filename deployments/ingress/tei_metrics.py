"""Our metrics under the names of text-embeddings-inference as well, for dashboards that were made for it.

Nothing is counted twice: what every process counts anyway is told again under the other names.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

from cluster.metrics import Samples

#: Its routes, by the word that it has for what they do.
ROUTES = {
    "/": "embed",
    "/invocations": "embed",
    "/vertex": "embed",
    "/embed": "embed",
    "/embed_all": "embed",
    "/embed_sparse": "embed",
    "/embeddings": "embed",
    "/v1/embeddings": "embed",
    "/similarity": "embed",
    "/rerank": "rerank",
    "/predict": "predict",
    "/tokenize": "tokenize",
    "/decode": "decode",
}
#: The names of families of a worker.
NAMES = {
    "cluster_queue_items": "te_queue_size",
    "cluster_batch_items": "te_batch_next_size",
    "cluster_batch_tokens": "te_batch_next_tokens",
    "cluster_queue_wait_seconds": "te_request_queue_duration",
    "cluster_batch_seconds": "te_request_inference_duration",
}
#: Its words for the ways in which a request fails.
FAILURES = {
    413: "validation",
    422: "validation",
    400: "validation",
    404: "validation",
    424: "backend",
    429: "overloaded",
}


def with_tei_names(samples: Samples) -> Samples:
    """The samples of an ingress, and behind them those that it would tell; of workers, see `NAMES`."""
    return [*samples, *_of_requests(samples)]


def _of_requests(samples: Iterable[Metric]) -> Samples:
    rows: Samples = []
    for family in samples:
        if family.name == "cluster_http_requests":
            rows += _counts(family)
        elif family.name == "cluster_http_seconds":
            rows.append(_renamed(_of_routes(family), family.name, "te_request_duration"))
    return rows


def _counts(family: Metric) -> Samples:
    """Its counters have no `_total`, so they are told as bare numbers."""
    counts: dict[str, Metric] = {}

    def add(name: str, text: str, labels: dict[str, str], value: float) -> None:
        counts.setdefault(name, Metric(name, text, "unknown")).add_sample(name, labels, value)

    for sample in _of_routes(family).samples:
        if not sample.name.endswith("_total"):
            continue
        labels = {name: value for name, value in sample.labels.items() if name != "status"} | {"method": "single"}
        kind, status = ROUTES[sample.labels["route"]], int(sample.labels["status"])
        labels["status"] = str(status)
        add("te_request_count", "Requests.", labels, sample.value)
        add(f"te_{kind}_count", f"Requests to {kind}.", labels, sample.value)
        if status < 400:
            add("te_request_success", "Requests that were answered.", labels, sample.value)
            add(f"te_{kind}_success", f"Requests to {kind} that were answered.", labels, sample.value)
        else:
            err = {"err": FAILURES.get(status, "unhealthy" if status == 503 else "backend")}
            add("te_request_failure", "Requests that failed.", {**labels, **err}, sample.value)
    return list(counts.values())


def _of_routes(family: Metric) -> Metric:
    chosen = Metric(family.name, family.documentation, family.type)
    chosen.samples = [sample for sample in family.samples if sample.labels.get("route") in ROUTES]
    return chosen


def _renamed(family: Metric, before: str, after: str) -> Metric:
    renamed = Metric(after, family.documentation, family.type)
    renamed.samples = [sample._replace(name=after + sample.name.removeprefix(before)) for sample in family.samples]
    return renamed
