"""Pyramid's sessions: whatever the app's session factory makes, in signed cookies, in Redis or by Beaker."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

try:
    from pyramid.interfaces import IRequestFactory, ISessionFactory
    from pyramid.request import Request, apply_request_extensions
    from pyramid.response import Response
    from webob.cookies import SignedSerializer
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"PyramidSession needs {error.name}: pip install 'msal-logout-middleware[pyramid]'", name=error.name
    ) from error

from ..cookies import on_the_wire
from ..errors import StoreError
from ..http import Cookie
from ..session import Session
from .presets import ClaimsAt, claims_finder

# Pyramid's own word for a session is `ISession`: a mapping that also knows whether it is new. Where it is kept, and
# under which id, each factory's sessions tell in their own way.
_PyramidSession = Any
_Factory = Callable[[Any], _PyramidSession]

# In every session of Beaker's, also in one that begins just now; some say when it is read.
_BEAKERS_OWN = frozenset({"_accessed_time", "_creation_time", "_domain", "_expires", "_id", "_path"})


class _Kind(Protocol):
    """Where the sessions of one factory are kept."""

    server_side: bool

    def session_id(self, session: _PyramidSession) -> str | None:
        """Return a session's id; `None` if it is in its cookie, or begins just now."""
        ...

    def contents(self, reader: PyramidSession, session_id: str) -> Mapping[str, Any] | None:
        """Return what is kept under an id."""
        ...

    def delete(self, blank: _PyramidSession, session_id: str) -> None:
        """Delete what is kept under an id, unread.

        Args:
            blank: A session that begins just now, and is never saved.
            session_id: The id.
        """
        ...

    def set_cookie(self, reader: PyramidSession) -> str | None:
        """Return the `Set-Cookie` value of a sign-in, and save nothing."""
        ...


class PyramidSession:
    """Reads and deletes the sessions of a Pyramid app through its session factory.

    The factory is looked up at every call, and is given a request that has only the cookie. Neither a tween nor an
    event subscriber nor a callback of that request runs: so nothing is saved, extended or sent.

    Args:
        source: What `make_wsgi_app()` returned, the app's registry, or its session factory.
        claims: Where the ID token claims are: a key, a callable, or `None` for the known places.
        cookies: The session cookies, for a factory that sets none when it is asked to.

    Raises:
        TypeError: `source` or `claims` is none of these.
    """

    def __init__(
        self, source: Any, *, claims: ClaimsAt = None, cookies: tuple[Cookie, ...] | None = None
    ) -> None:
        registry = getattr(source, "registry", source)
        self._registry: Any = registry if hasattr(registry, "queryUtility") else None
        if self._registry is None and not callable(source):
            raise TypeError(
                "give PyramidSession what make_wsgi_app() returned, the app's registry (config.registry), or its "
                "session factory"
            )
        self._given: _Factory = source
        self._find_claims = claims_finder(claims)
        self._given_cookies = cookies
        self._kind_memo: tuple[_Factory, _Kind] | None = None
        self._cookies_memo: tuple[_Factory, tuple[Cookie, ...]] | None = None

    def __repr__(self) -> str:
        """Name the session factory, if it is there already."""
        with suppress(ValueError):
            factory = self._factory()
            name = str(getattr(factory, "__qualname__", type(factory).__qualname__)).partition(".<locals>")[0]
            return f"PyramidSession({getattr(factory, '__module__', '')}.{name})"
        return "PyramidSession()"

    @property
    def cookies(self) -> tuple[Cookie, ...]:
        """The session cookie as the factory sets it.

        Raises:
            TypeError: The factory sets none, so `cookies=` must be given; or it keeps sessions in an unknown way.
            ValueError: The app has no session factory.
        """
        if self._given_cookies is not None:
            return self._given_cookies
        factory = self._factory()
        memo = self._cookies_memo
        if memo is None or memo[0] is not factory:
            set_cookie = self._kind().set_cookie(self)
            if set_cookie is None:
                raise TypeError("the session factory set no cookie when it was asked to; give cookies=")
            self._cookies_memo = memo = factory, (Cookie.set_by(set_cookie),)
        return memo[1]

    @property
    def server_side(self) -> bool:
        """Whether a session is kept on the server, under an id in the cookie.

        Raises:
            TypeError: The factory keeps sessions in an unknown way.
            ValueError: The app has no session factory.
        """
        return self._kind().server_side

    @property
    def secret(self) -> str | bytes | None:
        """The factory's secret, if it can be told.

        Raises:
            TypeError: The factory keeps sessions in an unknown way.
            ValueError: The app has no session factory.
        """
        factory = self._factory()
        # Pyramid's factory is a class whose constructor knows the signer; others are functions that do.
        for function in (factory, getattr(factory, "__init__", None)):
            if inspect.isfunction(function):
                for value in inspect.getclosurevars(function).nonlocals.values():
                    if isinstance(value, SignedSerializer):
                        return value.secret or None
        if isinstance(self._kind(), _InBeaker):
            return self.open("")[0].secret or None
        return None

    def read(self, cookie_header: str) -> Session | None:
        """Return the session that a `Cookie` header leads to; of a repeated cookie WebOb takes the last.

        Raises:
            TypeError: The factory keeps sessions in an unknown way.
            ValueError: The app has no session factory.
            Exception: What the session's storage raises when it cannot be asked.
        """
        kind = self._kind()
        try:
            session, _ = self.open(cookie_header)
            session_id, contents = kind.session_id(session), _contents(session)
        except ValueError:  # authentic, but not decodable: the app cannot use it either
            return None
        if session_id is None and (kind.server_side or not contents):
            return None
        return Session(id=session_id, claims=self._find_claims(contents), contents=contents)

    def load(self, session_id: str) -> Session | None:
        """Return a server-side session by its id.

        Raises:
            Exception: As `read`.
        """
        contents = self._kind().contents(self, session_id)
        if contents is None:
            return None
        return Session(id=session_id, claims=self._find_claims(contents), contents=contents)

    def delete(self, session_id: str) -> None:
        """Delete a server-side session, and look whether it is gone.

        Raises:
            StoreError: The storage still has the session.
            Exception: As `read`.
        """
        kind = self._kind()
        if not kind.server_side:
            return
        kind.delete(self.open("")[0], session_id)
        if self.load(session_id) is not None:
            raise StoreError("the session's storage still has a session that was deleted")

    def open(self, cookie_header: str) -> tuple[_PyramidSession, Any]:
        """Return what the factory makes of a `Cookie` header, and the request that it was given."""
        header = on_the_wire(cookie_header).decode("latin-1")
        environ = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/",
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "443",
            "wsgi.url_scheme": "https",
            **({"HTTP_COOKIE": header} if header else {}),
        }
        if self._registry is None:
            request = Request(environ)
        else:
            request = self._registry.queryUtility(IRequestFactory, default=Request)(environ)
            request.registry = self._registry
            apply_request_extensions(request)  # a factory may use them: `request.redis`
        return self._factory()(request), request

    def _factory(self) -> _Factory:
        if self._registry is None:
            return self._given
        factory: _Factory | None = self._registry.queryUtility(ISessionFactory)
        if factory is None:
            raise ValueError(
                "the app has no session factory; set one before Logout is constructed, by "
                "config.set_session_factory(...) and config.commit() or make_wsgi_app()"
            )
        return factory

    def _kind(self) -> _Kind:
        factory = self._factory()
        memo = self._kind_memo
        if memo is None or memo[0] is not factory:
            self._kind_memo = memo = factory, _kind_of(self.open("")[0])
        return memo[1]


