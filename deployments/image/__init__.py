"""Pictures from words and from pictures."""

from __future__ import annotations

from cluster.catalog.entry import Entry
from deployments import ModelType
from deployments.image.diffusion import Diffusion
from deployments.image.needs import needs


def tasks_of(entry: Entry) -> tuple[str, ...]:
    """As the catalogue names a pipeline for each; a bare folder says what it can when it is loaded."""
    return tuple(entry.facts.get("pipelines", ()))


TYPES = (ModelType(name="image", families={"diffusers": Diffusion}, needs=needs, abilities=tasks_of),)
