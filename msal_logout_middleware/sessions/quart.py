"""Quart's sessions: its own signed cookies, and those of quart-session's engines."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, cast

from itsdangerous import BadData

try:
    from quart.sessions import SecureCookieSessionInterface
    from werkzeug.datastructures import Headers
    from werkzeug.http import dump_cookie
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"QuartSession needs {error.name}: pip install 'msal-logout-middleware[quart]'", name=error.name
    ) from error

from ..cookies import on_the_wire
from ..errors import StoreError
from ..session import Session
from ._interface import InterfaceSession, unsigned
from .presets import ClaimsAt

if TYPE_CHECKING:
    from hypercorn.typing import HTTPScope
    from quart import Quart, Request
    from quart.sessions import SessionInterface


class QuartSession(InterfaceSession):
    """Reads and deletes the sessions of a Quart app through its `session_interface`.

    A session is server-side if the interface gives it a `sid`, as quart-session does. The app's configuration and
    interface are looked up at every call. Each call has an app context of its own, and so runs the app's
    `teardown_appcontext` functions; no request context, and no hook of a request.

    Args:
        app: The Quart app.
        claims: Where the ID token claims are: a key, a callable, or `None` for the known places.

    Raises:
        TypeError: `app` is not a Quart app, or `claims` none of these.
    """

    signed_cookies = SecureCookieSessionInterface
    _app: Quart

    def __init__(self, app: Quart, *, claims: ClaimsAt = None) -> None:
        if not (hasattr(app, "session_interface") and hasattr(app, "asgi_app")):
            raise TypeError("give QuartSession the Quart app itself, not app.asgi_app")
        super().__init__(app, claims=claims)

    async def read(self, cookie_header: str) -> Session | None:
        """Return the session that a `Cookie` header leads to; of a repeated cookie Quart takes the first.

        Raises:
            Exception: What the engine raises when it cannot be asked.
        """
        return await self._open(await self._interface(), cookie_header)

    async def load(self, session_id: str) -> Session | None:
        """Return a server-side session by its id.

        Raises:
            Exception: As `read`.
        """
        interface = unsigned(await self._interface())
        name = interface.get_cookie_name(self._app)
        session = await self._open(interface, dump_cookie(name, session_id, path=None, max_size=0))
        return session if session and session.id == session_id else None

    async def delete(self, session_id: str) -> None:
        """Delete a server-side session, and look whether it is gone.

        Raises:
            StoreError: The engine still has the session.
            Exception: As `read`.
        """
        interface = await self._interface()
        open_session = self._app.ensure_async(interface.open_session)
        save_session = self._app.ensure_async(interface.save_session)
        async with self._app.app_context():
            session: Any = await open_session(self._app, self._request(""))  # new, and in no storage
            if not hasattr(session, "sid"):
                return
            session.clear()  # modified and empty: that is what makes the interface delete the record
            session.sid, session.modified = session_id, True
            response: Any = self._app.response_class()
            await save_session(self._app, session, response)
        if await self.load(session_id) is not None:
            raise StoreError("the session engine still has a session that was deleted")

    async def _interface(self) -> SessionInterface:
        """Return the interface, connected, and as one that looks at nothing but the cookie.

        quart-session connects when the app begins to serve, which a command never does. Behind a proxy it would miss
        the user's address here, and log that.
        """
        interface: Any = self._app.session_interface
        if getattr(interface, "backend", interface) is None:
            await interface.create(self._app)
        options = getattr(interface, "_config", None)  # nothing public tells it
        if isinstance(options, dict) and options.get("SESSION_REVERSE_PROXY"):
            interface = copy(interface)
            interface._config = {**options, "SESSION_REVERSE_PROXY": False}
        return cast("SessionInterface", interface)

    async def _open(self, interface: SessionInterface, cookie_header: str) -> Session | None:
        try:
            request = self._request(cookie_header)
        except ValueError:  # a line break, which no server lets through
            return None
        cookie = request.cookies.get(interface.get_cookie_name(self._app))
        if not cookie:
            return None
        async with self._app.app_context():
            try:
                opened = await self._app.ensure_async(interface.open_session)(self._app, request)
            except (BadData, ValueError):  # authentic, but not decodable: the app cannot use it either
                return None
        return self._session(opened, cookie)

    def _request(self, cookie_header: str) -> Request:
        header = on_the_wire(cookie_header).decode("latin-1")
        # Without the user's address: quart-session's SESSION_PROTECTION would delete the record for another one.
        headers, scope = Headers({"Cookie": header}), cast("HTTPScope", {"type": "http", "extensions": {}})
        request: Request = self._app.request_class(
            "GET", "http", "/", b"", headers, "", "1.1", scope, send_push_promise=_push_nothing
        )
        return request


async def _push_nothing(_path: str, _headers: Headers) -> None:
    """There is nobody to push to."""
