"""The session's cookies in a raw `Cookie` header: found as tolerantly as frameworks do, and cut out byte for byte."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import product
from math import prod

from .http import Cookie

MOST_SESSIONS = 8

# Characters of Latin-1 that no name begins or ends with (RFC 6265, 4.1.1): some framework strips each of them.
_NO_NAME = "".join(
    c for c in map(chr, range(256)) if not (c.isascii() and (c.isalnum() or c in "!#$%&'*+-.^_`|~"))
)

# All that is taken off a cookie before its framework reads it. Some frameworks take off more, others no more, and some
# verify a signature in spite of what stands behind it: what one of them still reads must be read by us.
_BLANKS = " \t"

# WebOb takes a quote behind two backslashes for one of the value's as well, and goes on to the next.
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*(?<!\\)"', re.DOTALL)

# Behind each of them some framework still sees the quote that a value begins with.
_ODD_BLANKS = "".join(c for c in map(chr, range(256)) if not "!" <= c <= "~")

# What every framework takes for more of the same cookie. Behind anything else some of them begin a new one, and WebOb
# also behind a time, which it looks for in every cookie.
_MORE = r"[\w!#$%&'*+\-.^`|~=/?:@(){}<>]"


class Names(tuple[str, ...]):
    """The names of cookies. `in` knows all of their chunks as well, which are more than can be listed."""

    _chunked: tuple[Cookie, ...] = ()

    @classmethod
    def of(cls, cookies: Iterable[Cookie]) -> Names:
        """Return the names of these cookies, each once; a chunk's is left out where its cookie's own is there."""
        cookies = tuple(cookies)
        chunked = tuple(cookie for cookie in cookies if cookie.chunked)
        own = (c.name for c in cookies if c.chunked or not any(each.is_named(c.name) for each in chunked))
        names = cls(dict.fromkeys(own))
        names._chunked = chunked
        return names

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or any(cookie.is_named(str(name)) for cookie in self._chunked)


def on_the_wire(cookie_header: str) -> bytes:
    """Return a header's bytes: its characters are Latin-1 (PEP 3333), and what is not cannot be part of a session's."""
    return cookie_header.encode("latin-1", "replace")


def session_cookies(cookie_header: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the session cookies that a header may be read as, each as a header of its own.

    A cookie that is repeated is returned once for each value, since frameworks differ in which they take. Cookies
    of several names belong together: a session in chunks. Of more than `MOST_SESSIONS`, each cookie is returned by
    itself: no browser sends so many, and nobody needs to read them.

    Args:
        cookie_header: The header's value, its bytes as Latin-1.
        names: The cookies' names.
    """
    if not any(name in cookie_header for name in names):
        return ()
    found: dict[str, list[str]] = {}
    for part in cookie_header.split(";"):
        if (name := _name(part)) in names:
            found.setdefault(name, []).append(part.strip(_BLANKS))
    if prod(map(len, found.values())) > MOST_SESSIONS:
        return tuple(part for parts in found.values() for part in parts)
    return tuple("; ".join(parts) for parts in product(*found.values())) if found else ()


def is_torn(cookie_header: str, names: Sequence[str]) -> bool:
    """Tell whether a session cookie's value may go on behind the next semicolon: in quotes, or behind a backslash.

    No app sets and no browser sends such a cookie. Some frameworks read it up to the quote that closes it, WebOb over
    a semicolon that a backslash stands before, and others up to the semicolon: what the app will see in the header
    cannot be told.
    """
    if '"' not in cookie_header and "\\" not in cookie_header:
        return False
    for part in cookie_header.split(";"):
        value = part.partition("=")[2].strip(_BLANKS)
        is_quoted = value.lstrip(_ODD_BLANKS).startswith('"')
        goes_on = not _QUOTED.fullmatch(value) if is_quoted else value.endswith("\\")
        if goes_on and _name(part) in names:
            return True
    return False


def hides_session(cookie_header: str, names: Sequence[str]) -> bool:
    """Tell whether a session cookie stands within another cookie, or within itself, where only some frameworks read it.

    `http.cookies` begins a new cookie behind a blank as well, WebOb also behind a comma. Browsers send such a thing
    at most by chance.
    """
    if not any(name in cookie_header for name in names):
        return False
    within = _within(tuple(names))
    parts = cookie_header.split(";")
    return any(within.search(part, part.find("=") + 1 if _name(part) in names else 0) for part in parts)


def without(cookie_header: str, dead: Collection[str]) -> str:
    """Return a header without some of its session cookies; what is left is left byte for byte.

    Args:
        cookie_header: The header's value.
        dead: Of what `session_cookies` returned.
    """
    named = {part for header in dead for part in header.split("; ")}
    parts = cookie_header.split(";")
    kept = [part for part in parts if part.strip(_BLANKS) not in named]
    left = ";".join(kept)
    return left if kept[:1] == parts[:1] else left.lstrip(_BLANKS)


@lru_cache(maxsize=16)
def _within(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?:(?<!{_MORE})|(?<=\sGMT))(?:{'|'.join(map(re.escape, names))})\s*=", re.ASCII)


def _name(part: str) -> str:
    name, equals, _ = part.partition("=")
    return name.strip(_NO_NAME) if equals else ""
