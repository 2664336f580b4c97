"""Servers of the stories, on loopback: in a thread of the test, or as real processes."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from werkzeug.serving import WSGIRequestHandler, make_server


def bound() -> socket.socket:
    """A socket that listens: a browser that comes before the server is ready waits."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", 0))
    listening.listen(64)
    return listening


class _Conforming(WSGIRequestHandler):
    """Werkzeug's, but for what its own linter and the standard library's validator complain of; and it is quiet."""

    def make_environ(self):
        environ = super().make_environ()
        return environ | {"REMOTE_PORT": str(environ["REMOTE_PORT"])}

    def log(self, *args):
        pass


@contextmanager
def serving_wsgi(app, listening: socket.socket) -> Iterator[None]:
    server = make_server(
        "127.0.0.1", 0, app, threaded=True, request_handler=_Conforming, fd=listening.fileno()
    )
    server.daemon_threads = False  # so that closing waits for what is being answered
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving_asgi(app, listening: socket.socket) -> Iterator[None]:
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def gunicorn(listening: socket.socket) -> list[str]:
    return [
        *("-m", "gunicorn", "--workers", "2", "--bind", f"fd://{listening.fileno()}"),
        *("--threads", "2", "--log-level", "warning", "tests.stories.apps:flask_of_this_process()"),
    ]


def uvicorn_(listening: socket.socket) -> list[str]:
    return [
        *("-m", "uvicorn", "--fd", str(listening.fileno()), "--log-level", "warning", "--factory"),
        "tests.stories.apps:fastapi_of_this_process",
    ]


@contextmanager
def process(
    arguments: list[str], listening: socket.socket, environment: dict[str, str]
) -> Iterator[subprocess.Popen]:
    """Start a server that inherits the socket; at the end stop it, and show what it complained of.

    Raises:
        AssertionError: It has written to standard error.
    """
    with subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        pass_fds=[listening.fileno()],
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.terminate()
            try:
                _, complaints = running.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                running.kill()
                raise
        assert not complaints, complaints


def until(condition, *, timeout_seconds: float = 20.0):
    """Poll until a condition holds, and return what it holds with."""
    deadline = time.monotonic() + timeout_seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.02)
    return result
