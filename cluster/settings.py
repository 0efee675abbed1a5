"""How this installation runs: a field is the flag, the environment variable (CLUSTER_<FIELD>) and the chart value."""

from __future__ import annotations

import ipaddress
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cluster.joining import read_ports
from cluster.node_labels import read_labels
from cluster.trust import TRUSTED
from cluster.value import fill_in

#: The store's file in the home of a cluster.
STORE_NAME = "cluster.db"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="CLUSTER_", extra="ignore", protected_namespaces=())

    home: Path = Field(default=Path("~/.cluster"), description="Folder for launched models, keys, weights and logs.")
    host: str = Field(default="127.0.0.1", description="Address to serve on; anything but loopback needs a key.")
    port: int = Field(default=9997, ge=1, le=65535, description="Port to serve on.")
    auth: Literal["auto", "on", "off"] = Field(
        default="auto", description="Ask for API keys; auto: off on loopback only."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Names of this server, separated by commas. Without keys, requests under other names are refused, "
        "except localhost, the host and, beyond loopback, any numeric address. With keys any name is accepted, and "
        "only these names are used in links to pictures.",
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Web pages that may call this server besides its own, such as http://localhost:3000, separated by "
        "commas. With keys, * lets any page use models with a key.",
    )
    ingress_replicas: int = Field(default=2, ge=1, description="How many ingress replicas answer HTTP.")
    any_name: bool = Field(
        default=False,
        description="Answer to any model name where only one model can do what is asked, for clients whose model "
        "cannot be chosen.",
    )
    namespace: str = Field(default="cluster", description="Ray namespace of the supervisor and the workers.")
    plugins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Modules with further model types, separated by commas."
    )

    model_hub: Literal["huggingface", "modelscope"] = Field(default="huggingface", description="Hub to download from.")
    offline: bool = Field(default=False, description="Never download; use what is cached.")
    model_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), description="Folders that --model-path may point into, separated by commas; any if empty."
    )
    remote_code: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Repositories whose code may run: names of the catalogue, which stand for the commits it pins, "
        "or hub:repository@commit; separated by commas.",
    )
    allow_pickle: bool = Field(default=False, description="Load weights that are pickles (.bin, .pt).")
    allow_envs: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="More environment variables that launches may set, separated by commas."
    )

    vllm_command: str = Field(
        default="",
        description="Command that starts vLLM's OpenAI server, in an environment of its own, for launches with "
        "--model-engine vllm, e.g. /opt/vllm/bin/python -m vllm.entrypoints.openai.api_server.",
    )

    max_body_bytes: int = Field(default=100_000_000, description="Largest request body.")
    max_text_bytes: int = Field(
        default=32_000_000,
        description="Largest body of a route that takes only text, and most characters in a request.",
    )
    bodies_bytes: int = Field(
        default=512_000_000,
        description="Bytes of bodies that one ingress holds at once; beyond that the slowest are refused.",
    )
    max_items: int = Field(default=2048, description="Most inputs in one request.")
    fetch_urls: bool = Field(
        default=False, description="Fetch images and sounds that a request names by URL; never from private addresses."
    )
    media_bytes: int = Field(default=20_000_000, description="Largest image or sound in a request.")
    max_image_pixels: int = Field(
        default=100_000_000, ge=1, description="Most pixels in all images of one request together."
    )
    max_pages: int = Field(default=1000, ge=1, description="Most pages that are read for one request.")
    render_processes: int = Field(
        default=2, ge=1, description="Processes of each ingress that render the pages of documents."
    )
    render_bytes: int = Field(
        default=1_000_000_000,
        ge=200_000_000,
        description="Memory of each of these processes; a page that needs more is refused.",
    )
    queue_tokens: int = Field(default=2_000_000, description="Tokens that may wait for one worker; more get 429.")
    batch_tokens: int = Field(default=16_384, description="Tokens in one batch on a GPU; on a CPU fewer are used.")
    max_wait_s: float = Field(
        default=1.0,
        gt=0,
        description="Longest time a small request may wait for a worker; larger ones, 8 times their own work.",
    )
    max_wait_from: int = Field(
        default=64,
        ge=0,
        description="So many requests, or more with fewer than 512 tokens on average, may wait for a worker up to "
        "their own deadline. Beyond them max_wait_s applies, and after a refusal a quarter of it for half a minute.",
    )
    cache_bytes: int = Field(
        default=64_000_000,
        ge=0,
        description="Size of a worker's cache of answers; 0 turns it off.",
    )
    request_timeout_s: float = Field(default=300.0, description="Longest time that a request may take.")
    job_timeout_s: float = Field(default=3600.0, gt=0, description="Longest time that a background job may take.")
    jobs_keep_s: float = Field(default=3600.0, gt=0, description="How long the result of a background job is kept.")
    files_keep_s: float = Field(
        default=3600.0, gt=0, description="How long an image is kept that was answered as a URL."
    )
    files_bytes: int = Field(
        default=1_000_000_000,
        ge=0,
        description="Most bytes of images that are kept for URLs, and of results that are kept for jobs.",
    )
    keep_alive_s: float = Field(default=10.0, gt=0, description="Longest silence in a stream of events.")
    hold_s: float = Field(
        default=15.0,
        description="How long a request waits for a model that lost its last worker; longer if that loads longer.",
    )
    gather_ms: float = Field(default=5.0, description="How long an ingress gathers requests for one busy worker.")

    tick_s: float = Field(default=1.0, description="How often the supervisor compares what is wanted with what runs.")
    probe_s: float = Field(default=10.0, description="How often an idle worker is tested by a real forward pass.")
    probe_timeout_s: float = Field(
        default=20.0,
        description="How long a probe, or a batch that should be short, may take before the worker is replaced.",
    )
    start_timeout_s: float = Field(default=180.0, description="How long a worker process may take to start.")
    load_stall_s: float = Field(default=1800.0, description="How long loading may go without progress.")
    drain_s: float = Field(default=30.0, description="How long a worker may finish its work before it is stopped.")
    backoff_max_s: float = Field(default=60.0, description="Longest pause before a lost worker is started again.")
    storm_fraction: float = Field(
        default=0.5, description="If more than this share of the nodes vanishes at once, relaunching waits."
    )
    storm_hold_s: float = Field(default=20.0, description="How long relaunching waits after many nodes vanished.")
    idle_sleep_s: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds without a request after which a model sleeps, until the next one; 0 for never. A launch "
        "may say otherwise.",
    )
    idle_doze_s: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds without a request after which a model drops its weights but keeps its process, which "
        "loads them again sooner; 0 for never. A launch may say otherwise.",
    )
    scale_down_s: float = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds for which fewer replicas must have been enough before a model that follows its load gives "
        "one back.",
    )
    canary_s: float = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds for which a canary must have served as well as the old version before it takes its place.",
    )
    canary_requests: int = Field(
        default=100,
        ge=1,
        description="Requests that it must have answered besides, unless it gets fewer in ten times as long.",
    )
    make_room: bool = Field(
        default=True,
        description="Send models to sleep that nobody uses, unless they are pinned, where others have no room.",
    )
    memory_fraction: float = Field(
        default=0.9, gt=0, le=1, description="Share of a node's memory that models may claim."
    )
    memory_floor_bytes: int = Field(
        default=0,
        ge=0,
        description="Memory of a node that has to stay available; with less, the worker that took most is ended. "
        "0: 5 % of the node's, at least 500 MB.",
    )
    object_store_bytes: int = Field(
        default=200_000_000, description="Size of Ray's object store on a node that this command starts."
    )
    ray_ports: str = Field(
        default="",
        description="Ports that Ray's processes may take on every machine, e.g. 20000-20999, for a firewall between "
        "machines; any free ones if empty.",
    )
    labels: str = Field(
        default="",
        description="What to say about a machine that this command starts, e.g. gpu=a100,zone=b; launches ask for it "
        "by --node-labels.",
    )
    fork_workers: bool = Field(
        default=True,
        description="Start workers on CPU from a process that has imported their libraries: 4 s sooner, for 500 MB.",
    )
    metrics: bool = Field(default=True, description="Serve /metrics.")
    log_level: str = Field(default="INFO", description="Level of the logs.")

    @field_validator(
        *("plugins", "model_roots", "remote_code", "allow_envs", "allowed_hosts", "allowed_origins"), mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("remote_code")
    @classmethod
    def _names_or_commits(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not TRUSTED.fullmatch(text):
                raise ValueError(f"remote_code takes names of the catalogue and hub:owner/name@commit, not {text!r}")
        return value

    @field_validator("ray_ports")
    @classmethod
    def _is_range(cls, value: str) -> str:
        read_ports(value)
        return value

    @field_validator("labels")
    @classmethod
    def _are_labels(cls, value: str) -> str:
        read_labels(value)
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _are_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := next((host for host in hosts if not re.fullmatch(r"[\w.-]+|[\da-fA-F:.]+", host)), None):
            raise ValueError(f"{wrong!r} is not a host name; give it without scheme and port, e.g. models.example.com")
        return tuple(host.lower().removesuffix(".") for host in hosts)

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        """`null` is the origin of every page that hides its own."""
        shapes = re.compile(r"\*|[a-z][a-z\d+.-]*://[^\s/?#@*]+", re.IGNORECASE)
        if wrong := next((origin for origin in origins if not shapes.fullmatch(origin.rstrip("/"))), None):
            raise ValueError(f"{wrong!r} is not an origin; give scheme, host and port, e.g. http://localhost:3000")
        return tuple(origin.rstrip("/").lower() for origin in origins)

    @field_validator("home", mode="before")
    @classmethod
    def _default(cls, value: object) -> object:
        """An empty variable would otherwise mean the current folder."""
        return cls.model_fields["home"].default if value == "" else value

    @field_validator("home")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @model_validator(mode="after")
    def _lets_all_pages_in_only_with_keys(self) -> Self:
        if "*" in self.allowed_origins and not self.asks_for_keys:
            raise ValueError(
                "allowed_origins takes * only if keys are needed (auth=on): otherwise any web page could use the server"
            )
        return self

    @property
    def store(self) -> Path:
        """The file that holds launched models, keys and registrations."""
        return self.home / STORE_NAME

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def asks_for_keys(self) -> bool:
        return self.auth == "on" or (self.auth == "auto" and not self.is_loopback)

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        fill_in(self)

    def as_environment(self) -> dict[str, str]:
        """The same settings for another process."""
        variables = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            variables[f"CLUSTER_{name.upper()}"] = text
        return variables


@cache
def settings() -> Settings:
    """This process's settings, read from the environment once."""
    return Settings()
