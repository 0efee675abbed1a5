"""Checks documents against the schemas of Kubernetes and KubeRay, made strict, so that an unknown field is an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

KUBERNETES = "1.32"
#: KubeRay's definitions, which are not part of the project: a folder with raycluster.yaml.
CRDS = Path(os.environ.get("KUBERAY_CRDS", Path(__file__).parents[3] / "shared" / "kuberay" / "crds"))
#: Kinds of other operators, whose definitions are not at hand; only the outline of these is checked.
OUTLINES = {
    "PodMonitor": {"required": ["selector", "podMetricsEndpoints"]},
    "PrometheusRule": {"required": ["groups"]},
    "HTTPRoute": {"required": ["parentRefs", "rules"]},
}


def complaints(document: dict[str, Any]) -> list[str]:
    kind = document["kind"]
    if kind == "RayCluster":
        return [*_against(ray_cluster(), document), *_pods(document)]
    if kind in OUTLINES:
        return _against({"properties": {"spec": OUTLINES[kind]}, "required": ["spec", "metadata"]}, document)
    return _kubernetes(document)


def _kubernetes(document: dict[str, Any]) -> list[str]:
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'/'.join(map(str, error.path))}: {error.message[:200]}"]
    return []


def _pods(cluster: dict[str, Any]) -> Iterator[str]:
    """Checks the pods within a RayCluster again with Kubernetes' own schema, which says more than the copy in the
    CRD."""
    spec = cluster["spec"]
    for group in (spec["headGroupSpec"], *spec.get("workerGroupSpecs", ())):
        metadata = {"name": "pod", **group["template"]["metadata"]}
        yield from _kubernetes(
            {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": group["template"]["spec"]}
        )


def _against(schema: dict[str, Any], document: dict[str, Any]) -> list[str]:
    found = jsonschema.Draft202012Validator(schema).iter_errors(document)
    return [f"{'/'.join(map(str, error.path))}: {error.message[:200]}" for error in found]


@cache
def ray_cluster() -> dict[str, Any]:
    crd = yaml.load((CRDS / "raycluster.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    stored = next(version for version in crd["spec"]["versions"] if version["storage"])
    schema = _strict(stored["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Turns Kubernetes' dialect into strict JSON Schema: no unknown fields wherever fields are listed."""
    made = {word: value for word, value in schema.items() if word not in ("format", "nullable")}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in schema:
        made["properties"] = {name: _strict(inner) for name, inner in schema["properties"].items()}
        # The server fills in defaults before it validates.
        made["required"] = [n for n in schema.get("required", ()) if "default" not in schema["properties"][n]]
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            made[word] = _strict(schema[word])
    if schema.get("nullable") and "type" in schema:
        made["type"] = [schema["type"], "null"]
    return made
