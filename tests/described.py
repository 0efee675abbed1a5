"""Compares what a live server answers with its own description, by hooks for the HTTP clients of tests."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import httpx
import orjson
from jsonschema import Draft202012Validator, TypeChecker
from jsonschema.validators import extend


def _is_number(_: TypeChecker, value: Any) -> bool:
    """Bodies may have numbers as text, as forms do, and true in place of 1."""
    return isinstance(value, (int, float)) or (isinstance(value, str) and re.fullmatch(r"-?[\d.]+", value) is not None)


def _is_boolean(_: TypeChecker, value: Any) -> bool:
    """Clients of image models also write 0 and 1."""
    return value in (0, 1) and not isinstance(value, float)


Lenient = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_number, "number": _is_number, "boolean": _is_boolean}
    ),
)


class Contract:
    """What the description says that each operation takes and answers."""

    def __init__(self, document: dict[str, Any], bodies: bool) -> None:
        self._document = document
        self._bodies = bodies
        self._template_of = cache(self._find)
        self._validator_of = cache(self._validator)

    def check(self, response: httpx.Response) -> None:
        """Raises if an answer, or a body that was accepted, is not as described."""
        request = response.request
        template = self._template_of(request.method.lower(), request.url.path)
        if template is None or "json" not in response.headers.get("content-type", ""):
            return
        response.read()
        status = str(response.status_code) if response.is_success else "default"
        if self._bodies and status == "200" and "application/json" in request.headers.get("content-type", ""):
            body = orjson.loads(request.read())
            # Null means that a field is not given.
            given = {name: value for name, value in body.items() if value is not None}
            self._hold(given, template, request.method.lower(), "requestBody")
        self._hold(response.json(), template, request.method.lower(), "responses", status)

    def _find(self, method: str, path: str) -> str | None:
        """The path in the document that matches; paths without parameters go first."""
        for template, operations in sorted(self._document["paths"].items(), key=lambda item: item[0].count("{")):
            pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
            if method in operations and re.fullmatch(pattern, path):
                return str(template)
        return None

    def _hold(self, value: Any, *way: str) -> None:
        error = next(self._validator_of(way).iter_errors(value), None)
        assert error is None, f"{' '.join(way)} is described otherwise: {error.message:.500} at {error.json_path}"

    def _validator(self, way: tuple[str, ...]) -> Draft202012Validator:
        described = self._document["paths"]
        for step in way:
            described = described[step]
        schema = described["content"]["application/json"]["schema"]
        kind = Lenient if "requestBody" in way else Draft202012Validator
        return kind({**schema, "components": self._document["components"]})


@cache
def contract_of(url: str, bodies: bool) -> Contract:
    return Contract(httpx.get(f"{url}/openapi.json", timeout=30).raise_for_status().json(), bodies)


def held_to_its_description(url: str, *, bodies: bool = True) -> dict[str, list[Callable[..., Any]]]:
    """Event hooks for a client of a server that asks for no keys. Without `bodies` only answers are checked, for tests
    that send anything and find that more is accepted than is described."""
    return {"response": [contract_of(url, bodies).check]}
