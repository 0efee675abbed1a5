from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster import errors
from cluster.catalog.entry import Source
from cluster.status import LoadProgress
from cluster.weights.download import Download, RepositoryCache
from cluster.weights.hubs import HUBS, client_of, listing_of
from cluster.weights.locate import cached, locate
from tests.hub import Hub

WEIGHTS = os.urandom(4_000_000)
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def partial_size(home: Path) -> int:
    return sum(path.stat().st_size for path in home.rglob("*.incomplete"))


def test_progress_grows_to_the_total(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    hold = hub.hold("model.safetensors", after=2_000_000)
    heard: list[LoadProgress] = []

    def hear(progress: LoadProgress) -> None:
        heard.append(progress)
        if progress.done_bytes > 1_000_000:
            hold.released.set()

    started = time.monotonic()
    locate(source, home=tmp_path, report=hear)
    assert len(heard) <= (time.monotonic() - started) * 5 + 3
    done = [progress.done_bytes for progress in heard]
    total = sum(map(len, FILES.values()))
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, total)
    assert any(1_000_000 < some < total for some in done), "half-way was heard of"
    assert {(progress.stage, progress.total_bytes) for progress in heard} == {("downloading", total)}
    assert [progress.fraction for progress in heard] == [some / total for some in done]
    assert {file["name"]: (file["done"], file["total"]) for file in heard[-1].files} == {
        name: (len(content), len(content)) for name, content in FILES.items()
    }


