"""The rules of WSGI and ASGI, checked on both sides of whatever is wrapped."""

from __future__ import annotations

import re
import traceback
from contextlib import contextmanager
from wsgiref.validate import validator

from werkzeug.middleware.lint import LintMiddleware

broken: list[str] = []
"""Every rule that was broken, which a server would only log, or an app swallow; tests assert that it is empty."""

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def rule(holds, text):
    if not holds:
        broken.append(text)
        raise AssertionError(text)


def wsgi_rules(app, linter="validate"):
    """Check a WSGI app by the standard library's validator, or by Werkzeug's linter; warnings must be errors."""
    checked = validator(app) if linter == "validate" else LintMiddleware(app)

    def check(environ, start_response):
        with _noting():
            return _CheckedBody(checked(environ, start_response))

    return check


class _CheckedBody:
    def __init__(self, body):
        self._body = body
        self._iterator = iter(body)

    def __iter__(self):
        return self

    def __next__(self):
        with _noting():
            return next(self._iterator)

    def close(self):
        with _noting():
            self._body.close()


@contextmanager
def _noting():
    try:
        yield
    except (AssertionError, Warning):
        broken.append(traceback.format_exc())
        raise


class AsgiRules:
    """Checks the messages of an ASGI app (ASGI specification 3.0, HTTP & WebSocket protocol 2.4)."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        conversation = _Conversation(receive, send, extensions=scope.get("extensions") or {})
        await self.app(scope, conversation.receive, conversation.send)
        conversation.returned()


class _Conversation:
    def __init__(self, receive, send, extensions):
        self._receive = receive
        self._send = send
        self._extensions = extensions
        self._started = self._ended = self._left = self._trailers = self._has_body = False

    async def receive(self):
        message = await self._receive()
        rule(not (self._has_body and message["type"] == "http.request"), "the app was given two bodies")
        self._has_body = message["type"] == "http.request" and not message.get("more_body", False)
        self._left = self._left or message["type"] == "http.disconnect"
        return message

    async def send(self, message):
        kind = message["type"]
        rule(not self._ended, f"{kind} after the end")
        if kind == "http.response.start":
            rule(not self._started, "started twice")
            self._check_start(message)
            self._started = True
        elif kind == "http.response.body":
            rule(self._started, "a body before the start")
            rule(isinstance(message.get("body", b""), bytes), "a body that is not bytes")
            rule(isinstance(message.get("more_body", False), bool), "more_body that is not a bool")
            self._ended = not message.get("more_body", False) and not self._trailers
        else:
            rule(kind in self._extensions, f"{kind}, which the server does not offer")
        await self._send(message)

    def returned(self):
        rule(self._started or self._left, "no answer")
        rule(self._ended or self._left, "the answer does not end")

    def _check_start(self, message):
        status, headers = message["status"], list(message.get("headers", ()))
        rule(type(status) is int and 200 <= status <= 599, f"status {status!r}")
        self._trailers = message.get("trailers", False)
        for name, value in headers:
            rule(type(name) is bytes and _NAME.fullmatch(name), f"header name {name!r}")
            rule(type(value) is bytes and _VALUE.fullmatch(value), f"the value of {name!r}")
        lengths = [value for name, value in headers if name == b"content-length"]
        rule(len(lengths) <= 1, "two lengths")
        rule(not (lengths and status in (204, 304)), f"a length with {status}")
