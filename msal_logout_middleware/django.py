"""The door of Django projects: a middleware for the settings, which drives the other two doors.

1. Nothing of a sign-out or of the gate is decided here: a request goes through the door of its kind, WSGI or ASGI,
   with the rest of the project behind it as the app.
2. That app makes Django read the request anew, as the door leaves it: without the cookies of an ended session.
3. What the door says of the app's answer is written into Django's; its body stays where it is, so that streams stream.
4. The door hears of the end when Django closes the response: only then has the app returned.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from http.cookies import CookieError, Morsel, SimpleCookie
from io import BytesIO
from typing import Any

try:
    from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async
    from django.conf import settings
    from django.contrib.sessions.middleware import SessionMiddleware
    from django.core.exceptions import ImproperlyConfigured
    from django.http import HttpResponse
    from django.utils.module_loading import import_string
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"msal_logout_middleware.django needs {error.name}: pip install 'msal-logout-middleware[django]'",
        name=error.name,
    ) from error

from . import asgi, wsgi
from .http import Header
from .logout import Logout

_HELD = "msal_logout_middleware.held"
_OF_DOORS = ("HTTP_COOKIE", "REQUEST_METHOD", "CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_TRANSFER_ENCODING")
_CHUNK_BYTES = 64 * 1024
_LONGEST_CLOSE_SECONDS = 60.0


class LogoutMiddleware:
    """Signs users of a Django project out, and refuses their ended sessions.

    It is listed in `MIDDLEWARE` before all others, and the setting `MSAL_LOGOUT` says where its `Logout` is:
    `"project.logout:logout"`. It works behind WSGI and ASGI, and instead of what `wsgi.py` or `asgi.py` would wrap.

    Args:
        get_response: The rest of the project, as Django hands it in.

    Raises:
        ImproperlyConfigured: `MSAL_LOGOUT` leads to no `Logout`, or a session middleware is listed before this one.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        _check_place()
        self.logout = _logout_of_settings()
        self.logout.serve(WSGIProject())
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """Answer what is ours; hand everything else to the project, behind the gate."""
        # A middleware that is only sync, or only async, changes what those before it are called by, but no request.
        if hasattr(request, "scope"):
            return self._by_asgi(request) if self._is_async else async_to_sync(self._by_asgi)(request)
        return sync_to_async(self._by_wsgi)(request) if self._is_async else self._by_wsgi(request)

    def _by_wsgi(self, request: Any) -> Any:
        get_response = async_to_sync(self.get_response) if self._is_async else self.get_response
        held = _Held(request, get_response, cuts_streams=self.logout.configuration.close_streams)
        answer: list[Any] = []

        def start_response(status: str, headers: list[Header], *_: object) -> Callable[[bytes], object]:
            answer[:] = [int(status[:3]), headers]
            return _write_nothing

        chunks: Any = _wsgi_door(self.logout)(_environ(request, held), start_response)
        status, headers = answer
        response = held.response
        # Where the door has closed what the project answered, it answers itself.
        if response is None or held.is_closed:
            return _answer(status, headers, b"".join(chunks), response)
        _write(response, status, headers)
        if held.chunks is not None:
            response.streaming_content = chunks
        else:
            response._resource_closers.append(chunks.close)
        return response

    async def _by_asgi(self, request: Any) -> Any:
        get_response = self.get_response if self._is_async else sync_to_async(self.get_response)
        held = _HeldOpen(request, get_response, cuts_streams=self.logout.configuration.close_streams)
        scope = {**request.scope, _HELD: held}
        if isinstance(query := scope.get("query_string", b""), str):  # Django's asynchronous test client
            scope["query_string"] = query.encode()
        door = asyncio.ensure_future(_asgi_door(self.logout)(scope, held.receive, held.send))
        try:
            await asyncio.wait({door, held.passed}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # the client has gone
            door.cancel()
            with suppress(asyncio.CancelledError):
                await door
            raise
        if held.is_answered or door.done():
            await door
            return _answer(held.status, held.headers, held.body, held.response)
        response = held.response
        _write(response, held.status, held.headers)
        if response.streaming and held.cuts_streams:
            response.streaming_content = held.until_over(
                response.streaming_content, is_async=response.is_async
            )
        response._resource_closers.append(lambda: held.let_look(door))
        return response


class _Held:
    """A request on its way through a door, and what the project answers: to the door, a body with nothing in it."""

    def __init__(self, request: Any, get_response: Callable[[Any], Any], *, cuts_streams: bool) -> None:
        self.request = request
        self.cuts_streams = cuts_streams
        self.get_response = get_response
        self.response: Any = None
        self.chunks: Iterable[bytes] | None = None
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks or ())

    def close(self) -> None:
        self.is_closed = True


