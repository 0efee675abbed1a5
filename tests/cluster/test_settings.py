from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.settings import Settings


def test_defaults_are_safe() -> None:
    settings = Settings()
    assert settings.is_loopback
    assert not settings.allow_pickle
    assert settings.remote_code == ()


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.5", False),
        ("127.example.org", False),
    ],
)
def test_keys_are_asked_for_on_every_address_but_loopback(host: str, is_loopback: bool) -> None:
    settings = Settings(host=host)
    assert settings.is_loopback is is_loopback
    assert settings.asks_for_keys is not is_loopback


@pytest.mark.parametrize(("auth", "asks"), [("on", True), ("off", False)])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_auth_can_be_decided_by_hand(host: str, auth: str, asks: bool) -> None:
    assert Settings(host=host, auth=auth).asks_for_keys is asks


def test_lists_are_written_with_commas() -> None:
    settings = Settings(remote_code="a, b,", model_roots="/models,/more", plugins="")
    assert settings.remote_code == ("a", "b")
    assert settings.model_roots == (Path("/models"), Path("/more"))
    assert settings.plugins == ()


@pytest.mark.parametrize(
    "text", ["org/mine", "huggingface:org/mine", "huggingface:org/mine@main", "local:/m@" + "a" * 40]
)
def test_trust_in_what_can_change_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="hub:owner/name@commit"):
        Settings(remote_code=text)
    assert Settings(remote_code=f"huggingface:org/mine@{'a' * 40}").remote_code


def test_another_process_reads_the_same_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = Settings(
        home=tmp_path,
        host="0.0.0.0",
        port=8000,
        auth="on",
        offline=True,
        model_roots=(tmp_path, Path("/models")),
        remote_code=("a", "b"),
        gather_ms=0.5,
        memory_fraction=0.75,
    )
    for name, value in asked.as_environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == asked


def test_every_setting_reaches_the_other_process() -> None:
    assert set(Settings().as_environment()) == {f"CLUSTER_{name.upper()}" for name in Settings.model_fields}


def test_a_home_that_is_set_to_nothing_is_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_HOME", "")
    assert Settings().home == Path.home() / ".cluster"


def test_home_is_a_whole_path() -> None:
    assert Settings(home="~/models").home == Path.home() / "models"
    assert Settings(home="here").home == Path.cwd() / "here"


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:9997"), ("0.0.0.0", "http://127.0.0.1:9997"), ("::1", "http://[::1]:9997")],
)
def test_the_url_is_one_that_can_be_called(host: str, url: str) -> None:
    assert Settings(host=host).url == url


@pytest.mark.parametrize("fields", [{"port": 0}, {"auth": "maybe"}, {"memory_fraction": 0}, {"ingress_replicas": 0}])
def test_settings_that_cannot_work_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**fields)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_does(name: str) -> None:
    assert Settings.model_fields[name].description


def test_settings_of_an_older_version_get_the_defaults_of_what_came_later() -> None:
    pickled = Settings(home=Path("/nowhere"))
    del pickled.__dict__["object_store_bytes"]
    settings = pickle.loads(pickle.dumps(pickled))
    assert settings.object_store_bytes == Settings().object_store_bytes and settings.home == Path("/nowhere")
