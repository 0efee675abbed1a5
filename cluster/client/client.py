"""The REST API from Python: every call described once, `Client` makes them and `AsyncClient` awaits them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from cluster.client.handles import handles_of
from cluster.client.http import Async, AsyncDriver, Driver, Request, Steps, Sync, ask, call, http_options, path_part
from cluster.client.jobs import AsyncJob, Job
from cluster.client.launches import LaunchCalls, body_of, spec_of
from cluster.client.model import AsyncModel, Model
from cluster.launch import LaunchSpec
from cluster.value import JsonObject


def in_own_words(description: JsonObject) -> JsonObject:
    """The routes that Xinference's clients read call some types by other names; `cluster_type` has our word."""
    own_type = description.get("cluster_type")
    return description if own_type is None else {**description, "model_type": own_type}


class ClusterCalls(LaunchCalls):
    """Every call but those of one model's handle."""

    def handle(self, uid: str, description: JsonObject) -> Model | AsyncModel:
        raise NotImplementedError

    def job(self, id: str) -> Job | AsyncJob:
        raise NotImplementedError

    # Models that are launched

    @call
    def list_models(self) -> Steps[dict[str, JsonObject]]:
        """Descriptions of the serving models by uid."""
        answer = yield Request("GET", "/v1/models")
        return {model["id"]: in_own_words(model) for model in answer["data"]}

    @call
    def describe_model(self, uid: str) -> Steps[JsonObject]:
        """What a model is and can, by any of its names."""
        answer = yield Request("GET", f"/v1/models/{path_part(uid)}")
        return in_own_words(answer)

    @call
    def get_model(self, uid: str) -> Steps[Any]:
        """The handle of the model's type; name it for the editor: `model: EmbeddingModel = client.get_model(uid)`."""
        description = yield from ClusterCalls.describe_model.steps(self, uid)
        return self.handle(uid, description)

    @call
    def terminate_model(self, uid: str) -> Steps[None]:
        return ask("DELETE", f"/v1/models/{path_part(uid)}")

    @call
    def scale(
        self,
        uid: str,
        replica: int | None = None,
        *,
        min: int | None = None,
        max: int | None = None,
        target_queue_s: float | None = None,
    ) -> Steps[JsonObject]:
        """Sets how many replicas it has, or between how many it follows its load."""
        fields = {"replica": replica, "min": min, "max": max, "target_queue_s": target_queue_s}
        body = {name: value for name, value in fields.items() if value is not None}
        return ask("POST", f"/v1/models/{path_part(uid)}/scale", body=body)

    @call
    def scale_of(self, uid: str) -> Steps[JsonObject]:
        """How many replicas it has and may have, and how much there is to do."""
        return ask("GET", f"/v1/models/{path_part(uid)}/scale")

    @call
    def doze_model(self, uid: str) -> Steps[JsonObject]:
        """Its processes drop their weights, and load them again with its next request, or with `wake_model`."""
        return ask("POST", f"/v1/models/{path_part(uid)}/doze")

    @call
    def sleep_model(self, uid: str) -> Steps[JsonObject]:
        """Ends its processes; its next request, or `wake_model`, starts them again."""
        return ask("POST", f"/v1/models/{path_part(uid)}/sleep")

    @call
    def wake_model(self, uid: str, wait_ready: bool = True) -> Steps[JsonObject]:
        return ask("POST", f"/v1/models/{path_part(uid)}/wake", {"wait_ready": wait_ready})

    @call
    def restart_model(self, uid: str, reason: str = "", wait_ready: bool = True) -> Steps[JsonObject]:
        """New processes take the place of its own, one by one where both have no room; requests go on meanwhile."""
        body = {"reason": reason} if reason else None
        return ask("POST", f"/v1/models/{path_part(uid)}/restart", {"wait_ready": wait_ready}, body)

    @call
    def events(self, uid: str | None = None) -> Steps[list[JsonObject]]:
        """What happened to a model, or to the cluster itself."""
        return ask("GET", f"/v1/models/{path_part(uid)}/events" if uid is not None else "/v1/cluster/events")

    @call
    def all_events(
        self,
        limit: int = 100,
        before: int | None = None,
        uid: str | None = None,
        level: Literal["INFO", "WARNING", "ERROR"] | None = None,
    ) -> Steps[list[JsonObject]]:
        """What happened to all models and to the cluster itself, the newest first: of `level` and worse, and older than
        the event whose id is `before`."""
        return ask("GET", "/v1/events", {"limit": limit, "before": before, "uid": uid, "level": level})

    @call
    def history(
        self,
        uid: str | None = None,
        series: Iterable[str] = (),
        since: float | None = None,
        step_s: Literal[1, 15] | None = None,
    ) -> Steps[JsonObject]:
        """What a model, or all together, did every second of the last 10 minutes, or every 15 s of the last day:
        requests, errors and tokens a second, p50 and p99 in seconds, waiting, batch, memory in bytes."""
        fields = {"model": uid, "series": ",".join(series) or None, "since": since, "step_s": step_s}
        return ask("GET", "/v1/history", fields)

    @call
    def logs(self, uid: str, lines: int = 200) -> Steps[list[str]]:
        """The last lines of what the model's workers logged."""
        answer = yield Request("GET", f"/v1/models/{path_part(uid)}/logs", {"lines": lines})
        return list(answer["lines"])

    @call
    def get_instance_info(self, model_name: str | None = None, model_uid: str | None = None) -> Steps[list[JsonObject]]:
        return ask("GET", "/v1/models/instances", {"model_name": model_name, "model_uid": model_uid})

    @call
    def list_model_replicas(self, uid: str) -> Steps[list[JsonObject]]:
        return ask("GET", f"/v1/models/{path_part(uid)}/replicas")

    @call
    def add_model_replica(
        self, uid: str, replica_config: Sequence[Mapping[str, object]] | None = None
    ) -> Steps[JsonObject]:
        body = {} if replica_config is None else {"replica_config": replica_config}
        return ask("POST", f"/v1/models/{path_part(uid)}/replicas", body=body)

    @call
    def terminate_model_replica(self, uid: str, replica_id: str | int) -> Steps[JsonObject]:
        return ask("DELETE", f"/v1/models/{path_part(uid)}/replicas/{path_part(replica_id)}")

    @call
    def abort_request(self, uid: str, request_id: str, block_duration: int = 30) -> Steps[JsonObject]:
        """Stops a request under way; its id is refused for `block_duration` seconds."""
        path = f"/v1/models/{path_part(uid)}/requests/{path_part(request_id)}/abort"
        return ask("POST", path, body={"block_duration": block_duration})

    @call
    def stop_request(self, request_id: str, uid: str | None = None) -> Steps[int]:
        """Stops the requests of that id, of `uid` if it is given: one's own, and with the scope admin anybody's."""
        answer = yield Request("DELETE", f"/v1/requests/{path_part(request_id)}", {"model": uid})
        return int(answer["stopped"])

    @call
    def get_progress(self, request_id: str) -> Steps[JsonObject]:
        """How far a request is that takes its time: `progress` from 0 to 1, its stage and steps."""
        return ask("GET", f"/v1/requests/{path_part(request_id)}/progress")

    # Jobs in the background, of pictures and of documents

    @call
    def list_image_jobs(self) -> Steps[list[JsonObject]]:
        answer = yield Request("GET", "/v1/images/jobs")
        return list(answer["data"])

    @call
    def get_image_job(self, id: str) -> Steps[Any]:
        """The handle of a job that an earlier run has begun: its `status`, `progress`, `cancel` and `result`."""
        answer = yield Request("GET", f"/v1/images/jobs/{path_part(id)}")
        return self.job(answer["id"])

    # Models declared as a list

    @call
    def apply(
        self, models: Iterable[LaunchSpec | Mapping[str, object]], prune: bool = True, dry_run: bool = False
    ) -> Steps[list[JsonObject]]:
        """Makes the declared models the wished ones; `prune` removes what an earlier list had and this one has not."""
        specs = [body_of(model if isinstance(model, LaunchSpec) else spec_of(model)) for model in models]
        body = {"models": specs, "prune": prune, "dry_run": dry_run}
        answer = yield Request("POST", "/v1/models/apply", body=body)
        return list(answer["changes"])

    @call
    def export(self) -> Steps[list[JsonObject]]:
        """The wished models as `apply` takes them."""
        answer = yield Request("GET", "/v1/models/export")
        return list(answer["models"])

    # The catalogue

    @call
    def register_model(
        self, model_type: str, model: str, persist: bool = False, worker_ip: str | None = None
    ) -> Steps[None]:
        """Adds a catalogue entry; `model` is its JSON text."""
        body = {"model": model, "worker_ip": worker_ip, "persist": persist}
        return ask("POST", f"/v1/model_registrations/{path_part(model_type)}", body=body)

    @call
    def unregister_model(self, model_type: str, model_name: str) -> Steps[None]:
        return ask("DELETE", f"/v1/model_registrations/{path_part(model_type)}/{path_part(model_name)}")

    @call
    def list_model_registrations(self, model_type: str, detailed: bool = False) -> Steps[list[JsonObject]]:
        answer = yield Request("GET", f"/v1/model_registrations/{path_part(model_type)}", {"detailed": detailed})
        # Xinference's clients call some other types so as well.
        return [row for row in answer if row.get("cluster_type", model_type).lower() == model_type.lower()]

    @call
    def get_model_registration(self, model_type: str, model_name: str) -> Steps[JsonObject]:
        return ask("GET", f"/v1/model_registrations/{path_part(model_type)}/{path_part(model_name)}")

    @call
    def query_engine_by_model_name(self, model_name: str, model_type: str | None = None) -> Steps[JsonObject]:
        """Engines that can run a model: what each takes, or the reason why it cannot."""
        kind = f"{path_part(model_type)}/" if model_type else ""
        return ask("GET", f"/v1/engines/{kind}{path_part(model_name)}")

    @call
    def list_cached_models(self, model_name: str | None = None) -> Steps[list[JsonObject]]:
        answer = yield Request("GET", "/v1/cache/models", {"model_name": model_name})
        return list(answer["list"])

    @call
    def delete_cached_models(self, model_version: str) -> Steps[bool]:
        """From the disks of all nodes; a revision, a repository or the name of a model."""
        answer = yield Request("DELETE", "/v1/cache/models", {"model_version": model_version})
        return bool(answer["result"])

    # The cluster and its keys

    @call
    def cluster_info(self, detailed: bool = False) -> Steps[list[JsonObject]]:
        return ask("GET", "/v1/cluster/info", {"detailed": detailed})

    @call
    def cells(self) -> Steps[list[JsonObject]]:
        """Of a gateway: the clusters behind it."""
        return ask("GET", "/v1/cluster/cells")

    @call
    def mark_node(self, node: str, mark: Literal["open", "cordoned", "draining"]) -> Steps[JsonObject]:
        """Closes a node to new workers, opens it again, or has its workers moved elsewhere."""
        return ask("PUT", f"/v1/cluster/nodes/{path_part(node)}", body={"mark": mark})

    @call
    def version(self) -> Steps[str]:
        answer = yield Request("GET", "/v1/cluster/version")
        return str(answer["version"])

    @call
    def asks_for_keys(self) -> Steps[bool]:
        answer = yield Request("GET", "/v1/cluster/auth")
        return bool(answer["auth"])

    @call
    def create_key(
        self, name: str, scopes: Sequence[str] = ("list", "infer"), models: Sequence[str] | None = None
    ) -> Steps[JsonObject]:
        """A new API key for some models, or for all; the answer's `key` is not shown again."""
        body = {"name": name, "scopes": scopes, "models": models}
        return ask("POST", "/v1/keys", body=body)

    @call
    def list_keys(self) -> Steps[list[JsonObject]]:
        return ask("GET", "/v1/keys")

    @call
    def revoke_key(self, key_id: str) -> Steps[None]:
        return ask("DELETE", f"/v1/keys/{path_part(key_id)}")


