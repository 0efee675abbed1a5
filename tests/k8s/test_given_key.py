"""The admin key comes from a secret of Kubernetes; to change the key, change the secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import errors, keys
from cluster.control.sqlite_store import SqliteStore
from cluster.runtime.deploying import admit
from cluster.settings import Settings


def known(settings: Settings) -> dict[str, keys.Key]:
    store = SqliteStore(settings.store)
    try:
        return keys.by_digest(keys.Key.model_validate(value) for value in store.all("key").values())
    finally:
        store.close()


def test_a_given_key_is_admitted_and_another_takes_its_place(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    admit(settings, "ck-first")
    assert keys.check(known(settings), "ck-first", "launch").name == "admin"
    admit(settings, "ck-second")
    assert keys.check(known(settings), "ck-second", "launch").name == "admin"
    with pytest.raises(errors.NotAuthenticated, match="revoked"):
        keys.check(known(settings), "ck-first", "list")


def test_keys_that_people_made_stay(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    key, text = keys.new_key("app", ["infer"])
    store = SqliteStore(settings.store)
    store.put("key", key.id, key.model_dump(mode="json"))
    store.close()
    admit(settings, "ck-admin")
    assert keys.check(known(settings), text, "infer").name == "app"
