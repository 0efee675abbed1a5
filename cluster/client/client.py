"""The REST API from Python: every call described once, `Client` makes them and `AsyncClient` awaits them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from cluster import errors
from cluster.client.documents import OcrCalls
from cluster.client.http import Async, Pause, Request, Steps, Sync, ask, call, given, http_options
from cluster.client.images import ImageCalls
from cluster.client.jobs import job_of
from cluster.launch import LaunchSpec
from cluster.launching import has_ended
from cluster.status import ModelStatus

M = TypeVar("M", bound=BaseModel)

#: The longest a server holds a long-poll.
LONGEST_POLL_S = 30.0
#: How long following a launch puts up with a control plane that does not answer.
PATIENCE_S = 60.0
#: A model that can one of these draws, whatever its type is called; one that can the other reads.
DRAWS = {"text2image", "image2image", "inpainting"}
READS = "ocr"


class Launched(NamedTuple):
    uid: str
    generation: int


class _Calls:
    """Every call but those of one model's handle."""

    def _handle(self, uid: str, description: dict[str, Any]) -> Any:
        raise NotImplementedError

    # Launching

    @call
    def submit(self, spec: LaunchSpec) -> Steps[Launched]:
        """Writes the launch down and returns; the wish stays whatever becomes of the caller."""
        answer = yield Request("POST", "/v1/models", {"wait_ready": False}, body_of(spec))
        return Launched(answer["model_uid"], answer.get("generation", 0))

    @call
    def check(self, spec: LaunchSpec) -> Steps[dict[str, Any]]:
        """Whether the launch would fit, where, and what it would claim; launches nothing."""
        return ask("POST", "/v1/models", {"dry_run": True}, body_of(spec))

    @call
    def wait_until_ready(
        self,
        uid: str,
        generation: int = 0,
        timeout: float | None = None,
        on_status: Callable[[ModelStatus], object] | None = None,
    ) -> Steps[ModelStatus]:
        """Follows a launch until it is READY, tells `on_status` of every change, raises what made it fail."""
        deadline = None if timeout is None else time.monotonic() + timeout
        # Whoever has just submitted knows that there is a server.
        last_heard = time.monotonic() if generation else float("-inf")
        version: int | None = None
        status: ModelStatus | None = None
        while True:
            seconds_left = LONGEST_POLL_S if deadline is None else deadline - time.monotonic()
            if status is not None and seconds_left <= 0:
                raise _late(status, timeout)
            wait_s = min(max(seconds_left, 0.0), LONGEST_POLL_S)
            try:
                status = yield from _Calls.status.steps(self, uid, version, wait_s)
            except errors.UnknownUid:
                raise errors.LaunchCancelled(f"The launch of {uid} was cancelled before it was READY.") from None
            except errors.Unavailable:
                # A supervisor that restarts is away for seconds and the wish outlives it.
                now = time.monotonic()
                if now - last_heard > PATIENCE_S or (deadline is not None and now > deadline):
                    raise
                yield Pause(0.5)
                continue
            last_heard = time.monotonic()
            if on_status is not None:
                on_status(status)
            if has_ended(status, generation):
                return status
            if status.version == version:
                # The end of a long-poll says the same again, and so does a server that does not hold them.
                yield Pause(min(0.2, wait_s))
            version = status.version

    @call
    def launch_model(
        self,
        /,
        model_name: str,
        model_type: str = "",
        *,
        wait_ready: bool = True,
        timeout: float | None = None,
        **fields: Any,
    ) -> Steps[str]:
        """Launches a model and returns its uid; `fields` are `LaunchSpec`'s, any other is an option of its family."""
        spec = spec_of({"model_name": model_name, "model_type": model_type or None, **fields})
        uid, generation = yield from _Calls.submit.steps(self, spec)
        if wait_ready:
            yield from _Calls.wait_until_ready.steps(self, uid, generation, timeout)
        return str(uid)

    @call
    def cancel_launch_model(self, uid: str) -> Steps[None]:
        return ask("POST", f"/v1/models/{_part(uid)}/cancel")

    @call
    def get_launch_model_progress(self, uid: str) -> Steps[dict[str, Any]]:
        return ask("GET", f"/v1/models/{_part(uid)}/progress")

    # Models that are launched

    @call
    def list_models(self) -> Steps[dict[str, dict[str, Any]]]:
        """Descriptions of the serving models by uid."""
        answer = yield Request("GET", "/v1/models")
        return {model["id"]: model for model in answer["data"]}

    @call
    def describe_model(self, uid: str) -> Steps[dict[str, Any]]:
        return ask("GET", f"/v1/models/{_part(uid)}")

    @call
    def get_model(self, uid: str) -> Steps[Any]:
        """The handle of the model's type; name it for the editor: `model: EmbeddingModel = client.get_model(uid)`."""
        description = yield from _Calls.describe_model.steps(self, uid)
        return self._handle(uid, description)

    @call
    def status(self, uid: str, version: int | None = None, wait_s: float | None = None) -> Steps[ModelStatus]:
        """What can be told of a model, failed ones too; with the version last seen, waits for a newer one."""
        path = f"/v1/models/{_part(uid)}/status"
        if version is None or not wait_s:
            answer = yield Request("GET", path)
        else:
            answer = yield Request("GET", path, {"version": version, "wait": wait_s}, held_s=wait_s)
        return _as(ModelStatus, answer)

    @call
    def statuses(self) -> Steps[list[ModelStatus]]:
        """Every model that is wished for, whatever its state."""
        answer = yield Request("GET", "/v1/statuses")
        return [_as(ModelStatus, status) for status in answer]

    @call
    def terminate_model(self, uid: str) -> Steps[None]:
        return ask("DELETE", f"/v1/models/{_part(uid)}")

    @call
    def scale(self, uid: str, replica: int) -> Steps[dict[str, Any]]:
        return ask("POST", f"/v1/models/{_part(uid)}/scale", body={"replica": replica})

    @call
    def events(self, uid: str | None = None) -> Steps[list[dict[str, Any]]]:
        """What happened to a model, or to the cluster itself."""
        return ask("GET", f"/v1/models/{_part(uid)}/events" if uid is not None else "/v1/cluster/events")

    @call
    def logs(self, uid: str, lines: int = 200) -> Steps[list[str]]:
        """The last lines of what the model's workers logged."""
        answer = yield Request("GET", f"/v1/models/{_part(uid)}/logs", {"lines": lines})
        return list(answer["lines"])

    @call
    def get_instance_info(
        self, model_name: str | None = None, model_uid: str | None = None
    ) -> Steps[list[dict[str, Any]]]:
        return ask("GET", "/v1/models/instances", {"model_name": model_name, "model_uid": model_uid})

    @call
    def list_model_replicas(self, uid: str) -> Steps[list[dict[str, Any]]]:
        return ask("GET", f"/v1/models/{_part(uid)}/replicas")

    @call
    def add_model_replica(
        self, uid: str, replica_config: Sequence[Mapping[str, Any]] | None = None
    ) -> Steps[dict[str, Any]]:
        body = {} if replica_config is None else {"replica_config": replica_config}
        return ask("POST", f"/v1/models/{_part(uid)}/replicas", body=body)

    @call
    def terminate_model_replica(self, uid: str, replica_id: str | int) -> Steps[dict[str, Any]]:
        return ask("DELETE", f"/v1/models/{_part(uid)}/replicas/{_part(replica_id)}")

    @call
    def abort_request(self, uid: str, request_id: str, block_duration: int = 30) -> Steps[dict[str, Any]]:
        """Stops a request under way; its id is refused for `block_duration` seconds."""
        path = f"/v1/models/{_part(uid)}/requests/{_part(request_id)}/abort"
        return ask("POST", path, body={"block_duration": block_duration})

    @call
    def get_progress(self, request_id: str) -> Steps[dict[str, Any]]:
        """How far a request is that takes its time: `progress` from 0 to 1, its stage and steps."""
        return ask("GET", f"/v1/requests/{_part(request_id)}/progress")

    # Pictures that are made in the background

    @call
    def list_image_jobs(self) -> Steps[list[dict[str, Any]]]:
        answer = yield Request("GET", "/v1/images/jobs")
        return list(answer["data"])

    @call
    def get_image_job(self, id: str) -> Steps[Any]:
        """The handle of a job that an earlier run has begun: its `status`, `progress`, `cancel` and `result`."""
        answer = yield Request("GET", f"/v1/images/jobs/{_part(id)}")
        return job_of(self, answer["id"])

    # Models declared as a list

    @call
    def apply(
        self, models: Iterable[LaunchSpec | Mapping[str, Any]], prune: bool = True, dry_run: bool = False
    ) -> Steps[list[dict[str, Any]]]:
        """Makes the declared models the wished ones; `prune` removes what an earlier list had and this one has not."""
        specs = [body_of(model if isinstance(model, LaunchSpec) else spec_of(model)) for model in models]
        body = {"models": specs, "prune": prune, "dry_run": dry_run}
        answer = yield Request("POST", "/v1/models/apply", body=body)
        return list(answer["changes"])

    @call
    def export(self) -> Steps[list[dict[str, Any]]]:
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
        return ask("POST", f"/v1/model_registrations/{_part(model_type)}", body=body)

    @call
    def unregister_model(self, model_type: str, model_name: str) -> Steps[None]:
        return ask("DELETE", f"/v1/model_registrations/{_part(model_type)}/{_part(model_name)}")

    @call
    def list_model_registrations(self, model_type: str, detailed: bool = False) -> Steps[list[dict[str, Any]]]:
        return ask("GET", f"/v1/model_registrations/{_part(model_type)}", {"detailed": detailed})

    @call
    def get_model_registration(self, model_type: str, model_name: str) -> Steps[dict[str, Any]]:
        return ask("GET", f"/v1/model_registrations/{_part(model_type)}/{_part(model_name)}")

    @call
    def query_engine_by_model_name(self, model_name: str, model_type: str | None = None) -> Steps[dict[str, Any]]:
        """Engines that can run a model: what each takes, or the reason why it cannot."""
        kind = f"{_part(model_type)}/" if model_type else ""
        return ask("GET", f"/v1/engines/{kind}{_part(model_name)}")

    @call
    def list_cached_models(self, model_name: str | None = None) -> Steps[list[dict[str, Any]]]:
        answer = yield Request("GET", "/v1/cache/models", {"model_name": model_name})
        return list(answer["list"])

    # The cluster and its keys

    @call
    def cluster_info(self, detailed: bool = False) -> Steps[list[dict[str, Any]]]:
        return ask("GET", "/v1/cluster/info", {"detailed": detailed})

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
    ) -> Steps[dict[str, Any]]:
        """A new API key for some models, or for all; the answer's `key` is not shown again."""
        body = {"name": name, "scopes": scopes, "models": models}
        return ask("POST", "/v1/keys", body=body)

    @call
    def list_keys(self) -> Steps[list[dict[str, Any]]]:
        return ask("GET", "/v1/keys")

    @call
    def revoke_key(self, key_id: str) -> Steps[None]:
        return ask("DELETE", f"/v1/keys/{_part(key_id)}")


