"""What the supervisor says of models and nodes: followed once for all who read it here, and only while somebody does.

Whoever reads slowly is told less often, never what has become old meanwhile: nothing is kept for a reader but the
version up to which it has read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from cluster import errors, keys
from cluster.keys import MOST_SESSIONS, Key, models_of, sees
from cluster.routes import ModelRoutes
from cluster.runtime.supervisor_client import SupervisorClient
from cluster.status import Claim, Node, StatusNews
from deployments.ingress.bodies import as_json
from deployments.ingress.control.live_shapes import live_model, live_node, routed_model
from deployments.ingress.version import VERSION

log = logging.getLogger("cluster.ingress")

#: The most readers at once; each has a connection of its own. Of them with one key, of one of those who share it behind
#: a gateway, or from one address where there are no keys: as many as browsers may be logged in with a key.
MOST_READERS = 500
MOST_OF_ONE = MOST_SESSIONS
#: One question to the supervisor; nodes are looked at again after each.
WATCH_S = 2.0
#: The shortest pause between two questions: what is heard meanwhile comes as one change.
PAUSE_S = 0.05
#: How long the first reader waits for the supervisor before it is told what this ingress knows by itself.
FIRST_S = 2.0
#: Messages to keys for some models that are kept for others who are told the same.
MOST_MESSAGES = 20
#: Models that went, whose going is remembered for those who read on.
MOST_GONE = 1000


@dataclass(frozen=True)
class Row:
    version: int
    #: As it is sent; None for a model that went.
    data: bytes | None


class FleetNews:
    def __init__(
        self,
        supervisor: SupervisorClient,
        models: Callable[[], Mapping[str, ModelRoutes]],
        watch_s: float = WATCH_S,
        most_readers: int = MOST_READERS,
    ) -> None:
        """`models`: what is known without the supervisor."""
        self._supervisor = supervisor
        self._watch_s = watch_s
        self._most_readers = most_readers
        self._models = models
        self._boot = secrets.token_hex(4)
        self._changed = asyncio.Event()
        #: Those that changed last come last.
        self._rows: dict[str, Row] = {}
        self._version = 0
        #: Changes before this version are not known any more.
        self._floor = 0
        self._nodes = Row(0, b"[]")
        #: What the same row is to keys for some models is written of this when it is told.
        self._usages: Sequence[tuple[Node, Claim, int]] = ()
        self._has_control = True
        self._has_heard = False
        #: By whose they are.
        self._readers: Counter[tuple[str, str]] = Counter()
        self._task: asyncio.Task[None] | None = None
        #: The messages up to this version, by the version that each leads from and the models that it is about: most
        #: readers are told the same.
        self._last: dict[tuple[int, tuple[str, ...] | None], bytes] = {}

    # ------------------------------------------------------------------------------------ readers

    @contextlib.contextmanager
    def _reading(self, key: Key | None, address: str) -> Iterator[None]:
        whose = ("address", address) if key is None else ("key", key.id)
        if self._readers.total() >= self._most_readers:
            raise _full(self._most_readers, "here")
        if self._readers[whose] >= MOST_OF_ONE:
            raise _full(MOST_OF_ONE, "from this address" if key is None else "with this key")
        # Whoever has the key may make up callers: others find room for their pages all the same.
        if key is not None and not keys.is_whole(key):
            most = self._most_readers - MOST_OF_ONE
            if self._of_all_who_share(key) >= most:
                raise _full(most, "by those who share this key")
        self._readers[whose] += 1
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow(), name="fleet news")
        try:
            yield
        finally:
            self._readers -= Counter((whose,))
            if not self._readers and self._task is not None:
                self._task.cancel()
                self._task = None
                # The next reader is told what is then, not what was when the last one left.
                self._has_heard = False

    def _of_all_who_share(self, key: Key) -> int:
        shared = keys.shared_id(key.id)
        return sum(n for (kind, id), n in self._readers.items() if kind == "key" and keys.shared_id(id) == shared)

    async def read(self, key: Key | None, last_id: str, beat_s: float, address: str = "") -> AsyncGenerator[bytes]:
        """Events of a stream: what changed, as soon as it has, and at least a sign of life every so often. `address`:
        of who reads."""
        with self._reading(key, address):
            if not self._has_heard:
                await self._newer(self._version, FIRST_S)
            version = self._resumed(last_id)
            while True:
                if version is None or version < self._version:
                    event = self._event(version, key)
                    version = self._version
                    yield event
                else:
                    yield b"event: beat\ndata: {}\n\n"
                await self._newer(version, beat_s)

    def _resumed(self, last_id: str) -> int | None:
        """The version up to which a reader has read that lost its connection; None for all that has to be told anew."""
        boot, _, number = last_id.partition(".")
        if boot != self._boot or not number.isdecimal() or len(number) > 15:
            return None
        return int(number) if self._floor <= int(number) <= self._version else None

    async def _newer(self, version: int, within_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._version <= version:
                    await self._changed.wait()

    def _event(self, since: int | None, key: Key | None) -> bytes:
        if since is not None and since < self._floor:
            since = None
        edge = (-1 if since is None else since, models_of(key))
        message = self._last.get(edge)
        if message is None:
            if len(self._last) >= MOST_MESSAGES:
                # The first was written first.
                del self._last[next(iter(self._last))]
            message = self._last[edge] = self._written(since, key)
        return message

    def _written(self, since: int | None, key: Key | None) -> bytes:
        rows: list[bytes] = []
        gone: list[str] = []
        for uid, row in reversed(self._rows.items()):
            if since is not None and row.version <= since:
                break
            if not sees(key, uid):
                continue
            if row.data is not None:
                rows.append(row.data)
            elif since is not None:
                gone.append(uid)
        nodes = self._nodes_told(key) if since is None or self._nodes.version > since else b"null"
        return b"".join(
            (
                f"id: {self._boot}.{self._version}\n".encode(),
                b'data: {"whole":',
                orjson.dumps(since is None),
                b',"models":[',
                b",".join(reversed(rows)),
                b'],"gone":',
                orjson.dumps(gone),
                b',"nodes":',
                nodes,
                b',"has_control":',
                orjson.dumps(self._has_control),
                b',"server":',
                orjson.dumps(VERSION),
                b"}\n\n",
            )
        )

    def _nodes_told(self, key: Key | None) -> bytes:
        nodes = self._nodes.data
        if models_of(key) is not None:
            nodes = as_json([live_node(*usage, key) for usage in self._usages])
        assert nodes is not None
        return nodes

    # ------------------------------------------------------------------------------------ the supervisor

    async def _follow(self) -> None:
        version = -1
        while True:
            try:
                news = await self._supervisor.status_news(version, self._watch_s)
                nodes = await self._supervisor.nodes()
            # Whatever another version of the supervisor answers, readers are told that nothing is known, and not left.
            except Exception as error:
                if not isinstance(error, errors.Unavailable):
                    log.exception("what the supervisor says of models cannot be followed; trying again")
                self._lose_control()
                await asyncio.sleep(PAUSE_S + self._watch_s)
                continue
            # On a thread: thousands of models take longer than any request should wait.
            rows = await asyncio.to_thread(_decoded, news.rows) if len(news.rows) > 50 else _decoded(news.rows)
            version = news.version
            self._usages = nodes
            self._take(news, rows, as_json([live_node(*usage) for usage in nodes]))
            await asyncio.sleep(PAUSE_S)

    def _take(self, news: StatusNews, rows: dict[str, bytes], nodes: bytes) -> None:
        version = self._version + 1
        gone = set(news.gone)
        if news.since is None:
            gone |= {uid for uid, row in self._rows.items() if row.data is not None and uid not in rows}
        changes: dict[str, bytes | None] = {**rows, **dict.fromkeys(gone)}
        changes = {uid: data for uid, data in changes.items() if self._data_of(uid) != data}
        for uid, data in changes.items():
            self._rows.pop(uid, None)
            self._rows[uid] = Row(version, data)
        if nodes != self._nodes.data:
            self._nodes = Row(version, nodes)
        control_is_new = not self._has_control
        self._has_control = True
        if changes or self._nodes.version == version or control_is_new or not self._has_heard:
            self._has_heard = True
            self._forget_gone()
            self._post(version)

    def _data_of(self, uid: str) -> bytes | None:
        row = self._rows.get(uid)
        return row.data if row else None

    def _forget_gone(self) -> None:
        gone = [uid for uid, row in self._rows.items() if row.data is None]
        for uid in gone[: max(0, len(gone) - MOST_GONE)]:
            self._floor = self._rows.pop(uid).version

    def _lose_control(self) -> None:
        """Models serve on. Whoever has just come is told what this ingress knows of them."""
        if self._has_heard and not self._has_control:
            return
        version = self._version + 1
        if not self._has_heard:
            self._rows = {uid: Row(version, as_json(routed_model(model))) for uid, model in self._models().items()}
        self._has_control, self._has_heard = False, True
        self._post(version)

    def _post(self, version: int) -> None:
        self._version = version
        self._last = {}
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _full(most: int, whose: str) -> errors.Overloaded:
    return errors.Overloaded(f"{most} pages are open {whose} already: close some.", retry_after_s=10.0)


def _decoded(rows: Iterable[bytes]) -> dict[str, bytes]:
    """By uid, as they are sent on."""
    statuses = map(pickle.loads, rows)
    return {status.uid: as_json(live_model(status)) for status in statuses}
