"""What the wings have imported before workers are forked."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from cluster.settings import Settings
from deployments import preload, wings


def is_there(name: str) -> bool:
    """By its file: to ask for its spec would import everything above it."""
    top, *below = name.split(".")
    spec = find_spec(top)
    assert spec is not None and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0], *below)
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_every_module_that_a_wing_names_is_there() -> None:
    modules = preload(Settings())
    names = [name for each in (modules.common, *modules.of_wing.values()) for name in each]
    assert len(set(names)) == len(names) > 3
    assert [name for name in names if not is_there(name)] == []


def test_our_own_modules_are_imported_before_libraries() -> None:
    """They import libraries without some of their parts, which the libraries themselves would import."""
    ours = [name.startswith("deployments.") for name in preload(Settings()).common]
    assert ours == sorted(ours, reverse=True) and any(ours)


def test_a_plugin_names_its_modules_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_plugin.py").write_text("PRELOAD = 'colorsys', 'diffusers.models'\nOWN_PRELOAD = ('wave',)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = Settings(plugins=("a_plugin",))
    assert wings(settings.plugins)[-1] == "a_plugin"
    usual, extended = preload(Settings()), preload(settings)
    assert set(extended.common) == {*usual.common, "colorsys"}
    assert extended.of_wing == {**usual.of_wing, "a_plugin": ("wave",)}
    wings_of = {family: extended.wing_of(family) for family in ("a_plugin:Toy", "a_plugin.toys:Toy", "a_plugins:Toy")}
    assert list(wings_of.values()) == ["a_plugin", "a_plugin", ""]
