"""One request to one worker, and its answer."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple


class Call(NamedTuple):
    """One caller's request to one worker. A tuple, because it is pickled for every request."""

    id: str
    items: list[Any]
    params: dict[str, Any]
    #: A duration and not an instant, because the clocks of processes differ.
    seconds_left: float
    #: The ability of the model that the request uses.
    ability: str = ""


class Answer(NamedTuple):
    """`outputs` has one element per item (an array's rows count); `tokens` is what that caller's items cost."""

    outputs: Any
    tokens: int
    queue_ms: float = 0.0
    run_ms: float = 0.0


class View(NamedTuple):
    """How far a request is that takes its time."""

    version: int
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    #: Of the whole request, 0 to 1.
    fraction: float = 0.0
    stage: str = "waiting"
    step: int = 0
    steps: int = 0
    #: None until it is known how fast the model is.
    eta_s: float | None = None
    #: What can be shown so far, the oldest first.
    previews: tuple[bytes, ...] = ()


class OpenCall(NamedTuple):
    """A call that a worker has in hand, as those are told who look at all of them: nothing of what was asked."""

    #: Its id and whose it is, see `keys.owner_of`.
    owner: str
    age_s: float
    #: Without the previews themselves.
    view: View
    previews: int = 0


#: A part of the id of a call that waits behind those of callers who wait for their answers. A worker of an earlier
#: version passes it over.
BATCH_PART = "#batch"


def is_batch(id: str) -> bool:
    return f"{BATCH_PART}#" in id
