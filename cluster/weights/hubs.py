"""Model hubs: the requests to Hugging Face and ModelScope, and how their answers are read.

It speaks their HTTP itself, because their own clients do not fit: huggingface_hub 2 throws away an interrupted download
and looks up which tools run it; modelscope imports torch and tags requests with an id that it keeps on the machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import quote

import httpx

from cluster import errors
from cluster.catalog.entry import Source
from cluster.value import JsonObject

HUGGING_FACE = "https://huggingface.co"


@dataclass(frozen=True)
class RemoteFile:
    name: str
    size: int
    #: sha256 of the content, or git's sha1 of it as a blob. The content is checked by it, and cached under it.
    digest: str


@dataclass(frozen=True)
class Listing:
    """A repository at one moment."""

    commit: str
    files: tuple[RemoteFile, ...]


class Hub(Protocol):
    #: The branch that is used if no revision is given.
    branch: str
    endpoint_variable: str
    token_variable: str
    endpoint: str
    headers: dict[str, str]

    def page(self, id: str) -> str:
        """The address of the model's web page."""

    def listing_url(self, id: str, revision: str) -> str: ...

    def parse(self, reply: JsonObject, revision: str) -> Listing: ...

    def file_url(self, id: str, commit: str, revision: str, name: str) -> str: ...


class HuggingFace:
    branch = "main"
    endpoint_variable = "HF_ENDPOINT"
    token_variable = "HF_TOKEN"

    def __init__(self) -> None:
        self.endpoint = _endpoint(os.environ.get("HF_ENDPOINT") or HUGGING_FACE)
        token = _hugging_face_token(self.endpoint)
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def page(self, id: str) -> str:
        return f"{self.endpoint}/{id}"

    def listing_url(self, id: str, revision: str) -> str:
        return f"{self.endpoint}/api/models/{id}/revision/{quote(revision, safe='')}?blobs=true"

    def parse(self, reply: JsonObject, revision: str) -> Listing:
        files = (
            RemoteFile(file["rfilename"], int(file["size"]), (file.get("lfs") or {}).get("sha256") or file["blobId"])
            for file in reply["siblings"]
        )
        return Listing(reply["sha"], tuple(files))

    def file_url(self, id: str, commit: str, revision: str, name: str) -> str:
        # Files kept in Xet are fetched like this too: its client cannot continue a file of an earlier process.
        return f"{self.endpoint}/{id}/resolve/{commit}/{quote(name)}"


class ModelScope:
    branch = "master"
    endpoint_variable = "MODELSCOPE_ENDPOINT"
    token_variable = "MODELSCOPE_API_TOKEN"

    def __init__(self) -> None:
        variables = ("MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN")
        self.endpoint = _endpoint(next(filter(None, map(os.environ.get, variables)), "https://modelscope.cn"))
        token = os.environ.get("MODELSCOPE_API_TOKEN")
        # Some of its servers read the header, others the cookie.
        self.headers = {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if token else {}

    def page(self, id: str) -> str:
        return f"{self.endpoint}/models/{id}"

    def listing_url(self, id: str, revision: str) -> str:
        return f"{self.endpoint}/api/v1/models/{id}/repo/files?Revision={quote(revision, safe='')}&Recursive=True"

    def parse(self, reply: JsonObject, revision: str) -> Listing:
        files = tuple(
            RemoteFile(file["Path"], int(file["Size"]), file["Sha256"].lower())
            for file in reply["Data"]["Files"]
            if file.get("Type") != "tree"
        )
        # ModelScope does not tell the commit, so a digest of the content stands for it.
        content = hashlib.sha256("".join(sorted(f"{file.name}\0{file.digest}\n" for file in files)).encode())
        return Listing(f"{revision.replace('/', '-')}-{content.hexdigest()[:12]}", files)

    def file_url(self, id: str, commit: str, revision: str, name: str) -> str:
        query = f"Revision={quote(revision, safe='')}&FilePath={quote(name, safe='')}"
        return f"{self.endpoint}/api/v1/models/{id}/repo?{query}"


HUBS: dict[str, type[HuggingFace] | type[ModelScope]] = {"huggingface": HuggingFace, "modelscope": ModelScope}


def _hugging_face_token(endpoint: str) -> str | None:
    """A token in the server's environment goes to the configured endpoint; a token that was saved on this machine by
    logging in goes to Hugging Face only, never to a mirror."""
    named = (os.environ.get(name, "").strip() for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))
    if token := next(filter(None, named), None):
        return token
    if file := os.environ.get("HF_TOKEN_PATH"):
        with suppress(OSError, UnicodeDecodeError):
            return Path(file).expanduser().read_text().strip() or None
    if endpoint != HUGGING_FACE:
        return None
    # Every command imports this module, and the library takes an eighth of the time in which one starts.
    from huggingface_hub import get_token

    saved: str | None = get_token()
    return saved


def _endpoint(text: str) -> str:
    return (text if "://" in text else f"https://{text}").rstrip("/")


def client_of(hub: Hub) -> httpx.Client:
    """Asks for uncompressed answers, because a compressed one cannot be resumed."""
    return httpx.Client(
        headers={"User-Agent": "model-cluster", "Accept-Encoding": "identity", **hub.headers},
        follow_redirects=True,
        timeout=httpx.Timeout(30, connect=10),
    )


def listing_of(client: httpx.Client, hub: Hub, source: Source, *, attempts: int) -> Listing:
    revision = source.revision or hub.branch
    for pause in [attempt / 2 for attempt in range(1, attempts)] + [None]:
        try:
            response = client.get(hub.listing_url(source.id, revision))
            if pause is None or not is_busy(response):
                break
        except httpx.TransportError:
            if pause is None:
                raise
        time.sleep(pause)
    if response.status_code != 200:
        raise refusal(hub, source, response)
    try:
        listing = hub.parse(response.json(), revision)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise errors.DownloadFailed(
            f"{hub.endpoint} did not answer as a model hub does ({type(error).__name__}: {error}): "
            f"check {hub.endpoint_variable}."
        ) from error
    if not re.fullmatch(r"\w[\w.-]*", listing.commit) or not all(map(_is_storable, listing.files)):
        raise errors.DownloadFailed(
            f"{hub.endpoint} lists files of {name_of(source)} with names outside of its folder."
        )
    return listing


def _is_storable(file: RemoteFile) -> bool:
    path = PurePosixPath(file.name)
    leads_elsewhere = path.is_absolute() or ".." in path.parts or not path.name
    return not leads_elsewhere and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", file.digest) is not None


def is_busy(response: httpx.Response) -> bool:
    return response.status_code >= 500 or response.status_code in (408, 429)


def refusal(hub: Hub, source: Source, response: httpx.Response) -> errors.DownloadFailed:
    status = response.status_code
    if status in (401, 403):
        return errors.DownloadFailed(
            f"{hub.endpoint} does not hand out {name_of(source)} ({status}): it is gated or private, or not there; "
            f"accept its licence at {hub.page(source.id)} and set {hub.token_variable} to a token of that account."
        )
    if status == 404:
        return errors.DownloadFailed(f"{hub.endpoint} has no {name_of(source)} (404): check the name and the revision.")
    return errors.DownloadFailed(f"{hub.endpoint} answered {status} when asked for {name_of(source)}.")


def name_of(source: Source) -> str:
    return f"{source.id}@{source.revision}" if source.revision else source.id
