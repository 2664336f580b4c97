"""A server on loopback in a thread of its own, which can go away and come back on the same ports."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import uvicorn
from starlette.types import ASGIApp

T = TypeVar("T")
START_TIMEOUT_SECONDS = 30.0


class LoopbackServer:
    """Serves one app on `127.0.0.1`: on one port with TLS, on another one without.

    The ports are taken from the start and kept until `close`, also while it is stopped; then connections
    are refused.

    Args:
        app: The ASGI app.
        tls: The certificate for the port with TLS.
        tls_port: 0 for any that is free.
        plain_port: 0 for any that is free; `None` for no such port.
    """

    def __init__(
        self, app: ASGIApp, tls: ssl.SSLContext, *, tls_port: int = 0, plain_port: int | None = None
    ) -> None:
        self._app = app
        self._tls = tls
        self._sockets = [_bound(tls_port)]
        if plain_port is not None:
            self._sockets.append(_bound(plain_port))
        self.ports: list[int] = [bound.getsockname()[1] for bound in self._sockets]
        self._servers: list[uvicorn.Server] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen; returns when connections are accepted.

        Raises:
            RuntimeError: The server did not start.
        """
        if self._thread:
            return
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._serve(started),), name="embedded provider", daemon=True
        )
        self._thread.start()
        started.result(START_TIMEOUT_SECONDS)

    def cut(self) -> None:
        """Cut the connections that are open; what is being answered is answered to nobody."""
        if self._thread:
            self.call(self._abort())

    def stop(self) -> None:
        """Refuse connections, and cut those that are open."""
        if not self._thread or not self._loop:
            return
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._thread = None

    def close(self) -> None:
        """Stop, and give up the ports."""
        self.stop()
        for bound in self._sockets:
            bound.close()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's loop, and wait for its result.

        Raises:
            RuntimeError: The server is stopped.
        """
        if not self._thread or not self._loop:
            coroutine.close()
            raise RuntimeError("the server is stopped")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _serve(self, started: Future[None]) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._servers = [self._server(None if index else self._tls) for index in range(len(self._sockets))]
        serving = [
            asyncio.create_task(server.serve([bound]))
            for server, bound in zip(self._servers, self._sockets, strict=True)
        ]
        while not all(server.started for server in self._servers):  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.001)
        started.set_result(None)
        await self._stopped.wait()
        for server in self._servers:
            server.should_exit = server.force_exit = True
        await self._abort()
        await asyncio.gather(*serving)
        # Bound again at once, so that nobody else takes the ports; not listening, so refusing.
        self._sockets = [_bound(port) for port in self.ports]

    async def _abort(self) -> None:
        for server in self._servers:
            for connection in list(server.server_state.connections):
                if connection.transport:
                    connection.transport.abort()

    def _server(self, tls: ssl.SSLContext | None) -> uvicorn.Server:
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
        )
        config.load()
        config.ssl = tls
        return uvicorn.Server(config)


def _bound(port: int) -> socket.socket:
    # With the protocol, so that asyncio sets TCP_NODELAY.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound
