from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster import errors
from cluster.catalog.entry import Source
from cluster.status import LoadProgress
from cluster.weights.hubs import RemoteFile
from cluster.weights.lending import holding_of, pieces
from cluster.weights.locate import locate
from cluster.weights.neighbours import Holding, provider
from tests.hub import Hub

WEIGHTS = os.urandom(9_000_000)
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS}
FILE = RemoteFile("w", 10, "d" * 64)


class Homes:
    """Nodes that are folders of one machine."""

    def __init__(self, own: str, **homes: Path) -> None:
        self.own = own
        self.homes = homes
        #: After so many bytes a node is gone.
        self.dies_after: int | None = None
        self.taken = 0

    def holdings(self, source: Source, files: Sequence[RemoteFile]) -> Sequence[Holding]:
        return [holding_of(node, home, source, files) for node, home in self.homes.items()]

    def pieces(self, node: str, source: Source, file: RemoteFile, start: int) -> Iterator[bytes]:
        for piece in pieces(self.homes[node], source, file, start, growth_s=0.5):
            self.taken += len(piece)
            yield piece
            if self.dies_after is not None and self.taken >= self.dies_after:
                raise errors.Unavailable("it is gone")


def fetched(source: Source, home: Path, neighbours: Homes, heard: list[int] | None = None) -> Path:
    def hear(progress: LoadProgress) -> None:
        (heard if heard is not None else []).append(progress.done_bytes)

    return locate(source, home=home, neighbours=neighbours, report=hear)


def test_what_a_neighbour_has_costs_the_hub_nothing(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    locate(source, home=tmp_path / "a")
    hub.served.clear()
    heard: list[int] = []
    folder = fetched(source, tmp_path / "b", Homes("b", a=tmp_path / "a"), heard)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.served.total() == 0 and heard[-1] == len(WEIGHTS) + 2


def test_a_neighbour_that_goes_in_the_middle_costs_its_rest(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    locate(source, home=tmp_path / "a")
    hub.served.clear()
    neighbours = Homes("b", a=tmp_path / "a")
    neighbours.dies_after = 4_000_000
    assert (fetched(source, tmp_path / "b", neighbours) / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.served.total() == len(WEIGHTS) + 2 - neighbours.taken > 4_000_000


def test_wrong_bytes_of_a_neighbour_are_fetched_from_the_hub(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    locate(source, home=tmp_path / "a")
    (blob,) = (path for path in tmp_path.glob("a/weights/*/*/blobs/*") if path.stat().st_size == len(WEIGHTS))
    blob.write_bytes(bytes(len(WEIGHTS)))
    assert (fetched(source, tmp_path / "b", Homes("b", a=tmp_path / "a")) / "model.safetensors").read_bytes() == WEIGHTS


def test_nodes_that_begin_together_fetch_once(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    homes = {name: tmp_path / name for name in "abc"}
    hold = hub.hold("model.safetensors", after=3_000_000)
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(fetched, source, homes["c"], Homes("c", **homes_but(homes, "c")))
        assert hold.reached.wait(10)
        others = [threads.submit(fetched, source, homes[name], Homes(name, **homes_but(homes, name))) for name in "ab"]
        threading.Timer(0.3, hold.released.set).start()
        folders = [each.result(30) for each in (first, *others)]
    assert all((folder / "model.safetensors").read_bytes() == WEIGHTS for folder in folders)
    assert hub.served["model.safetensors"] == len(WEIGHTS)


def homes_but(homes: dict[str, Path], name: str) -> dict[str, Path]:
    return {other: home for other, home in homes.items() if other != name}


def test_nothing_but_files_of_a_hub_is_handed_on(tmp_path: Path) -> None:
    (tmp_path / "weights" / "huggingface" / "models--org--tiny" / "blobs").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    good = Source(hub="huggingface", id="org/tiny")
    for source, digest in [
        (good, "../../../../secret"),
        (good, "../secret"),
        (Source(hub="local", id=str(tmp_path)), "d" * 64),
        (Source(hub="huggingface", id="../.."), "d" * 64),
    ]:
        with pytest.raises(errors.BadRequest):
            list(pieces(tmp_path, source, RemoteFile("secret", 6, digest), 0, growth_s=0.1))


@pytest.mark.parametrize(
    ("holdings", "chosen"),
    [
        ([], None),
        ([Holding("a", {FILE.digest: 9}, False)], None),
        ([Holding("z", {FILE.digest: 10}, False)], "z"),
        ([Holding("a", {FILE.digest: 0}, True)], "a"),
        ([Holding("z", {FILE.digest: 0}, True)], None),
        ([Holding("z", {FILE.digest: 7}, True), Holding("a", {FILE.digest: 6}, True)], "z"),
        ([Holding("a", {}, True)], None),
    ],
)
def test_whom_a_file_is_taken_from(holdings: list[Holding], chosen: str | None) -> None:
    assert provider("m", 5 if holdings and 6 in holdings[-1].sizes.values() else 0, FILE, holdings) == chosen


def test_askers_spread_over_those_that_have_it() -> None:
    holdings = [Holding(node, {FILE.digest: 10}, False) for node in "abcd"]
    chosen = [provider(f"m{number}", 0, FILE, holdings) for number in range(100)]
    assert all(10 < chosen.count(node) < 45 for node in "abcd")
    assert provider("m", 0, FILE, holdings, but="abc") == "d"
