"""Where a browser may be sent: exact, configured URLs. Nothing in a request chooses another.

Attackers cannot choose a target, because a request's value is never a target: it only selects one from the
configured list, by equality of the whole string.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import unquote, urlsplit

_DEFAULT_PORTS = {"https": ":443", "http": ":80"}


def checked_target(url: str, *, name: str, relative: bool = False) -> str:
    """Return a configured URL, checked.

    Args:
        url: The URL.
        name: The argument's name, for the error.
        relative: Whether an absolute path of this app (`/x`) will do as well.

    Raises:
        TypeError: It is no string.
        ValueError: It is not a URL that browsers of all kinds read the same way.
    """
    if not isinstance(url, str):
        raise TypeError(
            f"{name}={url!r} must be a URL, such as 'https://app.example.com/' (is the environment variable set?)"
        )
    for text in (url, unquote(url)):
        if not text or not text.isascii() or not text.isprintable() or "\\" in text or " " in text:
            raise ValueError(f"{name}={url!r} must be printable ASCII without spaces and backslashes")
    if relative and url.startswith("/") and not unquote(url).startswith("//"):
        return url
    parts = urlsplit(url)
    if "@" in unquote(parts.netloc):
        raise ValueError(f"{name}={url!r} must not carry a user name or password")
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and is_loopback(parts.hostname):
        return url
    path = ' or an absolute path ("/x")' if relative else ""
    raise ValueError(f"{name}={url!r} must be an absolute https URL (http only on loopback){path}")


def chosen_target(value: str | None, allowed: Collection[str]) -> str | None:
    """Return the configured target that equals the request's value; `None` if none does."""
    return next((target for target in allowed if target == value), None)


def origin_of(url: str) -> str:
    """Return the origin of an absolute URL, as browsers write it in `Origin` (RFC 6454, 6.2).

    Raises:
        ValueError: It cannot be taken apart.
    """
    parts = urlsplit(url)
    default = _DEFAULT_PORTS.get(parts.scheme, "")
    return f"{parts.scheme}://{parts.netloc.removesuffix(default)}".lower()


def is_loopback(host: str | None) -> bool:
    """Tell whether a host name never leaves this machine (RFC 6761, 6.3; RFC 8252, 7.3)."""
    if not host:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
