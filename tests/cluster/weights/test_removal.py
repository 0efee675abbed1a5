"""Weights that are taken off the disk."""

from __future__ import annotations

from pathlib import Path

from cluster.catalog.entry import Source
from cluster.weights.download import RepositoryCache
from cluster.weights.hubs import Listing, RemoteFile
from cluster.weights.locate import cached, is_cached
from cluster.weights.removal import files_of, remove


def downloaded(home: Path, commit: str, **files: str) -> RepositoryCache:
    """A revision whose files have these contents."""
    cache = RepositoryCache.of(Source(hub="huggingface", id="a/b"), home)
    rows = [RemoteFile(name.replace("_", "."), len(text), text) for name, text in files.items()]
    for file in rows:
        cache.blob(file).parent.mkdir(parents=True, exist_ok=True)
        cache.blob(file).write_text(file.digest)
        cache.link(commit, file)
    cache.remember(Listing(commit, tuple(rows)), rows)
    return cache


def test_the_last_revision_takes_the_repository_along(tmp_path: Path) -> None:
    cache = downloaded(tmp_path, "c1", model_safetensors="weights", config_json="config")
    (model,) = cached(tmp_path)
    assert model.complete and [path.name for path in files_of(model)] == ["config.json", "model.safetensors"]
    remove(model)
    assert cached(tmp_path) == [] and not cache.folder.exists()


def test_files_that_another_revision_has_stay(tmp_path: Path) -> None:
    downloaded(tmp_path, "c1", model_safetensors="old weights", config_json="config")
    cache = downloaded(tmp_path, "c2", model_safetensors="new weights", config_json="config")
    old, new = cached(tmp_path)
    assert (old.revision, new.revision) == ("c1", "c2")
    remove(old)
    assert cached(tmp_path) == [new] and new.complete
    assert sorted(path.name for path in (cache.folder / "blobs").iterdir()) == ["config", "new weights"]
    assert is_cached(Source(hub="huggingface", id="a/b", revision="c2"), tmp_path) == new.path
