"""Flask's sessions: its own signed cookies, and those of every Flask-Session engine."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from itsdangerous import BadData

try:
    from flask.sessions import SecureCookieSessionInterface
    from werkzeug.http import dump_cookie
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"FlaskSession needs {error.name}: pip install 'msal-logout-middleware[flask]'", name=error.name
    ) from error

from ..cookies import on_the_wire
from ..errors import StoreError
from ..http import Cookie, SameSite
from ..session import Session
from ._interface import InterfaceSession, unsigned
from .presets import ClaimsAt

if TYPE_CHECKING:
    from flask import Flask, Request
    from flask.sessions import SessionInterface


class FlaskSession(InterfaceSession):
    """Reads and deletes the sessions of a Flask app through its `session_interface`.

    A session is server-side if the interface gives it a `sid`, as Flask-Session does. The app's configuration and
    interface are looked up at every call. Each call has an app context of its own, because SQL engines need one,
    and so runs the app's `teardown_appcontext` functions; no request context, and no hook of a request.

    Args:
        app: The Flask app.
        claims: Where the ID token claims are: a key, a callable, or `None` for the known places.

    Raises:
        TypeError: `app` is not a Flask app, or `claims` none of these.
    """

    signed_cookies = SecureCookieSessionInterface
    _app: Flask

    def __init__(self, app: Flask, *, claims: ClaimsAt = None) -> None:
        if not (hasattr(app, "session_interface") and hasattr(app, "wsgi_app")):
            raise TypeError(
                "give FlaskSession the Flask app itself, not app.wsgi_app; for Quart there is QuartSession(app), for "
                "Starlette and FastAPI ASGISession(app)"
            )
        super().__init__(app, claims=claims)

    @property
    def remember_cookies(self) -> tuple[Cookie, ...]:
        """The cookie by which Flask-Login signs a user in again, where the app has it."""
        if getattr(self._app, "login_manager", None) is None:  # where Flask-Login puts itself
            return ()
        config = self._app.config
        same_site = config.get("REMEMBER_COOKIE_SAMESITE")
        cookie = Cookie(
            name=config.get("REMEMBER_COOKIE_NAME", "remember_token"),
            path=config.get("REMEMBER_COOKIE_PATH", "/"),
            domain=config.get("REMEMBER_COOKIE_DOMAIN"),
            secure=bool(config.get("REMEMBER_COOKIE_SECURE")),
            http_only=config.get("REMEMBER_COOKIE_HTTPONLY", True),
            same_site=cast("SameSite", same_site.title()) if same_site else None,
        )
        return (cookie,)

    def read(self, cookie_header: str) -> Session | None:
        """Return the session that a `Cookie` header leads to; of a repeated cookie Flask takes the first.

        Raises:
            Exception: What the engine raises when it cannot be asked; `StoreError` where it would keep silent.
        """
        return self._open(self._app.session_interface, cookie_header)

    def load(self, session_id: str) -> Session | None:
        """Return a server-side session by its id.

        Raises:
            Exception: As `read`.
        """
        interface = unsigned(self._app.session_interface)
        name = interface.get_cookie_name(self._app)
        session = self._open(interface, dump_cookie(name, session_id, path=None, max_size=0))
        return session if session and session.id == session_id else None

    def delete(self, session_id: str) -> None:
        """Delete a server-side session, and look whether it is gone.

        Raises:
            StoreError: The engine still has the session, or cannot be reached.
            Exception: As `read`.
        """
        interface = self._app.session_interface
        _require_directory(interface)
        with self._app.app_context():
            session: Any = interface.open_session(self._app, self._request(""))  # new, and in no storage
            if not hasattr(session, "sid"):
                return
            session.sid = session_id
            session.modified = True  # modified and empty: that is what makes the interface delete the record
            interface.save_session(self._app, session, self._app.response_class())
        if self.load(session_id) is not None:
            raise StoreError("the session engine still has a session that was deleted")

    def _open(self, interface: SessionInterface, cookie_header: str) -> Session | None:
        request = self._request(cookie_header)
        cookie = request.cookies.get(interface.get_cookie_name(self._app))
        if not cookie:
            return None
        _require_directory(interface)
        with self._app.app_context():
            try:
                opened = interface.open_session(self._app, request)
            except (BadData, ValueError):  # authentic, but not decodable: the app cannot use it either
                return None
            session = self._session(opened, cookie)
            if session is None or session.id is None:
                return session
            return replace(session, id=_true_id(interface, session.id))

    def _request(self, cookie_header: str) -> Request:
        header = on_the_wire(cookie_header).decode("latin-1")
        return self._app.request_class({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_COOKIE": header})


def _true_id(interface: Any, session_id: str) -> str:
    """Return the id under which a session's record is kept; as it is where there is no record.

    Some databases find a record by what is merely like its id: MySQL's usual collations tell no capitals apart. Each
    such spelling would be a session of its own to whoever asks whether it has ended.
    """
    model = getattr(interface, "sql_session_model", None)
    if model is None:
        return session_id
    store_id = interface.key_prefix + session_id
    row = model.query.filter_by(session_id=store_id).with_entities(model.session_id).first()
    return session_id if row is None else str(row[0]).removeprefix(interface.key_prefix)


def _require_directory(interface: SessionInterface) -> None:
    """Raise `StoreError` where cachelib's `FileSystemCache` would find no session in a directory out of reach.

    It catches every `OSError` and answers "no such entry", after up to 10 s of trying.
    """
    directory = getattr(getattr(interface, "cache", None), "_path", None)  # nothing public tells it
    if directory is not None and not os.access(os.path.join(directory, ""), os.X_OK):  # noqa: PTH118 - the slash
        raise StoreError("the directory of the session files cannot be reached")
