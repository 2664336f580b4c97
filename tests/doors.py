"""One site behind either door, called as a server calls it, with every rule of WSGI and ASGI checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode
from wsgiref.validate import validator

import anyio
from werkzeug.test import EnvironBuilder


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name):
        return [value for key, value in self.headers if key.lower() == name]

    def one(self, name):
        values = self.all(name)
        assert len(values) <= 1, f"{name} is sent {len(values)} times"
        return values[0] if values else None

    @property
    def location(self):
        return self.one("location")

    @property
    def set_cookies(self):
        return {value.partition("=")[0]: value for value in self.all("set-cookie")}

    @property
    def text(self):
        return self.body.decode()


@dataclass
class Browser:
    """Keeps cookies and sends Fetch Metadata, as a browser does."""

    site: Any
    cookies: dict[str, str] = field(default_factory=dict)

    def get(self, path, **kwargs):
        return self.request("GET", path, **kwargs)

    def post(self, path, form=None, **kwargs):
        body = urlencode(form or {}).encode()
        headers = {"content-type": "application/x-www-form-urlencoded", **kwargs.pop("headers", {})}
        return self.request("POST", path, body=body, headers=headers, **kwargs)

    def request(self, method, path, *, headers=None, body=b"", site="same-origin"):
        headers = dict(headers or {})
        if site is not None:
            headers.setdefault("sec-fetch-site", site)
        if self.cookies and "cookie" not in headers:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = self.site.call(method, path, headers, body)
        for value in answer.all("set-cookie"):
            name = value.partition("=")[0]
            if "Max-Age=0" in value or "01 Jan 1970" in value:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value.partition("=")[2].partition(";")[0]
        return answer


class WsgiDoor:
    """Calls a WSGI app under `wsgiref.validate`."""

    def __init__(self, app):
        self.app = validator(app)

    def call(self, method, path, headers, body, **environ):
        builder = EnvironBuilder(
            path=path,
            method=method,
            headers=list(headers.items()) if isinstance(headers, dict) else headers,
            environ_overrides=environ,
            data=body or None,
        )
        answer = []

        def start_response(status, headers, exc_info=None):
            answer[:] = [int(status.split()[0]), headers]
            return lambda data: None

        environ = builder.get_environ()
        if not body:
            environ.pop("CONTENT_TYPE", None)
        chunks = self.app(environ, start_response)
        try:
            data = b"".join(chunks)
        finally:
            chunks.close()
        # Blanks around a value are no part of it (RFC 9110, 5.5); Django begins its cookies with one.
        return Answer(answer[0], [(name, value.strip()) for name, value in answer[1]], data)


class AsgiDoor:
    """Calls an ASGI app and checks the order of its messages (ASGI specification, HTTP).

    Args:
        app: The app.
        any_case: Names of headers may have capitals, as Django sends them, against the specification.
    """

    def __init__(self, app, *, any_case=False):
        self.app = app
        self.any_case = any_case

    def call(self, method, path, headers, body, **scope):
        return anyio.run(self._call, method, path, headers, body, scope)

    async def _call(self, method, path, headers, body, extra):
        path, _, query = path.partition("?")
        pairs = list(headers.items()) if isinstance(headers, dict) else headers
        if body:
            pairs = [*pairs, ("content-length", str(len(body)))]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs],
            "server": ("localhost", 80),
            "client": ("127.0.0.1", 1234),
            **extra,
        }
        sent = []
        chunks = [body[:3], body[3:]] if len(body) > 3 else [body]
        left = [
            {"type": "http.request", "body": chunk, "more_body": i < len(chunks) - 1}
            for i, chunk in enumerate(chunks)
        ]

        ended = anyio.Event()

        async def receive():
            if left:
                return left.pop(0)
            await ended.wait()  # Django breaks a request off whose client has gone
            return {"type": "http.disconnect"}

        async def send(message):
            done = bool(sent) and sent[-1]["type"] == "http.response.body" and not sent[-1].get("more_body")
            assert not done, "sent after the end"
            if message["type"] == "http.response.start":
                assert not sent, "started twice"
                for name, value in message["headers"]:
                    assert isinstance(name, bytes), name
                    assert isinstance(value, bytes), value
                    assert name == name.lower() or self.any_case, name
                    assert b"\n" not in value, value
                    assert b"\r" not in value, value
            else:
                assert message["type"] == "http.response.body", message["type"]
                assert sent, "body before start"
            sent.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                ended.set()

        await self.app(scope, receive, send)
        assert sent, "no answer"
        assert not sent[-1].get("more_body"), "the answer does not end"
        decoded = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in sent[0]["headers"]]
        return Answer(sent[0]["status"], decoded, b"".join(m.get("body", b"") for m in sent[1:]))
