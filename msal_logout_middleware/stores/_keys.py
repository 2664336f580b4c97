"""What the shipped stores make of the keys and limits that they are given, and which of them they refuse."""

from __future__ import annotations

import hashlib

NOT_UNICODE = "a key is not valid Unicode: it holds a lone surrogate"


def encoded(text: str) -> bytes:
    """Return a key, or what holds one, as a database can keep it.

    Raises:
        ValueError: It holds a lone surrogate.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError(NOT_UNICODE) from None


def row_of(key: str) -> str:
    """Return what a cache key's row is called: the key often is a user's id, and a removed row stays for a while.

    Raises:
        ValueError: The key holds a lone surrogate.
    """
    return hashlib.sha256(encoded(key)).hexdigest()


def positive(limit: int) -> int:
    """Return a limit that lets something through.

    Raises:
        ValueError: It is less than 1.
    """
    if limit < 1:
        raise ValueError("limit must be at least 1")
    return limit
