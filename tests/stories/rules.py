"""The rules of WSGI and ASGI, checked on both sides of whatever is wrapped."""

from __future__ import annotations

import re
import traceback
from wsgiref.validate import validator

from werkzeug.middleware.lint import LintMiddleware

broken: list[str] = []
"""Every rule that was broken, as a server would only log it; tests assert that it is empty."""

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def wsgi_rules(app, linter="validate"):
    """Check a WSGI app by the standard library's validator, or by Werkzeug's."""
    checked = validator(app) if linter == "validate" else LintMiddleware(app)

    def check(environ, start_response):
        try:
            return checked(environ, start_response)
        except (AssertionError, Warning):
            broken.append(traceback.format_exc())
            raise

    return check


class AsgiRules:
    """Checks the messages of an ASGI app (ASGI specification 3.0, HTTP & WebSocket protocol 2.4)."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        conversation = _Conversation(receive, send, has_extensions=scope.get("extensions") or {})
        try:
            await self.app(scope, conversation.receive, conversation.send)
            conversation.returned()
        except AssertionError:
            broken.append(traceback.format_exc())
            raise


class _Conversation:
    def __init__(self, receive, send, has_extensions):
        self._receive = receive
        self._send = send
        self._extensions = has_extensions
        self._started = self._ended = self._left = self._trailers = self._has_body = False

    async def receive(self):
        message = await self._receive()
        assert not (self._has_body and message["type"] == "http.request"), "the server sent two bodies"
        self._has_body = message["type"] == "http.request" and not message.get("more_body", False)
        self._left = self._left or message["type"] == "http.disconnect"
        return message

    async def send(self, message):
        assert isinstance(message, dict) or hasattr(message, "keys"), "a message is a mapping"
        kind = message["type"]
        assert not self._ended, f"{kind} after the end"
        if kind == "http.response.start":
            assert not self._started, "started twice"
            self._check_start(message)
            self._started = True
        elif kind == "http.response.body":
            assert self._started, "a body before the start"
            assert isinstance(message.get("body", b""), bytes), "a body that is not bytes"
            assert isinstance(message.get("more_body", False), bool), "more_body that is not a bool"
            self._ended = not message.get("more_body", False) and not self._trailers
        else:
            assert kind in self._extensions, f"{kind}, which the server does not offer"
        await self._send(message)

    def returned(self):
        assert self._started or self._left, "no answer"
        assert self._ended or self._left, "the answer does not end"

    def _check_start(self, message):
        status = message["status"]
        assert type(status) is int, f"status {status!r}"
        assert 200 <= status <= 599, f"status {status!r}"
        self._trailers = message.get("trailers", False)
        for header in message.get("headers", ()):
            name, value = header
            assert type(name) is bytes, f"header name {name!r}"
            assert type(value) is bytes, f"header value {value!r}"
            assert _NAME.fullmatch(name), f"header name {name!r}"
            assert _VALUE.fullmatch(value), f"the value of {name!r}"
        lengths = [value for name, value in message.get("headers", ()) if name == b"content-length"]
        assert len(lengths) <= 1, "two lengths"
        assert not (lengths and status in (204, 304)), f"a length with {status}"
