from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import errors
from cluster.runtime.place import Place
from cluster.settings import Settings


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    prepared = Place(Settings(home=tmp_path / "home"))
    prepared.prepare()
    yield prepared
    shutil.rmtree(prepared.private, ignore_errors=True)


def test_what_ray_opens_to_everybody_lies_in_a_folder_of_ours(place: Place) -> None:
    assert stat.S_IMODE(place.private.stat().st_mode) == 0o700 and place.temp.parent == place.private


def test_a_living_cluster_is_refused_with_its_address(place: Place) -> None:
    place.state.write_text(json.dumps({"url": "http://127.0.0.1:9"}))
    with place.take():
        assert place.holder() == os.getpid()
        with pytest.raises(errors.Conflict, match="runs already, at http://127.0.0.1:9: use that, stop it with"):
            place.take()
    assert place.holder() is None
    place.take().close()


def test_a_start_that_has_not_said_yet_who_it_is_is_told(place: Place) -> None:
    with place.take(), pytest.raises(errors.Conflict, match="is just being started; try again"):
        place.lock.write_text("")
        place.holder()


def test_a_home_has_one_id_and_no_other_has_it(place: Place, tmp_path: Path) -> None:
    other = Place(Settings(home=tmp_path / "other"))
    other.home.mkdir()
    assert place.id == place.id != other.id


def test_a_home_that_cannot_be_written_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        errors.Unavailable, match="file.* cannot be written: Not a directory; make room there, or choose"
    ):
        Place(Settings(home=tmp_path / "file")).prepare()


def test_a_folder_of_a_stranger_is_not_used(place: Place, tmp_path: Path) -> None:
    place.temp.rmdir()
    place.private.rmdir()
    place.private.symlink_to(tmp_path)
    try:
        with pytest.raises(errors.BadRequest, match="is not a folder of this user; remove it"):
            place.prepare()
    finally:
        place.private.unlink()
