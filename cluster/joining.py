"""What a machine and the head say to each other before the machine joins: proofs that both have the same token, and
whether they fit together. Pure.

The token is Ray's own, for whoever joins needs that in any case. It never travels: either side shows by a digest that
it has it, and what the head says counts only with such a digest.
"""

from __future__ import annotations

import hashlib
import hmac
import platform
import re
from functools import cache
from importlib.metadata import version
from typing import Literal

from cluster import errors
from cluster.names import cut
from cluster.value import Value

#: How far the clocks of two machines may be apart.
CLOCK_S = 60.0
#: Of a range of ports, so many are kept for what Ray needs itself; the processes of models take the others.
MOST_FIXED = 50
_VERSION = re.compile(r"(\d+)\.(\d+)(?:[.+-]|$)")

Purpose = Literal["join", "leave", "answer"]


class Versions(Value, extra="ignore"):
    """What has to be the same on all machines, but for the cluster's own, which may be one apart: machines are upgraded
    one after another."""

    cluster: str
    python: str
    ray: str

    @classmethod
    @cache
    def here(cls) -> Versions:
        """Of what is installed at the first call; a process that outlives an upgrade asks when it starts."""
        return cls(cluster=version("model-cluster"), python=platform.python_version(), ray=version("ray"))

    def __str__(self) -> str:
        return f"{self.cluster} (Python {self.python}, Ray {self.ray})"


class Invitation(Value, extra="ignore"):
    """All that a machine needs to join, except for the token."""

    versions: Versions
    #: The head's clock.
    unix: float
    #: Where Ray's control process listens.
    address: str
    #: Another one for each start of Ray: whoever joined an earlier one has to join again.
    session: str
    object_store_bytes: int
    #: The ports that Ray's processes may take on every machine, `first-last`; any if empty.
    ray_ports: str = ""


class JoinRequest(Value):
    nonce: str
    proof: str


class LeaveRequest(JoinRequest):
    node: str


class SealedInvitation(Value):
    """An invitation as it travels."""

    text: str
    seal: str


def proof(token: str, purpose: Purpose, nonce: str, text: str = "") -> str:
    """Only who has the token can make it. For another purpose, nonce or text it is another one."""
    return hmac.new(token.encode(), f"{purpose} {nonce} {text}".encode(), hashlib.sha256).hexdigest()


def is_proven(shown: str, token: str, purpose: Purpose, nonce: str, text: str = "") -> bool:
    return hmac.compare_digest(shown.encode(), proof(token, purpose, nonce, text).encode())


def read_invitation(answer: object, token: str, nonce: str) -> Invitation:
    """What the head answered, if the head has the token as well."""
    try:
        sealed = SealedInvitation.model_validate(answer)
        if not is_proven(sealed.seal, token, "answer", nonce, sealed.text):
            raise errors.NotAuthenticated("What answers there does not have this token, so it is not followed.")
        return Invitation.model_validate_json(sealed.text)
    except ValueError:
        raise errors.Conflict(
            f"The head runs another version than this machine, which runs {Versions.here()}: its answer cannot be "
            "read. Install the head's version here."
        ) from None


def check_fit(invitation: Invitation, own: Versions, now: float) -> None:
    """Raises unless a machine of these versions, whose clock says `now`, may join."""
    if not fit(invitation.versions, own):
        raise errors.Conflict(
            f"The head runs {invitation.versions} and this machine {own}: install the same on both, then join again."
        )
    apart = abs(invitation.unix - now)
    if apart > CLOCK_S:
        ahead = "behind" if now < invitation.unix else "ahead of"
        raise errors.Conflict(
            f"The clock of this machine is {apart:.0f} s {ahead} the head's, and {CLOCK_S:.0f} s is the most: set "
            "both by NTP, then join again."
        )


def fit(one: Versions, other: Versions) -> bool:
    """Whether they may run in one cluster: the same Python and Ray, and at most one minor version apart."""
    if (one.python, one.ray) != (other.python, other.ray):
        return False
    first, second = (_VERSION.match(versions.cluster) for versions in (one, other))
    if first is None or second is None:
        return one.cluster == other.cluster
    return first[1] == second[1] and abs(int(first[2]) - int(second[2])) <= 1


def read_ports(text: str) -> tuple[int, int] | None:
    """`20000-20999` as its first and last port."""
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text.strip())
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1024 <= first < last <= 65535 or last - first < MOST_FIXED:
        raise ValueError(
            f"ray_ports takes the first and the last port, at least {MOST_FIXED + 1} from 1024 to 65535, e.g. "
            f"20000-20999, not {cut(text)!r}"
        )
    return first, last
