"""Random requests: for each route, bodies made by a seed from the words in the source of its module.

New routes are included without being listed here.
"""

from __future__ import annotations

import base64
import http.client
import importlib
import inspect
import io
import itertools
import json
import random
import re
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from PIL import Image

from tests.read_pages import document, picture

_WORD = re.compile(r"[\"']([A-Za-z_][\w./-]{0,40})[\"']")
_FIELD = re.compile(r"^    (\w+): ", re.MULTILINE)
#: Field names that most dialects share.
USUAL = (
    "model",
    "input",
    "inputs",
    "texts",
    "documents",
    "query",
    "items",
    "prompt",
    "image",
    "file",
    "pages",
    "stream",
)
#: Bodies that are forms, and the names of their parts that are files.
FILES = ("image", "image[]", "mask", "file", "files", "document", "images", "prompt")
TYPES = ("application/json", "text/plain", "application/octet-stream", "application/json; charset=utf-16", "")


@dataclass(frozen=True)
class Target:
    method: str
    path: str
    #: The words of its module.
    words: tuple[str, ...]


@dataclass(frozen=True)
class Sent:
    method: str
    path: str
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.path} {dict(self.headers)} {len(self.content)} bytes {self.content[:300]!r}"


def answer_to(connection: http.client.HTTPConnection, sent: Sent) -> tuple[int | str, bytes]:
    """The status and the beginning of the body, or the error that kept the request from being answered."""
    try:
        connection.request(sent.method, sent.path, sent.content, dict(sent.headers))
        answer = connection.getresponse()
        return answer.status, read_until(answer, time.monotonic() + (connection.timeout or 60.0))[:300]
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        return type(error).__name__, b""


def read_until(answer: http.client.HTTPResponse, deadline: float) -> bytes:
    """Some streams never end, and always say something before anybody's patience with them does."""
    body = b""
    while part := answer.read1(2**16):
        body += part
        if time.monotonic() > deadline:
            raise TimeoutError
    # Or the next request of this connection would wait for more of it.
    answer.close()
    return body


def targets_of(app: FastAPI) -> list[Target]:
    """Every route and method of an app."""
    found = []
    for route in app.routes:
        if isinstance(route, APIRoute):
            words = words_of(route.endpoint.__module__)
            found += [Target(method, route.path_format, words) for method in sorted(route.methods or ())]
    return found


@cache
def words_of(module: str) -> tuple[str, ...]:
    """The string constants and field names in the source of a module and of the modules next to it that it imports."""
    source = inspect.getsource(importlib.import_module(module))
    for name in re.findall(r"^from (deployments\.(?:ingress|image|ocr)\.\w+) import", source, re.MULTILINE):
        source += inspect.getsource(importlib.import_module(name))
    return tuple(dict.fromkeys([*USUAL, *_WORD.findall(source), *_FIELD.findall(source)]))


