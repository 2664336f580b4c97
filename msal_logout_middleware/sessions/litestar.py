"""Litestar's sessions: in encrypted cookies, in chunks where they are long, and in the app's stores."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

try:
    from litestar.connection import ASGIConnection
    from litestar.middleware.session.base import BaseSessionBackend
    from litestar.middleware.session.server_side import ServerSideSessionBackend
    from litestar.stores.file import FileStore
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"LitestarSession needs {error.name}: pip install 'msal-logout-middleware[litestar]'", name=error.name
    ) from error

from ..cookies import on_the_wire
from ..errors import StoreError
from ..http import Cookie, SameSite
from ..session import Session
from .presets import ClaimsAt, claims_finder

if TYPE_CHECKING:
    from litestar import Litestar
    from litestar.middleware.session.base import BaseBackendConfig
    from litestar.stores.base import Store

_MOST_CHUNKS = 10  # Litestar sorts their names as text: it cannot read an eleventh


class LitestarSession:
    """Reads and deletes the sessions of a Litestar app through the backend of its session middleware.

    Args:
        app: The Litestar app.
        config: The `CookieBackendConfig` or `ServerSideSessionConfig` that the app uses; left out, it is found in the
            app's own `middleware`, also in a `SessionAuth`, when it is first needed.
        claims: Where the ID token claims are: a key, a callable, or `None` for the known places.

    Raises:
        TypeError: `app` is not a Litestar app, or `claims` none of these.
    """

    def __init__(
        self, app: Litestar, *, config: BaseBackendConfig[Any] | None = None, claims: ClaimsAt = None
    ) -> None:
        if not (hasattr(app, "asgi_handler") and hasattr(app, "stores")):
            raise TypeError("give LitestarSession the Litestar app itself")
        self._app = app
        self._config = config
        self._find_claims = claims_finder(claims)

    def __repr__(self) -> str:
        """Name what keeps the sessions, if it can be told."""
        try:
            return f"LitestarSession({type(self._backend()).__name__})"
        except ValueError:
            return "LitestarSession()"

    @property
    def cookies(self) -> tuple[Cookie, ...]:
        """The session cookie as the configuration has it; and its chunks, if the session is in the cookie.

        Raises:
            ValueError: The app has no session middleware, or several; or its key is a pattern.
        """
        config = self._backend().config
        names, chunked = [config.key], not self.server_side
        if chunked:
            # A pattern would have it read copies under other names too.
            if not re.fullmatch(r"[\w-]+", config.key, re.ASCII):
                raise ValueError(
                    "Litestar takes the session's key for a pattern: use letters, digits, - and _ only"
                )
            names += [f"{config.key}-{number}" for number in range(_MOST_CHUNKS)]
        return tuple(
            Cookie(
                name=name,
                path=config.path,
                domain=config.domain or None,
                secure=config.secure,
                http_only=config.httponly,
                same_site=cast("SameSite", config.samesite.title()) if config.samesite else None,
                chunked=chunked and name == config.key,
            )
            for name in names
        )

    @property
    def server_side(self) -> bool:
        """Whether a session is kept on the server, under an id in the cookie.

        Raises:
            ValueError: The app has no session middleware, or several.
        """
        return isinstance(self._backend(), ServerSideSessionBackend)

    @property
    def lifetime_seconds(self) -> float:
        """For how long a session is taken after it was saved: the configuration's `max_age`.

        Raises:
            ValueError: The app has no session middleware, or several.
        """
        return float(self._backend().config.max_age)

    @property
    def secret(self) -> bytes | None:
        """The `secret` that the cookies are encrypted by; `None` where sessions are on the server.

        Raises:
            ValueError: The app has no session middleware, or several.
        """
        return getattr(self._backend().config, "secret", None)

    async def read(self, cookie_header: str) -> Session | None:
        """Return the session that a `Cookie` header leads to; of a repeated cookie Litestar takes the last.

        Raises:
            ValueError: The app has no session middleware, or several.
            Exception: What the store raises when it cannot be asked; `StoreError` where it would keep silent.
        """
        backend, connection = self._quiet(), self._connection(cookie_header)
        if isinstance(backend, ServerSideSessionBackend):
            return await self._stored(backend, connection)
        try:
            contents = await backend.load_from_connection(connection)
        except Exception:  # whatever its text makes Litestar raise; there is no engine that could be away
            return None
        return self._session(None, contents) if contents else None

    async def load(self, session_id: str) -> Session | None:
        """Return a server-side session by its id.

        Raises:
            ValueError: The app has no session middleware, or several.
            Exception: As `read`.
        """
        backend = self._quiet()
        if not isinstance(backend, ServerSideSessionBackend):
            return None
        cookie_header = f"{backend.config.key}={quote(session_id, safe='')}"
        session = await self._stored(backend, self._connection(cookie_header))
        return session if session and session.id == session_id else None

    async def delete(self, session_id: str) -> None:
        """Delete a server-side session, and look whether it is gone.

        Raises:
            StoreError: The store still has the session, or cannot be reached.
            ValueError: The app has no session middleware, or several.
            Exception: As `read`.
        """
        backend = self._backend()
        if not session_id or not isinstance(backend, ServerSideSessionBackend):
            return
        try:
            await backend.delete(session_id, await self._store(backend))
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
        if await self.load(session_id) is not None:
            raise StoreError("the session store still has a session that was deleted")

    async def _stored(self, backend: ServerSideSessionBackend, connection: Connection) -> Session | None:
        session_id = connection.cookies.get(backend.config.key)
        if not session_id:
            return None
        store = await self._store(backend)
        try:
            contents = await backend.load_from_connection(connection)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # no file of a session can have such a name
                return None
            raise
        if not contents and await backend.get(session_id, store) is None:  # empty, or not there
            return None
        return self._session(_true_id(store, session_id), contents)

    async def _store(self, backend: ServerSideSessionBackend) -> Store:
        """Return the store of the sessions.

        Raises:
            StoreError: Its directory is missing: `FileStore` would find no session there.
        """
        store = backend.config.get_store_from_app(self._app)
        if isinstance(store, FileStore) and not await store.path.is_dir():
            raise StoreError("the directory of the session files is missing")
        return store

    def _session(self, session_id: str | None, contents: Any) -> Session:
        contents = dict(contents) if isinstance(contents, Mapping) else {}
        return Session(id=session_id, claims=self._find_claims(contents), contents=contents)

    def _quiet(self) -> BaseSessionBackend[Any]:
        """Return a backend whose reads renew nothing."""
        backend = self._backend()
        if getattr(backend.config, "renew_on_access", False):
            backend = copy(backend)
            backend.config = copy(backend.config)
            backend.config.renew_on_access = False
        return backend

    def _backend(self) -> BaseSessionBackend[Any]:
        if self._config is not None:
            return cast("BaseSessionBackend[Any]", self._config._backend_class(config=self._config))
        found = [backend for each in self._app.middleware if (backend := _backend_of(each)) is not None]
        if len(found) != 1:
            raise ValueError(
                f"the app itself has {len(found) or 'no'} session middlewares; give LitestarSession the config of the "
                "one that keeps the sign-in: LitestarSession(app, config=...)"
            )
        return found[0]

    def _connection(self, cookie_header: str) -> Connection:
        headers = [(b"cookie", on_the_wire(cookie_header))]
        scope = {"type": "http", "headers": headers, "app": self._app, "litestar_app": self._app, "state": {}}
        return ASGIConnection(cast("Any", scope))


def _true_id(store: Store, session_id: str) -> str:
    """Return the id under which a session's record is kept.

    Litestar before 2.20 named a session's file by what is left of its id when everything odd is made plain. Each such
    spelling would be a session of its own to whoever asks whether it has ended.
    """
    # Nothing public tells.
    path_of = getattr(store, "_path_from_key", None) if isinstance(store, FileStore) else None
    if path_of is None:
        return session_id
    name: str = path_of(session_id).name
    return name if path_of(name) == path_of(session_id) else session_id


Connection = ASGIConnection[Any, Any, Any, Any]


def _backend_of(middleware: object) -> BaseSessionBackend[Any] | None:
    """Return the backend of a session middleware, or of a `SessionAuth`'s."""
    options: Mapping[str, Any] = getattr(middleware, "kwargs", {})
    backend = options.get("backend") or getattr(options.get("config"), "session_backend", None)
    return backend if isinstance(backend, BaseSessionBackend) else None
