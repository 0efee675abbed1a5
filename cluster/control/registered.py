"""What people register beside models: entries of the catalogue, and keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cluster import errors
from cluster.catalog.entry import Entry
from cluster.control.records import Records
from cluster.keys import Key, new_key, new_session, superfluous


class Registrations:
    """Entries that people added to the catalogue."""

    def __init__(self, records: Records) -> None:
        self._records = records
        #: As they were last read; every launch asks for them.
        self._read: list[Entry] | None = None
        self._changes = 0

    async def all(self) -> list[Entry]:
        changes, entries = self._changes, self._read
        if entries is None:
            entries = list((await self._records.readable("entry", Entry)).values())
            self._read = entries if changes == self._changes else None
        return entries

    async def add(self, entry: Entry) -> None:
        await self._records.put("entry", f"{entry.type}/{entry.name}", entry.model_dump(mode="json"))
        self._forget()

    async def remove(self, type: str, name: str) -> None:
        was_there = await self._records.delete("entry", f"{type}/{name}")
        self._forget()
        if not was_there:
            raise errors.UnknownModel(f"Model {name} not found among the registered {type} models.", "model_name")

    def _forget(self) -> None:
        self._changes += 1
        self._read = None


class KeyRing:
    """The keys there are. Ingresses get them with their routes, so a change is published at once."""

    def __init__(self, records: Records, keys: dict[str, Key], publish: Callable[[], None]) -> None:
        self._records = records
        self._keys = keys
        self._publish = publish

    async def create(self, name: str, scopes: Iterable[str], models: Iterable[str] | None) -> tuple[Key, str]:
        """The key, and its text, which is stored nowhere."""
        key, text = new_key(name, scopes, models)
        await self._records.alone(self._add(key))
        return key, text

    async def _add(self, key: Key) -> None:
        # An earlier version, to which somebody goes back, reads no fields that it does not know.
        await self._records.put("key", key.id, key.model_dump(mode="json", exclude_defaults=True))
        self._keys[key.id] = key
        self._publish()

    def all(self) -> list[Key]:
        return [key for key in self._keys.values() if not key.of]

    async def log_in(self, key_id: str) -> tuple[Key, str]:
        """A session of that key, and its text, which is stored nowhere."""
        key = self._keys.get(key_id)
        if key is None or key.of:
            raise errors.NotAuthenticated("Could not validate credentials: the key is unknown or was revoked.")
        session, text = new_session(key)
        await self._records.alone(self._begin(session))
        return session, text

    async def _begin(self, session: Key) -> None:
        for id in superfluous(self._keys.values(), session, session.created):
            await self._records.delete("key", id)
            self._keys.pop(id, None)
        await self._add(session)

    async def log_out(self, digest: str) -> None:
        """Ends the session, if there is one."""
        ids = [key.id for key in self._keys.values() if key.of and key.digest == digest]
        for id in ids:
            await self.revoke(id)

    async def revoke(self, id: str) -> None:
        await self._records.alone(self._remove(id))

    async def _remove(self, id: str) -> None:
        if not await self._records.delete("key", id):
            raise errors.BadRequest(f"There is no key with the id {id!r}; `cluster keys list` shows them.", "id")
        self._keys.pop(id, None)
        self._publish()
