"""The recipes of CONTRIBUTING.md work: they are applied to a copy of the tree, and their checks are run there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
COPIED = ("cluster", "deployments", "docs", "k8s", "tests", "pyproject.toml")
CHANGES = 13
#: Runs the checks of all recipes in one process, and reports by the name of each what went wrong.
RUNNER = """
import json, sys, traceback
told = {}
for name, code in json.load(sys.stdin).items():
    try:
        exec(compile(code, name, "exec"), {"__name__": name})
    except BaseException:
        told[name] = traceback.format_exc()
json.dump(told, open(sys.argv[1], "w"))
"""


@dataclass(frozen=True)
class Block:
    """`kind` is the word after the three ticks, `target` the one after that: a file, `run` or `check`."""

    kind: str
    target: str
    text: str


def recipes() -> Iterator[tuple[str, list[Block]]]:
    part = PAGE.split("\n## Thirteen changes\n")[1].split("\n## ")[0]
    for recipe in part.split("\n### ")[1:]:
        name, _, text = recipe.partition("\n")
        yield (
            name,
            [Block(*block) for block in re.findall(r"^```(\w+) (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)],
        )


RECIPES = dict(recipes())


def apply(block: Block, tree: Path) -> None:
    file = tree / block.target
    lines = block.text.splitlines()
    before = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
    after = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
    text = file.read_text()
    assert text.count(before) == 1, (
        f"CONTRIBUTING.md: these lines stand {text.count(before)} times in {block.target}:\n{before}"
    )
    file.write_text(text.replace(before, after))


def shell(text: str, tree: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(["sh", "-ec", text], cwd=tree, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree in which all recipes were followed."""
    tree = tmp_path_factory.mktemp("tree")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    for blocks in RECIPES.values():
        for block in blocks:
            if block.kind == "diff":
                apply(block, tree)
            elif block.target == "run":
                done = shell(block.text, tree)
                assert done.returncode == 0, done.stderr
            elif block.target != "check":
                (tree / block.target).write_text(block.text)
    return tree


@pytest.fixture(scope="module")
def failures(tree: Path) -> dict[str, str]:
    """What the Python checks raised, by recipe."""
    checks = {
        name: "\n".join(block.text for block in blocks if (block.kind, block.target) == ("python", "check"))
        for name, blocks in RECIPES.items()
    }
    out = tree / "failures.json"
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    words = [sys.executable, "-c", RUNNER, str(out)]
    subprocess.run(words, input=json.dumps(checks), cwd=tree, env=environment, text=True, check=True, timeout=120)
    failures: dict[str, str] = json.loads(out.read_text())
    return failures


def test_there_are_thirteen_and_each_can_be_checked() -> None:
    assert len(RECIPES) == CHANGES
    for name, blocks in RECIPES.items():
        assert any(block.target == "check" for block in blocks), name
        assert any(block.target != "check" for block in blocks), name


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_does_what_it_says(name: str, tree: Path, failures: dict[str, str]) -> None:
    assert name not in failures, failures[name]
    for block in RECIPES[name]:
        if (block.kind, block.target) == ("sh", "check"):
            done = shell(block.text, tree)
            assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("words", [("format", "--check"), ("check",)], ids=" ".join)
def test_what_the_recipes_leave_is_clean(words: tuple[str, ...], tree: Path) -> None:
    command = [sys.executable, "-m", "ruff", *words, "cluster", "deployments"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_what_the_recipes_add_has_names_of_its_own(tree: Path) -> None:
    files = [path.read_text() for package in ("cluster", "deployments") for path in (tree / package).rglob("*.py")]
    names = Counter(name for text in files for name in re.findall(r"^class ([A-Z]\w*)", text, re.MULTILINE))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:cluster|deployments|tests|docs|k8s)/[^`\s]*)`", PAGE))))
def test_each_file_that_the_page_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()
