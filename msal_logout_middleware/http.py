"""Values of HTTP: a request, a response, a cookie. No framework, no I/O."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Literal, cast, get_args
from urllib.parse import parse_qsl

Header = tuple[str, str]
SameSite = Literal["Lax", "Strict", "None"]

MAXIMUM_BODY_BYTES = 64 * 1024  # of a request that is ours

_FOR_CACHES = frozenset({"cache-control", "expires", "cdn-cache-control", "surrogate-control"})
_CHUNK = re.compile(r"(?:-\d+)?", re.ASCII)
_NUMBER = re.compile(r"-?\d{1,15}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Request:
    """What a flow may know of a request.

    Args:
        method: In capitals.
        path: As the app routes it: percent-decoded, below `SCRIPT_NAME`/`root_path`.
        query: The raw query string, without `?`.
        headers: Names in small letters, values decoded as Latin-1.
        mount: `SCRIPT_NAME`/`root_path`: where the app is mounted.
        body: The body, if the flow asked the door for it and it was within the flow's limit; else `None`.
    """

    method: str
    path: str
    query: str = field(default="", repr=False)
    headers: tuple[Header, ...] = field(default=(), repr=False)
    mount: str = ""
    body: bytes | None = field(default=None, repr=False)

    def header(self, name: str) -> str | None:
        """Return the value of a header; `None` if it is absent, or sent more than once."""
        values = [value for key, value in self.headers if key == name]
        return values[0] if len(values) == 1 else None

    @property
    def cookie_header(self) -> str:
        """Every `Cookie` header in one (HTTP/2 may split it: RFC 9113, 8.2.3)."""
        return "; ".join(value for key, value in self.headers if key == "cookie")

    def cookies(self, name: str) -> tuple[str, ...]:
        """Return all values of a cookie, in the order sent."""
        return tuple(value for key, value in cookie_pairs(self.cookie_header) if key == name)

    def values(self, name: str) -> tuple[str, ...]:
        """Return all values of a parameter: of the query, then of a urlencoded body."""
        return tuple(value for key, value in self.parameters() if key == name)

    def parameters(self) -> list[tuple[str, str]]:
        """Return all parameters, in the order sent: of the query, then of a urlencoded body."""
        found = _parsed(self.query)
        if self.body and self.media_type == "application/x-www-form-urlencoded":
            found += _parsed(self.body.decode("latin-1"))
        return found

    def query_value(self, name: str) -> str | None:
        """Return a query parameter; `None` if it is absent or repeated."""
        return _only(_parsed(self.query), name)

    def form_value(self, name: str) -> str | None:
        """Return a field of a urlencoded body; `None` if it is absent or repeated."""
        if not self.body or self.media_type != "application/x-www-form-urlencoded":
            return None
        return _only(_parsed(self.body.decode("latin-1")), name)

    @property
    def is_small_form(self) -> bool:
        """Whether the body is a urlencoded form, not longer than what is meant for us."""
        length = self.header("content-length") or ""
        is_small = (
            length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= MAXIMUM_BODY_BYTES
        )
        return is_small and self.media_type == "application/x-www-form-urlencoded"

    @property
    def media_type(self) -> str:
        """The body's media type, without parameters, in small letters."""
        return (self.header("content-type") or "").partition(";")[0].strip().lower()


def _parsed(text: str) -> list[tuple[str, str]]:
    return parse_qsl(text, keep_blank_values=True)


def _only(pairs: list[tuple[str, str]], name: str) -> str | None:
    values = [value for key, value in pairs if key == name]
    return values[0] if len(values) == 1 else None


def cookie_pairs(cookie_header: str) -> Iterator[tuple[str, str]]:
    """Split a `Cookie` header as tolerantly as frameworks do: a malformed neighbour hides nothing."""
    for part in cookie_header.split(";"):
        name, equals, value = part.partition("=")
        if equals:
            yield name.strip(), value.strip()


@dataclass(frozen=True, slots=True)
class Response:
    """An answer of ours."""

    status: int
    headers: tuple[Header, ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)

    def with_headers(self, *headers: Header) -> Response:
        """Return a copy with more headers."""
        return replace(self, headers=(*self.headers, *headers))


