"""Finds calls that end workers, by keeping account of deaths: one account for each model in each ingress.

Pure: time is passed in. All calls that a worker held when it died are suspects; so are those with which it hangs, or
failed for good. If they are few, each is tried alone
next, at a worker that does nothing else meanwhile. If they are many, they are sent again as usual and are tried alone
only when a second worker dies with them: a worker that was merely killed should not delay all of them. A call that ends
a worker which does nothing else is poison: it is refused for a while, and the other suspects of its deaths are cleared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from cluster import errors

#: Suspects of one death that are tried alone at once; a larger number would take too long one after another.
FEW = 32
#: Deaths after which a call is tried alone, however many were there beside it.
TOO_OFTEN = 2
SUSPECT_S = 120.0
POISON_S = 300.0
#: Fingerprints of poison that are remembered for one model.
MOST_POISON = 1000


def fingerprint_of(ability: str, items: Collection[Any], params: dict[str, Any]) -> str:
    """Equal for equal calls to one model, in every process."""
    digest = blake2b(digest_size=16)
    _feed(digest, [ability, items, params])
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    """Each value with its type and size before it, or ["ab"] and ["a", "b"] would look alike."""
    if isinstance(value, str):
        value = value.encode(errors="surrogatepass")
    if isinstance(value, (bytes, bytearray, memoryview)):
        digest.update(b"b%d:" % len(value))
        digest.update(value)
    elif isinstance(value, dict):
        digest.update(b"d%d:" % len(value))
        for key in sorted(value, key=str):
            _feed(digest, str(key))
            _feed(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(b"l%d:" % len(value))
        for element in value:
            _feed(digest, element)
    elif hasattr(value, "tobytes"):
        _feed(digest, [str(value.dtype), list(value.shape), value.tobytes()])
    else:
        _feed(digest, repr(value))


@dataclass
class Death:
    at: float
    suspects: set[str]
    #: The suspects are few and short enough to be tried one after another.
    is_small: bool


class Suspicion:
    def __init__(self) -> None:
        self._deaths: dict[str, Death] = {}
        #: Until when each fingerprint is refused, the oldest first.
        self._poison: dict[str, float] = {}

    def is_over(self, now: float) -> bool:
        """Nothing is suspected or refused any more."""
        self._deaths = {worker: death for worker, death in self._deaths.items() if now - death.at < SUSPECT_S}
        self._poison = {call: until for call, until in self._poison.items() if until > now}
        return not self._deaths and not self._poison

    def died(self, worker: str, suspects: Iterable[str], now: float, are_short: bool = True) -> None:
        """A worker's death with the fingerprints of what it was computing; each death counts once."""
        called = set(suspects)
        if called and worker not in self._deaths:
            self._deaths[worker] = Death(now, called, are_short and len(called) <= FEW)

    def died_alone(self, worker: str, poison: str, now: float) -> list[str]:
        """This call is poison. Returns the workers that it has ended."""
        ended = [other for other, death in self._deaths.items() if poison in death.suspects]
        for other in ended:
            del self._deaths[other]
        self.remember(poison, now)
        return [*ended, worker]

    def survived(self, worker: str) -> None:
        """It had not died: it was slow, and goes on."""
        self._deaths.pop(worker, None)

    def remember(self, poison: str, now: float) -> None:
        """Refuses a call for a while, counted from the first time that it was reported."""
        self._poison.setdefault(poison, now + POISON_S)
        while len(self._poison) > MOST_POISON:
            del self._poison[next(iter(self._poison))]

    def answered(self, call: str) -> None:
        """Its worker survived it, so it is a suspect no longer."""
        for worker, death in list(self._deaths.items()):
            death.suspects.discard(call)
            if not death.suspects:
                del self._deaths[worker]

    def goes_alone(self, call: str, now: float) -> bool:
        deaths = [death for death in self._deaths.values() if call in death.suspects and now - death.at < SUSPECT_S]
        return len(deaths) >= TOO_OFTEN or any(death.is_small for death in deaths)

    def refuse(self, call: str, uid: str, now: float) -> None:
        left = self._poison.get(call, now) - now
        if left > 0:
            raise errors.PoisonRequest(
                f"This request is poison for {uid}: workers ended while they computed it, the last with nothing else "
                f"to do; it is refused for another {left:.0f} s, so change its input, or see `cluster logs {uid}`."
            )
