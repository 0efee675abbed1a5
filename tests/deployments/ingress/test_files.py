"""Files that are kept for a while, and pictures that are answered as URLs."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from cluster import errors
from deployments.ingress.files import Shelf
from tests.live import LiveCluster
from tests.painted import opened, painting


def aged(shelf: Shelf, name: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(shelf.folder / name, (then, then))


def test_what_was_put_is_got(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf", 60, 1000)
    assert shelf.get("a.png") is None and shelf.names() == []
    shelf.put("a.png", b"one")
    shelf.put("a.png", b"two")
    assert shelf.get("a.png") == b"two" and shelf.names() == ["a.png"]
    shelf.drop("a.png")
    assert shelf.get("a.png") is None


def test_what_is_too_old_is_not_told_and_goes(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 60)
    shelf.put("old.png", b"old")
    aged(shelf, "old.png", 61)
    assert shelf.get("old.png") is None and (tmp_path / "old.png").exists()
    shelf.put("new.png", b"new")
    assert not (tmp_path / "old.png").exists() and shelf.get("new.png") == b"new"


class Clocks:
    """A wall clock that can be set, and a clock that nobody can set."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.ahead = time.time()

    def wall(self) -> float:
        return self.ahead + self.passed

    def clock(self) -> float:
        return self.passed

    def shelf(self, folder: Path, keep_s: float = 60) -> Shelf:
        return Shelf(folder, keep_s, wall=self.wall, clock=self.clock)


@pytest.mark.parametrize("hours", [5, -5])
def test_nothing_is_lost_when_the_clock_is_set_and_all_goes_in_its_time(tmp_path: Path, hours: float) -> None:
    clocks = Clocks()
    shelf, other = clocks.shelf(tmp_path), clocks.shelf(tmp_path)
    shelf.put("a.png", b"a")
    clocks.passed += 30
    assert shelf.get("a.png") == b"a"
    clocks.ahead += hours * 3600
    shelf.sweep()
    other.sweep()
    assert shelf.get("a.png") == b"a" and other.get("a.png") == b"a"
    clocks.passed += 31
    assert shelf.get("a.png") is None
    clocks.passed += 61
    shelf.sweep()
    assert shelf.names() == []


def test_a_file_that_is_written_again_is_as_young_as_that(tmp_path: Path) -> None:
    clocks = Clocks()
    shelf = clocks.shelf(tmp_path)
    shelf.put("a.png", b"a")
    aged(shelf, "a.png", 50)
    assert shelf.age("a.png") == pytest.approx(50, abs=1)
    shelf.put("a.png", b"b")
    assert shelf.age("a.png") == pytest.approx(0, abs=1)


def test_where_there_is_too_much_the_oldest_go_first(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 600, 100)
    for name, age in (("b.png", 30), ("a.png", 20), ("c.png", 10)):
        shelf.put(name, b"x" * 30)
        aged(shelf, name, age)
    shelf.put("d.png", b"x" * 60)
    assert shelf.names() == ["c.png", "d.png"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 100


def test_what_alone_is_too_much_is_refused_and_costs_the_others_nothing(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 600, 100)
    shelf.put("a.png", b"x" * 90)
    with pytest.raises(errors.TooLarge, match="101 bytes are to be kept, and there is room for 100"):
        shelf.put("b.png", b"x" * 101)
    assert shelf.names() == ["a.png"]


def test_a_folder_within_and_what_was_never_finished_are_no_files(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 60, 1000)
    (tmp_path / "within").mkdir()
    aged(shelf, "within", 1000)
    (tmp_path / ".a.png.12345678").write_bytes(b"half")
    aged(shelf, ".a.png.12345678", 1000)
    shelf.put("b.png", b"b")
    assert sorted(os.listdir(tmp_path)) == ["b.png", "within"]


@pytest.mark.parametrize(
    "name", ["../secret.txt", "..", "a/b.png", "/etc/passwd", "a.png\0", "", ".a.png", "a" * 99 + ".png"]
)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    shelf = Shelf(tmp_path / "shelf", 60)
    assert shelf.get(name) is None
    with pytest.raises(errors.BadRequest, match="is not the name of a file"):
        shelf.put(name, b"x")


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 60, 10_000_000)
    shelf.put("a.png", b"0" * 500_000)
    with ThreadPoolExecutor(3) as threads:
        writing = [threads.submit(shelf.put, "a.png", bytes([48 + turn % 10]) * 500_000) for turn in range(100)]
        seen = [shelf.get("a.png") for _ in range(200)]
        for one in writing:
            one.result()
    assert all(data is not None and len(data) == 500_000 and len(set(data)) == 1 for data in seen)


# ---------------------------------------------------------------------------------------------- addresses


@pytest.fixture(scope="module")
def server(live: LiveCluster) -> Iterator[httpx.Client]:
    with painting(live, "files-painter"), httpx.Client(base_url=live.url, timeout=20) as http:
        yield http


def asked_for_urls(server: httpx.Client, **fields: object) -> list[str]:
    asked = {"model": "files-painter", "prompt": "a", "response_format": "url", **fields}
    answer = server.post("/v1/images/generations", json=asked)
    assert answer.status_code == 200, answer.text
    assert all(row["b64_json"] is None for row in answer.json()["data"])
    return [row["url"] for row in answer.json()["data"]]


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_an_address_gives_the_picture(live: LiveCluster, server: httpx.Client, format: str) -> None:
    (url,) = asked_for_urls(server, output_format=format)
    assert re.fullmatch(rf"{live.url}/v1/files/[\w-]{{32}}\.{format}", url)
    answer = httpx.get(url)
    assert answer.status_code == 200 and answer.headers["content-type"] == f"image/{format}"
    assert answer.headers["cache-control"].startswith("private")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert opened(answer.content).format == format.upper()
    named = server.post(
        "/v1/images/generations",
        json={"model": "files-painter", "prompt": "a", "response_format": "url"},
        headers={"host": "localhost:8080"},
    )
    assert named.json()["data"][0]["url"].startswith("http://localhost:8080/v1/files/")


def test_no_two_addresses_are_alike(server: httpx.Client) -> None:
    urls = asked_for_urls(server, n=8, seed=[1] * 8) + asked_for_urls(server, n=8, seed=[1] * 8)
    assert len(set(urls)) == 16


def test_files_are_for_the_owner_of_the_installation_alone(live: LiveCluster, server: httpx.Client) -> None:
    asked_for_urls(server)
    assert (live.home / "files").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "name",
    [
        "nothing.png",
        "..%2fcluster.db",
        "%2e%2e%2fcluster.db",
        "....//cluster.db",
        "%00.png",
        "a.db",
        ".png",
        "x" * 300 + ".png",
        "%F0%9F%90%88.png",
    ],
)
def test_what_is_no_file_is_a_404(server: httpx.Client, name: str) -> None:
    answer = server.get(f"/v1/files/{name}")
    assert answer.status_code == 404 and answer.json()["detail"]


def test_an_address_that_is_too_old_is_a_404(live: LiveCluster, server: httpx.Client) -> None:
    (url,) = asked_for_urls(server)
    path = live.home / "files" / url.rpartition("/")[2]
    then = time.time() - 3601
    os.utime(path, (then, then))
    assert httpx.get(url).status_code == 404
    asked_for_urls(server)
    assert not path.exists()
