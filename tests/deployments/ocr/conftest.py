from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from cluster.catalog.catalog import Catalog
from cluster.worker.family import Setup
from deployments.ocr.ppocr.family import PpOcr, PpOcrOptions


def weights() -> Path:
    found = importlib.util.find_spec("rapidocr")
    assert found is not None and found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "models"


def loaded(engine: str, threads: int = 2) -> Any:
    entry = Catalog.builtin().find("ppocr-v6", "ocr")
    family = PpOcr()
    family.load(
        Setup(
            entry=entry,
            source=entry.sources[0],
            options=PpOcrOptions(),
            folder=weights(),
            device="cpu",
            threads=threads,
            engine=engine,
        )
    )
    return family


@pytest.fixture(scope="session")
def ppocr() -> Any:
    return loaded("onnxruntime")
