"""The HTTP that model types bring: the module `http` of a wing ends in `ROUTES`, a row for each dialect it speaks, and
in `CHATS` where its models answer chats.

A wing is imported for its types by everything that lists or launches models; its `http` only here, by an ingress.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from cluster import errors
from cluster.keys import Scope
from cluster.settings import Settings
from cluster.value import JsonObject
from deployments import wings
from deployments.ingress.bodies import CONTROL_BYTES
from deployments.ingress.dispatch import Dispatcher
from deployments.ingress.errors import error_response
from deployments.ingress.files import KeptFiles
from deployments.ingress.jobs import BackgroundJobs
from deployments.ingress.progress import RequestProgress
from deployments.ingress.serving import Serving

T = TypeVar("T")
#: Answers a chat whose body it is given as it came.
ChatAnswer = Callable[[Request, JsonObject], Awaitable[Response]]


@dataclass(frozen=True)
class Services:
    """What routes work with; an ingress has one of each."""

    settings: Settings
    dispatcher: Dispatcher
    serving: Serving
    progress: RequestProgress
    files: KeptFiles
    jobs: BackgroundJobs
    _shared: dict[Callable[[Services], Any], Any] = field(default_factory=dict)

    @classmethod
    def of(cls, dispatcher: Dispatcher, settings: Settings) -> Services:
        progress = RequestProgress(dispatcher)
        return cls(
            settings,
            dispatcher,
            Serving(dispatcher, settings),
            progress,
            KeptFiles(settings),
            BackgroundJobs(dispatcher, progress, settings),
        )

    def shared(self, make: Callable[[Services], T]) -> T:
        """What `make` returned when it was first asked: the dialects of a wing share what they work with."""
        if make not in self._shared:
            self._shared[make] = make(self)
        made: T = self._shared[make]
        return made


def control_bytes(settings: Settings) -> int:
    """Bodies of routes that take neither texts nor files."""
    return min(CONTROL_BYTES, settings.max_body_bytes)


def text_bytes(settings: Settings) -> int:
    return min(settings.max_text_bytes, settings.max_body_bytes)


def file_bytes(settings: Settings) -> int:
    """Bodies that may hold files, some of them within their JSON."""
    return settings.max_body_bytes


@dataclass(frozen=True)
class Dialect:
    """A row of `ROUTES`."""

    router: Callable[[Services], APIRouter]
    body_limit: Callable[[Settings], int] = control_bytes
    #: What a key must be for to call these routes.
    scope: Scope = "infer"
    #: The answer to an error on the paths of these routes, where its clients read another than everybody's.
    error_response: Callable[[errors.ClusterError], Response] = error_response


def dialects(plugins: tuple[str, ...] = ()) -> Iterator[Dialect]:
    """Those of every wing, in the order in which its types are found."""
    for module in _http_modules(plugins):
        yield from module.ROUTES


def chats(plugins: tuple[str, ...] = ()) -> dict[str, Callable[[Services], ChatAnswer]]:
    """What answers chats, by the ability of the models that it is for: the `CHATS` of every wing that has some."""
    return {
        ability: make for module in _http_modules(plugins) for ability, make in getattr(module, "CHATS", {}).items()
    }


def _http_modules(plugins: tuple[str, ...]) -> Iterator[ModuleType]:
    for wing in wings(plugins):
        is_package = hasattr(importlib.import_module(wing), "__path__")
        if is_package and importlib.util.find_spec(f"{wing}.http") is not None:
            yield importlib.import_module(f"{wing}.http")
