"""Draws the figures of benchmarks.image: python image_chart.py FIGURES.json CHART.png

Runs in an environment of its own, which has matplotlib.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from chart import panel, plt, save

#: Callers, field, title; longer is better on the left, shorter on the right.
LEFT = (16, "images_per_s", "images/s, 16 callers")
RIGHT = (1, "p50_ms", "one picture: p50, ms")


def main() -> None:
    found = json.loads(Path(sys.argv[1]).read_text())
    # The bare loop has one caller, however many wait.
    rows = [{**row, "precision": "", "workload": (row["model"], row["callers"])} for row in found["rows"]]
    loops = [{**row, "workload": (row["model"], LEFT[0])} for row in rows if row["server"] == "bare-loop"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, grid = plt.subplots(len(models), 2, figsize=(13, 1.7 * len(models)), layout="constrained", squeeze=False)
    for line, model in enumerate(models):
        for column, (callers, name, title) in enumerate((LEFT, RIGHT)):
            panel(grid[line][column], loops + rows, (model, callers), name, f"{model}: {title}")
    title = f"Image servers, the same random weights on the same {found['cores']} cores"
    save(figure, f"{title}: left, longer is better; right, shorter")


if __name__ == "__main__":
    main()
