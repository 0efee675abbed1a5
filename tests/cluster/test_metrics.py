from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster import errors
from cluster.metrics import gauge_page, joined, page, without_models
from cluster.worker.batching import Batcher
from cluster.worker.cache import AnswerCache
from cluster.worker.metrics import WorkerMetrics
from deployments.ingress.metrics import IngressMetrics


def values(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The values that Prometheus would read."""
    families = text_string_to_metric_families(text.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def labelled(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def a_queue() -> Batcher:
    """A queue in which three inputs of ten tokens wait, with one hit and one miss of the cache and one shared input."""
    queue = Batcher(lambda batch: batch, ThreadPoolExecutor(1), cache=AnswerCache(1000))
    queue.waiting, queue.waiting_tokens, queue.speed, queue.shared = 3, 30, 500.0, 1
    assert queue.cache is not None and queue.cache.get("a") is None
    queue.cache.put("a", "b")
    assert queue.cache.get("a") == "b"
    return queue


def a_worker(replica: str = "r0") -> WorkerMetrics:
    worker = WorkerMetrics("m", replica)
    worker.queue(a_queue())
    worker.batch(2, 20, 0.1)
    worker.answered(0.01, 0.2, 20)
    worker.failed(errors.DeadlineExceeded("It took too long."))
    worker.loaded(1.5, 1000)
    return worker


def test_a_worker_tells_of_its_queue_its_batches_and_its_answers() -> None:
    found = values(page(a_worker().collect()))
    mine = {"model": "m", "replica": "r0"}
    assert found[labelled("cluster_queue_items", **mine)] == 3
    assert found[labelled("cluster_queue_tokens", **mine)] == 30
    assert found[labelled("cluster_tokens_per_second", **mine)] == 500
    assert found[labelled("cluster_shared_inputs", **mine)] == 1
    assert found[labelled("cluster_cache_hits", **mine)] == found[labelled("cluster_cache_misses", **mine)] == 1
    assert found[labelled("cluster_cache_bytes", **mine)] > 300
    assert found[labelled("cluster_batch_items_sum", **mine)] == 2
    assert found[labelled("cluster_tokens_total", **mine)] == 20
    assert found[labelled("cluster_inference_seconds_count", **mine)] == 1
    assert found[labelled("cluster_inference_errors_total", **mine, code="deadline_exceeded")] == 1
    assert found[labelled("cluster_load_seconds", **mine)] == 1.5


def test_an_ingress_tells_of_its_requests() -> None:
    ingress = IngressMetrics("i0")
    ingress.request("/v1/embeddings", 200, 0.1)
    ingress.request("/v1/embeddings", 200, 0.1)
    ingress.error("overloaded")
    ingress.retry("m")
    ingress.gathered(4)
    found = values(page(ingress.collect()))
    assert found[labelled("cluster_http_requests_total", ingress="i0", route="/v1/embeddings", status="200")] == 2
    assert found[labelled("cluster_errors_total", ingress="i0", code="overloaded")] == 1
    assert found[labelled("cluster_retries_total", ingress="i0", model="m")] == 1
    assert found[labelled("cluster_gathered_requests_sum", ingress="i0")] == 4


def test_samples_of_many_processes_are_one_page() -> None:
    text = page([*a_worker("r0").collect(), *a_worker("r1").collect(), *IngressMetrics("i0").collect()]).decode()
    assert text.count("# TYPE cluster_queue_items gauge") == 1
    assert text.count("# TYPE cluster_batch_seconds histogram") == 1
    assert {line for line in text.splitlines() if line.startswith("cluster_queue_items{")} == {
        'cluster_queue_items{model="m",replica="r0"} 3.0',
        'cluster_queue_items{model="m",replica="r1"} 3.0',
    }


def test_a_page_can_be_made_twice_of_the_same_samples() -> None:
    samples = [*a_worker("r0").collect(), *a_worker("r1").collect()]
    assert page(samples) == page(samples)


def test_joined_pages_are_the_page_of_all_samples() -> None:
    parts = [a_worker("r0").collect(), a_worker("r1").collect(), IngressMetrics("i0").collect()]
    whole = joined([page(samples) for samples in parts], {}).decode()
    every = page([family for samples in parts for family in samples]).decode()
    assert sorted(whole.splitlines()) == sorted(every.splitlines())
    assert whole.count("# TYPE cluster_batch_seconds histogram") == 1
    # All samples of a family stand together, or Prometheus refuses the page.
    names = [family.name for family in text_string_to_metric_families(whole)]
    assert len(names) == len(set(names))


def test_a_family_is_told_under_its_other_name_too() -> None:
    pages = [page(a_worker(replica).collect()) for replica in ("r0", "r1")]
    text = joined(pages, {"cluster_queue_items": "te_queue_size"}).decode()
    assert 'te_queue_size{model="m",replica="r1"} 3.0' in text
    assert text.count("# TYPE te_queue_size gauge") == text.count("# TYPE cluster_queue_items gauge") == 1


def test_nothing_is_joined_to_nothing() -> None:
    assert joined([], {}) == joined([b""], {}) == b""


@pytest.mark.parametrize("uid", ['a"b', "a\\b", "a.b-c_d"])
def test_lines_about_models_that_a_reader_may_not_see_are_left_out(uid: str) -> None:
    rows = [({"model": uid, "state": "READY"}, 1.0), ({"model": "mine"}, 2.0), ({"other_model": uid}, 3.0)]
    text = without_models(gauge_page("cluster_x", "X.", rows), lambda model: model == "mine").decode()
    assert [line.rpartition(" ")[2] for line in text.splitlines() if not line.startswith("#")] == ["2.0", "3.0"]


def test_a_page_of_a_thousand_workers_is_joined_in_no_time() -> None:
    text = page(a_worker().collect())
    began = time.perf_counter()
    whole = joined([text] * 1000, {})
    assert len(whole) > 5_000_000
    assert time.perf_counter() - began < 2.0


def test_a_gauge_is_made_of_what_is_known_now() -> None:
    rows = [({"model": "a"}, 2.0), ({"model": "b"}, 1.0)]
    found = values(gauge_page("cluster_replicas_wanted", "Workers wanted.", rows))
    assert found == {
        labelled("cluster_replicas_wanted", model="a"): 2.0,
        labelled("cluster_replicas_wanted", model="b"): 1.0,
    }


@pytest.mark.parametrize("uid", ['a"b', "a\\b", "a\nb", "漢字"])
def test_labels_of_any_text_are_read_again(uid: str) -> None:
    found = values(gauge_page("cluster_replicas_wanted", "Workers wanted.", [({"model": uid}, 1.0)]))
    assert found == {labelled("cluster_replicas_wanted", model=uid): 1.0}


def test_no_samples_are_an_empty_page() -> None:
    assert page([]) == b""