class _HeldOpen(_Held):
    """The same behind ASGI, where the project has returned when it says so."""

    def __init__(self, request: Any, get_response: Callable[[Any], Any], *, cuts_streams: bool) -> None:
        super().__init__(request, get_response, cuts_streams=cuts_streams)
        # A middleware before this one may have read it.
        self._stream = BytesIO(request._body) if hasattr(request, "_body") else request._stream
        self._received = b""
        self._loop = asyncio.get_running_loop()
        self.passed: asyncio.Future[None] = self._loop.create_future()
        self.closed = asyncio.Event()
        self.is_over = False
        self.is_answered = False
        self.status = 500
        self.headers: list[Header] = []
        self.body = b""

    async def receive(self) -> asgi.Message:
        chunk = self._stream.read(_CHUNK_BYTES)
        self._received += chunk
        return {"type": "http.request", "body": chunk, "more_body": len(chunk) == _CHUNK_BYTES}

    def body_of_request(self) -> Any:
        """Return the body from its beginning; Django has received all of it."""
        if not self._received:
            return self._stream
        if not self._stream.seekable():  # Django's asynchronous test client
            return BytesIO(self._received + self._stream.read())
        self._stream.seek(0)
        return self._stream

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in message["headers"]]
            return
        self.body += message.get("body", b"")
        self.is_answered = not message.get("more_body", False)

    def until_over(self, content: Any, *, is_async: bool) -> Any:
        """Return what is streamed, until the session has ended."""
        if is_async:
            return self._until_over(content)
        return iter(lambda: None if self.is_over else next(content, None), None)

    async def _until_over(self, content: Any) -> Any:
        async for chunk in content:
            if self.is_over:
                return
            yield chunk

    def let_look(self, door: asyncio.Future[None]) -> None:
        """Tell the door that the response is closed, and wait until it has looked once more."""
        looked = threading.Event()

        def tell() -> None:
            self.closed.set()
            door.add_done_callback(lambda _: looked.set())

        self._loop.call_soon_threadsafe(tell)
        if asyncio._get_running_loop() is not self._loop:
            looked.wait(_LONGEST_CLOSE_SECONDS)


class WSGIProject:
    """The rest of a Django project, as a WSGI app for the door."""

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Have the project answer the request, as the door has left it."""
        held: _Held = environ.pop(_HELD)
        held.request.__init__(environ)
        _forget_cookies(held.request)
        held.response = response = held.get_response(held.request)
        if held.cuts_streams and response.streaming and not response.is_async:
            held.chunks = response.streaming_content
        start_response(f"{response.status_code} {response.reason_phrase}", _headers(response))
        return held


class ASGIProject:
    """The same as an ASGI app. It returns when the response is closed."""

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        """Have the project answer the request, as the door has left it, and wait until that is over."""
        held: _HeldOpen = scope[_HELD]
        request, method = held.request, held.request.scope["method"]
        stream = held.body_of_request() if scope["method"] == method else BytesIO()
        before = request.META
        request.__init__({key: value for key, value in scope.items() if key != _HELD}, stream)
        request.META = _as_before(before, request.META)
        _forget_cookies(request)
        held.response = response = await held.get_response(request)
        headers = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in _headers(response)]
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        if held.is_answered:  # otherwise than the project did
            return
        held.passed.set_result(None)
        try:
            await held.closed.wait()
        except asyncio.CancelledError:
            held.is_over = True
            raise


@lru_cache(maxsize=8)
def _wsgi_door(logout: Logout) -> wsgi.LogoutMiddleware:
    return wsgi.LogoutMiddleware(WSGIProject(), logout)


@lru_cache(maxsize=8)
def _asgi_door(logout: Logout) -> asgi.LogoutMiddleware:
    return asgi.LogoutMiddleware(ASGIProject(), logout)


# What the settings say


def _check_place() -> None:
    """Raise unless this middleware is listed once, and before the one that keeps the sessions."""
    kinds = [import_string(path) for path in settings.MIDDLEWARE]
    ours = [isinstance(kind, type) and issubclass(kind, LogoutMiddleware) for kind in kinds]
    sessions = [isinstance(kind, type) and issubclass(kind, SessionMiddleware) for kind in kinds]
    if ours.count(True) > 1:
        raise ImproperlyConfigured(
            "MIDDLEWARE lists LogoutMiddleware twice: leave one of them, the first in the list"
        )
    if True in ours and True in sessions[: ours.index(True)]:
        raise ImproperlyConfigured(
            "MIDDLEWARE lists a SessionMiddleware before LogoutMiddleware, which would set the session's cookie again "
            f"after a sign-out: list {LogoutMiddleware.__module__}.LogoutMiddleware first"
        )


def _logout_of_settings() -> Logout:
    place = getattr(settings, "MSAL_LOGOUT", None)
    if place is None:
        raise ImproperlyConfigured(
            "the setting MSAL_LOGOUT must say where the project's Logout is, such as 'project.logout:logout'"
        )
    try:
        found = import_string(place.replace(":", ".")) if isinstance(place, str) else place
    except ImportError as error:
        raise ImproperlyConfigured(
            f"MSAL_LOGOUT={place!r} cannot be imported, and must be like 'project.logout:logout': {error}"
        ) from error
    if not isinstance(found, Logout):
        raise ImproperlyConfigured(f"MSAL_LOGOUT leads to a {type(found).__name__}, and not to a Logout")
    return found


# From Django's values to the door's, and back


def _environ(request: Any, held: _Held) -> dict[str, Any]:
    """Return a request's environ as a server gives it: Django has decoded the paths in it (PEP 3333)."""
    environ = {**request.environ, _HELD: held}
    for name in ("PATH_INFO", "SCRIPT_NAME"):
        environ[name] = environ.get(name, "").encode().decode("latin-1")
    if hasattr(request, "_body"):  # a middleware before this one has read it
        environ["wsgi.input"] = BytesIO(request._body)
    return environ


