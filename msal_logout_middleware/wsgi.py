"""The WSGI door: environ in, `start_response` out. What is not ours passes through untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ._drive import BlockingWorld, run
from .http import MAXIMUM_BODY_BYTES, Header, Request, Response
from .logout import AppView, Logout, check_app
from .pages import plain

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_WORLD = BlockingWorld()


class LogoutMiddleware:
    """Signs users of a WSGI app out.

    Args:
        app: The app to wrap, with its sessions inside: this middleware is the outermost.
        logout: How users are signed out.

    Raises:
        TypeError: `app` is not a WSGI app, `logout` not a `Logout`, or it has an asynchronous part.
    """

    def __init__(self, app: WSGIApplication, logout: Logout) -> None:
        otherwise = "for an ASGI app use msal_logout_middleware.asgi"
        check_app(app, logout, parameters=2, otherwise=otherwise)
        if logout.is_async:
            raise TypeError(
                f"{otherwise}; for a WSGI app the store, session, caches and on_event of its Logout must be "
                "synchronous"
            )
        self.app = app
        self.logout = logout

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer what is ours; hand everything else to the app."""
        path, mount = _route(environ), _text(environ.get("SCRIPT_NAME", ""))
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        if not self.logout.takes(method, path, mount, query):
            return self.app(environ, start_response)

        body = _read_body(environ) if method == "POST" else b""
        if body is None:
            return _send(plain(413, "The request is too large."), start_response)
        request = _request(environ, body)
        answer = run(self.logout.respond(request, _WORLD))
        if isinstance(answer, Response):
            return _send(answer, start_response)
        if answer is None:
            return self.app(environ, start_response)
        if method == "POST":
            environ["wsgi.input"] = BytesIO(body)
        if answer.request is not request:
            environ.update({"REQUEST_METHOD": answer.request.method, "CONTENT_LENGTH": "0"})
            environ["wsgi.input"] = BytesIO()
            environ.pop("CONTENT_TYPE", None)
        return self._app_view(answer, environ, start_response)

    def _app_view(
        self, view: AppView, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        held: list[Any] = []
        written: list[bytes] = []
        started = False

        def hold(status: str, headers: list[Header], exc_info: Any = None, /) -> Callable[[bytes], object]:
            if started:  # too late for other headers: the server raises what went wrong (PEP 3333)
                return start_response(status, headers, exc_info)
            held[:] = [status, headers, exc_info]
            return written.append

        body = _Body(iter(()), lambda: run(view.returned(_WORLD)))
        try:
            chunks = self.app(environ, hold)
            body = _Body(chunks, lambda: run(view.returned(_WORLD)))
            first = body.first()
            headers = run(view.headers(held[1], _WORLD))
        except BaseException:
            body.close()
            raise
        if isinstance(headers, Response):
            body.close()
            return _send(headers, start_response)
        line, _, exc_info = held
        status = view.status(int(line[:3]))
        line = line if line.startswith(str(status)) else _line(status)
        start_response(line, list(headers), *([exc_info] if exc_info else []))
        started = True
        body.push([*written, *first])
        return body


class _Body:
    """An app's body that can be looked into, and that tells when the app has returned."""

    def __init__(self, chunks: Iterable[bytes], returned: Callable[[], None]) -> None:
        self._chunks = chunks
        self._iterator = iter(chunks)
        self._pushed: list[bytes] = []
        self._returned = returned

    def first(self) -> list[bytes]:
        """Take the first chunk, before which the app must have called `start_response` (PEP 3333)."""
        return [chunk for _, chunk in zip(range(1), self._iterator, strict=False)]

    def push(self, chunks: Sequence[bytes]) -> None:
        self._pushed = [chunk for chunk in chunks if chunk]

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._pushed.pop(0) if self._pushed else next(self._iterator)

    def close(self) -> None:
        try:
            if callable(close := getattr(self._chunks, "close", None)):
                close()
        finally:
            self._returned()


def _request(environ: WSGIEnvironment, body: bytes) -> Request:
    headers = [
        (name[5:].replace("_", "-").lower(), value)
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    headers.append(("content-type", environ.get("CONTENT_TYPE", "")))
    return Request(
        method=environ["REQUEST_METHOD"],
        path=_route(environ),
        query=environ.get("QUERY_STRING", ""),
        headers=tuple(headers),
        mount=_text(environ.get("SCRIPT_NAME", "")),
        body=body,
    )


def _route(environ: WSGIEnvironment) -> str:
    """Return the path below the mount; slashes before it are one, as Werkzeug routes them."""
    path = _text(environ.get("PATH_INFO", ""))
    return f"/{path.lstrip('/')}" if path.startswith("//") else path


def _text(native: str) -> str:
    """Return WSGI's bytes-in-Latin-1 as the text that they stand for (PEP 3333, Unicode issues)."""
    return native if native.isascii() else native.encode("latin-1").decode("utf-8", "replace")


def _read_body(environ: WSGIEnvironment) -> bytes | None:
    """Return the body; `None` if it is longer than any that is meant for us."""
    stream = environ["wsgi.input"]
    if environ.get("wsgi.input_terminated"):
        body: bytes = stream.read(MAXIMUM_BODY_BYTES + 1)
        return body if len(body) <= MAXIMUM_BODY_BYTES else None
    length = environ.get("CONTENT_LENGTH") or "0"
    if not (length.isascii() and length.isdigit() and len(length) < 10) or int(length) > MAXIMUM_BODY_BYTES:
        return None
    return bytes(stream.read(int(length)))


def _send(response: Response, start_response: StartResponse) -> Iterable[bytes]:
    headers = [(name.title(), value) for name, value in response.headers]
    if response.status != HTTPStatus.NO_CONTENT:
        headers.append(("Content-Length", str(len(response.body))))
    start_response(_line(response.status), headers)
    return [response.body] if response.body else []


def _line(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"