class _ModelCalls:
    """What any model takes."""

    uid: str

    @call
    def infer(self, path: str, /, **body: Any) -> Steps[Any]:
        """Posts to a route that takes a `model` in its JSON, e.g. `infer("/v1/chat/completions", messages=[...])`."""
        return ask("POST", path, body={"model": self.uid, **body})


class _TextCalls(_ModelCalls):
    """What models of text take, as far as each can do it."""

    @call
    def classify(self, /, input: str | Sequence[str], **kwargs: Any) -> Steps[dict[str, Any]]:
        """Each text's labels and scores, best first."""
        return ask("POST", "/classify", body={"model": self.uid, "input": input, **kwargs})

    @call
    def score(
        self, /, text_1: str | Sequence[str], text_2: str | Sequence[str], **kwargs: Any
    ) -> Steps[dict[str, Any]]:
        """How well each text on one side fits its other; a single one is paired with all of the other side."""
        return ask("POST", "/v1/score", body={"model": self.uid, "text_1": text_1, "text_2": text_2, **kwargs})

    @call
    def similarity(self, /, sentence: str, others: Sequence[str], **parameters: Any) -> Steps[list[float]]:
        """Cosines between one sentence and others."""
        inputs = {"source_sentence": sentence, "sentences": others}
        return ask("POST", "/similarity", body={"model": self.uid, "inputs": inputs, "parameters": parameters})

    @call
    def tokenize(self, /, input: str | Sequence[str], **kwargs: Any) -> Steps[list[list[dict[str, Any]]]]:
        """Each text's tokens: id, text, where it starts and stops, whether it is special."""
        return ask("POST", "/tokenize", body={"model": self.uid, "inputs": input, **kwargs})

    @call
    def decode(self, /, ids: Sequence[int] | Sequence[Sequence[int]], **kwargs: Any) -> Steps[list[str]]:
        """The text of each list of token ids."""
        return ask("POST", "/decode", body={"model": self.uid, "ids": ids, **kwargs})

    @call
    def convert_ids_to_tokens(self, /, input: Any, **kwargs: Any) -> Steps[list[Any]]:
        body = {"model": self.uid, "input": input, **kwargs}
        return ask("POST", "/v1/convert_ids_to_tokens", body=body)


