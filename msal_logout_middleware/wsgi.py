"""The WSGI door: environ in, `start_response` out. What is not ours passes through untouched."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from http import HTTPStatus
from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING, Any

from . import back_channel, pages, upkeep
from ._drive import BlockingWorld, run
from .exchange import Exchange, may_say
from .http import MAXIMUM_BODY_BYTES, Header, Request, Response
from .logout import AppView, Logout, check_app, check_no_circle
from .memory import Visit, sample

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger("msal_logout_middleware")

_WORLD = BlockingWorld()
_NOT_REMEMBERED = ("", Visit())


class LogoutMiddleware:
    """Signs users of a WSGI app out, and refuses their ended sessions.

    Args:
        app: The app to wrap, with its sessions inside: this middleware is the outermost.
        logout: How users are signed out.

    Raises:
        TypeError: `app` is not a WSGI app, `logout` not a `Logout`, or it has an asynchronous part.
    """

    def __init__(self, app: WSGIApplication, logout: Logout) -> None:
        otherwise = "for an ASGI app use msal_logout_middleware.asgi"
        check_app(app, logout, parameters=2, otherwise=otherwise)
        logout.serve(app)
        if logout.configuration.is_async:
            raise TypeError(
                f"{otherwise}; for a WSGI app the store, session, caches and on_event of its Logout must be "
                "synchronous"
            )
        self.app = app
        self.logout = logout
        self._gate = logout.gate
        self._upkeep = _Upkeep(logout)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer what is ours; hand everything else to the app, behind the gate.

        Raises:
            RuntimeError: Several processes serve the app, and each has a store of its own; or the app is one that
                calls this middleware, so that no request would have an end.
        """
        if not self._upkeep.runs:
            if environ.get("wsgi.multiprocess") and getattr(self.logout.store, "one_process", False):
                raise RuntimeError(
                    "several processes serve this app, and a MemoryStore is in one alone: who signs out at one would"
                    " stay signed in at the others. Use SQLiteStore, which all workers of a machine share"
                )
            check_no_circle(self.app, self)
            self._upkeep.start()
        visit = self._gate.nobody
        cookie_header = environ.get("HTTP_COOKIE")
        if cookie_header:
            remembered, visit = self._gate.visits.get(sample(cookie_header), _NOT_REMEMBERED)
            if remembered != cookie_header or (
                visit.seen is not None and visit.seen.lives_at != self._gate.generation()
            ):
                visit = run(self._gate.admit(cookie_header, cookie_header, _WORLD))
        path, mount = _route(environ), _text(environ.get("SCRIPT_NAME", ""))
        # A sign-out that is not done is not done at the second click either: nobody may be told so.
        if visit.dead and not (visit.is_put_off and path == self.logout.logout_path):
            _cut(environ, visit)
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        if self.logout.takes(method, path, mount, query):
            return self._ours(environ, start_response, visit)
        if visit.unsure:
            return _send(pages.unavailable(), start_response)
        return self._pass(environ, start_response, visit)

    # The gate

    def _pass(self, environ: WSGIEnvironment, start_response: StartResponse, visit: Visit) -> Iterable[bytes]:
        """Call the app, and let nothing of an ended session out."""
        gate = self._gate
        exchange: Exchange | None = None
        if gate.may_learn(visit, environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")):
            exchange = self._exchange(environ)
        looks = bool(visit.dead) or exchange is not None
        started = False
        refused: Response | None = None

        def leave(status: str, headers: list[Header], exc_info: Any = None, /) -> Callable[[bytes], object]:
            nonlocal started, refused
            started, refused = True, None
            if looks or gate.is_late(visit) or self._sets_session(headers):
                answer = run(gate.answer(visit, int(status[:3]), headers, exchange, _WORLD))
                if isinstance(answer, Response):
                    refused = answer
                    return _discard
                headers = list(answer)
            if exc_info:
                return start_response(status, headers, exc_info)
            return start_response(status, headers)

        try:
            chunks = self.app(environ, leave)
        except BaseException:
            self._returned(visit)
            raise
        if refused is not None:
            _close(chunks)
            self._returned(visit)
            return _send(refused, start_response)
        watches = visit.seen is not None and (gate.minds_return or self.logout.configuration.close_streams)
        if started and not watches:
            return chunks
        if started and _is_file(environ, chunks):
            self._returned(visit)  # to read a file saves no session
            return chunks
        return _Passed(
            chunks,
            instead=lambda: None if refused is None else _send(refused, start_response),
            is_over=lambda: self._is_over(visit),
            returned=lambda: self._returned(visit),
        )

    def _sets_session(self, headers: Iterable[Header]) -> bool:
        for name, value in headers:
            if (
                len(name) == 10
                and name.lower() == "set-cookie"
                and value.lstrip().startswith(self._gate.names)
            ):
                return True
        return False

    def _exchange(self, environ: WSGIEnvironment) -> Exchange | None:
        """Return what a request says of the provider's session; a form is read, and given again."""
        request = _request(environ, b"")
        if not may_say(request):
            return None
        if request.method == "POST" and request.is_small_form:
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            environ["wsgi.input"] = BytesIO(body)
            request = replace(request, body=body)
        return Exchange(self.logout.configuration, request)

    def _is_over(self, visit: Visit) -> bool:
        """Tell whether an answer that is still streamed is to be cut off."""
        if not self.logout.configuration.close_streams or not self._gate.is_late(visit):
            return False
        try:
            return run(self._gate.has_ended(visit, _WORLD))
        except Exception:  # the store's; nobody is served on a guess
            return True

    def _returned(self, visit: Visit) -> None:
        if self._gate.minds_return and self._gate.is_late(visit):
            run(self._gate.returned(visit, _WORLD))

    # What is ours

    def _ours(self, environ: WSGIEnvironment, start_response: StartResponse, visit: Visit) -> Iterable[bytes]:
        if "beaker.session" in environ and _route(environ) == self.logout.logout_path:
            raise RuntimeError(
                "LogoutMiddleware stands inside the session middleware, which would save the session again: put it "
                "around Beaker's, LogoutMiddleware(SessionMiddleware(app, ...), logout)"
            )
        method = environ["REQUEST_METHOD"]
        body = _read_body(environ) if method == "POST" else b""
        request = _request(environ, body)
        answer = self._respond(request)
        if isinstance(answer, Response):
            return _send(answer, start_response)
        if answer is None and visit.unsure:
            return _send(pages.unavailable(), start_response)
        if answer is None:
            return self._pass(environ, start_response, visit)
        if visit.unsure:
            return _send(run(answer.instead(_WORLD)), start_response)
        if method == "POST":
            environ["wsgi.input"] = BytesIO(body or b"")
        if answer.request is not request:
            environ.update({"REQUEST_METHOD": answer.request.method, "CONTENT_LENGTH": "0"})
            environ["wsgi.input"] = BytesIO()
            environ.pop("CONTENT_TYPE", None)
        return self._app_view(answer, environ, start_response)

    def _respond(self, request: Request) -> Response | AppView | None:
        if request.path != self.logout.back_channel_path or not self.logout.configuration.blocks:
            return run(self.logout.respond(request, _WORLD))
        # The flow goes on behind an answer that must not wait for it.
        answers: list[Response | AppView | None] = []

        def respond() -> None:
            try:
                answers.append(run(self.logout.respond(request, _WORLD)))
            except Exception:  # which nobody else would hear of
                logger.exception("back-channel logout failed")

        flow = threading.Thread(target=respond)
        flow.start()
        flow.join(back_channel.DEADLINE_SECONDS)
        return answers[0] if answers else back_channel.too_late()

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


class _Passed:
    """An app's body whose session may end while it is sent, or whose headers are not out yet."""

    def __init__(
        self,
        chunks: Iterable[bytes],
        *,
        instead: Callable[[], Iterable[bytes] | None],
        is_over: Callable[[], bool],
        returned: Callable[[], None],
    ) -> None:
        self._chunks = chunks
        self._iterator = iter(chunks)
        self._instead = instead
        self._is_over = is_over
        self._returned = returned
        self._in_its_place: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._in_its_place is not None:
            return next(self._in_its_place)
        chunk = next(self._iterator, None)
        if (instead := self._instead()) is not None:
            self._in_its_place = iter(instead)
            return next(self._in_its_place)
        if chunk is None or self._is_over():
            raise StopIteration
        return chunk

    def close(self) -> None:
        try:
            _close(self._chunks)
        finally:
            self._returned()


class _Upkeep:
    """A thread of this worker that looks after what is left, from time to time, as long as its middleware lives."""

    def __init__(self, logout: Logout) -> None:
        self.runs = False
        self._lock = threading.Lock()
        self._logout = weakref.ref(logout)
        _upkeeps.add(self)

    def start(self) -> None:
        with self._lock:
            if self.runs:
                return  # another thread was quicker
            self.runs = True
        threading.Thread(
            target=_keep_tidy, args=(self._logout,), name="msal-logout-upkeep", daemon=True
        ).start()


def _keep_tidy(logout: weakref.ref[Logout]) -> None:
    wait = threading.Event().wait
    while (found := logout()) is not None:
        try:
            run(found.tidy(_WORLD))
        except Exception:  # nothing that goes wrong may be the end of it
            logger.exception("upkeep failed")
        del found
        wait(upkeep.INTERVAL_SECONDS)


def _after_fork_in_child() -> None:
    for one in _upkeeps:  # threads stay behind in the parent
        one.runs = False
        one._lock = threading.Lock()  # one that was held would stay so for ever


_upkeeps: weakref.WeakSet[_Upkeep] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_after_fork_in_child)


