"""The attributes of the session's cookies: what browsers refuse, and what lets a session out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from ...http import Cookie
from . import Finding, Level


class _Problem(NamedTuple):
    level: Level
    seen: str
    to_do: str


def check_cookies(cookies: Sequence[Cookie], *, url: str, logout_path: str) -> Iterator[Finding]:
    """Check the session's cookies against the browsers' rules (RFC 6265, 4.1.2 and 5; RFC 6265bis, 4.1.3).

    Args:
        cookies: The cookies, as the app sets them.
        url: Where browsers find the app, with the path that it is mounted at.
        logout_path: The path that signs out, below that.
    """
    app = urlsplit(url)
    rules: dict[str, Callable[[Cookie], _Problem | None]] = {
        "cookie-secure": lambda cookie: _secure(cookie, app),
        "cookie-http-only": _http_only,
        "cookie-same-site": _same_site,
        "cookie-prefix": _prefix,
        "cookie-domain": lambda cookie: _domain(cookie, app.hostname or ""),
        "cookie-path": lambda cookie: _path(cookie, app.path.rstrip("/") + logout_path),
    }
    for check, rule in rules.items():
        problems = [problem for cookie in cookies if (problem := rule(cookie))]
        if not cookies:
            yield Finding(check, "skipped", "the session's cookies are not known")
        elif not problems:
            yield Finding(check, "ok", _OK[check])
        for problem in problems:
            yield Finding(check, *problem)


_OK = {
    "cookie-secure": "sent over https only, or the app is on plain http",
    "cookie-http-only": "out of reach of scripts",
    "cookie-same-site": "browsers accept it",
    "cookie-prefix": "the name promises nothing that the attributes do not keep",
    "cookie-domain": "sent to no other host",
    "cookie-path": "reaches the path that signs out",
}


def _secure(cookie: Cookie, app: SplitResult) -> _Problem | None:
    if cookie.secure:
        return None
    if cookie.partitioned:
        return _Problem(
            "error", f"{cookie.name} is Partitioned without Secure: browsers refuse it", _MAKE_SECURE
        )
    if app.scheme != "https":
        return None
    return _Problem(
        "warning", f"{cookie.name} is not Secure: browsers send it over plain http as well", _MAKE_SECURE
    )


_MAKE_SECURE = (
    "SESSION_COOKIE_SECURE=True (Flask, Quart, Django), https_only=True (Starlette), cookie_https_only=True "
    "(starsessions), secure=True (Litestar, Pyramid)"
)


def _http_only(cookie: Cookie) -> _Problem | None:
    if cookie.http_only:
        return None
    return _Problem(
        "warning", f"{cookie.name} is not HttpOnly: any script of the page can copy it", "set HttpOnly"
    )


def _same_site(cookie: Cookie) -> _Problem | None:
    if cookie.same_site == "None" and not cookie.secure:
        return _Problem(
            "error", f"{cookie.name} is SameSite=None without Secure: browsers refuse it", _MAKE_SECURE
        )
    if cookie.same_site == "Strict":
        return _Problem(
            "warning",
            f"{cookie.name} is SameSite=Strict: it is not sent when the provider redirects back, so a sign-in may fail",
            "SameSite=Lax; or None with Secure, if the provider posts a form (response_mode=form_post)",
        )
    return None


def _prefix(cookie: Cookie) -> _Problem | None:
    """RFC 6265bis, 4.1.3: browsers refuse a cookie that breaks what its name promises."""
    name = cookie.name.lower()
    broken = []
    if name.startswith(("__host-", "__secure-")) and not cookie.secure:
        broken.append("Secure")
    if name.startswith("__host-") and cookie.domain:
        broken.append("no Domain")
    if name.startswith("__host-") and cookie.path != "/":
        broken.append("Path=/")
    if not broken:
        return None
    wanted = " and ".join(broken)
    return _Problem(
        "error", f"{cookie.name} must have {wanted}: browsers refuse it otherwise", f"set {wanted}"
    )


def _domain(cookie: Cookie, host: str) -> _Problem | None:
    domain = (cookie.domain or "").lstrip(".").lower()
    if not domain or domain == host:
        return None
    if not host.endswith(f".{domain}"):
        return _Problem(
            "error",
            f"{cookie.name} is for {domain}, where the app at {host} is not: browsers refuse it",
            "leave Domain out; if the app is elsewhere, give --url",
        )
    if "." not in domain:
        return _Problem(
            "error", f"{cookie.name} is for all of {domain}: browsers refuse it", "leave Domain out"
        )
    return _Problem(
        "warning",
        f"{cookie.name} is sent to every host below {domain}, and each of them can set it",
        "leave Domain out, unless other hosts need the session",
    )


def _path(cookie: Cookie, logout_path: str) -> _Problem | None:
    """RFC 6265, 5.1.4."""
    path = cookie.path.rstrip("/")
    if logout_path == path or logout_path.startswith(f"{path}/"):
        return None
    return _Problem(
        "warning",
        f"{cookie.name} is for {cookie.path}, so it is not sent to {logout_path}, which would sign nobody out",
        f"if the app is mounted at {cookie.path}, give that with --url; otherwise Path=/",
    )