class Client(ClusterCalls, Sync):
    """Talks to a cluster.

    with Client("http://127.0.0.1:9997") as client:
        uid = client.launch_model("bge-m3", "embedding")
        client.get_model(uid).create_embedding("hello")
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        timeout: float = 300.0,
        transport: httpx.BaseTransport | None = None,
        cell: str | None = None,
    ) -> None:
        """`cell`: where `base_url` is a gateway before several clusters, the one that is meant."""
        self.driver = Driver(httpx.Client(transport=transport, **http_options(base_url, api_key, timeout, cell)))
        self.base_url = str(self.driver.http.base_url).rstrip("/")
        self.has_key = bool(api_key)

    def handle(self, uid: str, description: JsonObject) -> Model:
        return handles_of(description).sync(self, uid, description)

    def job(self, id: str) -> Job:
        return Job(self.driver, id)

    def close(self) -> None:
        self.driver.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncClient(ClusterCalls, Async):
    """The same calls, awaited: `async with AsyncClient(url) as client: await client.launch_model("bge-m3")`."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        timeout: float = 300.0,
        transport: httpx.AsyncBaseTransport | None = None,
        cell: str | None = None,
    ) -> None:
        """The same arguments as `Client`."""
        self.driver = AsyncDriver(
            httpx.AsyncClient(transport=transport, **http_options(base_url, api_key, timeout, cell))
        )
        self.base_url = str(self.driver.http.base_url).rstrip("/")
        self.has_key = bool(api_key)

    def handle(self, uid: str, description: JsonObject) -> AsyncModel:
        return handles_of(description).awaited(self, uid, description)

    def job(self, id: str) -> AsyncJob:
        return AsyncJob(self.driver, id)

    async def close(self) -> None:
        await self.driver.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()
