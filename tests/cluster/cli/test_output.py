"""Sizes, places and tables."""

from __future__ import annotations

import pytest

from cluster.cli.output import size, where
from tests.cluster.statuses import make_status, make_worker


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, ""),
        (0, ""),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2**30 - 1, "1024.0 MiB"),
        (2**30, "1.0 GiB"),
        (2**50, "1024.0 TiB"),
    ],
)
def test_sizes(count: int | None, text: str) -> None:
    assert size(count) == text


def test_where_names_each_node_once_with_its_cards() -> None:
    workers = (
        make_worker(0, node="b"),
        make_worker(1, node="a", cards=(3,)),
        make_worker(2, node="a", cards=(0, 3)),
        make_worker(3),
    )
    assert where(make_status(workers=workers)) == "a:0,3 b"
