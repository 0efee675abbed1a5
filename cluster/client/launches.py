"""Launching a model: sends its spec, follows it until the model is READY, raises what made it fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from cluster import errors
from cluster.client.http import Pause, Request, Steps, ask, call, path_part
from cluster.launch import LaunchSpec
from cluster.launching import has_ended
from cluster.status import ModelStatus
from cluster.value import JsonObject

M = TypeVar("M", bound=BaseModel)

#: The longest a server holds a long-poll.
LONGEST_POLL_S = 30.0
#: How long following a launch puts up with a control plane that does not answer.
PATIENCE_S = 60.0


class Launched(NamedTuple):
    uid: str
    generation: int


class LaunchCalls:
    """The calls that launch a model and follow its status."""

    @call
    def submit(self, spec: LaunchSpec) -> Steps[Launched]:
        """Has the launch written down and returns; the model stays wanted whatever becomes of the caller."""
        answer = yield Request("POST", "/v1/models", {"wait_ready": False}, body_of(spec))
        return Launched(answer["model_uid"], answer.get("generation", 0))

    @call
    def check(self, spec: LaunchSpec) -> Steps[JsonObject]:
        """Whether the launch would fit, where, and what it would claim; launches nothing."""
        return ask("POST", "/v1/models", {"dry_run": True}, body_of(spec))

    @call
    def wait_until_ready(
        self,
        uid: str,
        generation: int = 0,
        timeout: float | None = None,
        on_status: Callable[[ModelStatus], object] | None = None,
    ) -> Steps[ModelStatus]:
        """Follows a launch until it is READY, calls `on_status` at every change, raises what made it fail."""
        deadline = None if timeout is None else time.monotonic() + timeout
        # A caller that has just submitted this generation has heard from the server.
        last_heard = time.monotonic() if generation else float("-inf")
        version: int | None = None
        status: ModelStatus | None = None
        while True:
            seconds_left = LONGEST_POLL_S if deadline is None else deadline - time.monotonic()
            if status is not None and seconds_left <= 0:
                raise _late(status, timeout)
            wait_s = min(max(seconds_left, 0.0), LONGEST_POLL_S)
            try:
                status = yield from LaunchCalls.status.steps(self, uid, version, wait_s)
            except errors.UnknownUid:
                raise errors.LaunchCancelled(f"The launch of {uid} was cancelled before it was READY.") from None
            except errors.Unavailable:
                # A supervisor that restarts is away for seconds; the launch is written down and outlives it.
                now = time.monotonic()
                if now - last_heard > PATIENCE_S or (deadline is not None and now > deadline):
                    raise
                yield Pause(0.5)
                continue
            last_heard = time.monotonic()
            if on_status is not None:
                on_status(status)
            if has_ended(status, generation):
                return status
            if status.version == version:
                # A long-poll that ends without a change repeats the version; so does a server that does not hold polls.
                yield Pause(min(0.2, wait_s))
            version = status.version

    @call
    def launch_model(
        self,
        /,
        model_name: str,
        model_type: str = "",
        *,
        wait_ready: bool = True,
        timeout: float | None = None,
        **fields: object,
    ) -> Steps[str]:
        """Launches a model and returns its uid; `fields` are `LaunchSpec`'s, any other is an option of its family."""
        spec = spec_of({"model_name": model_name, "model_type": model_type or None, **fields})
        uid, generation = yield from LaunchCalls.submit.steps(self, spec)
        if wait_ready:
            yield from LaunchCalls.wait_until_ready.steps(self, uid, generation, timeout)
        return str(uid)

    @call
    def cancel_launch_model(self, uid: str) -> Steps[None]:
        return ask("POST", f"/v1/models/{path_part(uid)}/cancel")

    @call
    def get_launch_model_progress(self, uid: str) -> Steps[JsonObject]:
        return ask("GET", f"/v1/models/{path_part(uid)}/progress")

    @call
    def status(self, uid: str, version: int | None = None, wait_s: float | None = None) -> Steps[ModelStatus]:
        """A wanted model's status, also of one that failed; given the last version, waits for a newer one."""
        path = f"/v1/models/{path_part(uid)}/status"
        if version is None or not wait_s:
            answer = yield Request("GET", path)
        else:
            answer = yield Request("GET", path, {"version": version, "wait": wait_s}, held_s=wait_s)
        return _as(ModelStatus, answer)

    @call
    def statuses(self) -> Steps[list[ModelStatus]]:
        """Every wanted model, whatever its state."""
        answer = yield Request("GET", "/v1/statuses")
        return [_as(ModelStatus, status) for status in answer]


def spec_of(fields: Mapping[str, object]) -> LaunchSpec:
    """The fields as a spec, or a `BadOption` that names the one that is wrong."""
    try:
        return LaunchSpec.model_validate(dict(fields))
    except ValidationError as error:
        raise bad_option(error) from None


def body_of(spec: LaunchSpec) -> JsonObject:
    """Only the fields that were set, so that the server's defaults hold; the family's options at the top level."""
    fields = spec.model_dump(mode="json", exclude_unset=True)
    return {**fields.pop("options", {}), **fields}


def bad_option(error: ValidationError) -> errors.BadOption:
    """pydantic's first complaint as one sentence."""
    complaint = error.errors()[0]
    name = ".".join(str(part) for part in complaint["loc"])
    reason = complaint["msg"].removeprefix("Value error, ").removesuffix(".")
    if not name:
        return errors.BadOption(f"{reason}.")
    if complaint["type"] == "missing":
        return errors.BadOption(f"{name} is missing.", name)
    if complaint["type"] == "extra_forbidden":
        return errors.BadOption(f"{name} is unknown.", name)
    return errors.BadOption(f"{name} cannot be {complaint['input']!r}: {reason}.", name)


def _late(status: ModelStatus, timeout: float | None) -> errors.DeadlineExceeded:
    stage = " ".join(part for part in (status.stage, f"{status.progress:.0%}") if part)
    return errors.DeadlineExceeded(
        f"{status.uid} is not READY after {timeout:g} s ({status.reason or stage}). {how_it_goes_on(status.uid)}"
    )


def how_it_goes_on(uid: str) -> str:
    return (
        f"The launch of {uid} goes on: follow it with `cluster status {uid} --follow`, "
        f"or give it up with `cluster terminate {uid}`."
    )


def _as(kind: type[M], answer: object) -> M:
    """The answer as a value; fields that only a newer server has are left out."""
    try:
        return kind.model_validate(answer, extra="ignore")
    except ValidationError as error:
        raise errors.ClusterError(
            f"This version cannot read the server's {kind.__name__} ({bad_option(error)}); use the server's version."
        ) from None
