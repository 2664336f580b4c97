"""What readers of Flask's and of Quart's sessions have in common: both frameworks have a `session_interface`."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any, ClassVar, TypeVar, cast

from ..http import Cookie, SameSite
from ..session import Secrets, Session
from .presets import ClaimsAt, claims_finder

Interface = TypeVar("Interface")


class InterfaceSession:
    """Knows a `session_interface` by what it says of itself, and a session by what it opened.

    `signed_cookies` is the framework's own interface, whose sessions are all in the cookie.
    """

    signed_cookies: ClassVar[type]

    def __init__(self, app: Any, *, claims: ClaimsAt = None) -> None:
        self._app = app
        self._find_claims = claims_finder(claims)

    def __repr__(self) -> str:
        """Name the app, and what keeps its sessions."""
        return f"{type(self).__name__}({self._app.name!r}, by {type(self._app.session_interface).__name__})"

    @property
    def cookies(self) -> tuple[Cookie, ...]:
        """The session cookie as the app's configuration has it now."""
        app, interface = self._app, self._app.session_interface
        same_site = interface.get_cookie_samesite(app)
        # Flask 3.0 and Quart 0.20 do not know the attribute.
        partitioned = hasattr(interface, "get_cookie_partitioned") and interface.get_cookie_partitioned(app)
        cookie = Cookie(
            name=interface.get_cookie_name(app),
            path=interface.get_cookie_path(app),
            domain=interface.get_cookie_domain(app) or None,
            secure=bool(interface.get_cookie_secure(app) or partitioned),  # as Werkzeug does
            http_only=interface.get_cookie_httponly(app),
            same_site=cast("SameSite", same_site.title()) if same_site else None,
            partitioned=bool(partitioned),
        )
        if cookie.partitioned and not isinstance(interface, self.signed_cookies):
            # Flask-Session 0.8 and quart-session 3 ignore the setting. Browsers keep partitioned cookies apart, so
            # delete both.
            secure = bool(interface.get_cookie_secure(app))
            return replace(cookie, partitioned=False, secure=secure), cookie
        return (cookie,)

    @property
    def server_side(self) -> bool:
        """Whether a session is kept on the server, under an id in the cookie."""
        return not isinstance(self._app.session_interface, self.signed_cookies)

    @property
    def secret(self) -> Secrets:
        """The app's `SECRET_KEY`; with its `SECRET_KEY_FALLBACKS`, which it still reads, if there are any."""
        fallbacks = self._app.config.get("SECRET_KEY_FALLBACKS")
        if not fallbacks:
            return self._app.secret_key or None
        return [secret for secret in (self._app.secret_key, *fallbacks) if secret]

    def _session(self, opened: Any, cookie: str) -> Session | None:
        """Return what an interface has opened for a cookie's value."""
        if opened is None:  # no SECRET_KEY
            return None
        contents = dict(opened)
        session_id: str | None = getattr(opened, "sid", None)
        if session_id is None and not contents:
            return None
        # For a cookie that leads nowhere engines start a new session, under a new random id.
        if session_id is not None and cookie != session_id and not cookie.startswith(f"{session_id}."):
            return None
        return Session(id=session_id, claims=self._find_claims(contents), contents=contents)


def unsigned(interface: Interface) -> Interface:
    """Return an interface that opens a session by its bare id: with `SESSION_USE_SIGNER` only cookies are signed."""
    if not getattr(interface, "use_signer", False):
        return interface
    bare: Any = copy(interface)
    bare.use_signer = False
    return cast("Interface", bare)
