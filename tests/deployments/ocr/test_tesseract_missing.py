from __future__ import annotations

from pathlib import Path

import pytest

from cluster import errors
from cluster.catalog.entry import Entry, Source
from cluster.worker.family import Setup
from deployments.ocr.tesseract import Tesseract, TesseractOptions


def test_without_the_program_a_launch_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    source = Source(hub="local", id=str(tmp_path))
    entry = Entry(name="tesseract", type="ocr", family="tesseract", sources=(source,))
    with pytest.raises(errors.LoadFailed) as missing:
        Tesseract().load(Setup(entry, source, TesseractOptions(), tmp_path, "cpu", threads=1))
    assert missing.value.message == "The program tesseract is not installed: apt-get install tesseract-ocr."
