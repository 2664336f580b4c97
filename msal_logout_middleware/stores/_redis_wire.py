"""Connections of a Redis client's own pool, spoken to directly: a command's bytes out, its answer in.

A client takes several times as long for a call as its connection does. The client makes the connections, with all that
is set for it (TLS, users, Sentinel, Unix sockets), and gets them back after a while, to check and to renew them.

1. A connection that owes an answer, or has given more than one, is closed: the next command must not be given it.
2. What is no plain answer is the client's to deal with: an error, a connection that broke, a type not known here. The
   caller then sends the command by the client, so that a server may be sent it twice.
3. Two names of a connection are used that the clients do not document, `_sock` and `_writer`. Where they are missing,
   or the client is not the library's own, everything goes by the client.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from types import MethodType
from typing import Any, Final

HELD_SECONDS: Final = 10.0
_MOST_HELD: Final = 16
_OF_THE_POOL: Final = 4  # at most a quarter of a pool's connections is held
_AT_ONCE: Final = 65_536
_LIBRARIES: Final = ("redis.client", "redis.asyncio.client", "valkey.client", "valkey.asyncio.client")
_BULK, _NUMBER, _ARRAY, _PUSH, _NULL, _ERROR = b"$:*>_-"


class NotAnsweredError(Exception):
    """There was no plain answer: the client is to be asked."""


class _IncompleteError(Exception):
    """More bytes belong to an answer."""


class _Push(list[Any]):
    """What the server sends of its own accord (RESP3)."""


class _Refusal:
    """An error, without its words."""


# Commands and answers


def packed_call(sha: str, keys: tuple[bytes, ...], args: Iterable[bytes | str | int]) -> bytes:
    """Return the command that runs a script, as the server reads it (RESP: an array of bulk strings)."""
    rest = [_bulk(arg) for arg in args]
    return b"*%d\r\n%b%b" % (3 + len(keys) + len(rest), _packed_head(sha, keys), b"".join(rest))


@lru_cache(maxsize=64)
def _packed_head(sha: str, keys: tuple[bytes, ...]) -> bytes:
    return packed("EVALSHA", sha, len(keys), *keys).partition(b"\r\n")[2]


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
    end = data.find(b"\r\n", at)
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
        values: list[Any] = [] if kind == _ARRAY else _Push()
        for _ in range(int(head)):
            value, at = parsed(data, at)
            values.append(value)
        return values, at
    if kind == _NULL:
        return None, at
    if kind == _ERROR:
        return _Refusal(), at
    raise NotAnsweredError


class _Answer:
    """The one answer that a connection owes, as its bytes come in."""

    def __init__(self) -> None:
        self.is_alone = True
        """Whether the server has said nothing else, of its own accord."""
        self._data = b""

    def whole(self, data: bytes) -> Any:
        """Take in more bytes, and return the answer.

        Raises:
            _IncompleteError: It has not come in whole.
            NotAnsweredError: It is no plain one, or there is more than one.
            ValueError: It is no RESP.
        """
        self._data = self._data + data if self._data else data
        while True:
            value, end = parsed(self._data)
            if not isinstance(value, _Push):
                break
            self.is_alone, self._data = False, self._data[end:]
        if end != len(self._data):
            raise NotAnsweredError
        self._data = b""
        return value


# Connections that are asked


class _PlainLine:
    """A connection of a plain client, on which one command after the other is sent. Its own timeout holds.

    Raises:
        AttributeError: It is no connection of a known kind.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.answer = _Answer()
        _ = connection._sock.recv

    def ask(self, command: bytes, _until: float) -> Any:
        """Send a command, and return its answer.

        Raises:
            TimeoutError: There was none in time.
            NotAnsweredError: There was no plain one.
        """
        try:
            sock = self.connection._sock  # none, if somebody has closed it
            sock.sendall(command)
            while data := sock.recv(_AT_ONCE):
                try:
                    return self.answer.whole(data)
                except _IncompleteError:
                    pass
        except TimeoutError:
            raise
        except (OSError, ValueError, AttributeError) as error:
            raise NotAnsweredError from error
        raise NotAnsweredError

    def leave(self) -> None:
        """Leave the connection as its pool gave it."""

    def cut(self) -> Any:
        """Close the connection at once."""
        self.connection.disconnect()