def _kind_of(blank: _PyramidSession) -> _Kind:
    if hasattr(blank, "session_id_safecheck"):
        return _InRedis()
    if hasattr(type(blank), "get_by_id"):
        return _InBeaker() if hasattr(blank, "namespace_class") else _InCookie()
    # Not asked for: some factories make an id, and a record, of the question.
    if any(inspect.getattr_static(blank, name, None) is not None for name in ("session_id", "id")):
        raise TypeError(
            f"PyramidSession does not know how a {type(blank).__name__} is found by its id; give CallableSession "
            "the functions that read and delete one"
        )
    return _InCookie()


class _InCookie:
    """Pyramid's `SignedCookieSessionFactory`, and any other whose sessions have no id."""

    server_side = False

    def session_id(self, session: _PyramidSession) -> str | None:
        return None

    def contents(self, reader: PyramidSession, session_id: str) -> Mapping[str, Any] | None:
        return None

    def delete(self, blank: _PyramidSession, session_id: str) -> None:
        return None

    def set_cookie(self, reader: PyramidSession) -> str | None:
        return _signed_in(*reader.open(""))


class _InRedis:
    """`pyramid_session_redis`."""

    server_side = True

    def session_id(self, session: _PyramidSession) -> str | None:
        return None if session.new else str(session.session_id)

    def contents(self, reader: PyramidSession, session_id: str) -> Mapping[str, Any] | None:
        set_cookie = self._set_cookie(reader, session_id)
        session, _ = reader.open((set_cookie or "").partition(";")[0])
        return _contents(session) if self.session_id(session) == session_id else None

    def delete(self, blank: _PyramidSession, session_id: str) -> None:
        blank.redis.delete(session_id)

    def set_cookie(self, reader: PyramidSession) -> str | None:
        return self._set_cookie(reader, "probe")

    def _set_cookie(self, reader: PyramidSession, session_id: str) -> str | None:
        """Have the factory sign an id."""
        session, request = reader.open("")
        session.new_session = lambda: session_id  # its own would reserve a new one on the server
        return _signed_in(session, request)


class _InBeaker:
    """`pyramid_beaker`, with any storage on the server."""

    server_side = True

    def session_id(self, session: _PyramidSession) -> str | None:
        return None if session.is_new else _true_id(session)

    def contents(self, reader: PyramidSession, session_id: str) -> Mapping[str, Any] | None:
        found = reader.open("")[0].get_by_id(session_id) if session_id else None
        return None if found is None else _contents(found)

    def delete(self, blank: _PyramidSession, session_id: str) -> None:
        # Its `delete` leaves a record behind, without contents.
        where = {"data_dir": blank.data_dir, "digest_filenames": False, **blank.namespace_args}
        blank.namespace_class(session_id, **where).remove()

    def set_cookie(self, reader: PyramidSession) -> str | None:
        session, _ = reader.open("")
        return str(session.request["cookie_out"]) if session.is_new else None  # as for any new session


def _true_id(session: _PyramidSession) -> str:
    """Return the id under which a session of Beaker's is kept.

    A file's name is its id without dots, and what stands before a slash. Each such spelling, where ids are not signed,
    would be a session of its own to whoever asks whether it has ended.
    """
    file: str | None = getattr(session.namespace, "file", None)
    return str(session.id) if file is None else Path(file).stem


def _contents(session: _PyramidSession) -> dict[str, Any]:
    return {key: value for key, value in dict(session).items() if key not in _BEAKERS_OWN}


def _signed_in(session: _PyramidSession, request: Any) -> str | None:
    """Put something into a session, and return the `Set-Cookie` value of the answer."""
    session["probe"] = "probe"
    response = Response()
    for callback in list(request.response_callbacks):
        callback(request, response)
    set_cookies: list[str] = response.headers.getall("Set-Cookie")
    return set_cookies[-1] if set_cookies else None