class _Body:
    """An app's body that can be looked into, and that tells when the app has returned."""

    def __init__(self, chunks: Iterable[bytes], returned: Callable[[], None]) -> None:
        self._chunks = chunks
        self._iterator = iter(chunks)
        self._pushed: list[bytes] = []
        self._returned = returned

    def first(self) -> list[bytes]:
        """Take the first chunk, before which the app must have called `start_response` (PEP 3333)."""
        return list(islice(self._iterator, 1))

    def push(self, chunks: Sequence[bytes]) -> None:
        self._pushed = [chunk for chunk in chunks if chunk]

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._pushed.pop(0) if self._pushed else next(self._iterator)

    def close(self) -> None:
        try:
            _close(self._chunks)
        finally:
            self._returned()


def _cut(environ: WSGIEnvironment, visit: Visit) -> None:
    """Take the dead session cookies out of a request, and leave all else as it was."""
    kept = visit.cut(environ["HTTP_COOKIE"])
    if kept:
        environ["HTTP_COOKIE"] = kept
    else:
        del environ["HTTP_COOKIE"]


def _is_file(environ: WSGIEnvironment, chunks: object) -> bool:
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(chunks, wrapper)


def _close(chunks: object) -> None:
    if callable(close := getattr(chunks, "close", None)):
        close()


def _discard(_data: bytes) -> None:
    """Write nothing: another answer is sent."""


def _request(environ: WSGIEnvironment, body: bytes | None) -> Request:
    headers = [
        (name[5:].replace("_", "-").lower(), value)
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    headers += [
        ("content-type", environ.get("CONTENT_TYPE", "")),
        ("content-length", environ.get("CONTENT_LENGTH", "")),
    ]
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
