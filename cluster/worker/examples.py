"""The example of a family, computed to see whether its model still does."""

from __future__ import annotations

import logging

from cluster import errors
from cluster.calls import Call
from cluster.worker.family import AnyFamily
from cluster.worker.work import Work

log = logging.getLogger("cluster.worker.worker")


def example_call(family: AnyFamily, seconds_left: float) -> Call:
    example = family.example
    return Call("probe", list(example.items), dict(example.params), seconds_left, example.ability)


async def fails_example(family: AnyFamily, work: Work, seconds_left: float) -> bool:
    """Beside whatever the worker refuses meanwhile. False where it cannot be found out."""
    call = example_call(family, seconds_left)
    try:
        await work.outputs(call, family.prepare(call.ability, call.items, call.params), False)
    except errors.InferenceFailed as error:
        log.error("the example fails: %s", error)
        return True
    except (TimeoutError, errors.ClusterError) as error:
        log.info("the example could not be computed: %s", error)
    return False
