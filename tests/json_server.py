"""A server of one JSON document on loopback, as a provider has it: up, slow, down, or saying anything at all."""

from __future__ import annotations

import json
import ssl
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import trustme

from msal_logout_middleware._drive import BlockingWorld


class JsonServer:
    """Serves from its construction until `close`.

    Args:
        document: What it says.
        certificate: For https.

    Attributes:
        answer: Status and body; `None`: the connection is closed without a word.
        headers: More headers.
        requests: How many came.
        asked: Released by each.
        may_answer: Clear it to let everybody wait.
    """

    def __init__(self, document: Any, certificate: trustme.LeafCert | None = None) -> None:
        self.requests = 0
        self.asked = threading.Semaphore(0)
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.answer: tuple[int, str] | None = None
        self.says(document)
        self.headers: dict[str, str] = {}
        self._lock = threading.Lock()
        outer = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with outer._lock:
                    outer.requests += 1
                outer.asked.release()
                outer.may_answer.wait(30)
                if outer.answer is None:
                    return
                status, body = outer.answer
                with suppress(OSError):  # the client has gone, which some tests are about
                    self.send_response(status)
                    for name, value in outer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body.encode())

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """Say nothing: the client has gone."""

        self._server = Server(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.url = self.url.replace("http:", "https:")
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def says(self, document: Any) -> None:
        """Answer with this from now on."""
        self.answer = (200, json.dumps(document))

    def close(self) -> None:
        """Stop serving, also those who wait."""
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class NobodyWaits(BlockingWorld):
    """The world of somebody who has no time."""

    def sleep(self, seconds: float) -> None:
        raise AssertionError("somebody waits")


class TimePasses(BlockingWorld):
    """The world of somebody for whom waiting takes no time, but the clock goes on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def sleep(self, seconds: float) -> None:
        self._clock.now += seconds
