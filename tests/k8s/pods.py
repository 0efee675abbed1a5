"""Runs pods without Kubernetes: the rendered command with the rendered environment, in Linux namespaces.

Each pod has an address, processes and volumes of its own, a root file system that it cannot write, and no privileges:
what kubelet and KubeRay do with a template, as far as these templates need it.
"""

from __future__ import annotations

import asyncio
import base64
import math
import os
import re
import secrets
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.faults.traffic import Traffic
from tests.k8s.rendering import NAMESPACE, RELEASE, Document, of_kind, only
from tests.live import ROOT, until

PATH = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def why_not() -> str:
    """Why such pods cannot be made on this machine; empty if they can."""
    if os.geteuid() != 0 or sys.platform != "linux":
        return "namespaces for pods need root on Linux"
    if ROOT.is_relative_to("/tmp"):
        return "a pod has a /tmp of its own, and the code is in it"
    name = f"probe{secrets.token_hex(2)}"
    made = "d=$(mktemp -d); mkdir $d/u $d/w; mount -t overlay o -o lowerdir=/etc,upperdir=$d/u,workdir=$d/w /etc"
    script = f"ip netns add {name} && ip netns exec {name} unshare --mount --pid --fork bash -c {shlex.quote(made)}"
    done = subprocess.run(f"{script}; rc=$?; ip netns del {name}; exit $rc", shell=True, capture_output=True, text=True)
    return f"no namespaces here: {done.stderr.strip()[:200]}" if done.returncode else ""


def number(quantity: Any) -> float:
    """The value of a Kubernetes quantity."""
    match = re.fullmatch(r"([\d.]+)(m|[kMGT]i?)?", str(quantity))
    assert match is not None, quantity
    return float(match[1]) * (0.001 if match[2] == "m" else UNITS[match[2] or ""])


