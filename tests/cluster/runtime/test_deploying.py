from __future__ import annotations

from pathlib import Path

import pytest

from cluster import errors
from cluster.runtime.deploying import serve_apart
from cluster.runtime.place import Place
from cluster.settings import Settings


def test_why_nothing_could_be_served_is_told(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    place = Place(settings)
    place.log.parent.mkdir(parents=True)
    with pytest.raises(errors.Unavailable, match="Nothing could be served; .*ray.log ends with: .*ray-of-nobody"):
        serve_apart(settings, "ray-of-nobody://", place, 0)