class _EmbeddingCalls(_TextCalls):
    @call
    def create_embedding(self, /, input: Any, **kwargs: Any) -> Steps[dict[str, Any]]:
        """Vectors of a text or several, as OpenAI's embeddings answer has them."""
        return ask("POST", "/v1/embeddings", body={"model": self.uid, "input": input, **kwargs})

    @call
    def embed_sparse(self, /, input: Any, **kwargs: Any) -> Steps[dict[str, Any]]:
        """Weights of vocabulary words by their token id: each row's `embedding`."""
        body = {"model": self.uid, "input": input, "return_sparse": True, **kwargs}
        return ask("POST", "/v1/embeddings", body=body)

    @call
    def embed_tokens(self, /, input: Any, **kwargs: Any) -> Steps[dict[str, Any]]:
        """A vector for each token: each row's `embeddings`."""
        body = {"model": self.uid, "input": input, "return_multivector": True, **kwargs}
        return ask("POST", "/v1/embeddings", body=body)


class _RerankCalls(_TextCalls):
    @call
    def rerank(
        self,
        /,
        documents: Sequence[Any],
        query: str,
        top_n: int | None = None,
        max_chunks_per_doc: int | None = None,
        return_documents: bool | None = None,
        return_len: bool | None = None,
        **kwargs: Any,
    ) -> Steps[dict[str, Any]]:
        """The documents' indices and scores, best first."""
        chosen = {
            "top_n": top_n,
            "max_chunks_per_doc": max_chunks_per_doc,
            "return_documents": return_documents,
            "return_len": return_len,
        }
        body = {"model": self.uid, "query": query, "documents": documents, **given(chosen), **kwargs}
        return ask("POST", "/v1/rerank", body=body)


