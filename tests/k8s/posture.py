"""The complaints of security checks about a release: Kubernetes' restricted profile, and what scanners ask beyond
it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.k8s.rendering import Document, of_kind, pod_templates

#: The kinds of volumes that the restricted profile allows, and one more that a value of the chart may ask for.
VOLUMES = {"configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SECRET_WORDS = ("KEY", "TOKEN", "PASSWORD", "SECRET")
#: Names with such a word that only say where a secret is or how it is used.
HARMLESS = {"RAY_AUTH_TOKEN_PATH", "HF_TOKEN_PATH", "CLUSTER_KEEP_ALIVE_S"}


def warnings(documents: list[Document], *, host_folder: bool = False) -> list[str]:
    found: list[str] = []
    for name, template in pod_templates(documents).items():
        found += [f"{name}: {text}" for text in _of_pod(template["spec"], host_folder)]
    found += [f"{document['metadata']['name']}: {text}" for document in documents for text in _of_document(document)]
    return found


def _of_pod(spec: Document, host_folder: bool) -> Iterator[str]:
    for word in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        if spec.get(word):
            yield f"{word} is on"
    if spec.get("automountServiceAccountToken") is not False:
        yield "a token of Kubernetes is mounted"
    context = spec.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or not context.get("runAsUser"):
        yield "it may run as root"
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "no seccomp profile"
    for volume in spec.get("volumes", ()):
        (kind,) = set(volume) - {"name"}
        if kind not in VOLUMES and not (host_folder and kind == "hostPath"):
            yield f"volume {volume['name']} is a {kind}"
        if kind == "secret" and volume["secret"].get("defaultMode", 0o644) & 0o007:
            yield f"secret {volume['name']} is readable for everybody"
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        yield from (f"{container['name']}: {text}" for text in _of_container(container))


def _of_container(container: Document) -> Iterator[str]:
    context = container.get("securityContext", {})
    wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True}
    for word, value in wanted.items():
        if context.get(word) is not value:
            yield f"{word} is not {value}"
    if context.get("privileged") or context.get("capabilities", {}) != {"drop": ["ALL"]}:
        yield "it has capabilities"
    for kind in ("requests", "limits"):
        if not {"cpu", "memory"} <= set(container.get("resources", {}).get(kind, ())):
            yield f"no {kind} of cpu and memory"
    if container["image"].endswith(":latest") or not ({":", "@"} & set(container["image"])):
        yield "the image has no version"
    for variable in container.get("env", ()):
        if "value" in variable and variable["name"] not in HARMLESS and _is_secret(variable["name"]):
            yield f"{variable['name']} stands in the open"
    if any("hostPort" in port for port in container.get("ports", ())):
        yield "a port of the machine is taken"


def _is_secret(name: str) -> bool:
    return any(word in name.upper().split("_") for word in SECRET_WORDS)


def _of_document(document: Document) -> Iterator[str]:
    kind = document["kind"]
    if kind == "ConfigMap":
        yield from (f"{name} stands in the open" for name in document["data"] if _is_secret(name))
    if kind in ("ClusterRole", "ClusterRoleBinding"):
        yield "it has rights in the whole cluster"
    if kind in ("Role", "ClusterRole") and "*" in str(document.get("rules")):
        yield "it has every right of a kind"


def unguarded(documents: list[Document]) -> bool:
    """Whether pods outside of the release can reach more than HTTP."""
    for policy in of_kind(documents, "NetworkPolicy"):
        rules: list[dict[str, Any]] = policy["spec"]["ingress"]
        ours = policy["spec"]["podSelector"]
        if all(rule.get("ports") or rule["from"] == [{"podSelector": ours}] for rule in rules):
            return False
    return True
