"""What a launch would take of the node that it is placed on, by the weights that this machine has of it.

The plan that people see, the claim that is made, and what is measured against it all come from here.
"""

from __future__ import annotations

from cluster.launch import Needs, Wanted, parse_bytes
from cluster.settings import Settings
from cluster.weights.inventory import asking_once
from cluster.weights.memory import HOST_BYTES, MemoryPlan
from cluster.worker.family import AnyFamily, Prospect, load_family


def prospect_of(wanted: Wanted, family: type[AnyFamily], settings: Settings, *, on_card: bool) -> Prospect:
    options = family.Options.model_validate({**wanted.entry.options, **wanted.spec.options})
    return Prospect(wanted.spec, wanted.entry, wanted.source, options, settings, on_card)


def plan_of(wanted: Wanted, settings: Settings, *, on_card: bool) -> MemoryPlan | None:
    """Part by part; None where the catalogue says what is to be claimed."""
    if "claim_bytes" in wanted.entry.facts:
        return None
    family = load_family(wanted.family)
    return family.plan(prospect_of(wanted, family, settings, on_card=on_card))


def weighed(wanted: Wanted, settings: Settings) -> Wanted:
    """The launch with what it would take, or the reason why it cannot be loaded."""
    family = load_family(wanted.family)
    with asking_once():
        source = family.needed(prospect_of(wanted, family, settings, on_card=False))
        wanted = wanted.model_copy(update={"source": source})
        without, on_card = (_needs(wanted, settings, on_card=kind) for kind in (False, True))
    return wanted.model_copy(update={"claim_bytes": without.memory_bytes, "on_card": on_card})


def _needs(wanted: Wanted, settings: Settings, *, on_card: bool) -> Needs:
    plan = plan_of(wanted, settings, on_card=on_card)
    if plan is not None:
        needs = plan.needs(on_card=on_card)
    else:
        needs = _claiming(int(wanted.entry.facts["claim_bytes"]), HOST_BYTES, on_card)
    if wanted.spec.memory is not None:
        needs = _claiming(parse_bytes(wanted.spec.memory), needs.memory_bytes, on_card)
    return needs


def _claiming(bytes: int, host_bytes: int, on_card: bool) -> Needs:
    return Needs(memory_bytes=host_bytes, card_bytes=bytes) if on_card else Needs(memory_bytes=bytes)
