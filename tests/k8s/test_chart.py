"""The chart, rendered with many values, is accepted by Kubernetes, by KubeRay and by a strict operator."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cli.models_file import read_models
from cluster.runtime import ray_head
from cluster.runtime.place import Place
from cluster.settings import Settings
from k8s import document
from tests.k8s import helm, posture, schemas
from tests.k8s.rendering import (
    CHART,
    Document,
    merged,
    notes,
    of_kind,
    only,
    pod_templates,
    rendered,
)
from tests.k8s.value_sets import EVERYTHING_ON, GPU_KINDS, MODELS, VALUE_SETS

needs_crds = pytest.mark.skipif(
    not schemas.CRDS.exists(), reason="KubeRay's raycluster.yaml is not here; name its folder in KUBERAY_CRDS"
)


def container(template: Document) -> Document:
    (found,) = template["spec"]["containers"]
    return dict(found)


@needs_crds
@pytest.mark.parametrize("place", VALUE_SETS)
def test_every_document_is_accepted_by_its_schema(place: str) -> None:
    documents = rendered(VALUE_SETS[place])
    assert only(documents, "RayCluster")
    found = [f"{d['kind']} {d['metadata']['name']}: {text}" for d in documents for text in schemas.complaints(d)]
    assert found == []


@needs_crds
def test_the_schemas_refuse_a_typo() -> None:
    documents = rendered({})
    cluster = only(documents, "RayCluster")
    cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    assert any("readynessProbe" in text for text in schemas.complaints(cluster))
    service = only(documents, "Service")
    service["spec"]["portz"] = []
    assert any("portz" in text for text in schemas.complaints(service))


@pytest.mark.parametrize("place", VALUE_SETS)
def test_no_pod_has_more_rights_than_it_needs(place: str) -> None:
    values = VALUE_SETS[place]
    documents = rendered(values)
    asks_for_folder = values.get("cache", {}).get("kind") == "node"
    assert posture.warnings(documents, host_folder=asks_for_folder) == []
    assert posture.unguarded(documents) is (values.get("networkPolicy", {}).get("enabled") is False)


def test_the_lint_for_rights_sees_what_is_wrong() -> None:
    documents = rendered({"cache": {"kind": "node"}})
    pod = pod_templates(documents)["head"]["spec"]
    pod["automountServiceAccountToken"] = True
    pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False
    pod["containers"][0]["env"].append({"name": "API_KEY", "value": "ck-1"})
    told = "\n".join(posture.warnings(documents))
    for text in ("token of Kubernetes", "readOnlyRootFilesystem", "API_KEY stands in the open", "is a hostPath"):
        assert text in told


def test_helm_has_nothing_to_say_of_the_chart() -> None:
    report = helm.lint(CHART, EVERYTHING_ON)
    assert report["errors"] == []
    assert [found["error"] for found in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"setings": {}}, "setings"),
        ({"settings": {"prot": 1}}, "settings.*prot"),
        ({"settings": {"auth": True}}, "settings.auth"),
        ({"settings": {"port": 0}}, "settings.port"),
        ({"head": {"cpu": "1"}}, "head.*cpu"),
        ({"nodeGroups": [{"name": "a", "cpus": "1", "memory": "1Gi", "gpu": 1}]}, r"nodeGroups.0.*gpu"),
        ({"nodeGroups": [{"name": "A_B", "cpus": "1", "memory": "1Gi"}]}, r"nodeGroups.0.name"),
        ({"models": [{"model_uid": "x"}]}, r"models.0.*model_name"),
        ({"gcs": {"backend": "etcd"}}, "gcs.backend"),
        ({"gcs": {"backend": "redis"}}, "redis needs an address"),
        ({"gcs": {"backend": "rocksdb"}, "state": {"persistent": False}}, "state volume"),
        ({"predownload": {"enabled": True}}, "cache.kind: shared"),
        ({"ingress": {"enabled": True}}, "at least one host"),
        ({"nodeGroups": [{"name": "a", "cpus": "1", "memory": "1Gi", "max": 3}]}, "has no GPUs, so it cannot grow"),
        ({"nodeGroups": [{**GPU_KINDS[0], "min": 5}]}, "min 5 above max 4"),
        ({"nodeGroups": [{**GPU_KINDS[0], "name": "ingress"}]}, "is taken by ingressNodes"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(values: dict[str, Any], told: str) -> None:
    with pytest.raises(helm.HelmRefusal) as refusal:
        rendered(values)
    assert re.search(told, str(refusal.value).replace("/", ".")), refusal.value


def test_the_written_parts_are_up_to_date() -> None:
    assert (CHART / "README.md").read_text() == document.readme(), "run `python k8s/document.py`"
    assert json.loads((CHART / "values.schema.json").read_text()) == document.schema(), "run `python k8s/document.py`"


def test_settings_are_passed_whole_and_no_template_names_one() -> None:
    given = {"log_level": "DEBUG", "plugins": ["a", "b"], "max_body_bytes": 200_000_000, "tick_s": 0.5, "offline": True}
    documents = rendered({"settings": given})
    environment = only([d for d in documents if d["metadata"]["name"].endswith("-settings")], "ConfigMap")["data"]
    assert environment["CLUSTER_PLUGINS"] == "a,b" and environment["CLUSTER_OFFLINE"] == "true"
    fields = {name.removeprefix("CLUSTER_").lower(): value for name, value in environment.items()}
    read = Settings(**{name: value for name, value in fields.items()})
    assert (read.max_body_bytes, read.tick_s, read.log_level) == (200_000_000, 0.5, "DEBUG")
    assert read.asks_for_keys and read.home == Path("/var/lib/cluster")
    every = [template.read_text() for template in (CHART / "templates").rglob("*.*")]
    names = {f"CLUSTER_{name.upper()}" for name in Settings.model_fields}
    assert not [name for text in every for name in names if name in text]
    for name, template in pod_templates(documents).items():
        if name in ("head", "cpu"):
            assert container(template)["envFrom"] == [{"configMapRef": {"name": "demo-settings"}}]


def test_models_are_the_file_that_the_command_reads(tmp_path: Path) -> None:
    documents = rendered({"models": MODELS})
    text = next(d for d in of_kind(documents, "ConfigMap") if d["metadata"]["name"] == "demo-models")["data"]
    path = tmp_path / "models.yaml"
    path.write_text(text["models.yaml"])
    with path.open() as file:
        specs = read_models(file)
    assert [(spec.model_name, spec.model_uid, spec.replica) for spec in specs] == [
        ("all-MiniLM-L6-v2", None, 2),
        ("ce-tiny", "reranker", 1),
    ]
    assert specs[1].n_gpu is None, "null is passed on, not dropped"
    empty = next(d for d in of_kind(rendered({}), "ConfigMap") if d["metadata"]["name"] == "demo-models")["data"]
    assert yaml.safe_load(empty["models.yaml"]) == {"models": []}


def test_a_changed_list_makes_another_job_and_changes_no_pod() -> None:
    before, after = rendered({"models": MODELS}), rendered({"models": MODELS[:1]})
    assert only(before, "RayCluster") == only(after, "RayCluster")
    assert only(before, "Job")["metadata"]["name"] != only(after, "Job")["metadata"]["name"]
    assert only(before, "Job") == only(rendered({"models": MODELS}), "Job")


def test_the_head_holds_no_model_and_every_group_is_there() -> None:
    cluster = only(rendered({"nodeGroups": GPU_KINDS}), "RayCluster")["spec"]
    assert "--num-cpus=0 --num-gpus=0" in container(cluster["headGroupSpec"]["template"])["args"][0]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert [(n, g["replicas"], g["minReplicas"], g["maxReplicas"]) for n, g in groups.items()] == [
        ("l4", 1, 0, 4),
        ("h100", 1, 1, 2),
        ("mi300", 1, 1, 1),
    ]
    h100, mi300 = groups["h100"]["template"]["spec"], groups["mi300"]["template"]["spec"]
    assert h100["runtimeClassName"] == "nvidia" and h100["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}} in h100["volumes"]
    assert h100["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert groups["l4"]["labels"] == {"gpu": "l4"} and "labels" not in groups["h100"]
    assert mi300["containers"][0]["image"] == "rocm:1"
    assert mi300["containers"][0]["resources"]["limits"]["amd.com/gpu"] == "8"
    assert cluster["enableInTreeAutoscaling"] is True
    assert "--autoscale" in container(cluster["headGroupSpec"]["template"])["args"][0]


def test_ray_is_told_on_every_node_what_the_command_tells_its_own(tmp_path: Path) -> None:
    told = ray_head.ray_variables(Place(Settings(home=tmp_path)), ours=False)
    for template in (pod_templates(rendered({}))[name] for name in ("head", "cpu")):
        environment = {one["name"]: one.get("value") for one in container(template)["env"]}
        assert {name: environment.get(name) for name in told} == told
        assert environment["RAY_AUTH_MODE"] == "token" and environment["RAY_AUTH_TOKEN_PATH"]


def test_a_restarted_head_keeps_what_its_value_says() -> None:
    def head(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        cluster = only(rendered(values), "RayCluster")["spec"]
        environment = {one["name"]: one for one in container(cluster["headGroupSpec"]["template"])["env"]}
        return environment, cluster

    environment, cluster = head({})
    assert "RAY_gcs_storage" not in environment and "gcsFaultToleranceOptions" not in cluster
    environment, _ = head({"gcs": {"backend": "rocksdb"}})
    assert environment["RAY_gcs_storage_path"]["value"].startswith("/var/lib/cluster/"), "on the volume of the state"
    _, cluster = head({"gcs": {"backend": "redis", "redis": {"address": "r:1", "existingSecret": "s"}}})
    assert cluster["gcsFaultToleranceOptions"] == {
        "redisAddress": "r:1",
        "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}},
    }
    assert "nothing is served until it is back" in notes({})
    assert "is lost with" in notes({"state": {"persistent": False}})
    assert "set ingressNodes.replicas" in notes({"gcs": {"backend": "rocksdb"}})


def test_requests_go_to_whoever_answers() -> None:
    for values, groups in (({}, ["head"]), ({"ingressNodes": {"replicas": 2}}, ["ingress"])):
        documents = rendered(values)
        selector = only(documents, "Service")["spec"]["selector"].items()
        chosen = [
            name for name, pod in pod_templates(documents).items() if selector <= pod["metadata"]["labels"].items()
        ]
        assert chosen == groups
    assert only(rendered({"ingressNodes": {"replicas": 2}}), "Service")["spec"]["sessionAffinity"] == "ClientIP"
    shared = rendered({"ingressNodes": {"replicas": 2}, "cache": {"kind": "shared"}})
    assert "sessionAffinity" not in only(shared, "Service")["spec"]
    for name in ("head", "ingress"):
        mounts = {mount["mountPath"] for mount in container(pod_templates(shared)[name])["volumeMounts"]}
        assert {"/var/lib/cluster/files", "/var/lib/cluster/jobs"} <= mounts


def test_a_pod_has_all_the_time_it_needs_to_finish_and_probes_of_its_own() -> None:
    for name, template in pod_templates(rendered({"ingressNodes": {"replicas": 1}})).items():
        if name not in ("head", "ingress", "cpu"):
            continue
        leaves = container(template)["lifecycle"]["preStop"]["exec"]["command"]
        assert "--within=600" in leaves[-1] and template["spec"]["terminationGracePeriodSeconds"] == 660
        asked = {kind: container(template)[kind]["httpGet"]["path"] for kind in ("startupProbe", "livenessProbe")}
        alive = "/health" if name == "head" else "/api/local_raylet_healthz"
        assert set(asked.values()) == {alive}


def test_keys_are_made_once_and_come_from_a_file() -> None:
    secrets = {d["metadata"]["name"]: d for d in of_kind(rendered({}), "Secret")}
    key = base64.b64decode(secrets["demo-admin"]["data"]["admin-key"]).decode()
    assert re.fullmatch(r"ck-\w{43}", key)
    assert len(base64.b64decode(secrets["demo-ray"]["data"]["auth_token"])) == 64
    assert all(d["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for d in secrets.values())
    assert of_kind(rendered(EVERYTHING_ON), "Secret") == []
    text = yaml.safe_dump(rendered(EVERYTHING_ON))
    assert "HF_TOKEN_PATH" in text and "name: HF_TOKEN\n" not in text


def installed(chart: Path, values: dict[str, Any]) -> dict[str, Any]:
    return helm.install(chart, values, "demo", "models")


def test_an_operator_comes_along_once_it_was_fetched(tmp_path: Path) -> None:
    chart = Path(shutil.copytree(CHART, tmp_path / "chart"))
    wanted = {"kuberay-operator": {"enabled": True}}
    with pytest.raises(helm.HelmRefusal, match="run `helm dependency build k8s/chart/charts/kuberay-operator` first"):
        installed(chart, wanted)
    fetched = chart / "charts" / "kuberay-operator" / "charts" / "kuberay-operator"
    (fetched / "templates").mkdir(parents=True)
    (fetched / "Chart.yaml").write_text("{apiVersion: v2, name: kuberay-operator, version: 1.7.0}")
    (fetched / "templates" / "it.yaml").write_text("{apiVersion: v1, kind: ConfigMap, metadata: {name: the-operator}}")
    assert "the-operator" in installed(chart, wanted)["manifest"]
    assert "the-operator" not in installed(chart, {})["manifest"]


def test_an_install_without_a_cluster_gives_notes_with_the_next_commands() -> None:
    told = installed(CHART, {})["notes"]
    for command in ("kubectl -n models port-forward service/demo", "cluster login", "cluster launch", "helm test demo"):
        assert command in told


def test_what_is_merged_overrides() -> None:
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}


def test_the_names_of_the_service_are_names_of_the_server() -> None:
    def hosts(values: Document) -> str:
        settings = next(
            d for d in of_kind(rendered(values), "ConfigMap") if d["metadata"]["name"].endswith("-settings")
        )
        return str(settings["data"]["CLUSTER_ALLOWED_HOSTS"])

    (service,) = of_kind(rendered({}), "Service")
    name, space = service["metadata"]["name"], service["metadata"]["namespace"]
    assert Settings(allowed_hosts=hosts({})).allowed_hosts == (
        name,
        f"{name}.{space}",
        f"{name}.{space}.svc",
        f"{name}.{space}.svc.cluster.local",
    )
    assert hosts({"settings": {"allowed_hosts": ["models.example.com", "m"]}}) == "models.example.com,m"
