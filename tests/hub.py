"""A small model hub on loopback that speaks Hugging Face's and ModelScope's protocol, and misbehaves when told to.

    with Hub() as hub:
        commit = hub.add("org/tiny", {"config.json": b"{}", "model.safetensors": weights})

Set HF_ENDPOINT or MODELSCOPE_ENDPOINT to `hub.url`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

CHUNK = 65_536
#: Files that the hubs keep outside of git, behind a redirect.
LARGE = (".safetensors", ".bin", ".pt", ".gguf", ".onnx", ".h5", ".msgpack")


@dataclass
class Repository:
    token: str | None = None
    #: Branch, tag or commit -> the files at that moment.
    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)


@dataclass
class Hold:
    """A response that stops after some bytes until it is released."""

    after: int
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


class Hub:
    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        #: The credentials that each request carried.
        self.tokens: list[str] = []
        #: Bytes of bodies handed to the network, by file name.
        self.served: Counter[str] = Counter()
        #: Called with the file's name before each chunk of a body.
        self.before_chunk: Callable[[str], None] = lambda name: None
        #: The address of large files, if they are on another host.
        self.elsewhere = ""
        self._damaged: Counter[str] = Counter()
        self._cut: dict[str, list[int]] = {}
        self._held: dict[str, Hold] = {}
        self._busy: list[int] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def storage(self) -> str:
        """Large files come from another host, to which no token must be sent."""
        return self.elsewhere or f"http://localhost:{self._server.server_port}"

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From here on connections are refused."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    # ------------------------------------------------------------------------------------- what it has

    def add(self, id: str, files: dict[str, bytes], *, tag: str | None = None, token: str | None = None) -> str:
        """Adds a commit to the branch; earlier ones stay."""
        repository = self.repositories.setdefault(id, Repository())
        repository.token = token
        listed = "".join(f"{name}{hashlib.sha256(content).hexdigest()}" for name, content in sorted(files.items()))
        commit = hashlib.sha1(listed.encode()).hexdigest()
        for revision in filter(None, ("main", "master", commit, tag)):
            repository.revisions[revision] = files
            repository.commits[revision] = commit
        return commit

    # ----------------------------------------------------------------------------------- how it misbehaves

    def damage(self, name: str, times: int = 1_000_000) -> None:
        """Sends other bytes of this file than the listing says."""
        self._damaged[name] = times

    def cut(self, name: str, *after: int) -> None:
        """Drops the connection after that many bytes of a response, once for each number."""
        self._cut[name] = list(after)

    def hold(self, name: str, after: int) -> Hold:
        self._held[name] = Hold(after)
        return self._held[name]

    def answer(self, *statuses: int) -> None:
        """The next requests get these instead of an answer."""
        self._busy = list(statuses)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        self.hub.tokens += [self.headers[name] for name in ("Authorization", "Cookie") if name in self.headers]
        if self.hub._busy:
            return self._send(self.hub._busy.pop(0), b"")
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        match parts:
            case ["api", "models", owner, name, "revision", revision]:
                self._serve(f"{owner}/{name}", revision, self._hugging_face_info)
            case ["api", "models", owner, name, "tree", revision]:
                self._serve(f"{owner}/{name}", revision, self._hugging_face_tree)
            case [owner, name, "resolve", revision, *path]:
                self._serve(f"{owner}/{name}", revision, self._hugging_face_file, "/".join(path))
            case ["api", "v1", "models", owner, name, "repo", "files"]:
                self._serve(f"{owner}/{name}", query["Revision"], self._model_scope_files)
            case ["api", "v1", "models", owner, name, "repo"]:
                self._serve(f"{owner}/{name}", query["Revision"], self._model_scope_file, query["FilePath"])
            case ["cdn", owner, name, revision, *path]:
                if "Authorization" in self.headers:
                    # Like the storage behind real hubs, it refuses a request that has both a signed address and a
                    # token.
                    return self._send(400, b"")
                files = self.hub.repositories[f"{owner}/{name}"].revisions[revision]
                self._body("/".join(path), files["/".join(path)], with_ranges=True)
            case _:
                self._send(404, b'{"Code": 404, "Success": false}')

    def _serve(self, id: str, revision: str, serve: Callable[..., None], *args: str) -> None:
        repository = self.hub.repositories.get(id)
        if repository is None:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        # Hugging Face lists the files of a gated model, but does not hand them out.
        is_open = repository.token is None or serve in (self._hugging_face_info, self._hugging_face_tree)
        if not is_open and self.headers.get("Authorization") != f"Bearer {repository.token}":
            return self._send(401, b"{}", {"X-Error-Code": "GatedRepo"})
        if revision not in repository.revisions:
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = repository.revisions[revision]
        if args and args[0] not in files:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        serve(id, revision, repository.commits[revision], files, *args)

    # --------------------------------------------------------------------------------------- protocols

    def _hugging_face_info(self, id: str, revision: str, commit: str, files: dict[str, bytes]) -> None:
        siblings = []
        for name, content in files.items():
            sibling = {"rfilename": name, "size": len(content), "blobId": _git_blob(content)}
            if name.endswith(LARGE):
                sibling["lfs"] = {"sha256": _sha256(content), "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
        self._json({"id": id, "sha": commit, "private": False, "gated": False, "siblings": siblings})

    def _hugging_face_tree(self, id: str, revision: str, commit: str, files: dict[str, bytes]) -> None:
        entries = []
        for name, content in files.items():
            entry = {"type": "file", "path": name, "size": len(content), "oid": _git_blob(content)}
            if name.endswith(LARGE):
                entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        self._json(entries)

    def _hugging_face_file(self, id: str, revision: str, commit: str, files: dict[str, bytes], name: str) -> None:
        content = files[name]
        if not name.endswith(LARGE):
            return self._body(name, content, {"ETag": f'"{_git_blob(content)}"', "X-Repo-Commit": commit})
        linked = {"X-Linked-Etag": f'"{_sha256(content)}"', "X-Linked-Size": str(len(content)), "X-Repo-Commit": commit}
        self._send(302, b"", {"Location": f"{self.hub.storage}/cdn/{id}/{commit}/{name}", **linked})

    def _model_scope_files(self, id: str, revision: str, commit: str, files: dict[str, bytes]) -> None:
        folders = {name.rpartition("/")[0] for name in files if "/" in name}
        entries: list[dict[str, Any]] = [{"Path": name, "Type": "tree", "Size": 0, "Sha256": ""} for name in folders]
        for name, content in files.items():
            large = name.endswith(LARGE)
            entry = {"Name": name.rpartition("/")[2], "Path": name, "Type": "blob", "IsLFS": large}
            entries.append({**entry, "Size": len(content), "Sha256": _sha256(content), "Revision": commit})
        self._json({"Code": 200, "Success": True, "Message": "success", "Data": {"Files": entries}})

    def _model_scope_file(self, id: str, revision: str, commit: str, files: dict[str, bytes], name: str) -> None:
        if name.endswith(LARGE):
            return self._send(302, b"", {"Location": f"{self.hub.storage}/cdn/{id}/{revision}/{name}"})
        self._body(name, files[name], with_ranges=False)

    # ------------------------------------------------------------------------------------------ bodies

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(
        self, name: str, content: bytes, headers: dict[str, str] | None = None, *, with_ranges: bool = True
    ) -> None:
        hub = self.hub
        if hub._damaged[name] > 0:
            hub._damaged[name] -= 1
            content = bytes(255 - byte for byte in content)
        start = 0
        wanted = self.headers.get("Range")
        if wanted and with_ranges:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(content):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        self.send_response(206 if wanted and with_ranges else 200)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if wanted and with_ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = hub._cut[name].pop(0) if hub._cut.get(name) else len(content)
        hold = hub._held.get(name)
        sent = 0
        try:
            while sent < len(content) - start:
                if hold and sent >= hold.after:
                    hold.reached.set()
                    hold.released.wait()
                if sent >= cut:
                    self.close_connection = True
                    return
                hub.before_chunk(name)
                chunk = content[start + sent : start + min(sent + CHUNK, cut)]
                self.wfile.write(chunk)
                sent += len(chunk)
                hub.served[name] += len(chunk)
        except ConnectionError:
            self.close_connection = True


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
