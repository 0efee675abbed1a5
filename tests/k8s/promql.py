"""Evaluates the part of PromQL that the chart's alerts and dashboards use, over series that a test writes down.

Prometheus' own parser, from a package, reads the expressions, so what parses here parses in Prometheus.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import promql_parser as p

Labels = frozenset[tuple[str, str]]
#: An instant vector. A plain number is a vector with one value without labels.
Vector = dict[Labels, float]


@dataclass(frozen=True)
class Series:
    """Samples of one series, taken every `step` seconds; the last one is now."""

    name: str
    labels: Mapping[str, str]
    values: Sequence[float]
    step: float = 30.0

    @property
    def key(self) -> Labels:
        return frozenset(self.labels.items())


def parse(expression: str) -> p.Expr:
    return p.parse(expression)


def evaluate(expression: str, series: Iterable[Series]) -> Vector | float:
    return _Evaluation(list(series)).of(parse(expression))


def metrics_of(expression: str) -> set[str]:
    """The names of all metrics in an expression."""
    found: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, p.VectorSelector):
            found.add(node.name)
        for part in ("expr", "lhs", "rhs", "vector_selector", "param"):
            inner = getattr(node, part, None)
            if isinstance(inner, p.Expr):
                visit(inner)
        for inner in getattr(node, "args", ()) or ():
            visit(inner)

    visit(parse(expression))
    return found


class _Evaluation:
    def __init__(self, series: list[Series]) -> None:
        self._series = series

    def of(self, node: Any) -> Vector | float:
        if isinstance(node, p.NumberLiteral):
            return float(node.val)
        if isinstance(node, p.ParenExpr):
            return self.of(node.expr)
        if isinstance(node, p.VectorSelector):
            return {one.key: one.values[-1] for one in self._chosen(node)}
        if isinstance(node, p.AggregateExpr):
            return self._aggregate(node)
        if isinstance(node, p.BinaryExpr):
            return self._binary(node)
        if isinstance(node, p.Call):
            return self._call(node)
        raise NotImplementedError(f"{type(node).__name__} is not known to this evaluator")

    def _vector(self, node: Any) -> Vector:
        found = self.of(node)
        assert isinstance(found, dict), f"a vector was expected, not {found}"
        return found

    def _chosen(self, selector: Any) -> list[Series]:
        assert not selector.offset and not selector.at
        return [
            one
            for one in self._series
            if one.name == selector.name and all(_matches(m, one.labels) for m in selector.matchers.matchers)
        ]

    def _call(self, node: Any) -> Vector | float:
        name, args = node.func.name, node.args
        if name in OVER_TIME:
            (matrix,) = args
            assert isinstance(matrix, p.MatrixSelector)
            seconds = matrix.range.total_seconds()
            found = {}
            for one in self._chosen(matrix.vector_selector):
                window = one.values[-(int(seconds // one.step) + 1) :]
                if len(window) > 1:
                    found[one.key] = OVER_TIME[name](window, one.step, seconds)
            return found
        if name == "absent":
            selector = args[0]
            return {} if self._vector(selector) else {_equal_labels(selector): 1.0}
        if name == "histogram_quantile":
            share = self.of(args[0])
            assert isinstance(share, float)
            return _quantile(share, self._vector(args[1]))
        if name == "vector":
            value = self.of(args[0])
            assert isinstance(value, float)
            return {frozenset(): value}
        raise NotImplementedError(f"{name}() is not known to this evaluator")

    def _aggregate(self, node: Any) -> Vector:
        modifier = node.modifier
        kept = frozenset(modifier.labels) if modifier else frozenset()
        assert modifier is None or modifier.type == p.AggModifierType.By
        groups: dict[Labels, list[float]] = defaultdict(list)
        for labels, value in self._vector(node.expr).items():
            groups[frozenset(pair for pair in labels if pair[0] in kept)].append(value)
        return {labels: AGGREGATES[str(node.op)](values) for labels, values in groups.items()}

    def _binary(self, node: Any) -> Vector | float:
        left, right, operator = self.of(node.lhs), self.of(node.rhs), str(node.op)
        matching = node.modifier.matching if node.modifier else None
        on = frozenset(matching.labels) if matching else None
        assert matching is None or matching.type == p.LabelModifierType.Include
        if operator == "and":
            assert isinstance(left, dict) and isinstance(right, dict)
            there = {_part(labels, on) for labels in right}
            return {labels: value for labels, value in left.items() if _part(labels, on) in there}
        if isinstance(left, float) and isinstance(right, float):
            return ARITHMETIC[operator](left, right)
        pairs = _pairs(left, right, on)
        if operator in COMPARISONS:
            return {labels: a for labels, a, b in pairs if COMPARISONS[operator](a, b)}
        return {labels: ARITHMETIC[operator](a, b) for labels, a, b in pairs}


def _pairs(left: Vector | float, right: Vector | float, on: frozenset[str] | None) -> list[tuple[Labels, float, float]]:
    if isinstance(right, float):
        assert isinstance(left, dict)
        return [(labels, value, right) for labels, value in left.items()]
    if isinstance(left, float):
        return [(labels, left, value) for labels, value in right.items()]
    others = {_part(labels, on): value for labels, value in right.items()}
    assert len(others) == len(right), "several series on the right match one on the left"
    found = [(_part(labels, on), value) for labels, value in left.items()]
    return [(labels, value, others[labels]) for labels, value in found if labels in others]


def _part(labels: Labels, on: frozenset[str] | None) -> Labels:
    return labels if on is None else frozenset(pair for pair in labels if pair[0] in on)


def _matches(matcher: Any, labels: Mapping[str, str]) -> bool:
    value, operator = labels.get(matcher.name, ""), matcher.op
    if operator == p.MatchOp.Equal:
        return bool(value == matcher.value)
    if operator == p.MatchOp.NotEqual:
        return bool(value != matcher.value)
    matched = re.fullmatch(matcher.value, value) is not None
    return matched if operator == p.MatchOp.Re else not matched


def _equal_labels(selector: Any) -> Labels:
    matchers = selector.matchers.matchers
    return frozenset((m.name, m.value) for m in matchers if m.op == p.MatchOp.Equal)


def _increase(values: Sequence[float], step: float, seconds: float) -> float:
    """Like Prometheus: a smaller value means a restart from zero, and the ends of the window are extrapolated."""
    total = sum(after - before if after >= before else after for before, after in zip(values, values[1:], strict=False))
    return total * seconds / (step * (len(values) - 1))


def _quantile(share: float, buckets: Vector) -> Vector:
    groups: dict[Labels, list[tuple[float, float]]] = defaultdict(list)
    for labels, count in buckets.items():
        limit = dict(labels)["le"]
        groups[frozenset(pair for pair in labels if pair[0] != "le")].append((float(limit), count))
    return {labels: _within(share, sorted(rows)) for labels, rows in groups.items()}


def _within(share: float, rows: list[tuple[float, float]]) -> float:
    rank = share * rows[-1][1]
    if not rows[-1][1]:
        return math.nan
    below, before = 0.0, 0.0
    for limit, count in rows:
        if count >= rank:
            return (
                below if math.isinf(limit) else below + (limit - below) * (rank - before) / max(count - before, 1e-12)
            )
        below, before = limit, count
    return below


OVER_TIME: dict[str, Callable[[Sequence[float], float, float], float]] = {
    "increase": _increase,
    "rate": lambda values, step, seconds: _increase(values, step, seconds) / seconds,
    "resets": lambda values, step, seconds: float(sum(b < a for a, b in zip(values, values[1:], strict=False))),
}
AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "sum": sum,
    "max": max,
    "count": lambda values: float(len(values)),
    "avg": lambda values: sum(values) / len(values),
}
ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b if b else math.nan if not a else math.inf,
}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {">": lambda a, b: a > b}