class _LoopLine(asyncio.Protocol):
    """A connection of an asyncio client: while it is held, this is its transport's protocol.

    Raises:
        AttributeError: It is no connection of a known kind.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.answer = _Answer()
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport = connection._writer.transport
        self._before = self._transport.get_protocol()
        self._transport.set_protocol(self)

    def ask(self, command: bytes, until: float) -> asyncio.Future[Any]:
        """Send a command, and return what becomes its answer.

        Raises:
            TimeoutError: There was none in time.
            NotAnsweredError: There was no plain one.
        """
        self._waiter = waiter = self._loop.create_future()
        self._timer = self._loop.call_at(until, self._end, None, TimeoutError)
        if self._transport.is_closing():
            self._end(None, NotAnsweredError)
        else:
            self._transport.write(command)
        return waiter

    def _end(self, answer: Any, error: type[Exception] | None = None) -> None:
        waiter, self._waiter = self._waiter, None
        if self._timer is not None:
            self._timer.cancel()
        if error is not None:
            self._transport.abort()
        if waiter is None or waiter.done():  # nobody waits for it any more
            self._transport.abort()
        elif error is not None:
            waiter.set_exception(error())
        else:
            waiter.set_result(answer)

    def data_received(self, data: bytes) -> None:
        try:
            answer = self.answer.whole(data)
        except _IncompleteError:
            return
        except Exception:  # whatever cannot be read: the client is to ask, over another connection
            self._end(None, NotAnsweredError)
        else:
            self._end(answer)

    def eof_received(self) -> None:
        self._before.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._before.connection_lost(exc)
        self._end(None, NotAnsweredError)

    def leave(self) -> None:
        """Leave the connection as its pool gave it."""
        self._transport.set_protocol(self._before)

    def cut(self) -> Any:
        """Close the connection at once."""
        self.leave()
        self._transport.abort()
        return self.connection.disconnect(nowait=True)


_Line = _PlainLine | _LoopLine


class Lines:
    """The connections of a client that are held, each for one call at a time.

    Args:
        client: A client of redis-py or valkey-py, plain or asyncio.
        is_async: Which of these.
    """

    def __init__(self, client: Any, *, is_async: bool) -> None:
        self._pool: Any = getattr(client, "connection_pool", None)
        self._is_async = is_async
        self._most, self._wants_a_name = 0, False
        take = getattr(self._pool, "get_connection", None)
        if _is_of_a_library(client) and callable(take):
            self._most = min(_MOST_HELD, getattr(self._pool, "max_connections", 0) // _OF_THE_POOL)
            self._wants_a_name = _wants_a_name(take)
        self._owner: Any = None  # the process, or the event loop, that the connections are of
        self._held: set[_Line] = set()
        self._free: list[tuple[float, _Line]] = []

    async def ask(self, command: bytes, *, until: float) -> Any:
        """Send a command on a connection of its own, and return its answer.

        Args:
            command: Its bytes.
            until: How long to wait, by the event loop's clock; a plain connection's own timeout holds.

        Raises:
            TimeoutError: There was no answer in time.
            NotAnsweredError: There was no plain one, or there is no connection to be held: the client is to be asked.
            Exception: Any of the client's: it could not connect.
        """
        held_until, line = await self._taken(until)
        try:
            answer = line.ask(command, until)
            if self._is_async:
                answer = await answer
        except BaseException:  # cancelled ones as well: the answer may still come
            await self._give_back(line, whole=False)
            raise
        if line.answer.is_alone and not isinstance(answer, _Refusal):
            self._free.append((held_until, line))
            return answer
        # What the server says of its own accord is for the client to hear, on its next connection.
        await self._give_back(line, whole=line.answer.is_alone)
        if isinstance(answer, _Refusal):
            raise NotAnsweredError
        return answer

    async def _taken(self, until: float) -> tuple[float, _Line]:
        owner: Any = asyncio.get_running_loop() if self._is_async else os.getpid()
        if owner != self._owner:  # what was held is of another process, or of a loop that has ended
            self._owner, self._held, self._free = owner, set(), []
        while self._free:
            try:
                held_until, line = self._free.pop()
            except IndexError:  # another thread was quicker
                break
            if time.monotonic() < held_until:
                return held_until, line
            await self._give_back(line)
        if len(self._held) >= self._most:
            raise NotAnsweredError
        self._held.add(line := await self._new(until))
        return time.monotonic() + HELD_SECONDS, line

    async def _new(self, until: float) -> _Line:
        pool: Any = self._pool
        names = ("EVALSHA",) if self._wants_a_name else ()
        if self._is_async:
            async with asyncio.timeout_at(until):
                connection = await pool.get_connection(*names)
        else:
            connection = pool.get_connection(*names)
        try:
            return _LoopLine(connection) if self._is_async else _PlainLine(connection)
        except AttributeError as error:
            self._most = 0
            await self._awaited(pool.release(connection))
            raise NotAnsweredError from error

    async def _give_back(self, line: _Line, *, whole: bool = True) -> None:
        """Give a connection back to its pool; one that may owe something is closed before."""
        self._held.discard(line)
        with suppress(Exception):  # any client's: the pool does not know it any more
            if whole:
                line.leave()
            else:
                await self._awaited(line.cut())
            await self._awaited(self._pool.release(line.connection))

    async def close(self) -> None:
        """Give all back that no call is on."""
        while self._free:
            with suppress(IndexError):
                await self._give_back(self._free.pop()[1])

    async def _awaited(self, value: Any) -> Any:
        return await value if self._is_async else value


def _is_of_a_library(client: Any) -> bool:
    """Tell whether a client's commands are sent by a library's own code: nobody has wrapped or replaced it."""
    execute = getattr(client, "execute_command", None)
    return type(execute) is MethodType and execute.__module__ in _LIBRARIES


def _wants_a_name(get_connection: Callable[..., Any]) -> bool:
    """Tell whether a pool wants a command's name: the clients did, until they warned of it."""
    name = inspect.signature(get_connection).parameters.get("command_name")
    return name is not None and name.default is name.empty