def _as_before(before: dict[str, Any], read_anew: dict[str, Any]) -> dict[str, Any]:
    """Return a request's `META` as middlewares before this one have left it, but for what a door may have changed."""
    kept = {name: value for name, value in before.items() if name not in _OF_DOORS}
    return {**kept, **{name: read_anew[name] for name in _OF_DOORS if name in read_anew}}


def _forget_cookies(request: Any) -> None:
    """Have Django look at a request's cookies again, whoever has looked at them before."""
    for name in ("COOKIES", "headers"):
        request.__dict__.pop(name, None)


def _headers(response: Any) -> list[Header]:
    cookies = [("Set-Cookie", cookie.OutputString()) for cookie in response.cookies.values()]
    return [*response.items(), *cookies]


def _answer(status: int, headers: Iterable[Header], body: bytes, instead_of: Any) -> HttpResponse:
    """Return an answer of ours; what the project's would have closed is closed with it."""
    answer: Any = HttpResponse(body)
    _write(answer, status, headers)
    if instead_of is not None:
        answer._resource_closers.extend(instead_of._resource_closers)
    return answer


def _write(response: Any, status: int, headers: Iterable[Header]) -> None:
    """Write into a response what is to be sent of it, and leave what is there already."""
    if response.status_code != status:
        response.status_code = status
    cookies: list[str] = []
    others: dict[str, Header] = {}
    for name, value in headers:
        if name.lower() == "set-cookie":
            cookies.append(value.strip())
        else:
            _, before = others.get(name.lower(), ("", ""))
            others[name.lower()] = (name, f"{before}, {value}" if before else value)
    for name in [name for name, _ in response.items() if name.lower() not in others]:
        del response.headers[name]
    for name, value in others.values():
        if response.headers.get(name) != value:
            response.headers[name] = value
    for key, cookie in list(response.cookies.items()):
        text = cookie.OutputString()
        if text in cookies:
            cookies.remove(text)
        else:
            del response.cookies[key]
    for text in cookies:
        name = text.partition("=")[0]
        response.cookies[text if name in response.cookies else name] = _SentCookie(text, name)


class _SentCookie(Morsel[str]):
    """A cookie that is sent as it was written, whatever attributes this Python knows."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__()
        self._text = text
        value = text.partition(";")[0].partition("=")[2]
        with suppress(CookieError):  # a name that Python's cookies cannot have
            self.set(name, value, value)
            for attribute, said in SimpleCookie(text).get(name, {}).items():
                self[attribute] = said

    def OutputString(self, attrs: object = None) -> str:  # noqa: N802 - http.cookies' name
        return self._text


def _write_nothing(_data: bytes) -> None:
    """Write nothing: Django's responses are not written that way."""
