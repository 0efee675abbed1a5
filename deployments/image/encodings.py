"""Encoded prompts, kept: interfaces send the same prompt again, and the `n` pictures of a request share theirs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING

from deployments.image.tensors import Argument

if TYPE_CHECKING:
    from torch import Tensor

#: Memory for them; one prompt of the largest text encoders takes about 4 MB.
MOST_BYTES = 256 * 2**20

Encode = Callable[..., Argument]


class Encodings:
    """Encodes one prompt at a time, because all requests share the tokenizers and encoders. Thread-safe."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Hashable, tuple[Argument, int]] = OrderedDict()
        self._turn = threading.Lock()
        self.bytes = 0
        self.hits = 0

    def wrap(self, encode: Encode, context: Hashable, prepare: Callable[[], None]) -> Encode:
        """`context` is what the result depends on besides the arguments; `prepare` puts it in force."""

        def encoded(*args: Argument, **kwargs: Argument) -> Argument:
            key = _key((args, sorted(kwargs.items())))
            with self._turn:
                if key is None:
                    prepare()
                    return encode(*args, **kwargs)
                kept = self._kept.get((context, key))
                if kept is not None:
                    self._kept.move_to_end((context, key))
                    self.hits += 1
                    return kept[0]
                prepare()
                encoding = encode(*args, **kwargs)
                self._keep((context, key), encoding)
                return encoding

        return encoded

    def _keep(self, key: Hashable, encoding: Argument) -> None:
        size = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(encoding))
        if size > self._most_bytes:
            return
        self._kept[key] = encoding, size
        self.bytes += size
        while self.bytes > self._most_bytes:
            _, (_, freed) = self._kept.popitem(last=False)
            self.bytes -= freed


def _key(value: Argument) -> Hashable:
    """Equal for equal arguments; None where an argument cannot be compared cheaply, such as a picture."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return (type(value).__name__, value)
    if isinstance(value, (list, tuple)):
        parts = tuple(_key(item) for item in value)
        return None if None in parts else parts
    # Devices and number formats are told apart by their text.
    return (
        (type(value).__name__, str(value)) if type(value).__module__ == "torch" and not hasattr(value, "dim") else None
    )


def _tensors(encoding: Argument) -> Iterator[Tensor]:
    if hasattr(encoding, "numel"):
        yield encoding
    elif isinstance(encoding, (list, tuple)):
        for item in encoding:
            yield from _tensors(item)
