"""Sessions of ASGI apps: any session middleware, asked by running it around a probe instead of the app."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from .._drive import run
from ..cookies import on_the_wire
from ..errors import StoreError
from ..http import Cookie
from ..layers import keeps_sessions
from ..session import Session
from .presets import ClaimsAt, claims_finder

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from starsessions import SessionStore

Options: TypeAlias = Any  # Starlette's `Middleware`, or a session middleware that is made already

_STORY = "msal_logout_middleware.story"


class _Looked(Exception):
    """Leaves the middleware before it can send, and so save, anything."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A session middleware around the probe.

    Args:
        options: What it was made from.
        app: The middleware.
        store: starsessions' store, if it keeps the sessions and not the cookie does.
    """

    options: Options
    app: ASGIApp
    store: SessionStore | None


class ASGISession:
    """Reads and deletes the sessions of an ASGI app through its own session middleware.

    Args:
        source: `Middleware(SessionMiddleware, ...)` with the options that the app gives it; or such a middleware
            itself; or a Starlette or FastAPI app, whose session middleware is found when it is first needed.
        claims: Where the ID token claims are: a key, a callable, or `None` for the known places.
        cookies: The session cookies, for a middleware that cannot be asked: one that waits for its storage
            before it sets a cookie.
        root_path: Where a server or a proxy mounts the app; starsessions makes it the cookie's path.

    Raises:
        TypeError: `source` or `claims` is none of these.
    """

    def __init__(
        self,
        source: Middleware | Starlette | ASGIApp,
        *,
        claims: ClaimsAt = None,
        cookies: tuple[Cookie, ...] | None = None,
        root_path: str = "",
    ) -> None:
        if not (hasattr(source, "user_middleware") or hasattr(source, "cls") or keeps_sessions(type(source))):
            raise TypeError(
                "give ASGISession a starlette Middleware(...), or the Starlette or FastAPI app; for Flask there is "
                "FlaskSession(app)"
            )
        self._source = source
        self._find_claims = claims_finder(claims)
        self._given_cookies = cookies
        self._root_path = root_path or str(getattr(source, "root_path", ""))
        self._memo: _Running | None = None
        self._cookies_memo: tuple[Options, tuple[Cookie, ...]] | None = None

    def __repr__(self) -> str:
        """Name the session middleware, if it is there already."""
        with suppress(ValueError):
            options = self._options()
            kind = getattr(options, "cls", type(options))
            return f"ASGISession({getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', kind)})"
        return "ASGISession()"

    @property
    def cookies(self) -> tuple[Cookie, ...]:
        """The cookies that the middleware sets, as it sets them.

        Raises:
            TypeError: The middleware waits, or sets none, so `cookies=` must be given.
            ValueError: The app has no session middleware, or several.
        """
        if self._given_cookies is not None:
            return self._given_cookies
        options = self._options()
        memo = self._cookies_memo
        if memo is None or memo[0] is not options:
            self._cookies_memo = memo = options, _learn_cookies(options, self._root_path)
        return memo[1]

    @property
    def server_side(self) -> bool:
        """Whether a session is kept on the server, under an id in the cookie."""
        return self._running().store is not None

    @property
    def secret(self) -> str | bytes | None:
        """The middleware's `secret_key`, if it has such an option.

        Raises:
            ValueError: The app has no session middleware, or several.
        """
        secret = _secret_of(self._options())
        if isinstance(secret, str | bytes):
            return secret or None
        from starlette.datastructures import Secret  # noqa: PLC0415 - only where the app has it

        # Nothing else is asked for its `str()`: it may be a row of asterisks, the same for everybody.
        return str(secret) or None if isinstance(secret, Secret) else None

    async def read(self, cookie_header: str) -> Session | None:
        """Return the session that a `Cookie` header leads to; of a repeated cookie Starlette takes the last.

        Raises:
            ValueError: The app has no session middleware, or several.
            Exception: What the session's store raises when it cannot be asked.
        """
        return await self._look(cookie_header=cookie_header)

    async def load(self, session_id: str) -> Session | None:
        """Return a server-side session by its id.

        Raises:
            ValueError: The app has no session middleware, or several.
            Exception: As `read`.
        """
        return None if self._running().store is None else await self._look(session_id=session_id)

    async def delete(self, session_id: str) -> None:
        """Delete a server-side session, and look whether it is gone.

        Raises:
            StoreError: The store still has the session.
            ValueError: The app has no session middleware, or several.
            Exception: As `read`.
        """
        store = self._running().store
        if store is None:
            return
        await store.remove(session_id)
        if await self.load(session_id) is not None:
            raise StoreError("the session store still has a session that was deleted")

    async def _look(self, *, cookie_header: str = "", session_id: str | None = None) -> Session | None:
        running = self._running()
        seen: list[tuple[str | None, dict[str, Any]]] = []

        async def look(scope: Scope, _send: Send) -> None:
            seen.append(await _open(scope, session_id))
            raise _Looked

        try:
            await running.app(_scope(look, cookie_header, self._root_path), _receive, _discard)
        except _Looked:
            pass
        except ValueError:  # authentic, but not decodable: the app cannot use it either
            return None
        if not seen:  # the middleware answered by itself
            return None
        ((found_id, contents),) = seen
        if not contents:
            return None
        claims = self._find_claims(contents)
        return Session(id=None if running.store is None else found_id, claims=claims, contents=contents)

    def _running(self) -> _Running:
        options = self._options()
        memo = self._memo
        if memo is None or memo.options is not options:
            app = _around_probe(options)
            self._memo = memo = _Running(options, app, _server_side_store(app))
        return memo

    def _options(self) -> Options:
        candidates: list[Middleware] | None = getattr(self._source, "user_middleware", None)
        if candidates is None:
            return self._source
        found = [options for options in candidates if keeps_sessions(options.cls)]
        if len(found) != 1:
            raise ValueError(
                f"the app has {len(found) or 'no'} session middlewares; add one before Logout is constructed, "
                "or give ASGISession the one that keeps the sign-in: Middleware(SessionMiddleware, ...)"
            )
        return found[0]


async def _probe(scope: Scope, _receive: Receive, send: Send) -> None:
    await scope[_STORY](scope, send)


def _around_probe(options: Options) -> ASGIApp:
    if hasattr(options, "cls"):
        made: ASGIApp = options.cls(_probe, *options.args, **options.kwargs)
        return made
    around: Any = copy(options)  # the middleware that the app runs in goes on as it is
    around.app = _probe
    return cast("ASGIApp", around)


def _secret_of(options: Options) -> object:
    """Return the secret that a session middleware was given; one that is made already keeps it in its signer."""
    if hasattr(options, "cls"):
        arguments = inspect.signature(options.cls).bind(_probe, *options.args, **options.kwargs).arguments
        return arguments.get("secret_key")
    return getattr(getattr(options, "signer", None), "secret_key", None)


def _server_side_store(middleware: ASGIApp) -> SessionStore | None:
    store = getattr(middleware, "store", None)
    if store is None:
        return None
    try:
        from starsessions import CookieStore, SessionStore  # noqa: PLC0415 - only where the app has it
    except ImportError:
        return None
    return store if isinstance(store, SessionStore) and not isinstance(store, CookieStore) else None


async def _open(scope: Scope, session_id: str | None = None) -> tuple[str | None, dict[str, Any]]:
    """Return the id (starsessions knows one) and the contents of the session that the middleware opened."""
    if "session_handler" not in scope:
        if "session" not in scope:
            raise TypeError("the session middleware puts no session into the scope")
        session = scope["session"]
        return None, dict(session) if isinstance(session, Mapping) else {}
    from starlette.requests import HTTPConnection  # noqa: PLC0415 - only where the app has it
    from starsessions import get_session_handler, get_session_id, load_session  # noqa: PLC0415 - the same

    connection: HTTPConnection[Any] = HTTPConnection(scope)
    if session_id is not None:
        get_session_handler(connection).session_id = session_id
    await load_session(connection)
    return get_session_id(connection), dict(connection.session)


def _learn_cookies(options: Options, root_path: str) -> tuple[Cookie, ...]:
    """Have a middleware of the same options set its cookies."""
    middleware = _around_probe(options)
    if _server_side_store(middleware) is not None:
        from starsessions import InMemoryStore  # noqa: PLC0415 - only where the app has it

        cast("Any", middleware).store = InMemoryStore()  # nothing is written to the app's own
    sent: list[Message] = []

    async def keep(message: Message) -> None:
        sent.append(message)

    async def sign_in(scope: Scope, send: Send) -> None:
        await _open(scope)
        scope["session"]["probe"] = "probe"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async def learn() -> None:
        await middleware(_scope(sign_in, "", root_path), _receive, keep)

    try:
        with ThreadPoolExecutor(1) as thread:  # where no event loop runs: what needs one says so
            thread.submit(lambda: run(learn())).result()
    except (TypeError, RuntimeError) as error:  # it suspended, or looked for an event loop
        raise TypeError("the session middleware cannot be asked for its cookies; give cookies=") from error
    headers = [header for message in sent for header in message.get("headers", ())]
    cookies = tuple(
        Cookie.set_by(value.decode("latin-1")) for name, value in headers if name.lower() == b"set-cookie"
    )
    if not cookies:
        raise TypeError("the session middleware set no cookie when it was asked to; give cookies=")
    return cookies


def _scope(
    story: Callable[[Scope, Send], Awaitable[None]], cookie_header: str, root_path: str
) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": f"{root_path}/",
        "raw_path": f"{root_path}/".encode(),
        "query_string": b"",
        "root_path": root_path,
        "headers": [(b"cookie", on_the_wire(cookie_header))] if cookie_header else [],
        "client": None,
        "server": None,
        _STORY: story,
    }


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _discard(_message: Message) -> None:
    """Nothing is sent while looking."""
