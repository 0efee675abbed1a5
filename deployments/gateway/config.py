"""The cells that a gateway stands before, and who may call it; handed to its process in the environment."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Self
from urllib.parse import urlsplit

from pydantic import ValidationError

from cluster import errors
from cluster.names import quoted
from cluster.value import Value

#: Keys stand in it, so it is an environment variable and not an argument, which every user of the machine could read.
VARIABLE = "CLUSTER_GATEWAY"


class CellAddress(Value):
    name: str
    url: str
    #: The gateway's own key for this cell.
    key: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """`URL` or `NAME=URL`; without a name, a cell is called by its host and port."""
        name, separator, url = text.partition("=")
        if not separator or "://" in name:
            name, url = "", text
        url = (url if "://" in url else f"http://{url}").rstrip("/")
        try:
            parts = urlsplit(url)
            is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 80) > 0
        except ValueError:
            is_good = False
        if not is_good or parts.path or parts.query:
            raise errors.BadRequest(
                f"A cell is the address of a cluster, such as http://10.0.0.5:9997, not {quoted(text)}."
            )
        return cls(name=name or parts.netloc.rpartition("@")[2], url=url)


class GatewayConfig(Value):
    cells: tuple[CellAddress, ...]
    #: The keys that callers must send to the gateway itself; with none, a caller's key goes on to the cell.
    callers_keys: tuple[str, ...] = ()

    def check(self) -> None:
        if not self.cells:
            raise errors.BadRequest("A gateway needs cells: give at least one --cell URL.")
        name, times = Counter(cell.name for cell in self.cells).most_common(1)[0]
        if times > 1:
            raise errors.BadRequest(f"{times} cells are called {name}; give each its name: --cell NAME=URL.")

    def as_environment(self) -> dict[str, str]:
        return {VARIABLE: self.model_dump_json()}

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        try:
            return cls.model_validate_json(environment.get(VARIABLE, ""))
        except ValidationError:
            raise errors.BadRequest(
                f"${VARIABLE} does not say which cells there are; start a gateway with `cluster gateway`."
            ) from None
