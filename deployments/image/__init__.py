"""The image wing: pictures from prompts and from other pictures."""

from __future__ import annotations

from cluster.catalog.entry import Entry
from deployments import ModelType
from deployments.image.diffusion import Diffusion


def tasks_of(entry: Entry) -> tuple[str, ...]:
    """The tasks for which the catalogue names a pipeline; none for a bare folder, which shows its tasks once loaded."""
    return tuple(entry.facts.get("pipelines", ()))


PRELOAD = ("diffusers.models",)
#: All pipelines: whichever is loaded, diffusers imports them to find its class.
OWN_PRELOAD = ("diffusers.pipelines.auto_pipeline", "diffusers.models.unets.unet_2d_condition")
TYPES = (ModelType(name="image", families={"diffusers": Diffusion}, abilities=tasks_of),)
