"""docs/architecture.md names only what exists, and its table of imports is the enforced one."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests import house
from tests.live import ROOT
from tests.test_layers import LAYERS

PAGE = (ROOT / "docs" / "architecture.md").read_text()
#: Inline code. Code blocks are left out: they are pictures and tables.
CODE = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))
PATHS = sorted({word for word in CODE if "/" in word and " " not in word})
CLASSES = sorted({word for word in CODE if re.fullmatch(r"[A-Z][a-z]+([A-Z][a-z]+)*", word)})
FLOWS = re.findall(
    r"^### ([^\n:]+): (\d+) files, and (\d+) that are asked\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL
)

#: How often a process enters one folder, where that is more than twice.
ENTRIES = {"A launch": 4, "A PDF": 3}


@pytest.mark.parametrize("path", PATHS)
def test_each_file_that_the_page_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()


def test_each_class_that_the_page_names_is_there() -> None:
    there = {node.name for source in house.sources() for node in source.classes}
    assert len(CLASSES) > 10 and set(CLASSES) <= there | {"Options"}


def test_the_table_of_imports_is_the_enforced_one() -> None:
    assert "\n".join(line.strip() for line in LAYERS.strip().splitlines()) in PAGE


def test_each_flow_has_as_many_files_as_it_says() -> None:
    assert len(FLOWS) == 4
    for title, passing, asked, text in FLOWS:
        passed_on = re.findall(r"^\* `([a-z_/0-9]+\.py)`", text, re.MULTILINE)
        others = [file for line in re.findall(r"^\* asked: (.*)", text, re.MULTILINE) for file in line.split(", ")]
        assert (len(passed_on), len(others)) == (int(passing), int(asked)), title
        files = [*passed_on, *(file.strip("`") for file in others)]
        assert len(files) == len(set(files)), title


def test_no_folder_is_entered_again_and_again() -> None:
    for title, *_, text in FLOWS:
        ways = [Counter(way.split(", ")) for way in re.findall(r"by way of (.*):$", text, re.MULTILINE)]
        assert len(ways) >= 2, title
        assert max(max(way.values()) for way in ways) <= ENTRIES.get(title, 2), title