def for_one_browser(headers: Iterable[Header]) -> list[Header]:
    """Return an answer's headers with a word that no cache may keep it, in place of any other.

    A `Set-Cookie` alone keeps no cache from giving an answer to everybody (RFC 9111, 7.3), and some do.
    """
    kept = [(name, value) for name, value in headers if name.lower() not in _FOR_CACHES]
    return [*kept, ("cache-control", "private, no-store")]


def deletes(set_cookie: str) -> bool:
    """Tell whether a `Set-Cookie` value deletes its cookie: it is empty, or its time is over (RFC 6265, 5.3)."""
    pair, *rest = set_cookie.split(";")
    if not pair.partition("=")[2].strip().strip('"'):
        return True
    split = [attribute.partition("=") for attribute in rest]
    attributes = {name.strip().lower(): value.strip() for name, _, value in split}
    if _NUMBER.fullmatch(attributes.get("max-age", "")):
        return int(attributes["max-age"]) <= 0
    try:
        return parsedate_to_datetime(attributes.get("expires", "")).timestamp() <= time.time()
    except (ValueError, OverflowError):  # not said, or not so that browsers read it
        return False


@dataclass(frozen=True, slots=True)
class Cookie:
    """A cookie's name and the attributes that it is set with, which its deletion must repeat.

    Args:
        name: The cookie's name.
        path: `Path`.
        domain: `Domain`; `None` for a host-only cookie.
        secure: `Secure`.
        http_only: `HttpOnly`.
        same_site: `SameSite`; `None` where the attribute is not sent.
        partitioned: `Partitioned` (CHIPS).
        chunked: The framework also takes `name-0`, `name-1` and so on, of any number, for parts of it.
    """

    name: str
    path: str = "/"
    domain: str | None = None
    secure: bool = False
    http_only: bool = True
    same_site: SameSite | None = None
    partitioned: bool = False
    chunked: bool = field(default=False, compare=False)  # no attribute that browsers know

    @classmethod
    def set_by(cls, set_cookie: str) -> Cookie:
        """Return the cookie that a `Set-Cookie` value sets."""
        pair, *rest = set_cookie.split(";")
        split = [attribute.partition("=") for attribute in rest]
        attributes = {name.strip().lower(): value.strip() for name, _, value in split}
        same_site = attributes.get("samesite", "").title()
        return cls(
            name=pair.partition("=")[0].strip(),
            path=attributes.get("path") or "/",
            domain=attributes.get("domain") or None,
            secure="secure" in attributes,
            http_only="httponly" in attributes,
            same_site=cast("SameSite", same_site) if same_site in get_args(SameSite) else None,
            partitioned="partitioned" in attributes,
        )

    def set(self, value: str, *, max_age_seconds: int) -> Header:
        """Return the `Set-Cookie` header that sets the cookie."""
        return "set-cookie", self._attributes(f"{self.name}={value}; Max-Age={max_age_seconds}")

    def delete(self) -> Header:
        """Return the `Set-Cookie` header that deletes the cookie."""
        epoch = "Expires=Thu, 01 Jan 1970 00:00:00 GMT"
        return "set-cookie", self._attributes(f"{self.name}=; {epoch}; Max-Age=0")

    def is_set_by(self, set_cookie: str) -> bool:
        """Tell whether a `Set-Cookie` header sets (or deletes) this cookie."""
        return self.is_named(set_cookie.partition("=")[0].strip())

    def is_named(self, name: str) -> bool:
        """Tell whether a cookie of this name is this one, or a chunk of it."""
        if not self.chunked or not name.startswith(self.name):
            return name == self.name
        return _CHUNK.fullmatch(name, len(self.name)) is not None

    def _attributes(self, pair: str) -> str:
        parts = [pair, f"Path={self.path}"]
        if self.domain:
            parts.append(f"Domain={self.domain}")
        if self.secure:
            parts.append("Secure")
        if self.http_only:
            parts.append("HttpOnly")
        if self.same_site:
            parts.append(f"SameSite={self.same_site}")
        if self.partitioned:
            parts.append("Partitioned")
        return "; ".join(parts)
