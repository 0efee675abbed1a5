"""Runs a gateway until it is told to end: `cluster gateway` becomes this process."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

from cluster.runtime.handover import listen
from cluster.settings import Settings
from deployments.gateway.app import Gateway
from deployments.gateway.config import GatewayConfig
from deployments.ingress.server import PatientServer


class GatewayServer(PatientServer):
    """Ends in order, and says so by its exit code."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would raise the signal again at the end, as if it had not been heard."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self.handle_exit, number, None)
        yield


async def serve(config: GatewayConfig, settings: Settings) -> None:
    gateway = Gateway(config, settings)
    server = GatewayServer(gateway.app(), settings)
    sockets = listen(settings.host, settings.port)
    async with gateway.following():
        # Whoever starts a gateway waits for this line.
        print(f"Serving at {settings.url}.", file=sys.stderr, flush=True)
        await server.serve(sockets)


def main() -> None:
    settings = Settings()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(name)s %(message)s")
    # Connections are opened and closed all the time.
    for library in ("httpcore", "asyncio"):
        logging.getLogger(library).setLevel(logging.WARNING)
    uvloop.run(serve(GatewayConfig.of_environment(), settings))


if __name__ == "__main__":
    main()
