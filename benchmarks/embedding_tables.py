"""What is measured of embedding and rerank servers, and tables of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from benchmarks.workloads import (
    Workload,
)

#: Below this an answer is another one than the model's: int8 stays above it, another pooling does not.
LEAST_AGREEMENT = 0.98


@dataclass(frozen=True)
class Row:
    """One workload against one server in one round."""

    server: str
    precision: str
    workload: str
    requests_per_s: float
    docs_per_s: float
    tokens_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_s_per_1000_tokens: float
    peak_mb: float
    failed: int
    first_failure: str
    #: Of one core: the load generator, and the sampling of the server's memory.
    generator_share: float
    sampling_share: float


@dataclass(frozen=True)
class Check:
    """How far a server's answers are those of sentence-transformers."""

    server: str
    kind: str
    agreement: float
    least: float
    engine: str

    @property
    def is_right(self) -> bool:
        return self.agreement >= LEAST_AGREEMENT


@dataclass(frozen=True)
class Overload:
    server: str
    capacity_per_s: float
    alone_p50_ms: float
    alone_p99_ms: float
    full_p50_ms: float
    full_p99_ms: float
    offered_per_s: float
    accepted: int
    accepted_p50_ms: float
    accepted_p99_ms: float
    refused: int
    refused_p50_ms: float
    refused_p99_ms: float
    with_retry_after: int
    failed: int
    first_failure: str
    memory_before_mb: float
    memory_peak_mb: float
    memory_after_mb: float


# What is shown.


def median(rows: Sequence[Row]) -> Row:
    values = {
        field.name: statistics.median(getattr(row, field.name) for row in rows)
        if field.type == "float"
        else getattr(rows[0], field.name)
        for field in fields(Row)
    }
    values["failed"] = sum(row.failed for row in rows)
    values["first_failure"] = next((row.first_failure for row in rows if row.first_failure), "")
    return Row(**values)


#: What each workload is about: the field, and whether more of it is better.
ABOUT = {
    "a": ("requests_per_s", True),
    "b": ("docs_per_s", True),
    "c": ("p50_ms", False),
    "d": ("p99_ms", False),
    "e": ("docs_per_s", True),
    "f": ("docs_per_s", True),
}


def best_rival(row: Row, rows: Iterable[Row]) -> Row | None:
    """Of the same workload and precision; bf16 is held against fp32, and what `auto` chose against all."""
    against = {"bf16": ("fp32",), "auto": ("fp32", "int8")}.get(row.precision, (row.precision,))
    theirs = [
        one
        for one in rows
        if one.workload == row.workload
        and not one.server.startswith("ours")
        and one.precision in against
        and not one.failed
    ]
    name, more_is_better = ABOUT[row.workload]
    return (max if more_is_better else min)(theirs, key=lambda one: getattr(one, name), default=None)


def table(workload: Workload, rows: Sequence[Row], wrong: frozenset[str]) -> str:
    name, _ = ABOUT[workload.letter]
    lines = [
        f"\n### ({workload.letter}) {workload.says}\n",
        "| | precision | requests/s | docs/s | tokens/s | p50 ms | p99 ms | CPU s per 1,000 tokens | peak MB "
        "| of the best rival |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    of_this = [row for row in rows if row.workload == workload.letter]
    for row in of_this:
        rival = best_rival(row, of_this) if row.server.startswith("ours") else None
        share = f"{getattr(row, name) / getattr(rival, name):.2f} × {rival.server}" if rival else ""
        notes = " (wrong answers)" if row.server in wrong else f" ({row.failed} failed)" if row.failed else ""
        lines.append(
            f"| {row.server}{notes} | {row.precision} | {row.requests_per_s:.1f} | {row.docs_per_s:.0f} "
            f"| {row.tokens_per_s:.0f} | {row.p50_ms:.1f} | {row.p99_ms:.1f} | {row.cpu_s_per_1000_tokens:.3f} "
            f"| {row.peak_mb:.0f} | {share} |"
        )
    return "\n".join(lines)


def overload_table(found: Sequence[Overload]) -> str:
    lines = [
        "\n### (g) ten times the capacity, requests of eight documents that do not wait for one another\n",
        "| | capacity/s | alone p50, p99 ms | full p50, p99 ms | offered/s | accepted: count, p50, p99 ms "
        "| 429s: count, with Retry-After, p50, p99 ms | failed | MB before, peak, after |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        lines.append(
            f"| {one.server} | {one.capacity_per_s:.1f} | {one.alone_p50_ms:.0f}, {one.alone_p99_ms:.0f} "
            f"| {one.full_p50_ms:.0f}, {one.full_p99_ms:.0f} | {one.offered_per_s:.0f} "
            f"| {one.accepted}, {one.accepted_p50_ms:.0f}, {one.accepted_p99_ms:.0f} "
            f"| {one.refused}, {one.with_retry_after}, "
            f"{one.refused_p50_ms:.0f}, {one.refused_p99_ms:.0f} | {one.failed} "
            f"| {one.memory_before_mb:.0f}, {one.memory_peak_mb:.0f}, {one.memory_after_mb:.0f} |"
        )
    return "\n".join(lines)
