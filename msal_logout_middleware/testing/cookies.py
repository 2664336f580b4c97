"""A cookie jar that sends what browsers send: it heeds `SameSite`, `Secure` and third-party contexts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit


@dataclass(frozen=True, slots=True)
class StoredCookie:
    """A cookie in the jar.

    Args:
        same_site: `lax`, `strict` or `none`; `unset` where the server said nothing.
        expires_at: In seconds since 1970; `None` until the browser is closed.
    """

    name: str
    value: str
    host: str
    host_only: bool
    path: str
    secure: bool
    same_site: str
    expires_at: float | None = None


class CookieJar:
    """The cookies of one browser.

    Args:
        third_party_cookies: Whether cookies go into, and come from, cross-site iframes.
    """

    def __init__(self, *, third_party_cookies: bool = False) -> None:
        self._third_party_cookies = third_party_cookies
        self._cookies: dict[tuple[str, str, str], StoredCookie] = {}

    def __iter__(self) -> Iterator[StoredCookie]:
        return iter(list(self._cookies.values()))

    def value(self, name: str, url: str) -> str | None:
        """Return the value that a page of a URL would see."""
        target = urlsplit(url)
        return next((cookie.value for cookie in self._matching(target) if cookie.name == name), None)

    def header(self, url: str, *, method: str, initiator: str | None, framed_by: str | None = None) -> str:
        """Return the `Cookie` header of a request (RFC 6265bis, 5.8.3).

        Args:
            url: What is requested.
            method: In capitals.
            initiator: The URL of the page that the request comes from; `None` if the user typed it.
            framed_by: The top page's URL, if this loads an iframe.
        """
        target = urlsplit(url)
        if framed_by is not None:
            same_site = site(framed_by) == site(url)
            sent = [each for each in self._matching(target) if same_site or self._goes_into_frames(each)]
        elif initiator is None or site(initiator) == site(url):
            sent = list(self._matching(target))
        else:
            sent = [each for each in self._matching(target) if _crosses_sites(each, method)]
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in sent)

    def store(self, url: str, set_cookie: str, *, framed_by: str | None = None) -> None:
        """Keep, replace or delete a cookie as a `Set-Cookie` header says (RFC 6265bis, 5.7)."""
        target = urlsplit(url)
        pair, *attributes = set_cookie.split(";")
        name, _, value = pair.strip().partition("=")
        options = {
            key.strip().lower(): word.strip() for key, _, word in (each.partition("=") for each in attributes)
        }
        host = target.hostname or ""
        domain = options.get("domain", "").lstrip(".").lower()
        if domain and host != domain and not host.endswith(f".{domain}"):
            return
        secure = "secure" in options
        same_site = options.get("samesite", "unset").lower()
        if (secure and not trustworthy(target)) or (same_site == "none" and not secure):
            return
        cookie = StoredCookie(
            name=name,
            value=value.strip(),
            host=domain or host,
            host_only=not domain,
            path=options["path"] if options.get("path", "").startswith("/") else _default_path(target.path),
            secure=secure,
            same_site=same_site,
            expires_at=_expires_at(options),
        )
        if framed_by is not None and site(framed_by) != site(url) and not self._goes_into_frames(cookie):
            return
        key = (cookie.name, cookie.host, cookie.path)
        self._cookies.pop(key, None)
        if cookie.expires_at is None or cookie.expires_at > time.time():
            self._cookies[key] = cookie

    def clear(self) -> None:
        """Forget all cookies."""
        self._cookies.clear()

    def _matching(self, target: SplitResult) -> list[StoredCookie]:
        now, host, path = time.time(), target.hostname or "", target.path or "/"
        found = [
            cookie
            for cookie in self._cookies.values()
            if (host == cookie.host or (not cookie.host_only and host.endswith(f".{cookie.host}")))
            and (path == cookie.path or path.startswith(cookie.path.rstrip("/") + "/"))
            and (not cookie.secure or trustworthy(target))
            and (cookie.expires_at is None or cookie.expires_at > now)
        ]
        return sorted(found, key=lambda cookie: -len(cookie.path))

    def _goes_into_frames(self, cookie: StoredCookie) -> bool:
        return self._third_party_cookies and cookie.same_site == "none"


def site(url: str) -> tuple[str, str]:
    """Return a URL's scheme and registrable domain, which decide what is same-site; ports do not."""
    target = urlsplit(url)
    host = target.hostname or ""
    try:
        ip_address(host)
    except ValueError:
        return target.scheme, ".".join(host.split(".")[-2:])
    return target.scheme, host


def origin(url: str) -> str:
    """Return a URL's origin."""
    target = urlsplit(url)
    return f"{target.scheme}://{target.netloc}"


def trustworthy(target: SplitResult) -> bool:
    """Tell whether browsers take an origin as secure: TLS, or loopback."""
    host = target.hostname or ""
    return (
        target.scheme == "https" or host in ("localhost", "127.0.0.1", "::1") or host.endswith(".localhost")
    )


def _crosses_sites(cookie: StoredCookie, method: str) -> bool:
    """Tell whether a top-level navigation from another site takes a cookie along.

    A cookie that says nothing is Lax, but in its first two minutes Chromium sends it with a POST, too.
    """
    if cookie.same_site == "none":
        return True
    if cookie.same_site == "strict":
        return False
    return method in ("GET", "HEAD") or cookie.same_site == "unset"


def _default_path(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _expires_at(options: dict[str, str]) -> float | None:
    if "max-age" in options:
        seconds = int(options["max-age"])
        return time.time() + seconds if seconds > 0 else 0.0
    if "expires" in options:
        return parsedate_to_datetime(options["expires"]).timestamp()
    return None
