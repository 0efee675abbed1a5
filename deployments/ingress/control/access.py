"""What a key that is limited to some models may do with routes about models, and about all of them."""

from __future__ import annotations

from fastapi import Request

from cluster import errors, keys


async def only_own_models(request: Request) -> None:
    """Refuses a route about a model that the caller's key is not for."""
    uid = request.path_params.get("uid")
    if uid is not None:
        keys.check_model(request.state.key, uid)


def refuse_limited(request: Request) -> None:
    """Refuses a key for some models where a route concerns all of them."""
    key = request.state.key
    if key is not None and key.models is not None:
        raise errors.NotPermitted(
            f"The key {key.name!r} is for {', '.join(key.models)} only, and this is for all models."
        )
