"""The provider's session, learnt from the exchange that signed somebody in: Entra ID's `session_state`.

1. Nothing is learnt of a request. What it says counts only if its own answer, or one that the app redirected the
   browser to at once, signs somebody in: a crafted link must not put another's session under its author's `sid`.
2. On the way through the app's redirects it is carried by a cookie of ours, which is good for one address only.
"""

from __future__ import annotations

from urllib.parse import unquote, urljoin, urlsplit

from .configuration import Configuration
from .http import Cookie, Header, Request
from .targets import origin_of

_CARRIED_SECONDS = 60
COOKIE_NAME = "msal_logout_exchange"


class Exchange:
    """What one request says about the provider's session.

    Args:
        config: The configuration.
        request: A request of somebody who is not signed in.
    """

    def __init__(self, config: Configuration, request: Request) -> None:
        self._config = config
        self._request = request
        self._came_with_cookie = bool(request.cookies(_cookie(config).name))
        self.sid = self._said() or self._carried()

    def headers(self, status: int, location: str | None) -> tuple[Header, ...]:
        """Return the headers that carry the exchange over the app's own redirect, or end it.

        Args:
            status: The answer's.
            location: The answer's `Location`.
        """
        cookie = _cookie(self._config)
        target = self._own_address(location) if location is not None and 300 <= status < 400 else None
        if self.sid is not None and target is not None:
            signed = self._config.seal.sign("exchange", [self.sid, target])
            return (cookie.set(signed, max_age_seconds=_CARRIED_SECONDS),)
        return (cookie.delete(),) if self._came_with_cookie else ()

    def _said(self) -> str | None:
        """Return the `session_state` of an authorization response (OpenID Connect Session Management 1.0, 3)."""
        value = self._request.form_value if self._request.method == "POST" else self._request.query_value
        return value("session_state") if value("code") and value("state") else None

    def _carried(self) -> str | None:
        here = _address(self._request.mount + self._request.path, self._request.query)
        for token in self._request.cookies(_cookie(self._config).name):
            known = self._config.seal.verify("exchange", token, max_age_seconds=_CARRIED_SECONDS)
            if isinstance(known, list) and known[1] == here:
                return str(known[0])
        return None

    def _own_address(self, location: str) -> str | None:
        """Return the path and query of a redirect to this very app; `None` if it leads elsewhere."""
        for origin in self._config.origins:
            try:
                target = urljoin(f"{origin}{self._request.mount}{self._request.path}", location)
                if origin_of(target) == origin:
                    parts = urlsplit(target)
                    return _address(unquote(parts.path) or "/", parts.query)
            except ValueError:
                continue
        return None


def may_say(request: Request) -> bool:
    """Tell cheaply whether a request, whose body has not been read, is worth making an `Exchange` of."""
    if request.method == "POST":
        return request.is_small_form or COOKIE_NAME in request.cookie_header
    return "session_state=" in request.query or COOKIE_NAME in request.cookie_header


def _cookie(config: Configuration) -> Cookie:
    secure = config.post_logout_redirect_uri.startswith("https:")
    return Cookie(f"__Host-{COOKIE_NAME}" if secure else COOKIE_NAME, secure=secure, same_site="Lax")


def _address(path: str, query: str) -> str:
    return f"{path}?{query}" if query else path
