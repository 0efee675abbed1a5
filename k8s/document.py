"""Writes the chart's README.md and values.schema.json from values.yaml and the settings: `python k8s/document.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cluster.settings import Settings

CHART = Path(__file__).parent / "chart"

#: Fields of an entry of `nodeGroups`: type, default, what it is.
GROUP: dict[str, tuple[dict[str, Any], str, str]] = {
    "name": (
        {"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$"},
        "",
        "Name of the group, in small letters.",
    ),
    "replicas": ({"type": "integer", "minimum": 0}, "1", "Pods to begin with."),
    "min": ({"type": "integer", "minimum": 0}, "`replicas`", "Fewest pods."),
    "max": ({"type": "integer", "minimum": 0}, "`replicas`", "Most pods."),
    "cpus": ({"type": ["string", "integer"]}, "", "Cores of a pod."),
    "memory": ({"type": "string"}, "", "Memory of a pod."),
    "gpus": ({"type": "integer", "minimum": 0}, "0", "GPUs of a pod."),
    "gpuResource": ({"type": "string"}, "nvidia.com/gpu", "What Kubernetes calls them."),
    "pricePerHour": ({"type": "number", "minimum": 0}, "0", "What a pod costs, for the dashboard."),
    "shm": ({"type": "string"}, "1Gi", "Size of /dev/shm."),
    "scratch": ({"type": "string"}, "50Gi", "Size of /tmp."),
    "image": ({"type": "string"}, "`image`", "Another image, e.g. of another CUDA."),
    "runtimeClassName": ({"type": "string"}, "", "E.g. `nvidia`."),
    "idleTimeoutSeconds": (
        {"type": "integer", "minimum": 0},
        "`autoscaling`",
        "Seconds after which an empty pod goes.",
    ),
    "nodeLabels": (
        {"type": "object", "additionalProperties": {"type": "string"}},
        "",
        "What its nodes are called to launches, which ask for it by `node_labels`, e.g. `zone: b`.",
    ),
    "nodeSelector": ({"type": "object"}, "", "Labels of the machines."),
    "tolerations": ({"type": "array", "items": {"type": "object"}}, "", "Taints to live with."),
    "affinity": ({"type": "object"}, "", "As in a pod."),
    "priorityClassName": ({"type": "string"}, "", "As in a pod."),
    "labels": ({"type": "object"}, "", "Further labels of the pods."),
    "annotations": ({"type": "object"}, "", "Further annotations of the pods."),
}

SECRET = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "secret", "key"],
    "properties": {name: {"type": "string"} for name in ("name", "secret", "key")},
}

#: What a default cannot tell of its value.
NARROWER: dict[str, dict[str, Any]] = {
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "gcs.backend": {"enum": ["none", "rocksdb", "redis"]},
    "cache.kind": {"enum": ["pod", "node", "shared"]},
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "probes.readinessPath": {"enum": ["/health", "/ready"]},
    "security.user": {"type": "integer", "minimum": 1},
    "security.group": {"type": "integer", "minimum": 1},
    "ingressNodes.replicas": {"type": "integer", "minimum": 0},
    "secrets.environment": {"type": "array", "items": SECRET},
    "kuberay-operator": {"type": "object", "properties": {"enabled": {"type": "boolean"}}},
}

HEAD = """# The chart

