"""Describes the routes as an OpenAPI document: what each takes and answers, by the types that are read and written.

A route is described by `@described(...)` right above its function. Nothing of that runs when a request is answered:
the document is made when somebody first reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model
from pydantic.fields import FieldInfo
from starlette.routing import BaseRoute
from typing_extensions import TypedDict

from cluster.value import JsonObject
from deployments.ingress.auth import keyless_reason
from deployments.ingress.version import VERSION

P = ParamSpec("P")
R = TypeVar("R")
#: A type as annotations name it: a class, `list[int]`, `str | None`.
Type = Any
Mode = Literal["validation", "serialization"]

JSON = "application/json"
FORM = "multipart/form-data"
EVENTS = "text/event-stream"
BYTES = "application/octet-stream"

_NOTE = "_route_description"


class ErrorDetail(TypedDict):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(TypedDict):
    """An error, for clients that read `detail` and for those that read `error`."""

    detail: str
    error: ErrorDetail


@dataclass(frozen=True)
class Description:
    summary: str
    #: The type of the JSON that is answered; `...` where the answer is no JSON.
    answer: Type = ...
    #: The type of the JSON that is sent; `...` where nothing is.
    body: Type = ...
    #: False where the route does without a body.
    needs_body: bool = True
    #: Whether the same fields may come as a form, files among them.
    takes_form: bool = False
    #: Media types of other answers.
    media_types: tuple[str, ...] = ()
    #: The type of the JSON of an answer 202: the request goes on in the background.
    later: Type = ...
    #: The type of an error's body.
    error: Type = ErrorBody


def described(
    summary: str,
    answer: Type = ...,
    *,
    body: Type = ...,
    needs_body: bool = True,
    takes_form: bool = False,
    media_types: Sequence[str] = (),
    later: Type = ...,
    error: Type = ErrorBody,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Notes the description at a route's function. Stands below `@routes.get(...)`; a route of another path may have
    a summary of its own there."""
    description = Description(summary, answer, body, needs_body, takes_form, tuple(media_types), later, error)

    def note(endpoint: Callable[P, R]) -> Callable[P, R]:
        vars(endpoint)[_NOTE] = description
        return endpoint

    return note


def description_of(route: APIRoute) -> Description | None:
    description = vars(route.endpoint).get(_NOTE)
    return description if isinstance(description, Description) else None


def body_model(
    name: str,
    fields: Mapping[str, FieldInfo],
    *,
    aliases: Mapping[str, str],
    files: Mapping[str, str],
    lists: Collection[str] = (),
) -> type[BaseModel]:
    """The body of a route that takes JSON and forms alike: fields, other names of them, and files with a word on each.
    `lists` may also come as one text with commas."""
    types: dict[str, Any] = {}
    for field, info in fields.items():
        annotation: Type = info.annotation
        types[field] = (annotation | str | None if field in lists else annotation | None, info)
    for alias, field in aliases.items():
        types[alias] = (types[field][0], Field(default=None, description=f"Another name of {field}."))
    for file, words in files.items():
        types[file] = (str | list[str | JsonObject] | JsonObject | None, Field(default=None, description=words))
    for wrapped in ("kwargs", "extra_body"):
        words = "More of these fields, as an object or the JSON of one."
        types[wrapped] = (str | JsonObject | None, Field(default=None, description=words))
    return create_model(name, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **types)


def document(routes: Sequence[BaseRoute], *, asks_for_keys: bool) -> JsonObject:
    """The OpenAPI document of these routes. It takes a moment: for threads."""
    listed = [route for route in routes if isinstance(route, APIRoute) and route.include_in_schema]
    api = get_openapi(title="Model cluster", version=VERSION, routes=listed)
    notes = [(route, note) for route in listed if (note := description_of(route)) is not None]
    schemas, components = _schemas(notes)
    for route, note in notes:
        for method in route.methods or ():
            operation = api["paths"][route.path_format][method.lower()]
            operation["summary"] = route.summary or note.summary
            operation["responses"] = _responses(note, schemas)
            if note.body is not ...:
                operation["requestBody"] = _request_body(note, schemas)
            if asks_for_keys and keyless_reason(route) is None:
                operation["security"] = [{"key": []}]
    api["components"] = {"schemas": components}
    if asks_for_keys:
        api["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return api


Schemas = dict[tuple[str, Mode], JsonObject]


def _types(note: Description) -> Iterator[tuple[Type, Mode]]:
    answers: list[Type] = [note.answer, note.later, note.error]
    yield from ((answer, "serialization") for answer in answers if answer is not ...)
    if note.body is not ...:
        yield note.body, "validation"


def _key(type: Type) -> str:
    """Types need not be hashable; two of the same name and module mean the same."""
    return f"{getattr(type, '__module__', '')}.{type!r}"


def _schemas(notes: Sequence[tuple[APIRoute, Description]]) -> tuple[Schemas, JsonObject]:
    """The schema of each type, and the definitions that these refer to."""
    types = {(_key(type), mode): type for _, note in notes for type, mode in _types(note)}
    inputs = [(key, mode, TypeAdapter[Any](type)) for (key, mode), type in types.items()]
    schemas, definitions = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")
    return {(key, mode): schemas[key, mode] for key, mode, _ in inputs}, definitions.get("$defs", {})


def _request_body(note: Description, schemas: Schemas) -> JsonObject:
    schema = schemas[_key(note.body), "validation"]
    kinds = (JSON, FORM) if note.takes_form else (JSON,)
    return {"required": note.needs_body, "content": {kind: {"schema": schema} for kind in kinds}}


def _responses(note: Description, schemas: Schemas) -> JsonObject:
    def json(type: Type) -> JsonObject:
        return {JSON: {"schema": schemas[_key(type), "serialization"]}}

    content: JsonObject = {} if note.answer is ... else json(note.answer)
    content |= {kind: {"schema": {"type": "string"}} for kind in note.media_types}
    responses: JsonObject = {
        "200": {"description": "The answer", "content": content},
        "default": {"description": "An error", "content": json(note.error)},
    }
    if note.later is not ...:
        responses["202"] = {"description": "It goes on in the background", "content": json(note.later)}
    return responses