class Model(_ModelCalls, Sync):
    """A launched model; shares its client's connections."""

    def __init__(self, client: Client, uid: str, description: Mapping[str, Any] | None = None) -> None:
        self._http = client._http
        self.uid = uid
        self.description = dict(description or {})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uid!r})"


class EmbeddingModel(_EmbeddingCalls, Model):
    pass


class RerankModel(_RerankCalls, Model):
    pass


class ImageModel(ImageCalls, Model):
    pass


class OcrModel(OcrCalls, Model):
    pass


class AsyncModel(_ModelCalls, Async):
    """A launched model; shares its client's connections."""

    def __init__(self, client: AsyncClient, uid: str, description: Mapping[str, Any] | None = None) -> None:
        self._http = client._http
        self.uid = uid
        self.description = dict(description or {})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uid!r})"


class AsyncEmbeddingModel(_EmbeddingCalls, AsyncModel):
    pass


class AsyncRerankModel(_RerankCalls, AsyncModel):
    pass


class AsyncImageModel(ImageCalls, AsyncModel):
    pass


class AsyncOcrModel(OcrCalls, AsyncModel):
    pass


class Client(_Calls, Sync):
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
    ) -> None:
        self._http = httpx.Client(transport=transport, **http_options(base_url, api_key, timeout))
        self.base_url = str(self._http.base_url).rstrip("/")
        self.has_key = bool(api_key)

    def _handle(self, uid: str, description: dict[str, Any]) -> Model:
        kinds = {"embedding": EmbeddingModel, "rerank": RerankModel, "image": ImageModel, "ocr": OcrModel}
        return kinds.get(_kind_of(description), Model)(self, uid, description)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncClient(_Calls, Async):
    """The same calls, awaited: `async with AsyncClient(url) as client: await client.launch_model("bge-m3")`."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        timeout: float = 300.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(transport=transport, **http_options(base_url, api_key, timeout))
        self.base_url = str(self._http.base_url).rstrip("/")
        self.has_key = bool(api_key)

    def _handle(self, uid: str, description: dict[str, Any]) -> AsyncModel:
        kinds = {
            "embedding": AsyncEmbeddingModel,
            "rerank": AsyncRerankModel,
            "image": AsyncImageModel,
            "ocr": AsyncOcrModel,
        }
        return kinds.get(_kind_of(description), AsyncModel)(self, uid, description)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()


def _kind_of(description: Mapping[str, Any]) -> str:
    """The kind of handle, which is that of what the model can, whatever its type is called."""
    able = description.get("model_ability") or ()
    kinds = {"ocr": READS in able, "image": bool(DRAWS.intersection(able))}
    return next((kind for kind, can in kinds.items() if can), str(description.get("model_type", "")))


def spec_of(fields: Mapping[str, Any]) -> LaunchSpec:
    """The fields as a spec, or a `BadOption` that names the one that is wrong."""
    try:
        return LaunchSpec.model_validate(dict(fields))
    except ValidationError as error:
        raise bad_option(error) from None


def body_of(spec: LaunchSpec) -> dict[str, Any]:
    """What was asked and nothing else, so that the server's defaults hold; the family's options at the top level."""
    fields = spec.model_dump(mode="json", exclude_unset=True)
    return {**fields.pop("options", {}), **fields}


def bad_option(error: ValidationError) -> errors.BadOption:
    """pydantic's first complaint as one sentence."""
    complaint = error.errors()[0]
    name = ".".join(str(part) for part in complaint["loc"])
    said = complaint["msg"].removeprefix("Value error, ").removesuffix(".")
    if not name:
        return errors.BadOption(f"{said}.")
    if complaint["type"] == "missing":
        return errors.BadOption(f"{name} is missing.", name)
    if complaint["type"] == "extra_forbidden":
        return errors.BadOption(f"{name} is not known here.", name)
    return errors.BadOption(f"{name} cannot be {complaint['input']!r}: {said}.", name)


def _late(status: ModelStatus, timeout: float | None) -> errors.DeadlineExceeded:
    doing = " ".join(part for part in (status.stage, f"{status.progress:.0%}") if part)
    return errors.DeadlineExceeded(
        f"{status.uid} is not READY after {timeout:g} s ({status.reason or doing}). {how_it_goes_on(status.uid)}"
    )


def how_it_goes_on(uid: str) -> str:
    return (
        f"The launch of {uid} goes on: follow it with `cluster status {uid} --follow`, "
        f"give it up with `cluster terminate {uid}`."
    )


def _as(kind: type[M], answer: Any) -> M:
    """The answer as a value; a newer server may say more than this version knows."""
    try:
        return kind.model_validate(answer, extra="ignore")
    except ValidationError as error:
        raise errors.ClusterError(
            f"The server's {kind.__name__} is not as this version knows it ({bad_option(error)}); use its own version."
        ) from None


def _part(text: str | int) -> str:
    return quote(str(text), safe="")
