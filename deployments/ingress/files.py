"""Files kept for a while: pictures under addresses that cannot be guessed, and what background jobs leave behind.

Several ingresses share the folder. What is too old goes, and where there is too much, the oldest.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from cluster import errors
from cluster.settings import Settings
from deployments.ingress.auth import keyless
from deployments.ingress.openapi import described
from deployments.ingress.origins import FILES, Origins, address_of

#: 192 random bits: nobody can guess a name, and to know it is enough to get the file.
NAME_BYTES = 24
TYPES = {
    **{"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"},
    **{"pdf": "application/pdf", "bin": "application/octet-stream"},
}
#: Addresses of files are short; what holds a file itself is not.
MOST_ADDRESS = 1000
#: What a name looks like; nothing of this leads out of a folder.
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\.[a-z]{3,5}")


class Shelf:
    """A folder whose files go when they are too old or take too much room. Its methods block: call them in threads."""

    def __init__(
        self,
        folder: Path,
        keep_s: float,
        most_bytes: int | None = None,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.keep_s = keep_s
        self._most_bytes = most_bytes
        self._wall = wall
        self._clock = clock
        #: How far the wall clock was ahead of the monotonic clock when this process started.
        self._ahead = wall() - clock()
        #: When each file was written by the monotonic clock, with the modification time that the file has.
        self._written: dict[str, tuple[float, float]] = {}

    def put(self, name: str, data: bytes) -> None:
        """Atomic: a reader sees the whole file or none."""
        if self._most_bytes is not None and len(data) > self._most_bytes:
            raise errors.TooLarge(f"{len(data)} bytes are to be kept, and there is room for {self._most_bytes}.")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.sweep(len(data))
        path = self._path(name)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            draft.write_bytes(data)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)

    def get(self, name: str) -> bytes | None:
        """None for what is not there, not there any more, or no name at all."""
        age = self.age(name)
        if age is None or age > self.keep_s:
            return None
        with contextlib.suppress(FileNotFoundError):
            return self._path(name).read_bytes()
        return None

    def age(self, name: str) -> float | None:
        """Seconds since it was written; None when it is not there."""
        if not NAME.fullmatch(name):
            return None
        try:
            return self._age_of(name, self._path(name).stat().st_mtime)
        except FileNotFoundError:
            return None

    def _age_of(self, name: str, modified: float) -> float:
        """Uses the wall clock only for a file that this process sees for the first time, so that files do not age when
        somebody sets that clock. A file from before such a change may look younger than it is, never older."""
        now = self._clock()
        written, of = self._written.get(name, (0.0, None))
        if of != modified:
            jumped = max(self._wall() - now - self._ahead, 0.0)
            written = now - max(0.0, self._wall() - jumped - modified)
            self._written[name] = written, modified
        return now - written

    def drop(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        return sorted(name for name in os.listdir(self.folder) if NAME.fullmatch(name)) if self.folder.exists() else []

    def sweep(self, coming: int = 0) -> None:
        """Makes room for what comes."""
        files = [(self._age_of(path.name, modified), size, path) for modified, size, path in _listed(self.folder)]
        names = {path.name for _, _, path in files}
        self._written = {name: entry for name, entry in list(self._written.items()) if name in names}
        total = coming + sum(size for _, size, _ in files)
        for age, size, path in sorted(files, reverse=True):
            if age > self.keep_s or (self._most_bytes is not None and total > self._most_bytes):
                path.unlink(missing_ok=True)
                total -= size

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise errors.BadRequest(f"{name!r:.100} is not the name of a file.")
        return self.folder / name


def _listed(folder: Path) -> list[tuple[float, int, Path]]:
    """Modification time, size and path of each. Other processes may remove files meanwhile."""
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                stat = entry.stat(follow_symlinks=False)
                if not entry.is_file(follow_symlinks=False):
                    continue
                files.append((stat.st_mtime, stat.st_size, Path(entry.path)))
    return files


class KeptFiles:
    """Pictures that are answered as addresses."""

    def __init__(self, settings: Settings) -> None:
        self._shelf = Shelf(settings.home / "files", settings.files_keep_s, settings.files_bytes)
        self._origins = Origins.of(settings)

    def address_for(self, request: Request) -> str:
        """The beginning of the addresses in the answer to this request."""
        return address_of(request, self._origins)

    def keep(self, data: bytes, format: str, base_url: str) -> str:
        """Keeps the data for a while and returns its address. Blocks: call it in a thread."""
        name = f"{secrets.token_urlsafe(NAME_BYTES)}.{format}"
        self._shelf.put(name, data)
        return f"{base_url}{FILES}{name}"

    async def kept(self, address: object) -> bytes | None:
        """What was answered as that address, whoever asks; None for other addresses."""
        path = urlsplit(address).path if isinstance(address, str) and FILES in address[:MOST_ADDRESS] else ""
        name = path.rpartition("/")[2] if path.startswith(FILES) else ""
        return await asyncio.to_thread(self._shelf.get, name) if name else None

    def router(self) -> APIRouter:
        routes = APIRouter(tags=["files"])

        @routes.get(FILES + "{name}.{format}")
        @keyless("proven")
        @described("A file that was answered as an address", media_types=tuple(TYPES.values()))
        async def file(name: str, format: str) -> Response:
            """A browser sends no key, and the name cannot be guessed."""
            type = TYPES.get(format)
            data = await asyncio.to_thread(self._shelf.get, f"{name}.{format}") if type else None
            if data is None:
                raise HTTPException(404, "There is no such file, or not any more.")
            headers = {
                "Cache-Control": f"private, max-age={self._shelf.keep_s:.0f}",
                "X-Content-Type-Options": "nosniff",
                "Content-Security-Policy": "default-src 'none'; sandbox",
            }
            return Response(data, media_type=type, headers=headers)

        return routes