def test_a_killed_download_goes_on_where_it_stopped(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    hold = hub.hold("model.safetensors", after=3_000_000)
    code = f"""
from pathlib import Path
from cluster.catalog.entry import Source
from cluster.weights.locate import locate
source = Source(hub={source.hub!r}, id={source.id!r})
locate(source, home=Path({str(tmp_path)!r}), report=lambda progress: print(progress.done_bytes, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        next(line for line in process.stdout if int(line) > 1_000_000)
        process.send_signal(signal.SIGKILL)
    kept = partial_size(tmp_path)
    assert kept > 1_000_000
    assert not cached(tmp_path)[0].complete
    with pytest.raises(errors.DownloadFailed, match="not \\(completely\\)"):
        locate(source, home=tmp_path, offline=True)

    hub.served.clear()
    heard: list[int] = []
    folder = locate(source, home=tmp_path, report=lambda progress: heard.append(progress.done_bytes))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.served["model.safetensors"] == len(WEIGHTS) - kept
    assert heard[0] >= kept
    assert partial_size(tmp_path) == 0
    hold.released.set()


def test_a_dropped_connection_is_taken_up_again(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    hub.cut("model.safetensors", 1_000_000, 500_000, 1)
    folder = locate(source, home=tmp_path)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.served["model.safetensors"] == len(WEIGHTS)


def test_a_server_that_ignores_ranges_is_read_from_the_start(hub: Hub, tmp_path: Path) -> None:
    text = os.urandom(200_000)
    hub.add("org/tiny", {**FILES, "tokenizer.json": text})
    hub.cut("tokenizer.json", 100_000)
    folder = locate(Source(hub="modelscope", id="org/tiny"), home=tmp_path)
    assert (folder / "tokenizer.json").read_bytes() == text
    assert hub.served["tokenizer.json"] > len(text)


def test_a_download_that_stands_still_is_given_up(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    hub.cut("model.safetensors", 1_000_000, 0, 0)
    there = HUBS[source.hub]()
    with client_of(there) as client:
        listing = listing_of(client, there, source, attempts=1)
        cache = RepositoryCache.of(source, tmp_path)
        download = Download(client, there, source, cache, listing, listing.files, lambda progress: None, patience=2)
        with pytest.raises(errors.DownloadFailed, match=r"came no further than 1\.0 MB of 4\.0 MB .* launch again"):
            download.run()
    assert partial_size(tmp_path) == 1_000_000


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_arrives_damaged_once_is_fetched_again(hub: Hub, source: Source, name: str, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    hub.damage(name, times=1)
    folder = locate(source, home=tmp_path)
    assert (folder / name).read_bytes() == FILES[name]
    assert hub.served[name] == 2 * len(FILES[name])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_is_always_damaged_is_never_kept(hub: Hub, source: Source, name: str, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    hub.damage(name)
    with pytest.raises(errors.DownloadFailed, match=rf"{name} of org/tiny is corrupt"):
        locate(source, home=tmp_path)
    assert hub.served[name] == 2 * len(FILES[name])
    assert not cached(tmp_path)[0].complete
    damaged = bytes(255 - byte for byte in FILES[name])
    assert all(path.read_bytes() != damaged for path in tmp_path.rglob("blobs/*"))


def test_a_partial_file_that_rotted_is_fetched_anew(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    partial = tmp_path / "weights" / source.hub / "models--org--tiny" / "blobs" / f"{digest}.incomplete"
    partial.parent.mkdir(parents=True)
    for rotten in (bytes(1_000_000), bytes(len(WEIGHTS)), bytes(len(WEIGHTS) + 1)):
        partial.write_bytes(rotten)
        folder = locate(source, home=tmp_path)
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        (folder / "model.safetensors").resolve().unlink()


def test_a_disk_that_is_too_small_is_found_before_the_download(hub: Hub, source: Source, small_disk: Path) -> None:
    hub.add("org/tiny", {**FILES, "model.safetensors": bytes(9_000_000)})
    with pytest.raises(errors.DownloadFailed, match=r"needs 9\.0 MB more but .* has [56]\.\d MB free: make room"):
        locate(source, home=small_disk)
    assert not hub.served


def test_a_disk_that_fills_up_keeps_what_was_fetched(hub: Hub, source: Source, small_disk: Path) -> None:
    hub.add("org/tiny", FILES)
    ballast = small_disk / "ballast"

    def fill(name: str) -> None:
        if name == "model.safetensors" and hub.served[name] > 1_000_000 and not ballast.exists():
            ballast.write_bytes(bytes(3_500_000))

    hub.before_chunk = fill
    with pytest.raises(errors.DownloadFailed, match=r"needs \d\.\d MB more but .* has \d+\.?\d* k?B free: make room"):
        locate(source, home=small_disk)
    kept = partial_size(small_disk)
    assert kept > 1_000_000

    hub.before_chunk = lambda name: None
    ballast.unlink()
    hub.served.clear()
    folder = locate(source, home=small_disk)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.served["model.safetensors"] == len(WEIGHTS) - kept


def test_two_replicas_on_a_node_download_once(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    hold = hub.hold("model.safetensors", after=2_000_000)
    half_way: set[int] = set()

    def launch(index: int) -> Path:
        def report(progress: LoadProgress) -> None:
            if progress.done_bytes > 1_000_000:
                half_way.add(index)
            # The download that waits for the first one hears of it as well.
            if len(half_way) == 2:
                hold.released.set()

        return locate(source, home=tmp_path, report=report)

    with ThreadPoolExecutor(2) as threads:
        one, two = threads.map(launch, range(2))
    assert one == two
    assert hub.served["model.safetensors"] == len(WEIGHTS)


def test_a_listener_stops_a_download_by_raising(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    slowly = threading.Event()
    hub.before_chunk = lambda name: slowly.wait(0.01)  # type: ignore[assignment]

    def stop_half_way(progress: LoadProgress) -> None:
        if progress.done_bytes > 500_000:
            raise errors.LaunchCancelled("nobody wants it any more.")

    with pytest.raises(errors.LaunchCancelled):
        locate(source, home=tmp_path, report=stop_half_way)
    assert not cached(tmp_path)[0].complete
    assert partial_size(tmp_path) > 500_000


def test_files_of_the_same_content_are_fetched_once(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", {"a.safetensors": WEIGHTS, "b.safetensors": WEIGHTS, "empty.txt": b""})
    folder = locate(source, home=tmp_path)
    assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes() == WEIGHTS
    assert (folder / "empty.txt").read_bytes() == b""
    assert sum(hub.served.values()) == len(WEIGHTS)


def test_a_folder_that_cannot_be_written_is_named(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    (tmp_path / "weights").touch()
    with pytest.raises(errors.DownloadFailed, match="cannot be stored in .*: Not a directory"):
        locate(source, home=tmp_path)
