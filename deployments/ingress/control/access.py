"""Which model a path means, and what a key that is limited to some models may do with it or with all of them."""

from __future__ import annotations

from fastapi import Depends, Request, params

from cluster import errors, keys
from deployments.ingress.routing import RouteTable


def by_any_name(table: RouteTable) -> params.Depends:
    """For routes about a model: they get its uid, whichever of its names the path says. Refuses a model that the
    caller's key is not for."""

    async def name_the_uid(request: Request) -> None:
        name = request.path_params.get("uid")
        if name is not None:
            # FastAPI reads the parameters of a path after the dependencies of its route.
            request.path_params["uid"] = table.uid_of(name, request.state.key)
            keys.check_model(request.state.key, request.path_params["uid"])

    depends: params.Depends = Depends(name_the_uid)
    return depends


def refuse_limited(request: Request) -> None:
    """Refuses a key for some models where a route concerns all of them."""
    key = request.state.key
    if key is not None and key.models is not None:
        raise errors.NotPermitted(
            f"The key {key.name!r} is for {', '.join(key.models)} only, and this is for all models."
        )
