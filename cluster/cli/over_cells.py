"""`cluster apply --cells`: one declared list over several clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import click

from cluster import errors
from cluster.cells import CellRoom, ReplicaNeed, split
from cluster.cli.connection import saved_key
from cluster.client.client import Client
from cluster.launch import LaunchSpec
from cluster.value import JsonObject
from deployments.gateway.config import CellAddress, GatewayConfig

T = TypeVar("T")

#: In place of addresses: all cells of the gateway that the command talks to.
OF_GATEWAY = "all"


@contextmanager
def opened(text: str, gateway: Client) -> Iterator[Cells]:
    """The cells of `--cells`: addresses with commas between them, or those of the gateway."""
    with ExitStack() as stack:
        if text == OF_GATEWAY:
            rows = _cells_of(gateway)
            key = gateway.driver.http.headers.get("authorization", "").removeprefix("Bearer ") or None
            clients = {row["cell"]: Client(gateway.base_url, key, cell=row["cell"]) for row in rows}
            cells = Cells({name: stack.enter_context(client) for name, client in clients.items()})
            for row in rows:
                if not row["live"]:
                    cells.leave_out(row["cell"], errors.Unavailable(f"The gateway cannot reach it: {row['reason']}."))
        else:
            addresses = [CellAddress.parse(part.strip()) for part in text.split(",") if part.strip()]
            GatewayConfig(cells=tuple(addresses)).check()
            each = {one.name: Client(one.url, saved_key(one.url)) for one in addresses}
            cells = Cells({name: stack.enter_context(client) for name, client in each.items()})
        yield cells


def _cells_of(gateway: Client) -> list[JsonObject]:
    try:
        return gateway.cells()
    except errors.ClusterError as error:
        if error.status != 404:
            raise
        raise errors.BadOption(
            f"{gateway.base_url} is no gateway; name the addresses of the cells instead of `{OF_GATEWAY}`.", "cells"
        ) from None


@dataclass
class Cells:
    clients: dict[str, Client]
    #: By cell, why it is not changed.
    left_out: dict[str, errors.ClusterError] = field(default_factory=dict)

    def leave_out(self, name: str, error: errors.ClusterError) -> None:
        del self.clients[name]
        self.left_out[name] = error
        click.echo(f"Error: {name} is left out: {error.message}", err=True)

    def each(self, work: Callable[[str, Client], T]) -> dict[str, T]:
        """At the same time in all of them. A cell that fails is left out from then on."""
        names = list(self.clients)
        with ThreadPoolExecutor(max(len(names), 1)) as pool:
            futures = {name: pool.submit(work, name, self.clients[name]) for name in names}
        results: dict[str, T] = {}
        for name, future in futures.items():
            try:
                results[name] = future.result()
            except errors.ClusterError as error:
                self.leave_out(name, error)
        if not self.clients:
            raise self.failure()
        return results

    def failure(self, of_others: str = "") -> errors.ClusterError:
        """What the command ends with where cells were left out, and what is to be said of the others."""
        name, error = next(iter(self.left_out.items()))
        told = f"{', '.join(self.left_out)} left out; {name}: {error.message}"
        return type(error)(f"{told} {of_others}".rstrip())


@dataclass(frozen=True)
class Share:
    """A declared model: how many replicas each cell gets."""

    uid: str
    spec: LaunchSpec
    counts: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self.uid}: {', '.join(f'{count} in {cell}' for cell, count in self.counts.items() if count)}"


def shares_of(specs: Sequence[LaunchSpec], cells: Cells) -> list[Share]:
    """What each cell gets; a list that was applied before stays as it is."""
    for spec in specs:
        if spec.bounds is not None:
            raise errors.BadOption(
                f"{spec.model_uid or spec.model_name} follows its load, which each cell sees for itself: declare it "
                "there, by `cluster apply --cell`.",
                "cells",
            )
        if spec.worker_ip is not None or spec.gpu_idx is not None or spec.replica_config is not None:
            raise errors.BadOption(
                f"{spec.model_uid or spec.model_name} names a node or cards, which are those of one cell: declare it "
                "there, by `cluster apply --cell`.",
                "cells",
            )
    while True:
        names = set(cells.clients)
        shares = _shares_of(specs, cells)
        # The share of one that was left out meanwhile is another's.
        if names == set(cells.clients):
            return shares


def _shares_of(specs: Sequence[LaunchSpec], cells: Cells) -> list[Share]:
    planned = cells.each(lambda _, client: (client.apply(specs, prune=False, dry_run=True), client.cluster_info()))
    rooms = {name: CellRoom.of(nodes) for name, (_, nodes) in planned.items()}
    shares = []
    for number, spec in enumerate(specs):
        changes = {name: planned[name][0][number] for name in cells.clients}
        present = {name: _replicas_before(change) for name, change in changes.items()}
        needs: dict[str, ReplicaNeed] = {}
        if sum(present.values()) < spec.replica:
            needs = _needs_of(spec, present, cells)
        present = {name: count for name, count in present.items() if name in cells.clients}
        counts = split(spec.replica, present, needs, rooms)
        for name, need in needs.items():
            rooms[name] = rooms[name].minus(need, counts.get(name, 0) - present[name])
        uid = next(iter(changes.values()))["uid"]
        shares.append(Share(uid, spec, counts))
    return shares


def _replicas_before(change: JsonObject) -> int:
    before = change["before"]
    return int(before.get("replica", 1)) if before else 0


def _needs_of(spec: LaunchSpec, present: Mapping[str, int], cells: Cells) -> dict[str, ReplicaNeed]:
    """What one replica more would take in each cell."""

    def need_in(name: str, client: Client) -> ReplicaNeed:
        fit = client.check(spec.model_copy(update={"replica": present[name] + 1}))
        cards = spec.n_gpu if isinstance(spec.n_gpu, float) else None
        return ReplicaNeed(fit["fits"], fit["claim_bytes"], fit["card_bytes"], cards)

    return cells.each(need_in)


def declared_in(cell: str, shares: Sequence[Share]) -> list[LaunchSpec]:
    return [share.spec.model_copy(update={"replica": share.counts[cell]}) for share in shares if share.counts.get(cell)]


def planned_over(cells: Cells, shares: Sequence[Share], prune: bool) -> dict[str, list[JsonObject]]:
    """What would change in each cell."""
    return cells.each(lambda name, client: client.apply(declared_in(name, shares), prune, dry_run=True))


def apply_over(
    cells: Cells,
    specs: Sequence[LaunchSpec],
    prune: bool,
    is_agreed: Callable[[dict[str, list[JsonObject]]], None],
    follow_all: Callable[[Client, list[str]], None],
) -> JsonObject:
    """Declares them, and says what was done. `is_agreed` shows what would change and raises if nobody wants it."""
    shares = shares_of(specs, cells)
    is_agreed(planned_over(cells, shares, prune))
    for share in shares:
        click.echo(str(share), err=True)
    changes = cells.each(lambda name, client: client.apply(declared_in(name, shares), prune))
    for name, rows in changes.items():
        try:
            follow_all(cells.clients[name], [row["uid"] for row in rows if row["change"] != "terminate"])
        except errors.ClusterError as error:
            cells.leave_out(name, error)
    return {
        "cells": changes,
        "replicas": {share.uid: {name: count for name, count in share.counts.items() if count} for share in shares},
        "left_out": {name: error.message for name, error in cells.left_out.items()},
    }
