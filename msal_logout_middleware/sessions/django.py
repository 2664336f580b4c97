"""Django's sessions: those of every engine that Django brings, and of engines that are made from these."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pickle import UnpicklingError
from typing import Any, TypeVar, cast

try:
    from django.conf import settings
    from django.contrib.sessions.backends import file, signed_cookies
    from django.core.cache.backends.base import CacheKeyWarning, InvalidCacheKey
    from django.core.exceptions import SuspiciousOperation
    from django.db import connections
    from django.http import parse_cookie
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"DjangoSession needs {error.name}: pip install 'msal-logout-middleware[django]'", name=error.name
    ) from error

from ..cookies import on_the_wire
from ..errors import StoreError
from ..http import Cookie, SameSite
from ..session import Secrets, Session
from .presets import ClaimsAt, claims_finder

T = TypeVar("T")

# What a cache raises for a key that it cannot have, and for a record that nobody can read. Django's engine takes both
# for no session (its ticket 17810), and everything else as well, which we do not.
_NO_SUCH_KEY = (InvalidCacheKey, CacheKeyWarning)
_NOT_READABLE = (*_NO_SUCH_KEY, UnpicklingError, AttributeError, ImportError)

_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")


class DjangoSession:
    """Reads and deletes the sessions of a Django project through the engine that its settings name.

    Django's settings are looked up at every call: `SESSION_ENGINE`, `SESSION_COOKIE_...`, `SECRET_KEY` and its
    fallbacks. A session is server-side unless the engine is `signed_cookies`, or made from it. No middleware runs, and
    no signal of a request is sent. A database connection that a call opens is closed by it; one that is open already,
    a request's or a test's, is used as it is, with its transaction.

    Args:
        claims: Where the ID token claims are: a key, a callable, or `None` for the known places.

    Raises:
        TypeError: `claims` is none of these.
    """

    def __init__(self, *, claims: ClaimsAt = None) -> None:
        self._find_claims = claims_finder(claims)

    def __repr__(self) -> str:
        """Name the engine, if there are settings."""
        return f"DjangoSession({settings.SESSION_ENGINE})" if settings.configured else "DjangoSession()"

    @property
    def cookies(self) -> tuple[Cookie, ...]:
        """The session cookie as the settings have it now."""
        same_site = settings.SESSION_COOKIE_SAMESITE
        return (
            Cookie(
                name=settings.SESSION_COOKIE_NAME,
                path=settings.SESSION_COOKIE_PATH,
                domain=settings.SESSION_COOKIE_DOMAIN or None,
                secure=bool(settings.SESSION_COOKIE_SECURE),
                http_only=bool(settings.SESSION_COOKIE_HTTPONLY),
                same_site=cast("SameSite", same_site.title()) if same_site else None,
            ),
        )

    @property
    def server_side(self) -> bool:
        """Whether a session is kept on the server, under an id in the cookie."""
        return not issubclass(_engine(), signed_cookies.SessionStore)

    @property
    def blocking(self) -> bool:
        """Whether a session is waited for; to read one from its cookie takes no time."""
        return self.server_side

    @property
    def lifetime_seconds(self) -> float:
        """For how long a session is taken after it was saved: `SESSION_COOKIE_AGE`."""
        return float(settings.SESSION_COOKIE_AGE)

    @property
    def secret(self) -> Secrets:
        """The project's `SECRET_KEY`, and its `SECRET_KEY_FALLBACKS`, which it still reads."""
        return tuple(one for one in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS) if one)

    def read(self, cookie_header: str) -> Session | None:
        """Return the session that a `Cookie` header leads to; of a repeated cookie Django takes the last.

        Raises:
            Exception: What the engine raises when it cannot be asked; `StoreError` where it would keep silent.
        """
        for value in _session_cookies(cookie_header):
            if (session := _with_connections(partial(self._open, value))) is not None:
                return session
        return None

    def load(self, session_id: str) -> Session | None:
        """Return a server-side session by its id.

        Raises:
            Exception: As `read`.
        """
        if not self.server_side:
            return None
        session = _with_connections(partial(self._open, session_id))
        return session if session and session.id == session_id else None

    def delete(self, session_id: str) -> None:
        """Delete a server-side session, and look whether it is gone.

        Raises:
            StoreError: The engine still has the session, or cannot be reached.
            Exception: As `read`.
        """
        if self.server_side:
            _with_connections(partial(_delete, session_id))

    def _open(self, session_key: str) -> Session | None:
        """Return the session that Django's engine finds under a key, of which it may change nothing."""
        store: Any = _engine()(session_key)
        if store.session_key is None:  # too short to be one
            return None
        _require_directory(store)
        refused: list[object] = []
        # What finds its record expired or damaged would delete it, and begin another session at once.
        store.create = store.delete = lambda *_: refused.append(True)
        cache = None
        if hasattr(store, "_cache"):
            store._cache = cache = _Reading(store._cache)
        contents = dict(store.items())
        if isinstance(store, signed_cookies.SessionStore):
            return self._session(None, contents) if contents else None
        if refused:
            return None
        if store.session_key is not None:
            return self._session(_true_id(store), contents)
        if cache is not None and cache.failure is not None and not hasattr(store, "model"):
            raise cache.failure
        if isinstance(store, file.SessionStore) and _exists(store, session_key):
            raise StoreError("a session file is there, and cannot be read")
        return None

    def _session(self, session_id: str | None, contents: Mapping[str, Any]) -> Session:
        return Session(id=session_id, claims=self._find_claims(contents), contents=contents)