A cluster on [KubeRay](https://docs.ray.io/en/latest/cluster/kubernetes/index.html): a head with the supervisor and no
model, a group of pods per kind of machine, and a list of models.

```sh
docker build -f k8s/Dockerfile -t registry.example/model-cluster:0.1.0 .
helm install cluster ./k8s/chart -f my-values.yaml
helm test cluster
```

```yaml
# my-values.yaml
image: {repository: registry.example/model-cluster}
models:
  - {model_name: all-MiniLM-L6-v2, replica: 2}
nodeGroups:
  - {name: cpu, replicas: 2, cpus: "8", memory: 32Gi}
  - {name: l4, gpus: 1, min: 0, max: 4, cpus: "8", memory: 32Gi, nodeSelector: {gpu: l4}}
```

KubeRay's operator must be there, 1.4 or newer, or comes along with `kuberay-operator.enabled=true` once its chart was
fetched: `helm dependency build k8s/chart/charts/kuberay-operator`.

## Decided

* **A RayCluster, not a RayService.** `cluster up` runs the ingress itself; KubeRay calls a RayService ready by the
  Serve apps it deployed from the resource, of which there are none. Every change of a RayService is a second cluster
  beside the first: twice the GPUs, all models loaded again, and two supervisors over one file of wishes. Here a changed
  list of models changes just those models, and no pod.
* **The commands are whole.** The annotation `ray.io/overwrite-container-cmd` keeps KubeRay from adding to them: what is
  rendered is what runs, and what `tests/k8s/test_faults.py` runs.
* **A change of pods** (image, sizes, settings) is taken up by a pod when it is next started, as
  `upgradeStrategy: None` says. Delete pods one at a time, workers first: each finishes what it has in hand.
* **The list of models** is applied by a job at each release, and by the head whenever it starts. Removed entries are
  drained; what was launched by hand is left alone.
* **Groups grow** by what all models need together: ten models on a twentieth of a card each are one card. A launch
  that fits no node waits for the one that is added for it; one without a GPU, or for a named node, is refused.

## What is lost with the head

| | `gcs.backend: none` | `rocksdb`, `redis` |
|---|---|---|
| while it is away | no answers | with `ingressNodes` all models answer; without, none |
| when it is back | every model is loaded again | workers go on as they were |
| wishes, registrations, keys | kept with `state.persistent`; without, only `models` and the admin's key | the same |

## Values

| value | default | |
|---|---|---|
"""


def documented() -> Iterator[tuple[str, str, str]]:
    """Path, default and comment of every leaf of values.yaml."""
    path: list[tuple[int, str]] = []
    said: list[str] = []
    lines = (CHART / "values.yaml").read_text().splitlines()
    values = yaml.safe_load("\n".join(lines))
    skipped_below: int | None = None
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if line.strip().startswith("#"):
            if skipped_below is None or depth <= skipped_below:
                said = [*said, line.strip()[1:].strip()]
            continue
        key = re.match(r"([\w-]+):", line.strip())
        if not key or (skipped_below is not None and depth > skipped_below):
            said = said if key else []
            continue
        skipped_below = None
        path = [*(part for part in path if part[0] < depth), (depth, key[1])]
        value = values
        for _, name in path:
            value = value[name]
        is_told = any(text.startswith("-- ") for text in said)
        if is_told or not isinstance(value, dict) or not value:
            told = " ".join(said).removeprefix("-- ") if is_told else ""
            yield ".".join(name for _, name in path), json.dumps(value), told
            skipped_below = depth if isinstance(value, (dict, list)) and value else None
        said = []


def readme() -> str:
    rows = [f"| `{path}` | {_code(default)} | {_cell(said)} |" for path, default, said in documented()]
    rows += ["", "### An entry of `nodeGroups`", "", "| field | default | |", "|---|---|---|"]
    rows += [f"| `{name}` | {default} | {said} |" for name, (_, default, said) in GROUP.items()]
    rows += ["", "### An entry of `settings`", "", "| setting | default of the program | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        rows.append(f"| `{name}` | {_code(str(default))} | {_cell(field.description or '')} |")
    return HEAD + "\n".join(rows) + "\n"


def _code(text: str) -> str:
    short = text if len(text) <= 60 else "see values.yaml"
    return "" if text in ('""', "") else f"`{short}`" if short == text else short


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def schema() -> dict[str, Any]:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    made = _schema_of(values, ())
    made["properties"]["settings"] = _settings()
    made["properties"]["models"] = {
        "type": "array",
        "items": {"type": "object", "required": ["model_name"], "properties": {"model_name": {"type": "string"}}},
    }
    made["properties"]["nodeGroups"] = {
        "type": "array",
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name", "cpus", "memory"],
            "properties": {name: kind for name, (kind, _, _) in GROUP.items()},
        },
    }
    # Helm's own, for charts that have this one as a dependency.
    made["properties"]["global"] = {"type": "object"}
    return {"$schema": "https://json-schema.org/draft-07/schema#", "title": "Values of the model cluster", **made}


def _schema_of(value: Any, path: tuple[str, ...]) -> dict[str, Any]:
    narrower = NARROWER.get(".".join(path))
    if narrower is not None:
        return narrower
    # `resources` and maps that are empty by default are Kubernetes' own or free.
    if (
        isinstance(value, dict)
        and value
        and path[-1:] not in (("resources",), ("labels",))
        and path != ("ray", "environment")
    ):
        inner = {name: _schema_of(one, (*path, name)) for name, one in value.items()}
        return {"type": "object", "additionalProperties": False, "properties": inner}
    if path[-1:] == ("cpus",):
        return {"type": ["string", "integer"]}
    names = {dict: "object", list: "array", bool: "boolean", int: "integer", float: "number", str: "string"}
    return {"type": names[type(value)]}


def _settings() -> dict[str, Any]:
    """The program's own: a name that it does not know is refused before anything is installed."""
    properties = {}
    for name, told in Settings.model_json_schema()["properties"].items():
        kept = {word: told[word] for word in ("type", "enum", "minimum", "maximum", "exclusiveMinimum") if word in told}
        # A list may be written with commas as well, as in the environment.
        properties[name] = {"type": ["array", "string"]} if told.get("type") == "array" else kept
    return {"type": "object", "additionalProperties": False, "properties": properties}


if __name__ == "__main__":
    (CHART / "README.md").write_text(readme())
    (CHART / "values.schema.json").write_text(json.dumps(schema(), indent=2) + "\n")
