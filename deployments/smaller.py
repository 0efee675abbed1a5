"""Launches that take less memory than one that does not fit, each with the options to ask for it with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.launch import LaunchSpec, Wanted
from cluster.names import written
from cluster.settings import Settings
from cluster.value import JsonObject
from cluster.weights.inventory import asking_once
from cluster.worker.family import load_family
from cluster.worker.planning import prospect_of
from deployments import resolve


class Variant(NamedTuple):
    """A launch that is smaller by these changes."""

    changes: JsonObject
    wanted: Wanted


def smaller(wanted: Wanted, catalog: Catalog, settings: Settings, on_card: bool) -> list[Variant]:
    """The least harmful first: each change by itself, then with all before it."""
    family = load_family(wanted.family)
    variants = []
    with asking_once():
        steps = list(family.smaller(prospect_of(wanted, family, settings, on_card=on_card)))
        if on_card:
            steps.append({"n_gpu": None})
        for changes in ways(steps):
            try:
                variants.append(Variant(changes, resolve(_changed(wanted.spec, changes), catalog, settings)))
            except errors.ClusterError:
                continue  # not every option goes with every other
    return variants


def ways(steps: Sequence[JsonObject]) -> Iterator[JsonObject]:
    for index, step in enumerate(steps):
        yield step
        # In main memory nothing else has to change, and no layer has a card to be offloaded from.
        if 0 < index and "n_gpu" not in step:
            yield {name: value for each in steps[: index + 1] for name, value in each.items()}


def _changed(spec: LaunchSpec, changes: JsonObject) -> LaunchSpec:
    # Places that a launch chose by itself name cards.
    places = {"n_gpu": None, "gpu_idx": None, "replica_config": None} if "n_gpu" in changes else {}
    fields = {name: getattr(spec, name) for name in spec.model_fields_set} | places
    fields["options"] = dict(spec.options)
    for name, value in changes.items():
        (fields if name in LaunchSpec.model_fields else fields["options"])[name] = value
    return LaunchSpec.model_validate(fields)


def as_options(changes: JsonObject) -> str:
    """As people write them: `quantize_text_encoder=text_encoder_2, vae_tiling=true`."""
    return ", ".join(f"{name}={written(value)}" for name, value in changes.items())
