"""The cells of a gateway as they are written on a command line."""

from __future__ import annotations

import pytest

from cluster import errors
from deployments.gateway.config import CellAddress, GatewayConfig


@pytest.mark.parametrize(
    ("text", "name", "url"),
    [
        ("http://10.0.0.5:9997", "10.0.0.5:9997", "http://10.0.0.5:9997"),
        ("10.0.0.5:9997/", "10.0.0.5:9997", "http://10.0.0.5:9997"),
        ("east=https://models.example", "east", "https://models.example"),
    ],
)
def test_a_cell_is_called_by_its_name_or_its_address(text: str, name: str, url: str) -> None:
    cell = CellAddress.parse(text)
    assert (cell.name, cell.url) == (name, url)


@pytest.mark.parametrize("text", ["", "east=", "http://", "ftp://host", "http://host/path", "http://host:port"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(errors.BadRequest, match="A cell is the address of a cluster"):
        CellAddress.parse(text)


def test_two_cells_of_one_name_are_refused() -> None:
    cell = CellAddress.parse("a=http://one")
    with pytest.raises(errors.BadRequest, match="2 cells are called a"):
        GatewayConfig(cells=(cell, CellAddress.parse("a=http://two"))).check()


def test_it_reaches_its_process_whole() -> None:
    config = GatewayConfig(cells=(CellAddress(name="a", url="http://one", key="k"),), callers_keys=("first",))
    assert GatewayConfig.of_environment(config.as_environment()) == config
    with pytest.raises(errors.BadRequest, match="cluster gateway"):
        GatewayConfig.of_environment({})
