"""Reads bodies that are JSON or a form, with files within them: one reader for all dialects that take files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from fastapi import Request
from starlette.datastructures import UploadFile

from cluster import errors
from cluster.names import cut, nearest, quoted
from cluster.value import JsonObject
from deployments.ingress.bodies import form_of, inner_json, json_body

#: Where clients put fields that are not in their own signature: an object, or a text of JSON that is one.
NESTED = ("kwargs", "extra_body")
#: Fields of a form besides its files.
MOST_FIELDS = 100
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


class Upload(NamedTuple):
    """A file of a request."""

    #: What it is for, in our words.
    field: str
    data: bytes
    #: What its sender called it, without folders; empty where he did not say.
    name: str = ""


@dataclass(frozen=True)
class BodySchema:
    """What may stand in a body. Of values only the shape is looked at here."""

    fields: Collection[str]
    #: Every name under which files come, and what such a file is for.
    files: Mapping[str, str]
    #: Other names that clients have for fields.
    aliases: Mapping[str, str]
    max_files: int
    max_file_bytes: int
    #: Fields that a form can hold only as a text of JSON.
    json_in_forms: Collection[str] = ()

    @cached_property
    def known(self) -> frozenset[str]:
        return frozenset((*self.fields, *self.aliases, *self.files, *NESTED))

    def unknown(self, name: str) -> errors.InvalidBody:
        near = nearest(name, sorted(self.known))
        hint = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(sorted(self.known))}."
        return errors.InvalidBody(f"There is no field {quoted(name)}; {hint}", cut(name))


class BodyReader:
    def __init__(self, schema: BodySchema, decode: Callable[[object, str, int], Awaitable[bytes]]) -> None:
        """`decode` reads a file that stands in the body as a text or an object; it is told its field, and how many
        files came before it."""
        self._schema = schema
        self._decode = decode

    async def read(self, request: Request) -> tuple[JsonObject, list[Upload]]:
        """The fields, each under its one name, and the files in their order."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in FORMS:
            return await self._sort(self._pairs_of(await json_body(request)))
        # A file may also be a text of base64, which is a third longer.
        most_bytes = self._schema.max_file_bytes * 4 // 3 + 1000
        async with form_of(request, self._schema.max_files, MOST_FIELDS, most_bytes) as form:
            return await self._sort([(name, self._of_form(name, value)) for name, value in form.multi_items()])

    def _pairs_of(self, body: JsonObject) -> Iterable[tuple[str, object]]:
        """Several files may be one field."""
        for name, value in body.items():
            for item in value if name in self._schema.files and isinstance(value, list) else [value]:
                yield name, item

    def _of_form(self, name: str, value: UploadFile | str) -> object:
        """Clients send fields that were left empty."""
        if value in ("", "null"):
            return None
        return inner_json(value, name) if isinstance(value, str) and name in self._schema.json_in_forms else value

    async def _sort(self, pairs: Iterable[tuple[str, object]]) -> tuple[JsonObject, list[Upload]]:
        pairs = [(name, value) for name, value in pairs if value is not None]
        for name in dict(pairs):
            if name not in self._schema.known:
                raise self._schema.unknown(name)
        files = [name for name, _ in pairs if name in self._schema.files]
        if len(files) > self._schema.max_files:
            raise errors.TooLarge(
                f"The request has {len(files)} files, {self._schema.max_files} are allowed.", files[0]
            )
        fields: JsonObject = {}
        uploads: list[Upload] = []
        for name, value in pairs:
            if name in self._schema.files:
                uploads.append(await self._upload(name, value, len(uploads)))
            elif isinstance(value, UploadFile):
                raise errors.InvalidBody(f"{name} must be text, not a file.", name)
            else:
                fields[name] = value
        return self._flat(fields), uploads

    async def _upload(self, name: str, value: object, index: int) -> Upload:
        field = self._schema.files[name]
        if not isinstance(value, UploadFile):
            return Upload(field, await self._decode(value, name, index))
        if (value.size or 0) > self._schema.max_file_bytes:
            raise errors.TooLarge(f"{name} has {value.size} bytes, {self._schema.max_file_bytes} are allowed.", name)
        return Upload(field, await value.read(), (value.filename or "").replace("\\", "/").rpartition("/")[2])

    def _flat(self, fields: JsonObject) -> JsonObject:
        """Nested fields beside those that are not; where one is in both places, the outer one counts."""
        nested: JsonObject = {}
        for name in NESTED:
            nested |= object_of(fields.pop(name, None), name)
        for name in nested:
            if name not in self._schema.known or name in self._schema.files or name in NESTED:
                raise self._schema.unknown(name)
        return {self._schema.aliases.get(name, name): value for name, value in {**nested, **fields}.items()}


def object_of(value: object, name: str) -> JsonObject:
    """The fields that are nested under a name."""
    if isinstance(value, str):
        value = inner_json(value, name) if value.strip() else None
    if not isinstance(value or {}, dict):
        raise errors.InvalidBody(f"{name} must be an object, as such or as a text of JSON.", name)
    return {inner: item for inner, item in value.items() if item is not None} if isinstance(value, dict) else {}
