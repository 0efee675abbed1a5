"""Prefers the worker that has the beginning of a prompt in its cache: what begins alike goes to the same worker, unless
that has much more to do than the others.

Every ingress works it out from the names of the workers, so all agree and none remembers anything. A worker has a mark
for each beginning and the highest mark wins. That is as even as chance, where a ring of hashes would need hundreds of
points for each worker; and when a worker goes, only what went to it goes elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b

from cluster.value import JsonObject

#: Works out how a prompt begins; it is called only where there is a choice between workers.
Beginning = Callable[[], str]

#: A worker with more than so many times the mean load, and with so many requests more than the mean, is passed over. By
#: the first alone, chance would have a quarter of all turns passed over where four workers answer 20 requests at once.
MOST_LOAD = 1.25
MOST_ABOVE = 4
#: A text counts up to the longest of these lengths that it has. A prompt that grows keeps its worker in between, and
#: long ones that begin with the same instructions are still told apart.
LENGTHS = (4096, 1024, 256)
#: A token has about so many characters.
TOKEN_CHARACTERS = 4
#: A file counts by so many of its first bytes, and by its size.
PICTURE_BYTES = 65_536
#: The roles of messages before the first turn.
INSTRUCTIONS = ("system", "developer")


def preferred(beginning: str, loads: Mapping[str, int]) -> str:
    """The worker for prompts that begin like that, of those with their loads."""
    mean = (sum(loads.values()) + 1) / len(loads)
    most = max(MOST_LOAD * mean, mean + MOST_ABOVE)
    encoded = beginning.encode(errors="surrogatepass")
    # There is always one: not all have as much as the mean.
    return max((worker for worker, load in loads.items() if load < most), key=lambda worker: _mark(worker, encoded))


def _mark(worker: str, beginning: bytes) -> tuple[bytes, str]:
    return blake2b(beginning, digest_size=8, key=worker.encode()[-64:]).digest(), worker


def beginning_of_messages(messages: Iterable[JsonObject]) -> str:
    """The instructions and the first turn, which stay what they are while a conversation grows."""
    parts = []
    for message in messages:
        parts.append(_beginning_of_text(_text(message.get("content"))))
        if message.get("role") not in INSTRUCTIONS:
            break
    # Texts may contain anything; a conversation that is cut otherwise is just another beginning.
    return "\0".join(parts)


def beginning_of_prompt(prompt: str | Sequence[int]) -> str:
    if isinstance(prompt, str):
        return _beginning_of_text(prompt)
    count = next((n // TOKEN_CHARACTERS for n in LENGTHS if len(prompt) >= n // TOKEN_CHARACTERS), len(prompt))
    return " ".join(map(str, prompt[:count]))


def _beginning_of_text(text: str) -> str:
    return text[: next((length for length in LENGTHS if len(text) >= length), None)]


def _text(content: object) -> str:
    """Of a message, whose content is a text or a list of parts."""
    if isinstance(content, list):
        return "".join(_part(part) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _part(part: JsonObject) -> str:
    data = part.get("data")
    if isinstance(data, bytes):
        return blake2b(data[:PICTURE_BYTES], digest_size=8, person=b"%d" % len(data)).hexdigest()
    return str(part.get("text", ""))
