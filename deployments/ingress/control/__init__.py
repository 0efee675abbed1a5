"""The cluster's own API, a module per subject; routes that change something are each one call to the supervisor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from fastapi import APIRouter
from starlette.routing import BaseRoute

from cluster.keys import Key, Scope
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.settings import Settings
from deployments.ingress.control import (
    changes,
    docs,
    health,
    history,
    joining,
    keys,
    listing,
    measures,
    models,
    nodes,
    options,
    page,
    registrations,
    replicas,
    requests,
    routes,
    series,
    session,
    stored,
    stream,
    versions,
)
from deployments.ingress.control.fleet_news import FleetNews
from deployments.ingress.control.topics import Topics
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.metrics import IngressMetrics
from deployments.ingress.model_history import ModelHistory


def keyless_routers(dispatcher: Dispatcher, supervisor: SupervisorClient, settings: Settings) -> Iterator[APIRouter]:
    """Of routes that ask for no key, as each of them says."""
    yield health.router(dispatcher, settings)
    yield session.entering(settings, lambda: dispatcher.keys, supervisor)
    yield docs.page()
    yield page.router()
    yield joining.router(supervisor, settings)


def routers(
    dispatcher: Dispatcher,
    supervisor: SupervisorClient,
    settings: Settings,
    metrics: IngressMetrics,
    routes_of_app: Callable[[], Sequence[BaseRoute]],
) -> Iterator[tuple[Scope, APIRouter]]:
    """Each with the scope that a key needs for it, in the order in which paths are looked up."""

    def current_keys() -> Mapping[str, Key]:
        return dispatcher.keys

    table = dispatcher.table
    past = ModelHistory(dispatcher, metrics.ingress)
    under_way = requests.RequestsUnderWay(dispatcher)
    fleet = FleetNews(supervisor, lambda: table.models)
    if settings.metrics:
        yield "list", measures.watching(dispatcher, supervisor, metrics)
    # Names of models may have slashes, so `/v1/models/{uid}` matches every longer path as well, and comes later.
    yield "launch", replicas.scaling(supervisor, table)
    yield "launch", models.launching(supervisor, table, settings)
    yield "launch", changes.declaring(supervisor, settings)
    yield "launch", registrations.registering(supervisor, settings)
    yield "launch", stored.deleting(supervisor, settings)
    yield "list", models.watching(supervisor, table)
    yield "list", versions.watching(supervisor, settings)
    yield "list", stored.watching(supervisor, settings)
    yield "list", replicas.watching(supervisor, table)
    yield "list", history.watching(supervisor, table)
    yield "list", series.watching(past, table)
    yield "list", registrations.watching(supervisor, settings)
    yield "list", options.watching(supervisor, settings)
    yield "list", nodes.watching(supervisor)
    yield "list", stream.watching(fleet, Topics(past, table, supervisor), settings, current_keys)
    yield "list", routes.watching(dispatcher)
    yield "list", requests.watching(under_way, current_keys)
    yield "infer", requests.stopping(under_way)
    yield "list", session.watching(supervisor, table, settings, current_keys)
    yield "list", docs.watching(routes_of_app, settings)
    yield "admin", nodes.closing(supervisor)
    yield "admin", keys.administration(supervisor, current_keys)
    # Last, since it matches every longer path.
    yield "list", listing.router(table, supervisor, settings)
