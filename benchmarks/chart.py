"""Draws the figures of benchmarks.embedding: python chart.py FIGURES.json CHART.png

Runs in an environment of its own, which has matplotlib.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first: there may be no screen

#: Workload, field, title. Longer is better in the first of each pair of lists, shorter in the second.
MORE_IS_BETTER = [
    ("a", "requests_per_s", "(a) 64 callers, short texts: requests/s"),
    ("b", "docs_per_s", "(b) 8 callers of 32 documents: docs/s"),
    ("e", "docs_per_s", "(e) rerank of 100 documents: docs/s"),
    ("f", "docs_per_s", "(f) one request of 2,048 texts: docs/s"),
]
LESS_IS_BETTER = [
    ("c", "p50_ms", "(c) one short query: p50, ms"),
    ("d", "p99_ms", "(d) queries beside a bulk job: p99, ms"),
    ("b", "cpu_s_per_1000_tokens", "(b) CPU seconds per 1,000 tokens"),
    ("b", "peak_mb", "(b) peak memory, MB"),
]
OURS, THEIRS, INK, MUTED = "#2563a8", "#a9b0b8", "#22262b", "#6b727a"


def panel(axes: Any, rows: list[dict[str, Any]], workload: str, field: str, title: str) -> None:
    of_this = [row for row in rows if row["workload"] == workload]
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    if not of_this:
        axes.set_axis_off()
        axes.text(0, 0.9, "not measured", fontsize=9, color=MUTED, transform=axes.transAxes)
        return
    values = [row[field] for row in of_this]
    colours = [OURS if row["server"].startswith("ours") else THEIRS for row in of_this]
    places = range(len(of_this))
    axes.barh(places, values, color=colours, height=0.72)
    axes.set_yticks(places, [f"{row['server']}  {row['precision']}" for row in of_this], fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, max(values) * 1.18)
    for place, value in zip(places, values, strict=True):
        text = f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
        axes.text(value + max(values) * 0.012, place, text, va="center", fontsize=8, color=INK)
    axes.xaxis.set_visible(False)
    axes.tick_params(left=False)
    for side in axes.spines.values():
        side.set_visible(False)


def save(figure: Any, title: str) -> None:
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    figure.savefig(sys.argv[2], dpi=110, facecolor="white")


def main() -> None:
    found = json.loads(Path(sys.argv[1]).read_text())
    rows = found["rows"]
    servers = len({row["server"] for row in rows})
    figure, grid = plt.subplots(4, 2, figsize=(13, 4 * (0.75 + 0.26 * servers)), layout="constrained")
    for column, panels in enumerate((MORE_IS_BETTER, LESS_IS_BETTER)):
        for line, (workload, field, title) in enumerate(panels):
            panel(grid[line][column], rows, workload, field, title)
    title = f"Embedding and rerank servers, the same weights on the same {found['cores']} cores"
    save(figure, f"{title}: left, longer is better; right, shorter")


if __name__ == "__main__":
    main()
