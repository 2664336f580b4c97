"""RESP, the language of Redis and Valkey: a command as its bytes, and the values that come back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

_END = b"\r\n"
_BULK, _NUMBER, _ARRAY, _PUSH, _NULL, _ERROR = b"$:*>_-"
_A_PUSH = b">"


class NotAnsweredError(Exception):
    """There was no plain answer: the client is to be asked."""


class _IncompleteError(Exception):
    """More bytes belong to a value."""


class Push(list[Any]):
    """What the server sends of its own accord (RESP3)."""


class Refusal:
    """An error, without its words.

    Args:
        code: Its first word.
    """

    def __init__(self, code: bytes) -> None:
        self.code = code


def packed_call(sha: str, keys: tuple[bytes, ...], args: Iterable[bytes | str | int]) -> bytes:
    """Return the command that runs a script, as the server reads it (RESP: an array of bulk strings)."""
    rest = [_bulk(arg) for arg in args]
    return b"*%d\r\n%b%b" % (3 + len(keys) + len(rest), _packed_head(sha, keys), b"".join(rest))


@lru_cache(maxsize=64)
def _packed_head(sha: str, keys: tuple[bytes, ...]) -> bytes:
    return packed("EVALSHA", sha, len(keys), *keys).partition(_END)[2]


def packed(*parts: bytes | str | int) -> bytes:
    """Return a command as the server reads it."""
    return b"*%d\r\n%b" % (len(parts), b"".join([_bulk(part) for part in parts]))


def _bulk(part: bytes | str | int) -> bytes:
    data = part if isinstance(part, bytes) else str(part).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


def parsed(data: bytes, at: int = 0) -> tuple[Any, int]:
    """Return the value that begins at a place, and where the next one begins.

    Raises:
        _IncompleteError: It does not end in the data.
        NotAnsweredError: It is of a type that nothing of ours is answered with.
        ValueError: It is no RESP.
    """
    end = data.find(_END, at)
    if end < 0:
        raise _IncompleteError
    kind, head, at = data[at], data[at + 1 : end], end + 2
    if kind == _BULK:
        end = at + int(head)
        if end < at:
            return None, at
        if len(data) < end + 2:
            raise _IncompleteError
        return data[at:end], end + 2
    if kind == _NUMBER:
        return int(head), at
    if kind in (_ARRAY, _PUSH):
        values: list[Any] = [] if kind == _ARRAY else Push()
        for _ in range(int(head)):
            value, at = parsed(data, at)
            values.append(value)
        return values, at
    if kind == _NULL:
        return None, at
    if kind == _ERROR:
        return Refusal(head.partition(b" ")[0]), at
    raise NotAnsweredError


class Values:
    """The values that a connection sends, as its bytes come in."""

    def __init__(self) -> None:
        self.rest = b""
        """What has come in of a value that is not whole."""

    @property
    def may_owe_an_answer(self) -> bool:
        """Whether a value has begun that the server was asked for, and has not come in whole."""
        return self.rest[:1] not in (b"", _A_PUSH)

    def of(self, data: bytes) -> Iterator[Any]:
        """Take in more bytes, and yield the values that are whole by now.

        Raises:
            NotAnsweredError: One is of a type that nothing of ours is answered with.
            ValueError: It is no RESP.
        """
        data, at = self.rest + data if self.rest else data, 0
        self.rest = b""
        while at < len(data):
            try:
                value, at = parsed(data, at)
            except _IncompleteError:
                self.rest = data[at:]
                return
            yield value
