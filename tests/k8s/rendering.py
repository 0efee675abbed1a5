"""Renders the chart by Helm's own code, without a cluster."""

from __future__ import annotations

import copy
from typing import Any

import yaml

from tests.k8s import helm
from tests.live import ROOT

CHART = ROOT / "k8s" / "chart"
NAMESPACE, RELEASE = "models", "demo"

Document = dict[str, Any]
#: The one in C where there is one; the other needs most of the time of these tests.
SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def rendered(values: Document) -> list[Document]:
    """All documents of the release."""
    pages = helm.render(CHART, values, RELEASE, NAMESPACE)
    found: list[Document] = []
    for path, page in sorted(pages.items()):
        if path.endswith(".yaml"):
            found += filter(None, yaml.load_all(page, SafeLoader))
    return found


def notes(values: Document) -> str:
    pages = helm.render(CHART, values, RELEASE, NAMESPACE)
    return next(page for path, page in pages.items() if path.endswith("NOTES.txt"))


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def only(documents: list[Document], kind: str) -> Document:
    (found,) = of_kind(documents, kind)
    return found


def pod_templates(documents: list[Document]) -> dict[str, Document]:
    """The pod templates of the release, by a name for messages."""
    found = {}
    for document in documents:
        if document["kind"] == "RayCluster":
            spec = document["spec"]
            found["head"] = spec["headGroupSpec"]["template"]
            found |= {group["groupName"]: group["template"] for group in spec.get("workerGroupSpecs", ())}
        elif document["kind"] == "Job":
            found[document["metadata"]["name"]] = document["spec"]["template"]
        elif document["kind"] == "Pod":
            found[document["metadata"]["name"]] = document
    return found


def merged(*values: Document) -> Document:
    """Merges values as Helm merges several `-f`."""
    result: Document = {}
    for one in values:
        for name, value in one.items():
            is_deeper = isinstance(value, dict) and isinstance(result.get(name), dict)
            result[name] = merged(result[name], value) if is_deeper else copy.deepcopy(value)
    return result
