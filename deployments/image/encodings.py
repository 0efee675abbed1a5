"""What a model makes of prompts, kept: interfaces ask for the same words again, and `n` pictures share them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

#: Memory for them; one prompt of the largest text encoders takes about 4 MB.
MOST_BYTES = 256 * 2**20


class Encodings:
    """One prompt is encoded at a time: tokenizers and encoders belong to all requests. Thread-safe."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._turn = threading.Lock()
        self.bytes = 0
        self.hits = 0

    def wrap(self, encode: Callable[..., Any], context: Hashable, prepare: Callable[[], None]) -> Callable[..., Any]:
        """`context` is what the answer depends on besides the arguments; `prepare` puts it in force."""

        def encoded(*args: Any, **kwargs: Any) -> Any:
            key = _key((args, sorted(kwargs.items())))
            with self._turn:
                if key is None:
                    prepare()
                    return encode(*args, **kwargs)
                known = self._kept.get((context, key))
                if known is not None:
                    self._kept.move_to_end((context, key))
                    self.hits += 1
                    return known[0]
                prepare()
                found = encode(*args, **kwargs)
                self._keep((context, key), found)
                return found

        return encoded

    def _keep(self, key: Hashable, found: Any) -> None:
        size = sum(one.numel() * one.element_size() for one in _tensors(found))
        if size > self._most_bytes:
            return
        self._kept[key] = found, size
        self.bytes += size
        while self.bytes > self._most_bytes:
            _, (_, freed) = self._kept.popitem(last=False)
            self.bytes -= freed


def _key(value: Any) -> Hashable:
    """Equal for equal arguments; None where one is content that is not told apart cheaply, such as a picture."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return (type(value).__name__, value)
    if isinstance(value, (list, tuple)):
        parts = tuple(_key(one) for one in value)
        return None if None in parts else parts
    # Devices and number formats say what they are.
    return (
        (type(value).__name__, str(value)) if type(value).__module__ == "torch" and not hasattr(value, "dim") else None
    )


def _tensors(found: Any) -> Iterator[Any]:
    if hasattr(found, "numel"):
        yield found
    elif isinstance(found, (list, tuple)):
        for one in found:
            yield from _tensors(one)
