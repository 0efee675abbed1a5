"""Values of the chart that people might use, for different kinds of places."""

from __future__ import annotations

from typing import Any

GPU_KINDS: list[dict[str, Any]] = [
    {"name": "l4", "gpus": 1, "min": 0, "max": 4, "cpus": "8", "memory": "32Gi", "nodeLabels": {"gpu": "l4"}},
    {
        "name": "h100",
        "gpus": 8,
        "replicas": 1,
        "min": 1,
        "max": 2,
        "cpus": "96",
        "memory": "1000Gi",
        "shm": "64Gi",
        "runtimeClassName": "nvidia",
        "pricePerHour": 28.5,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "idleTimeoutSeconds": 1800,
    },
    {"name": "mi300", "gpus": 8, "gpuResource": "amd.com/gpu", "cpus": "64", "memory": "512Gi", "image": "rocm:1"},
]

MODELS: list[dict[str, Any]] = [
    {"model_name": "all-MiniLM-L6-v2", "replica": 2},
    {"model_name": "ce-tiny", "model_uid": "reranker", "n_gpu": None},
]

EVERYTHING_ON: dict[str, Any] = {
    "settings": {"log_level": "DEBUG", "plugins": ["one", "two"], "tick_s": 0.5, "allow_pickle": False},
    "models": MODELS,
    "image": {"repository": "registry.example/cluster", "digest": f"sha256:{'0' * 64}", "pullSecrets": ["registry"]},
    "labels": {"kueue.x-k8s.io/queue-name": "models"},
    "annotations": {"team": "search"},
    "environment": {"HTTPS_PROXY": "http://proxy:3128"},
    "ray": {"dashboard": True},
    "head": {"priorityClassName": "high", "tolerations": [{"operator": "Exists"}], "nodeSelector": {"pool": "system"}},
    "ingressNodes": {"replicas": 3, "annotations": {"a": "b"}},
    "nodeGroups": [*GPU_KINDS, {"name": "cpu", "replicas": 2, "cpus": 8, "memory": "32Gi", "labels": {"x": "y"}}],
    "state": {"storageClass": "fast"},
    "gcs": {"backend": "redis", "redis": {"address": "redis:6379", "existingSecret": "redis"}},
    "cache": {"kind": "shared", "storageClass": "nfs"},
    "predownload": {"enabled": True},
    "secrets": {
        "adminKey": {"existingSecret": "admin"},
        "rayToken": {"existingSecret": "ray"},
        "huggingface": {"existingSecret": "hub"},
        "environment": [{"name": "MODELSCOPE_API_TOKEN", "secret": "scope", "key": "token"}],
    },
    "service": {"type": "LoadBalancer", "annotations": {"internal": "true"}},
    "ingress": {"enabled": True, "hosts": ["models.example"], "tlsSecret": "tls", "className": "nginx"},
    "gateway": {"enabled": True, "parentRefs": [{"name": "edge"}], "hostnames": ["models.example"]},
    "networkPolicy": {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]},
    "monitoring": {"enabled": True, "labels": {"release": "prometheus"}, "existingSecret": "reader", "key": "key"},
}

VALUE_SETS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "laptop": {
        "nodeGroups": [{"name": "cpu", "cpus": "2", "memory": "4Gi"}],
        "head": {"cpus": "1", "memory": "2Gi"},
        "models": MODELS,
        "disruption": {"enabled": False},
        "state": {"persistent": False},
    },
    "one GPU node": {"nodeGroups": [{"name": "gpu", "gpus": 1, "cpus": "8", "memory": "64Gi"}]},
    "three kinds of GPU": {"nodeGroups": GPU_KINDS},
    "high availability with redis": {
        "ingressNodes": {"replicas": 3},
        "gcs": {"backend": "redis", "redis": {"address": "redis.data:6379"}},
        "spread": {"topologyKeys": ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]},
    },
    "high availability with rocksdb": {"ingressNodes": {"replicas": 2}, "gcs": {"backend": "rocksdb"}},
    "offline with a filled volume": {
        "settings": {"offline": True},
        "cache": {"kind": "shared", "existingClaim": "weights"},
        "networkPolicy": {"internet": False},
    },
    "a folder of each machine": {"cache": {"kind": "node"}, "nodeGroups": GPU_KINDS},
    "downloaded before": {"cache": {"kind": "shared"}, "predownload": {"enabled": True}, "models": MODELS},
    "ingress and TLS": {"ingress": {"enabled": True, "hosts": ["a.example", "b.example"], "tlsSecret": "tls"}},
    "gateway": {"gateway": {"enabled": True, "parentRefs": [{"name": "edge", "namespace": "infra"}]}},
    "watched": {"monitoring": {"enabled": True}},
    "everything off": {
        "nodeGroups": [],
        "state": {"persistent": False},
        "autoscaling": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "disruption": {"enabled": False},
        "spread": {"topologyKeys": []},
        "settings": {"metrics": False},
    },
    "everything on": EVERYTHING_ON,
}
