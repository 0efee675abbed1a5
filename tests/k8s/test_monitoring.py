"""Alerts and dashboards use only metrics that a running cluster exports, and alerts fire when they should."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.k8s import promql
from tests.k8s.promql import Series, evaluate, metrics_of
from tests.k8s.rendering import CHART, of_kind, only, rendered
from tests.live import LiveCluster

WATCHED: dict[str, Any] = {
    "monitoring": {"enabled": True},
    "nodeGroups": [
        {"name": "cpu", "cpus": "1", "memory": "1Gi", "pricePerHour": 0.5},
        {"name": "gpu", "cpus": "1", "memory": "1Gi", "gpus": 1, "pricePerHour": 4},
    ],
}
ALERTS: dict[str, dict[str, str]] = {
    alert["alert"]: alert for alert in yaml.safe_load((CHART / "rules" / "alerts.yaml").read_text())["alerts"]
}


def panels() -> list[tuple[str, str]]:
    """The title and the expression of every query of every dashboard."""
    boards = [yaml.safe_load(path.read_text()) for path in sorted((CHART / "dashboards").glob("*.yaml"))]
    return [
        (panel["title"], query["expr"]) for board in boards for panel in board["panels"] for query in panel["queries"]
    ]


def steady(name: str, value: float, **labels: str) -> Series:
    return Series(name, labels, [value] * 121)


def growing(name: str, per_second: float, **labels: str) -> Series:
    return Series(name, labels, [100 + 30 * per_second * number for number in range(121)])


def requests(status: str, per_second: float, ingress: str = "a") -> Series:
    return growing("cluster_http_requests_total", per_second, ingress=ingress, route="/v1/rerank", status=status)


def waits(**per_second_up_to: float) -> list[Series]:
    """A histogram of waiting times: `_5` is the rate of requests that waited up to five seconds."""
    of = {"model": "m", "replica": "0"}
    limits = {name.strip("_").replace("inf", "+Inf"): rate for name, rate in per_second_up_to.items()}
    return [growing("cluster_queue_wait_seconds_bucket", rate, le=limit, **of) for limit, rate in limits.items()]


def twice(*series: Series) -> list[Series]:
    """The same series from two ingresses, both of which report what they both know."""
    return [Series(one.name, {**one.labels, "pod": pod}, one.values) for one in series for pod in ("one", "two")]


RESTARTED = Series("cluster_uptime_seconds", {}, [float(number % 15 * 30) for number in range(121)])

#: For each alert: series with which it fires, and the most similar ones with which it does not.
CASES: dict[str, tuple[list[Series], list[Series]]] = {
    "ClusterDoesNotAnswer": ([], [requests("200", 0)]),
    "ClusterControlPlaneAway": ([requests("200", 1)], [requests("200", 1), steady("cluster_uptime_seconds", 9)]),
    "ClusterControlPlaneRestarts": (twice(RESTARTED), twice(growing("cluster_uptime_seconds", 1))),
    "ClusterModelFailed": (
        twice(steady("cluster_model_state", 1, model="m", state="FAILED")),
        twice(steady("cluster_model_state", 1, model="m", state="READY")),
    ),
    "ClusterModelNotReady": (
        twice(steady("cluster_model_state", 1, model="m", state="WAITING")),
        twice(steady("cluster_model_state", 1, model="m", state="READY")),
    ),
    "ClusterModelLosesWorkers": (
        twice(growing("cluster_worker_restarts", 4 / 1800, model="m")),
        twice(growing("cluster_worker_restarts", 2 / 1800, model="m")),
    ),
    "ClusterErrors": (
        twice(requests("200", 10), requests("500", 1), requests("200", 1, "b")),
        twice(requests("200", 10), requests("500", 0.4), requests("404", 5)),
    ),
    "ClusterRefuses": (
        twice(requests("200", 10), requests("429", 1)),
        twice(requests("200", 10), requests("429", 0.4), requests("500", 3)),
    ),
    "ClusterQueueIsLong": (
        twice(*waits(_5=9, _10=9.3, _30=10, _inf=10)),
        twice(*waits(_5=9, _10=9.6, _30=10, _inf=10)),
    ),
    "ClusterNodeIsFull": (
        twice(steady("cluster_node_claimed_bytes", 97, node="n"), steady("cluster_node_memory_bytes", 100, node="n")),
        twice(steady("cluster_node_claimed_bytes", 94, node="n"), steady("cluster_node_memory_bytes", 100, node="n")),
    ),
}


def test_every_alert_has_a_case() -> None:
    assert set(CASES) == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_fires_when_it_should_and_only_then(name: str) -> None:
    fires, is_quiet = CASES[name]
    assert evaluate(ALERTS[name]["expr"], fires) not in ({}, 0.0)
    assert evaluate(ALERTS[name]["expr"], is_quiet) == {}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_its_series_can_tell(name: str) -> None:
    """Every label in the text of an alert is a label of its result."""
    fired = evaluate(ALERTS[name]["expr"], CASES[name][0])
    assert isinstance(fired, dict)
    named = set(re.findall(r"\$labels\.(\w+)", ALERTS[name]["summary"] + ALERTS[name]["description"]))
    assert all(named <= {label for label, _ in labels} for labels in fired)


def test_the_evaluator_computes_what_prometheus_does() -> None:
    ten = [growing("c_total", 2, pod=pod, status="200") for pod in ("one", "two")]
    assert evaluate("sum(rate(c_total[5m]))", ten) == {frozenset(): pytest.approx(4)}  # type: ignore[comparison-overlap]
    assert evaluate("sum(max by (status) (rate(c_total[5m])))", ten) == {frozenset(): pytest.approx(2)}  # type: ignore[comparison-overlap]
    restart = Series("c_total", {}, [10, 20, 5, 15])
    assert evaluate("increase(c_total[90s])", [restart]) == {frozenset(): pytest.approx(25)}  # type: ignore[comparison-overlap]
    assert evaluate("resets(c_total[90s])", [restart]) == {frozenset(): 1.0}
    rows = [steady("h_bucket", count, le=le) for le, count in (("1", 50), ("2", 100), ("+Inf", 100))]
    assert evaluate("histogram_quantile(0.75, h_bucket)", rows) == {frozenset(): pytest.approx(1.5)}  # type: ignore[comparison-overlap]
    assert evaluate('absent(x{a="b"})', []) == {frozenset({("a", "b")}): 1.0}
    assert evaluate('x{a=~"b|c"} > 1', [steady("x", 2, a="c"), steady("x", 2, a="d")]) == {frozenset({("a", "c")}): 2.0}
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        promql.parse("sum by (rate(x[5m])")


@pytest.mark.parametrize(("title", "expression"), panels())
def test_a_panel_parses_and_counts_nothing_twice(title: str, expression: str) -> None:
    """Every ingress reports what all of them know, so duplicates must be removed before values are added up."""
    assert metrics_of(expression), title
    for metric in metrics_of(expression) - {"cluster_group_price_per_hour"}:
        if metric.startswith("cluster_"):
            assert re.search(rf"(max|min)( by \([\w, ]+\))? ?\([^()]*(\w+\()?{metric}", expression), (title, metric)


def test_cost_is_pods_times_their_price() -> None:
    (expression,) = [expression for title, expression in panels() if title == "Cost per hour"]
    pods = [
        steady("ray_node_mem_total", 1, group=group, pod=pod)
        for group, pod in (("cpu", "a"), ("gpu", "b"), ("gpu", "c"))
    ]
    prices = [
        steady("cluster_group_price_per_hour", 0.5, group="cpu"),
        steady("cluster_group_price_per_hour", 4, group="gpu"),
    ]
    assert evaluate(expression, [*pods, *prices]) == {
        frozenset({("group", "cpu")}): 0.5,
        frozenset({("group", "gpu")}): 8.0,
    }


def test_the_rendered_rules_and_boards_are_those_written_down() -> None:
    documents = rendered(WATCHED)
    prices, alerts = only(documents, "PrometheusRule")["spec"]["groups"]
    assert [(rule["labels"]["group"], evaluate(rule["expr"], [])) for rule in prices["rules"]] == [
        ("cpu", {frozenset(): 0.5}),
        ("gpu", {frozenset(): 4.0}),
    ]
    assert {rule["alert"]: rule["expr"] for rule in alerts["rules"]} == {n: a["expr"] for n, a in ALERTS.items()}
    assert (
        "{{ $labels.model }}"
        in next(r for r in alerts["rules"] if r["alert"] == "ClusterModelFailed")["annotations"]["summary"]
    )
    boards = [
        json.loads(text)
        for document in of_kind(documents, "ConfigMap")
        for name, text in document["data"].items()
        if name.endswith(".json")
    ]
    asked = [
        (panel["title"], query["expr"]) for board in boards for panel in board["panels"] for query in panel["targets"]
    ]
    assert sorted(asked) == sorted(panels())
    for board in boards:
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len(set(places)) == len(places)


@pytest.mark.ray
def test_every_metric_that_is_asked_for_is_told_by_a_running_cluster(live: LiveCluster, embedder: str) -> None:
    with live.client() as client:
        client.get_model(embedder).create_embedding(["a sentence"])
    asked = set().union(*(metrics_of(expression) for _, expression in panels()))
    asked |= set().union(*(metrics_of(alert["expr"]) for alert in ALERTS.values()))
    told = names_on(live.get("/metrics").text)
    recorded = {rule["record"] for rule in only(rendered(WATCHED), "PrometheusRule")["spec"]["groups"][0]["rules"]}
    rays = {name for name in asked if name.startswith("ray_")}
    assert asked - told - recorded - rays == set()
    # Ray's own metrics come from Ray under KubeRay; the Ray that is started here exports none.
    assert rays <= rays_own_names()


def names_on(page: str) -> set[str]:
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    families = text_string_to_metric_families(page)
    return {family.name + ending for family in families for ending in endings.get(family.type, ("",))}


def rays_own_names() -> set[str]:
    found = find_spec("ray")
    assert found is not None and found.origin is not None
    source = (Path(found.origin).parent / "dashboard/modules/reporter/reporter_agent.py").read_text()
    return {f"ray_{name}" for name in re.findall(r'"(node_\w+)": Gauge\(', source)}