class Fuzzer:
    """`uids` are used where a body names a model, `path_uids` in paths, where a request may end the model; `good` has
    valid bodies by path, which are then spoiled."""

    def __init__(
        self,
        targets: Sequence[Target],
        seed: int,
        uids: Sequence[str] = (),
        good: Mapping[str, Mapping[str, Any]] = {},
        most_bytes: int = 200_000,
        path_uids: Sequence[str] | None = None,
    ) -> None:
        self._targets = targets
        self._dice = random.Random(seed)
        self._uids = (*uids, "nobody", "")
        self._path_uids = self._uids if path_uids is None else path_uids
        self._good = good
        self._most_bytes = most_bytes

    def __iter__(self) -> Iterator[Sent]:
        """Endless: each route in turn, and routes without a body in every fourth round only."""
        for turn in itertools.count():
            targets = [target for target in self._targets if target.method not in ("GET", "HEAD") or turn % 4 == 0]
            self._dice.shuffle(targets)
            for target in targets:
                yield self._sent(target)

    def _sent(self, target: Target) -> Sent:
        dice = self._dice
        path = re.sub(r"{[^}]*}", lambda _: self._name(target), target.path)
        query = "&".join(
            f"{dice.choice(target.words)}={self._name(target)}" for _ in range(dice.choice((0, 0, 0, 1, 3)))
        )
        headers = {}
        content = b""
        if target.method not in ("GET", "HEAD") or dice.random() < 0.1:
            content, headers["content-type"] = self._content(target)
        if dice.random() < 0.2:
            name = dice.choice(
                ("x-request-timeout", "x-request-id", "accept", "cache-control", "authorization", "expect")
            )
            headers[name] = dice.choice(
                ("1", "0", "-1", "nan", "inf", "1e999", "*/*", "no-store", "Bearer x", "ü" * 9, "x" * 999)
            )
        headers = {name: text.encode("latin-1", "replace").decode("latin-1") for name, text in headers.items()}
        return Sent(target.method, path + (f"?{query}" if query else ""), content, headers)

    def _name(self, target: Target) -> str:
        dice = self._dice
        odd = ("%00", "..%2F..", "-1", "0", "99999999999999999999", "x" * 500, "%F0%9F%98%80", "a%20b", "#1", "'")
        return dice.choice((*self._path_uids, *odd, dice.choice(target.words))).replace(" ", "%20").replace("#", "%23")

    def _content(self, target: Target) -> tuple[bytes, str]:
        kind = self._dice.random()
        if kind < 0.75:
            return self._json(target), TYPES[0]
        if kind < 0.93:
            return self._form(target)
        return self._spoiled(self._json(target)), self._dice.choice(TYPES)

    def _json(self, target: Target) -> bytes:
        dice = self._dice
        good = self._good.get(target.path)
        body: Any
        if good is not None and dice.random() < 0.6:
            body = json.loads(json.dumps(good))
            for _ in range(dice.choice((0, 1, 1, 2, 4))):
                body[dice.choice((*body, dice.choice(target.words)))] = self._value(target, 3)
        else:
            body = {dice.choice(target.words): self._value(target, 3) for _ in range(dice.choice((1, 2, 4, 8, 30)))}
            if dice.random() < 0.8:
                body["model"] = dice.choice(self._uids)
        if dice.random() < 0.03:
            body[dice.choice((*body, dice.choice(target.words)))] = self._wide(target)
        if dice.random() < 0.03:
            body = self._value(target, 3)
        text = json.dumps(body, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
        return self._spoiled(text) if dice.random() < 0.08 else text

    def _value(self, target: Target, depth: int) -> Any:
        dice = self._dice
        kind = dice.randrange(12 if depth else 8)
        if kind < 2:
            return dice.choice(target.words)
        if kind == 2:
            return dice.choice((None, True, False, "", [], {}, " ", "null", "-1", "1-3,7", "1024x1024", "auto"))
        if kind == 3:
            return dice.choice((0, 1, -1, 2, 7, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e308, 1e-320))
        if kind == 4:
            return self._text()
        if kind == 5:
            return dice.choice(self._uids)
        if kind == 6:
            return self._file_as_text()
        if kind == 7:
            return dice.randrange(100)
        if kind == 8:
            value = self._value(target, depth - 1)
            return [value] * min(dice.choice((1, 2, 5, 100, 3000)), 1 + self._most_bytes // len(json.dumps(value)))
        if kind == 9:
            return [self._value(target, depth - 1) for _ in range(dice.choice((0, 1, 2, 5)))]
        if kind == 10:
            return {dice.choice(target.words): self._value(target, depth - 1) for _ in range(dice.choice((1, 2, 4)))}
        nested: Any = self._value(target, 0)
        for _ in range(dice.choice((3, 100, 300))):
            nested = [nested] if dice.random() < 0.7 else {dice.choice(target.words): nested}
        return nested

    def _wide(self, target: Target) -> Any:
        """Large values of every kind."""
        dice, word = self._dice, self._dice.choice(target.words)
        many = dice.choice((self._most_bytes, self._most_bytes // 10))
        return dice.choice(
            (
                lambda: [1] * (many // 3),
                lambda: [word] * (many // 9),
                lambda: [[1, 2]] * (many // 9),
                lambda: [{word: 1}] * (many // 15),
                lambda: {f"{word}{number}": 1 for number in range(many // 20)},
                lambda: ",".join([word] * (many // 9)),
                lambda: "[" + "[]," * (many // 4) + "1]",
                lambda: "9" * many,
                lambda: "A" * many,
            )
        )()

    def _text(self) -> str:
        dice = self._dice
        letters = dice.choice(
            ("abc ", "äöü漢字🙂\u0301", "\x00\x1f\x7f", '{}[]",:\\', "0123456789", "\ud800", " \t\n", "-,")
        )
        size = dice.choice((1, 3, 40, 400, 9000, self._most_bytes if dice.random() < 0.2 else 50))
        return "".join(dice.choices(letters, k=min(size, 4000))) * max(1, size // 4000)

    def _file(self) -> bytes:
        dice = self._dice
        made = dice.choice(files())
        return self._spoiled(made) if dice.random() < 0.4 else made

    def _file_as_text(self) -> str:
        dice = self._dice
        text = base64.b64encode(self._file()).decode()
        head = dice.choice(
            ("", "data:image/png;base64,", "data:application/pdf;base64,", "data:,", "data:audio/wav;base64,")
        )
        return dice.choice(
            (head + text, head + text[:-1], "http://127.0.0.1:1/x", "https://[::1", "file:///etc/passwd")
        )

    def _spoiled(self, data: bytes) -> bytes:
        dice = self._dice
        kind = dice.randrange(6)
        if kind == 0:
            return data[: dice.randrange(len(data) + 1)]
        if kind == 1:
            return dice.randbytes(dice.choice((0, 1, 30, 3000)))
        if kind == 2:
            place = dice.randrange(len(data) + 1)
            return data[:place] + dice.randbytes(4) + data[place + 4 :]
        if kind == 3:
            return b"[" * dice.choice((10, 2000, 60_000, self._most_bytes)) + data
        if kind == 4:
            return b'{"a":[' + b"[],{}," * (self._most_bytes // 8) + b"1]}"
        return data * 2

    def _form(self, target: Target) -> tuple[bytes, str]:
        dice = self._dice
        if dice.random() < 0.15:
            pairs = "&".join(
                f"{dice.choice(target.words)}={dice.choice(('', '%00', '%zz', 'x' * 99))}"
                for _ in range(dice.choice((1, 200)))
            )
            return pairs.encode(), "application/x-www-form-urlencoded"
        lines = b""
        for _ in range(dice.choice((1, 2, 3, 30, 200))):
            if dice.random() < 0.4:
                name, more, content = (
                    dice.choice(FILES),
                    f'; filename="{dice.choice(("a.png", "", "../x", "ü.pdf"))}"',
                    self._file(),
                )
            else:
                name, more = dice.choice(target.words), ""
                value = dice.choice((dice.choice(self._uids), dice.choice(target.words), self._text()))
                content = value.encode("utf-8", "surrogatepass")
            lines += (
                f'--cut\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"
            )
        kind = dice.choice(("boundary=cut", "boundary=cut", "boundary=cut; charset=punycode", "boundary=other", ""))
        return lines + b"--cut--\r\n", f"multipart/form-data; {kind}"


@cache
def files() -> tuple[bytes, ...]:
    """Pictures, documents and a sound, and files that only begin like one."""
    small = io.BytesIO()
    Image.new("RGBA", (3, 5), (9, 9, 9, 0)).save(small, "PNG")
    shape = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    sound = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + shape + b"data\0\0\0\0"
    made = [picture("hello", format) for format in ("PNG", "JPEG", "WEBP", "BMP", "GIF")]
    made += [document("one", "two"), document("one", "two", format="TIFF"), small.getvalue(), sound]
    heads = (
        b"%PDF-1.7\n",
        b"II*\0\x08\0\0\0" + b"\xff" * 200,
        b"\x89PNG\r\n\x1a\n" + b"\0" * 60,
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    )
    return (*made, *heads, b"", b"just text")
