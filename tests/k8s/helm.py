"""Helm's own code, from a package, in a process of its own: it brings Go's runtime, beside which libraries that compute
end their process now and then."""

from __future__ import annotations

import importlib.util
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


class HelmRefusal(Exception):
    """What Helm says of a chart or of its values."""


def render(chart: Path, values: dict[str, Any], name: str, namespace: str) -> dict[str, str]:
    """The pages of a release, by their paths."""
    return _asked(_render, chart, values, name, namespace)


def lint(chart: Path, values: dict[str, Any]) -> dict[str, Any]:
    return _asked(_lint, chart, values)


def install(chart: Path, values: dict[str, Any], name: str, namespace: str) -> dict[str, Any]:
    """Does what `helm install` does, up to the point where it would need a cluster."""
    return _asked(_install, chart, values, name, namespace)


def _asked(work: Callable[..., T], *arguments: Any) -> T:
    return _process().submit(work, *arguments).result(120)


@cache
def _process() -> ProcessPoolExecutor:
    if importlib.util.find_spec("helm_python") is None:
        pytest.skip("helm-python-sdk has no build for this system")
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


@cache
def _loaded(chart: Path) -> Any:
    from helm_python.chart import Chart

    return Chart.load(chart)


def _render(chart: Path, values: dict[str, Any], name: str, namespace: str) -> dict[str, str]:
    from helm_python import HelmError

    try:
        return dict(_loaded(chart).render(values, name=name, namespace=namespace))
    except HelmError as error:
        raise HelmRefusal(str(error)) from None


def _lint(chart: Path, values: dict[str, Any]) -> dict[str, Any]:
    from helm_python.chart import lint

    return dict(lint(chart, values, strict=True))


def _install(chart: Path, values: dict[str, Any], name: str, namespace: str) -> dict[str, Any]:
    from helm_python import HelmError
    from helm_python.config import Config

    try:
        with Config(namespace=namespace) as config:
            return dict(config.install(chart, name, values, dry_run="client"))
    except HelmError as error:
        raise HelmRefusal(str(error)) from None
