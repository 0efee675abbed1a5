"""Whether a worker's cards were full although it had less than it may have, and waits until they have room again.

A process that has just ended lets go of its memory a while later, and whoever shares a card may have taken more than
its part. One more try is worth it then; one that took all that it may have fails the same way again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from cluster.cards import Card, ReadCards, own_bytes
from cluster.launch import Needs
from cluster.status import Claim
from cluster.worker.exhaustion import bytes_asked, is_out_of_memory
from cluster.worker.peak import torch_cards

log = logging.getLogger("cluster.worker.worker")

#: How long memory may take to come free, and how long it is waited for while nothing does.
ROOM_S, STILL_S = 30.0, 5.0
LOOK_S = 0.25
#: What a driver may have of a card for itself.
LITTLE = 0.05


class CardRoom:
    def __init__(self, claim: Claim, read: ReadCards) -> None:
        self._claim = claim
        self.read = read
        #: As they were when they were full for others' sake; for the reason that people read.
        self.when_full: Sequence[Card] = ()

    def is_short(self, error: Exception, taken: Needs) -> bool:
        """Whether its cards ran out of memory that it may have. `taken`: the most that it had."""
        self.when_full = ()
        if not self._claim.cards or not is_out_of_memory(error):
            return False
        cards, needed = self._cards(), taken.card_bytes + bytes_asked(error)
        if not cards or needed > self._limit(cards):
            return False
        # What others have may just have come free: then they are not to blame if it fails again.
        others_bytes = sum(card.used_bytes or 0 for card in cards) - (own_bytes(cards) or taken.card_bytes)
        if others_bytes > LITTLE * sum(card.total_bytes or 0 for card in cards):
            self.when_full = cards
        return True

    def wait(self, least_bytes: int) -> bool:
        """Until all is free that it may have; whether at least so much came free. Nobody waits for memory that stays as
        it is."""
        deadline, still_until, most = time.monotonic() + ROOM_S, 0.0, -1
        while True:
            cards, now = self._cards(), time.monotonic()
            free = _free_bytes(cards)
            if free > most:
                most, still_until = free, now + STILL_S
            if free >= self._limit(cards) or now >= min(deadline, still_until):
                log.info("%.1f GiB of its cards are free after waiting", free / 2**30)
                return free >= least_bytes
            time.sleep(LOOK_S)

    def _limit(self, cards: Sequence[Card]) -> int:
        """What it may have of its cards, all together."""
        sizes = [card.total_bytes or 0 for card in cards]
        shares = [share for _, share in self._claim.cards]
        return max(self._claim.card_bytes, int(sum(size * share for size, share in zip(sizes, shares, strict=False))))

    def _cards(self) -> Sequence[Card]:
        return self.read() or _as_torch_says()


def _free_bytes(cards: Sequence[Card]) -> int:
    """What it could have of all of them, with what it has already: its libraries do not let go of that."""
    return sum((card.total_bytes or 0) - (card.used_bytes or 0) for card in cards) + own_bytes(cards)


def _as_torch_says() -> list[Card]:
    """Of cards whose driver is not asked, such as AMD's; who has them it does not know."""
    of_torch = torch_cards()
    cards = []
    for number in range(0 if of_torch is None else of_torch.device_count()):
        free, total = of_torch.mem_get_info(number)
        cards.append(Card(str(of_torch.get_device_name(number)), "", int(total), int(total - free)))
    return cards
