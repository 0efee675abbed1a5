"""API keys: shown once, stored as a hash, checked against the scope that a route needs."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Literal, TypeVar, get_args

from cluster import errors
from cluster.names import cut
from cluster.value import Value

T = TypeVar("T")

Scope = Literal["list", "infer", "launch", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "ck-"
#: How long a browser stays logged in, and how many are with one key; the one that logged in first is out then.
SESSION_S = 12 * 3600.0
MOST_SESSIONS = 100


#: How a gateway calls one of its callers.
CALLER_PATTERN = re.compile(r"[0-9a-f]{16}")


class Key(Value):
    """What is stored of a key. 256 random bits need no slow hash."""

    id: str
    name: str
    digest: str
    scopes: tuple[Scope, ...]
    #: The only models it may be used for; None for all.
    models: tuple[str, ...] | None = None
    created: float = 0.0
    #: Of a session: when it ends, and the digest of the key that it stands for, as long as there is that one.
    expires: float = 0.0
    of: str = ""

    def shown(self) -> dict[str, object]:
        return self.model_dump(mode="json", exclude={"digest", "expires", "of"})


def new_key(name: str, scopes: Iterable[str], models: Iterable[str] | None = None) -> tuple[Key, str]:
    """The record to store and the key to show, once."""
    chosen = tuple(scopes)
    unknown = [scope for scope in chosen if scope not in SCOPES]
    if unknown or not chosen:
        raise errors.BadRequest(f"A key takes scopes of {', '.join(SCOPES)}, not {', '.join(unknown) or 'none'}.")
    text = PREFIX + secrets.token_urlsafe(32)
    key = Key(
        id=secrets.token_hex(4),
        name=name,
        digest=digest_of(text),
        scopes=chosen,  # type: ignore[arg-type]
        models=tuple(models) if models is not None else None,
        created=time.time(),
    )
    return key, text


def new_session(key: Key) -> tuple[Key, str]:
    """A key that stands for another, for a while: a browser keeps this one. It has no scope of its own."""
    session, text = new_key(f"session of {key.name}", ["list"])
    ends = session.created + SESSION_S
    return session.model_copy(update={"scopes": (), "expires": ends, "of": key.digest}), text


def superfluous(keys: Iterable[Key], session: Key, now: float) -> list[str]:
    """The ids of sessions to forget when another begins: those that ended, and the oldest of that key's."""
    sessions = [key for key in keys if key.of]
    ended = [key for key in sessions if key.expires <= now]
    others = sorted((key for key in sessions if key.of == session.of and key.expires > now), key=attrgetter("expires"))
    return [key.id for key in (*ended, *others[: max(0, len(others) + 1 - MOST_SESSIONS)])]


def by_digest(keys: Iterable[Key]) -> dict[str, Key]:
    """As `check` takes them."""
    return {key.digest: key for key in keys}


def check(keys: Mapping[str, Key], presented: str | None, scope: Scope) -> Key:
    """The key that was presented, of these by their digests, if it may do that."""
    if not presented:
        raise errors.NotAuthenticated("Could not validate credentials: send `Authorization: Bearer <key>`.")
    # Nobody can choose the digest of what they send, so how long the look-up takes tells nothing.
    key = keys.get(digest_of(presented))
    if key is not None and key.of:
        if key.expires <= time.time():
            raise errors.NotAuthenticated("Could not validate credentials: the session has ended; log in again.")
        key = keys.get(key.of)
    if key is None:
        raise errors.NotAuthenticated("Could not validate credentials: the key is unknown or was revoked.")
    if scope not in key.scopes and "admin" not in key.scopes:
        raise errors.NotPermitted(f"Not enough permissions: the key {key.name!r} lacks the scope {scope}.")
    return key


def models_of(key: Key | None) -> tuple[str, ...] | None:
    """The models that the owner of the key may know of; None for all, as everybody may without keys."""
    return None if key is None else key.models


def sees(key: Key | None, uid: str) -> bool:
    models = models_of(key)
    return models is None or uid in models


def visible(key: Key | None, rows: Iterable[T], uid_of: Callable[[T], str] = attrgetter("uid")) -> list[T]:
    """The rows about models that the owner of the key may know of. Every list and every hint passes here."""
    return [row for row in rows if sees(key, uid_of(row))]


def owner_of(request_id: str, key_id: str | None) -> str:
    """The name by which workers know a request: the owner of another key may use the same id for another request. No
    id holds an `@`."""
    return request_id if key_id is None else f"{request_id}@{key_id}"


def of_caller(key: Key | None, caller: str) -> Key | None:
    """The key as one of those has it who share it behind a gateway, which tells them apart by `caller`. Whoever has the
    key may say that he is any of them: he may do what he may do without it, and what he knows of is less."""
    if not CALLER_PATTERN.fullmatch(caller):
        return key
    shared = key or Key(id="all", name="", digest="", scopes=SCOPES)
    return shared.model_copy(update={"id": f"{shared.id}.{caller}"})


def real(key: Key | None) -> Key | None:
    """None where nobody is asked for one, also where a gateway tells its callers apart all the same."""
    return key if key is not None and key.digest else None


def shared_id(key_id: str) -> str:
    """The id of the key itself, whoever has it behind a gateway."""
    return key_id.partition(".")[0]


def is_whole(key: Key) -> bool:
    """Not as one of those has it who share it."""
    return key.id == shared_id(key.id)


def reaches(key: Key | None, key_id: str | None) -> bool:
    """Whether a key may see and end the requests, jobs and files of a key with that id: its own, and all of those who
    share it; with the scope admin those of everybody. One of those who share it, only his own."""
    if key is None or key.id == key_id:
        return True
    return is_whole(key) and ("admin" in key.scopes or (key_id is not None and shared_id(key_id) == key.id))


def request_of(owner: str) -> str:
    """The id as the caller sent it."""
    return owner.partition("#")[0].partition("@")[0]


def check_model(key: Key | None, uid: str) -> None:
    if not sees(key, uid):
        raise errors.NotPermitted(f"API key does not have access to model: {cut(uid)}")


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
