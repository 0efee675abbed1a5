"""How the page is written, and that what is committed is what its sources make. Nothing of it needs a browser."""

from __future__ import annotations

import filecmp
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.live import ROOT
from tests.page.journeys import JOURNEYS

PAGE = ROOT / "page"
SOURCES = sorted(path for path in (PAGE / "src").rglob("*.ts*"))
#: A function at the top of a file whose name is that of a component.
COMPONENT = re.compile(r"^(?:export )?function [A-Z].*?^}", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(PAGE).as_posix()


def test_the_types_are_those_of_the_server() -> None:
    spec = importlib.util.spec_from_file_location("page_shapes", PAGE / "shapes.py")
    assert spec is not None and spec.loader is not None
    shapes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shapes)
    assert shapes.PLACE.read_text() == shapes.text(), "run `make page`"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_file_is_long_and_none_gives_up_types(path: Path) -> None:
    text = path.read_text()
    # That one is made of the types of the server.
    assert path.name == "shapes.ts" or len(text.splitlines()) <= 250
    assert not re.search(r":\s*any\b|\bas any\b|<any>|@ts-ignore|@ts-expect-error|dangerouslySetInnerHTML", text)


def test_no_component_is_long() -> None:
    components = [part for path in SOURCES for part in COMPONENT.findall(path.read_text())]
    assert len(components) > 30
    assert max(components, key=lambda part: part.count("\n")).count("\n") < 80


def test_each_journey_names_tests_that_there_are() -> None:
    written = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    named = [test for tests in JOURNEYS.values() for test in tests]
    assert len(JOURNEYS) == 20 and all(JOURNEYS.values())
    assert [test for test in named if f"def {test}(" not in written] == []


def npm() -> str:
    path = shutil.which("npm")
    if path is None or not (PAGE / "node_modules").exists():
        pytest.skip("the page is not built again: that takes Node's npm, and `make page` once")
    return path


def test_the_committed_page_is_what_the_sources_make(tmp_path: Path) -> None:
    command = [npm(), "run", "-s", "build", "--", "--outDir", str(tmp_path)]
    subprocess.run(command, cwd=PAGE, check=True, timeout=120)
    compared = filecmp.dircmp(ROOT / "deployments" / "ui", tmp_path)
    assert (compared.left_only, compared.right_only) == ([], [])
    _, differing, odd = filecmp.cmpfiles(ROOT / "deployments" / "ui", tmp_path, compared.common_files, shallow=False)
    assert not differing and not odd, "run `make page` and commit deployments/ui"


def test_the_page_compiles_and_its_decisions_are_right() -> None:
    for words in ("check", "test"):
        done = subprocess.run([npm(), "run", "-s", words], cwd=PAGE, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
