"""Which weights of a source are on this machine."""

from __future__ import annotations

from cluster.catalog.entry import Source
from cluster.settings import Settings
from cluster.weights.inventory import Inventory, inspected
from cluster.weights.locate import is_cached


def inventory_of(source: Source, settings: Settings, allow_pickle: bool = False) -> Inventory | None:
    """The files of weights that are on this machine, and their configs."""
    folder = is_cached(source, settings.home, allow_pickle=allow_pickle, roots=settings.model_roots)
    # The cache of a hub is all links, and ours.
    return inspected(folder, settings.model_roots if source.hub == "local" else ()) if folder is not None else None
