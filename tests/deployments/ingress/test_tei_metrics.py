"""What dashboards for text-embeddings-inference find."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from cluster.metrics import joined, page
from cluster.worker.metrics import WorkerMetrics
from deployments.ingress.metrics import IngressMetrics
from deployments.ingress.tei_metrics import NAMES, with_tei_names


def numbers() -> dict[str, float]:
    """By name, the sum over all labels."""
    ingress, worker = IngressMetrics("i0"), WorkerMetrics("m", "r0")
    for route, status in (("/embed", 200), ("/embed", 200), ("/embed", 422), ("/rerank", 503), ("/v1/models", 200)):
        ingress.request(route, status, 0.5)
    worker.batch(3, 40, 0.1)
    worker.answered(0.01, 0.2, 40)
    text = joined([page(with_tei_names(ingress.collect())), page(worker.collect())], NAMES).decode()
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


def test_requests_to_its_routes_are_counted_in_its_words() -> None:
    sums = numbers()
    assert (sums["te_request_count"], sums["te_request_success"], sums["te_request_failure"]) == (4, 2, 2)
    assert (sums["te_embed_count"], sums["te_embed_success"], sums["te_rerank_count"]) == (3, 2, 1)
    assert "te_rerank_success" not in sums
    assert (sums["te_request_duration_count"], sums["te_request_duration_sum"]) == (4, 2.0)


def test_queues_and_batches_have_its_names_as_well() -> None:
    sums = numbers()
    assert (sums["te_batch_next_size_sum"], sums["te_batch_next_tokens_sum"]) == (3, 40)
    assert sums["te_request_queue_duration_sum"] == sums["cluster_queue_wait_seconds_sum"] == 0.01
    assert sums["te_queue_size"] == sums["cluster_queue_items"] == 0


def test_our_own_names_stay() -> None:
    sums = numbers()
    assert sums["cluster_http_requests_total"] == 5