def _engine() -> Any:
    return import_module(settings.SESSION_ENGINE).SessionStore


def _session_cookies(cookie_header: str) -> tuple[str, ...]:
    """Return what Django may take for the session cookie: WSGI's bytes are UTF-8 to it, ASGI's Latin-1."""
    sent = on_the_wire(cookie_header)
    texts = [sent.decode(errors="replace")]
    if not sent.isascii():
        texts.append(sent.decode("latin-1"))
    values = (parse_cookie(text).get(settings.SESSION_COOKIE_NAME) for text in texts)
    return tuple(dict.fromkeys(value for value in values if value))


class _Reading:
    """A cache as an engine sees it while we look: nothing is written, and what goes wrong is kept.

    Engines take every failure for an absent session, and one fills its cache from its database: behind a sign-out
    that has just emptied both.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self.failure: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def __contains__(self, key: str) -> bool:
        return key in self._cache

    def get(self, *args: Any, **options: Any) -> Any:
        try:
            return self._cache.get(*args, **options)
        except _NOT_READABLE:
            return None
        except Exception as error:
            self.failure = error
            raise

    def set(self, *_args: Any, **_options: Any) -> None:
        """Write nothing."""


def _true_id(store: Any) -> str:
    """Return the id under which a session's record is kept.

    Some databases find a record by what is merely like its id: in capitals, or with an accent. Each such spelling would
    be a session of its own to whoever asks whether it has ended.

    Raises:
        StoreError: The session is in the cache under an id that the database does not know.
    """
    session_key: str = store.session_key
    if not hasattr(store, "model") or _ID_CHARACTERS.issuperset(session_key):
        return session_key
    known: str | None = (
        store.model.objects.filter(session_key=session_key).values_list("session_key", flat=True).first()
    )
    if known is None:
        raise StoreError("a session is cached under an id that its database does not know")
    return known


def _delete(session_id: str) -> None:
    if _engine()(session_id).session_key is None:  # too short to be one
        return
    store = _engine()()
    _require_directory(store)
    try:
        store.delete(session_id)
    except (SuspiciousOperation, *_NO_SUCH_KEY):  # no session can have such an id
        return
    if _exists(store, session_id):
        raise StoreError("the session engine still has a session that was deleted")


def _exists(store: Any, session_id: str) -> bool:
    try:
        return bool(store.exists(session_id))
    except (SuspiciousOperation, *_NO_SUCH_KEY):
        return False


def _require_directory(store: Any) -> None:
    """Raise `StoreError` where files would be taken for absent because their directory is out of reach."""
    directory = getattr(store, "storage_path", None) or getattr(getattr(store, "_cache", None), "_dir", None)
    if directory is not None and not os.access(os.path.join(directory, ""), os.X_OK):  # noqa: PTH118 - the slash
        raise StoreError("the directory of the session files cannot be reached")


def _with_connections(ask: Callable[[], T]) -> T:
    """Ask, and leave the thread's database connections as they were.

    Django closes a connection between two requests only, and most of our calls are in no request. One that the server
    has dropped meanwhile is made anew, once.
    """
    opened = [one for one in connections.all(initialized_only=True) if one.connection is not None]
    try:
        try:
            return ask()
        except Exception:
            broken = [one for one in opened if _is_broken(one)]
            if not broken:
                raise
            for one in broken:
                one.close()
        return ask()
    finally:
        for one in connections.all(initialized_only=True):
            if one not in opened:
                one.close()


def _is_broken(connection: Any) -> bool:
    """Tell whether a connection is of no use any more; within a transaction its owner is to find that out."""
    return connection.errors_occurred and not connection.in_atomic_block and not connection.is_usable()
