"""The session's cookies in a raw `Cookie` header: found as tolerantly as frameworks do, and cut out byte for byte."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import product
from math import prod

MOST_SESSIONS = 8

# Some frameworks read a quoted value to its closing quote, others to the next semicolon.
_QUOTED_SEMICOLON = re.compile(r'=\s*"(?:[^"\\]|\\.)*;', re.DOTALL)

# What a name cannot begin or end with, some framework strips (RFC 6265, 4.1.1).
_NO_NAME = re.compile(r"^[^!#$%&'*+\-.^_`|~0-9A-Za-z]+|[^!#$%&'*+\-.^_`|~0-9A-Za-z]+$")


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
            found.setdefault(name, []).append(part.strip())
    if prod(map(len, found.values())) > MOST_SESSIONS:
        return tuple(part for parts in found.values() for part in parts)
    return tuple("; ".join(parts) for parts in product(*found.values())) if found else ()


def is_ambiguous(cookie_header: str) -> bool:
    """Tell whether frameworks may read other cookies in a header than `session_cookies` does."""
    return '"' in cookie_header and _QUOTED_SEMICOLON.search(cookie_header) is not None


def without(cookie_header: str, dead: Collection[str]) -> str:
    """Return a header without some of its session cookies; what is left is left byte for byte.

    Args:
        cookie_header: The header's value.
        dead: Of what `session_cookies` returned; or the whole header.
    """
    if cookie_header in dead:
        return ""
    named = {part for header in dead for part in header.split("; ")}
    parts = cookie_header.split(";")
    kept = [part for part in parts if part.strip() not in named]
    left = ";".join(kept)
    return left if kept[:1] == parts[:1] else left.lstrip()


def _name(part: str) -> str:
    name, equals, _ = part.partition("=")
    return _NO_NAME.sub("", name) if equals else ""