class Network:
    """A bridge with pods; this machine can reach them, as a node can."""

    def __init__(self, folder: Path) -> None:
        self.id = secrets.token_hex(2)
        #: From the range of addresses that is reserved for tests of networks.
        self.prefix = f"198.18.{secrets.randbelow(256)}"
        self.folder = folder
        self.pods: list[Pod] = []
        self._given = 1
        self._bridge = f"mc{self.id}"
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("address", "add", f"{self.prefix}.1/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def address(self) -> str:
        self._given += 1
        return f"{self.prefix}.{self._given}"

    def plug(self, name: str, address: str) -> str:
        """Makes a network namespace with that address and returns its name."""
        space, outside = f"mc{self.id}-{name}", f"m{self.id}{secrets.token_hex(3)}"
        _ip("netns", "add", space)
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", outside, "master", self._bridge, "up")
        for words in (["link", "set", "lo", "up"], ["address", "add", f"{address}/24", "dev", "eth0"]):
            _ip("-n", space, *words)
        _ip("-n", space, "link", "set", "eth0", "up")
        return space

    def close(self) -> None:
        for pod in list(self.pods):
            pod.kill()
        _ip("link", "del", self._bridge)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Pod:
    """One running container. `kill` does what the loss of its node does, `delete` what an eviction does."""

    def __init__(
        self, network: Network, documents: list[Document], name: str, template: Document, **given: str
    ) -> None:
        self.name = name
        self.ip = given.pop("ip", "") or network.address()
        self._network = network
        self._documents = documents
        self._spec = template["spec"]
        (self._container,) = self._spec["containers"]
        self._folder = network.folder / f"{name}-{secrets.token_hex(2)}"
        self._log = (network.folder / f"{name}.log").open("ab")
        self._space = network.plug(name, self.ip)
        self.environment = {"PATH": PATH, **self._environment(), **given}
        command = [*self._container["command"], *self._container.get("args", ())]
        words = ["ip", "netns", "exec", self._space, "unshare", "--mount", "--pid", "--fork", "--mount-proc"]
        words += ["bash", "-c", self._script(command)]
        self.process = subprocess.Popen(
            words, env=self.environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, cwd="/"
        )
        network.pods.append(self)

    # ------------------------------------------------------------------------------------ kubelet's part

    def _environment(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in self._container.get("envFrom", ()):
            found |= self._named("ConfigMap", source["configMapRef"]["name"])["data"]
        for variable in self._container.get("env", ()):
            found[variable["name"]] = self._value(variable)
        return found

    def _value(self, variable: Document) -> str:
        if "value" in variable:
            return str(variable["value"])
        source = variable["valueFrom"]
        if "fieldRef" in source:
            assert source["fieldRef"]["fieldPath"] == "status.podIP"
            return self.ip
        kind, resource = source["resourceFieldRef"]["resource"].split(".")
        return str(math.ceil(number(self._container["resources"][kind][resource])))

    def _named(self, kind: str, name: str) -> Document:
        return next(d for d in of_kind(self._documents, kind) if d["metadata"]["name"] == name)

    def _volumes(self) -> dict[str, Path]:
        """Makes a folder with the content of each volume."""
        found = {}
        for volume in self._spec.get("volumes", ()):
            if "persistentVolumeClaim" in volume:
                folder = self._network.folder / "claims" / volume["persistentVolumeClaim"]["claimName"]
            else:
                folder = self._folder / volume["name"]
            folder.mkdir(parents=True, exist_ok=True)
            for path, content in self._files(volume).items():
                (folder / path).write_bytes(content)
                (folder / path).chmod(0o440)
            _give(folder, self._spec["securityContext"])
            found[volume["name"]] = folder
        return found

    def _files(self, volume: Document) -> dict[str, bytes]:
        if "configMap" in volume:
            data = self._named("ConfigMap", volume["configMap"]["name"])["data"]
            return {name: text.encode() for name, text in data.items()}
        if "secret" in volume:
            data = self._named("Secret", volume["secret"]["secretName"])["data"]
            return {item["path"]: base64.b64decode(data[item["key"]]) for item in volume["secret"]["items"]}
        return {}

    def _script(self, command: list[str]) -> str:
        """Builds the file system of the pod, then runs the command without privileges."""
        volumes, context = self._volumes(), self._spec["securityContext"]
        # The tests may run at a lower priority, which a pod must not inherit.
        lines = ["set -e", "ulimit -c 0", "renice -n 0 -p $$ > /dev/null"]
        # The places of volumes, and places where the interpreter may be readable only by root.
        tops = {"/etc", "/var", f"/{Path(sys.base_prefix).parts[1]}"} - {"/usr", "/opt"}
        for top in sorted(tops):
            layer = self._folder / "layers" / top.strip("/")
            for part in ("upper", "work"):
                (layer / part).mkdir(parents=True)
            options = f"lowerdir={top},upperdir={layer}/upper,workdir={layer}/work"
            lines += [f"mount -t overlay pod -o {options} {top}", f"chmod a+x {top}"]
        hosts = self._folder / "hosts"
        hosts.write_text(self._hosts())
        lines.append(f"mount --bind {hosts} /etc/hosts")
        mounts = {m["mountPath"]: volumes[m["name"]] / m.get("subPath", "") for m in self._container["volumeMounts"]}
        read_only = {m["mountPath"] for m in self._container["volumeMounts"] if m.get("readOnly")}
        # The folders of volumes are below /tmp, which is replaced later.
        for path in sorted(mounts, key=lambda path: (path == "/tmp", path)):
            mounts[path].mkdir(exist_ok=True)
            lines.append(f"mkdir -p {path}")
            lines.append(
                "mount -t tmpfs -o mode=1777 shm /dev/shm"
                if path == "/dev/shm"
                else f"mount --bind {mounts[path]} {path}"
            )
            lines += [f"mount -o remount,bind,ro {path}"] if path in read_only else []
        assert self._container["securityContext"]["readOnlyRootFilesystem"]
        lines += [f"mount -o remount,ro {top}" for top in sorted(tops)]
        lines.append("mount -o remount,bind,ro /")
        lines.append(f"exec {_without_rights(context)} {shlex.join(command)}")
        return "\n".join(lines)

    def _hosts(self) -> str:
        """The names that the DNS of the cluster would know: the service leads to the pods that answer requests."""
        lines = ["127.0.0.1 localhost", f"{self.ip} {self.name}"]
        service = next(iter(of_kind(self._documents, "Service")))
        labels = service["spec"]["selector"].items()
        cluster = only(self._documents, "RayCluster")["spec"]
        groups = {"head": cluster["headGroupSpec"]} | {g["groupName"]: g for g in cluster.get("workerGroupSpecs", ())}
        answering = [
            name for name, group in groups.items() if labels <= group["template"]["metadata"]["labels"].items()
        ]
        for pod in (self, *self._network.pods):
            if pod.name.split("-")[0] in answering:
                lines.append(f"{pod.ip} {service['metadata']['name']}.{NAMESPACE}.svc")
        return "\n".join(lines) + "\n"

    # ------------------------------------------------------------------------------------ what is done to it

    def run(self, command: list[str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs another command in the pod, as kubelet does for hooks and probes."""
        (first,) = self._first()
        words = ["nsenter", f"--target={first.pid}", "--mount", "--pid", "--net"]
        words += [*_without_rights(self._spec["securityContext"]).split(), *command]
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=timeout, cwd="/")

    def answers(self, probe: str) -> bool:
        """Whether a probe of the container succeeds."""
        asked = self._container[probe]["httpGet"]
        ports = {port["name"]: port["containerPort"] for port in self._container.get("ports", ())}
        url = f"http://{self.ip}:{ports.get(asked['port'], asked['port'])}{asked['path']}"
        try:
            return httpx.get(url, timeout=self._container[probe]["timeoutSeconds"]).status_code < 400
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """Kills it, as when its node loses power."""
        for first in self._first():
            first.kill()
        self._gone()

    def delete(self, timeout: float) -> float:
        """Evicts it: its hook runs, then it is told to end. Returns the seconds that this took."""
        started = time.monotonic()
        hook = self._container["lifecycle"]["preStop"]["exec"]["command"]
        done = self.run(hook, timeout)
        assert done.returncode == 0, done.stderr
        for first in self._first():
            first.terminate()
        self._gone()
        return time.monotonic() - started

    def _first(self) -> list[psutil.Process]:
        """The first process of its namespace, whose end ends all others; none if it has ended by itself."""
        try:
            return psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []

    def _gone(self) -> None:
        self.process.wait(30)
        self._network.pods.remove(self)
        self._log.close()
        _ip("netns", "del", self._space)

    def ended(self, within: float) -> int:
        """The exit status of a pod that ends by itself."""
        status = self.process.wait(within)
        self._gone()
        return status

    def log(self) -> str:
        return (self._network.folder / f"{self.name}.log").read_text(errors="replace")


def _give(folder: Path, context: Document) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, context["runAsUser"], context["fsGroup"], follow_symlinks=False)


def _without_rights(context: Document) -> str:
    who = f"--reuid={context['runAsUser']} --regid={context['runAsGroup']} --clear-groups"
    return f"setpriv {who} --no-new-privs --bounding-set=-all --inh-caps=-all"


class Release:
    """A rendered release on a network as KubeRay runs it: a head, and the pods of the groups, which get the head's
    address."""

    def __init__(self, network: Network, documents: list[Document]) -> None:
        self.network = network
        self.documents = documents
        self.head_ip = network.address()
        data = only([d for d in documents if d["metadata"]["name"] == f"{RELEASE}-admin"], "Secret")["data"]
        self.key = base64.b64decode(data["admin-key"]).decode()

    def start_head(self) -> Pod:
        template = only(self.documents, "RayCluster")["spec"]["headGroupSpec"]["template"]
        return Pod(self.network, self.documents, "head", template, ip=self.head_ip, **self._kuberay("127.0.0.1"))

    def start(self, group: str, number: int = 0) -> Pod:
        specs = only(self.documents, "RayCluster")["spec"]["workerGroupSpecs"]
        template = next(one["template"] for one in specs if one["groupName"] == group)
        return Pod(self.network, self.documents, f"{group}-{number}", template, **self._kuberay(self.head_ip))

    def run_job(self, name: str, within: float) -> tuple[int, str]:
        """Runs the pod of a job or a test to its end."""
        found = next(
            d for d in self.documents if d["kind"] in ("Job", "Pod") and d["metadata"]["name"].startswith(name)
        )
        template = found["spec"]["template"] if found["kind"] == "Job" else found
        pod = Pod(self.network, self.documents, name, template)
        return pod.ended(within), pod.log()

    def _kuberay(self, head: str) -> dict[str, str]:
        """The variables that the operator adds to every pod of Ray."""
        return {
            "FQ_RAY_IP": self.head_ip,
            "RAY_IP": head,
            "RAY_PORT": "6379",
            "RAY_ADDRESS": f"{head}:6379",
            "RAY_CLUSTER_NAME": RELEASE,
        }


@contextmanager
def traffic(url: str, key: str, model: str, callers: int = 8) -> Iterator[Traffic]:
    """Callers with a key that each send the next request soon after the last one is answered, until the block ends."""
    seen = Traffic()
    thread = threading.Thread(target=lambda: asyncio.run(seen.call(f"{url}/v1/infer", model, callers, key)))
    thread.start()
    try:
        until(lambda: seen.ok >= callers, within=20, why="no request is answered")
        yield seen
        before = seen.ok
        until(lambda: seen.ok >= before + callers, within=60, why="requests are not answered any more")
    finally:
        seen._stop.set()
        thread.join(90)