# Connections that are subscribed

Hear = Callable[[bytes], Any]
"""Is given each message as soon as it is there; what it returns, but `None`, is left for whoever waits."""


class _PlainListener:
    """Reads the messages of a plain connection that is subscribed.

    Raises:
        AttributeError: It is no connection of a known kind.
    """

    def __init__(self, connection: Any, hear: Hear) -> None:
        self._connection = connection
        self._messages = _Messages(hear)
        _ = connection._sock.recv

    def next(self, timeout_seconds: float) -> Any:
        """Return what is left of the next message; `None` if there is none in time.

        Raises:
            ConnectionError: The connection is broken.
            ValueError: What comes is no RESP.
        """
        until = time.monotonic() + timeout_seconds
        while not self._messages.left:
            seconds = until - time.monotonic()
            if seconds <= 0:
                return None
            sock = self._connection._sock
            if sock is None:
                raise ConnectionError
            sock.settimeout(seconds)
            try:
                data = sock.recv(_AT_ONCE)
            except TimeoutError:
                return None
            if not data:
                raise ConnectionError
            self._messages.receive(data)
        return self._messages.left.popleft()


class _LoopListener(asyncio.Protocol):
    """Reads the messages of an asyncio connection that is subscribed.

    Raises:
        AttributeError: It is no connection of a known kind.
    """

    def __init__(self, connection: Any, hear: Hear) -> None:
        self._messages = _Messages(hear)
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._transport = connection._writer.transport
        self._before = self._transport.get_protocol()
        self._transport.set_protocol(self)

    async def next(self, timeout_seconds: float) -> Any:
        """Return what is left of the next message; `None` if there is none in time.

        Raises:
            ConnectionError: The connection is broken.
            ValueError: What comes is no RESP.
        """
        if not self._messages.left and self._error is None:
            self._waiter = self._loop.create_future()
            timer = self._loop.call_later(timeout_seconds, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
        if self._messages.left:
            return self._messages.left.popleft()
        if self._error is not None:
            raise self._error
        return None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def data_received(self, data: bytes) -> None:
        try:
            self._messages.receive(data)
        except Exception as error:  # whatever cannot be read
            self._error = error
        if self._messages.left or self._error is not None:
            self._wake()

    def eof_received(self) -> None:
        self._before.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._before.connection_lost(exc)
        self._error = ConnectionError()
        self._wake()


Listener = _PlainListener | _LoopListener


def listener(pubsub: Any, hear: Hear, *, is_async: bool) -> Listener | None:
    """Return what reads the messages of a client's subscription; `None`: only the client can."""
    module = type(pubsub).__module__
    if module not in _LIBRARIES:
        return None
    try:
        return (_LoopListener if is_async else _PlainListener)(pubsub.connection, hear)
    except AttributeError:
        return None


class _Messages:
    """The messages of a subscription, as its bytes come in."""

    def __init__(self, hear: Hear) -> None:
        self.left: deque[Any] = deque()
        self._hear = hear
        self._data = b""

    def receive(self, data: bytes) -> None:
        """Take in more bytes, and hand on each message that is whole."""
        data, at = self._data + data, 0
        with suppress(_IncompleteError):
            while True:
                value, at = parsed(data, at)
                if isinstance(value, list) and len(value) == 3 and value[0] == b"message":
                    left = self._hear(value[2])
                    if left is not None:
                        self.left.append(left)
        self._data = data[at:]
