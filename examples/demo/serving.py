"""Servers in threads of this process: Werkzeug's for WSGI, uvicorn for ASGI, on sockets that listen already."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from werkzeug.serving import WSGIRequestHandler, make_server


def listening(port: int = 0) -> socket.socket:
    """Return a socket that listens on loopback; until a server accepts, connections wait."""
    return socket.create_server(("127.0.0.1", port))


def port_of(listener: socket.socket) -> int:
    """Return the port that a socket listens on."""
    return int(listener.getsockname()[1])


@contextmanager
def serving_wsgi(app: Any, listener: socket.socket) -> Iterator[None]:
    """Serve a WSGI app until the block ends."""
    server = make_server(
        "127.0.0.1",
        port_of(listener),
        app,
        threaded=True,
        request_handler=_Quiet,
        fd=listener.fileno(),
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="WSGI server")
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        listener.close()


@contextmanager
def serving_asgi(app: Any, listener: socket.socket) -> Iterator[None]:
    """Serve an ASGI app until the block ends."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="ASGI server")
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing is printed for each request."""
