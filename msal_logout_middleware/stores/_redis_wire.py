"""Connections of a Redis client's own pool, spoken to directly: a command's bytes out, its answer in.

A client takes several times as long for a call as its connection does. The client makes the connections, with all that
is set for it (TLS, users, Sentinel, Unix sockets), and gets them back after a while, to check and to renew them.

1. A connection that owes an answer, or has given more than one, is closed: the next command must not be given it.
2. What is no plain answer is the client's to deal with: an error, a connection that broke, a type not known here. The
   caller then sends the command by the client, so that a server may be sent it twice.
3. On an event loop messages come over a connection that is asked as well, where it can bear both (RESP3): so a worker
   is woken once for its own ending's answer and message. Elsewhere they have a connection of their own.
4. Two names of a connection are used that the clients do not document, `_sock` and `_writer`. Where they are missing,
   or the client is not the library's own, everything goes by the client.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import MethodType
from typing import Any, Final, TypeVar

from ._resp import NotAnsweredError, Push, Refusal, Values, packed

HELD_SECONDS: Final = 10.0
_MOST_HELD: Final = 16
_OF_THE_POOL: Final = 4  # at most a quarter of a pool's connections is held
_AT_ONCE: Final = 65_536
_LIBRARIES: Final = ("redis.client", "redis.asyncio.client", "valkey.client", "valkey.asyncio.client")

Hear = Callable[[bytes], Any]
"""Is given each message as soon as it is there; what it returns, but `None`, is left for whoever waits."""


class _Inbox:
    """The messages of a subscription: each is heard at once, and what that leaves is kept for whoever waits."""

    def __init__(self, hear: Hear) -> None:
        self.left: deque[Any] = deque()
        self._hear = hear

    def take(self, value: Any) -> None:
        """Take a message in; any other value says nothing."""
        if isinstance(value, list) and len(value) == 3 and value[0] == b"message":
            left = self._hear(value[2])
            if left is not None:
                self.left.append(left)


class _LoopInbox(_Inbox):
    """The same on an event loop."""

    def __init__(self, hear: Hear) -> None:
        super().__init__(hear)
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    def take(self, value: Any) -> None:
        super().take(value)
        if self.left:
            self._wake()

    def end(self, error: Exception) -> None:
        """Let whoever waits know that no more will come."""
        self._error = error
        self._wake()

    async def next(self, timeout_seconds: float) -> Any:
        """Return what is left of the next message; `None` if there is none in time.

        Raises:
            ConnectionError: The connection is broken.
            Exception: Whatever else ended it.
        """
        if not self.left and self._error is None:
            self._waiter = self._loop.create_future()
            timer = self._loop.call_later(timeout_seconds, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
        if self.left:
            return self.left.popleft()
        if self._error is not None:
            raise self._error
        return None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


# Connections that are asked


class _PlainLine:
    """A connection of a plain client, on which one command after the other is sent. Its own timeout holds.

    Raises:
        AttributeError: It is no connection of a known kind.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.is_alone = True
        """Whether the server has said nothing of its own accord."""
        self.values = Values()
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
                for answer in _answer(self.values, data, self._say):
                    return answer
        except TimeoutError:
            raise
        except (OSError, ValueError, AttributeError) as error:
            raise NotAnsweredError from error
        raise NotAnsweredError

    def _say(self, _push: Push) -> None:
        self.is_alone = False

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
        self.is_alone = True
        """Whether the server has said nothing of its own accord."""
        self.values = Values()
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[Any] | None = None
        self._until = 0.0
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
        self._until = until
        if self._timer is None:
            self._timer = self._loop.call_at(until, self._look_at_the_clock)
        if self._transport.is_closing():
            self._fail(NotAnsweredError)
        else:
            self._transport.write(command)
        return waiter

    def _look_at_the_clock(self) -> None:
        """Give the call up if its time is over: one timer serves many calls, since hardly any comes to it."""
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._look_at_the_clock)
        else:
            self._fail(TimeoutError)

    def data_received(self, data: bytes) -> None:
        try:
            for answer in _answer(self.values, data, self._say):
                self._end(answer)
        except Exception:  # whatever cannot be read: the client is to ask, over another connection
            self._fail(NotAnsweredError)

    def _say(self, _push: Push) -> None:
        self.is_alone = False

    def _end(self, answer: Any) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is None:
            raise NotAnsweredError  # nobody has asked
        if not waiter.done():
            waiter.set_result(answer)

    def _fail(self, error: type[Exception]) -> None:
        waiter, self._waiter = self._waiter, None
        self._transport.abort()
        if waiter is not None and not waiter.done():
            waiter.set_exception(error())

    def eof_received(self) -> None:
        self._before.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._before.connection_lost(exc)
        self._fail(NotAnsweredError)

    def leave(self) -> None:
        """Leave the connection as its pool gave it."""
        self._transport.set_protocol(self._before)
        if self._timer is not None:
            self._timer.cancel()

    def cut(self) -> Any:
        """Close the connection at once; a call that is on it gets no plain answer."""
        self._fail(NotAnsweredError)
        self.leave()
        return self.connection.disconnect(nowait=True)


class HearingLine(_LoopLine):
    """A connection of an asyncio client that is asked, and subscribed.

    A call that is cancelled does not break it off: it is busy until the answer has come.
    """

    def __init__(self, connection: Any, hear: Hear) -> None:
        super().__init__(connection)
        self._inbox = _LoopInbox(hear)
        self.next = self._inbox.next

    @property
    def is_idle(self) -> bool:
        """Whether it can be asked."""
        return self._waiter is None and not self._transport.is_closing()

    def _say(self, push: Push) -> None:
        if push[0] == b"subscribe":
            self._end(push)
        else:
            self._inbox.take(push)

    def _end(self, answer: Any) -> None:
        super()._end(answer)
        if isinstance(answer, Refusal) and answer.code == b"READONLY":
            self._fail(NotAnsweredError)  # it was the primary, and is none any more

    def _fail(self, error: type[Exception]) -> None:
        super()._fail(error)
        self._inbox.end(ConnectionError())


def _answer(values: Values, data: bytes, say: Callable[[Push], None]) -> list[Any]:
    """Take in more bytes of a connection that is asked.

    Returns:
        The answer, alone; nothing, if it has not come in whole.

    Raises:
        NotAnsweredError: It is no plain one, or there is more than one.
        ValueError: It is no RESP.
    """
    answers = []
    for value in values.of(data):
        if isinstance(value, Push):
            say(value)
        else:
            answers.append(value)
    if len(answers) > 1 or (answers and values.may_owe_an_answer):
        raise NotAnsweredError
    return answers


_Line = _PlainLine | _LoopLine
_L = TypeVar("_L", bound=_Line)


class Lines:
    """The connections of a client that are held, each for one call at a time.

    The one that is subscribed, if any, is asked first.

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
        self._held: set[object] = set()
        self._free: list[tuple[float, _Line]] = []
        self._hearing: HearingLine | None = None

    async def ask(self, command: bytes, *, until: float) -> Any:
        """Send a command on a connection that nobody else has for now, and return its answer.

        Args:
            command: Its bytes.
            until: How long to wait, by the event loop's clock; a plain connection's own timeout holds.

        Raises:
            TimeoutError: There was no answer in time.
            NotAnsweredError: There was no plain one, or there is no connection to be held: the client is to be asked.
            Exception: Any of the client's: it could not connect.
        """
        self._forget_others()
        if self._hearing is not None and self._hearing.is_idle:
            answer = await self._hearing.ask(command, until)
            if isinstance(answer, Refusal):
                raise NotAnsweredError
            return answer
        held_until, line = await self._taken(until)
        try:
            answer = line.ask(command, until)
            if self._is_async:
                answer = await answer
        except BaseException:  # cancelled ones as well: the answer may still come
            await self._give_back(line, whole=False)
            raise
        if line.is_alone and not isinstance(answer, Refusal) and line in self._held:
            self._free.append((held_until, line))
            return answer
        # What the server says of its own accord is for the client to hear, on its next connection.
        await self._give_back(line, whole=line.is_alone)
        if isinstance(answer, Refusal):
            raise NotAnsweredError
        return answer

    async def subscribe(self, channel: bytes, hear: Hear, *, until: float) -> HearingLine | None:
        """Subscribe to a channel on a connection that is asked from now on; `None`: none of the client's can bear both.

        Args:
            channel: Its name.
            hear: Is given each message.
            until: How long to wait, by the event loop's clock.

        Raises:
            TimeoutError: There was no answer in time.
            NotAnsweredError: There was no plain one, or there is no connection to be held.
            Exception: Any of the client's: it could not connect.
        """
        self._forget_others()
        if not self._is_async:
            return None
        line = await self._one_more(until, lambda connection: HearingLine(connection, hear))
        answer: Any = None
        # With the other protocol a connection does one of them.
        bears_both = str(getattr(line.connection, "protocol", 2)) == "3"
        try:
            if bears_both:
                answer = await line.ask(packed("SUBSCRIBE", channel), until)
        finally:
            if not isinstance(answer, Push):  # once asked, it may be subscribed, though nobody has the answer
                await self._give_back(line, whole=not bears_both)
        self._hearing = line if isinstance(answer, Push) else None
        return self._hearing

    async def unsubscribe(self, line: HearingLine) -> None:
        """Close a connection that was subscribed."""
        if self._hearing is line:
            self._hearing = None
        await self._give_back(line, whole=False)

    def _forget_others(self) -> None:
        """Forget what was held by another process, or on a loop that has ended."""
        owner: Any = asyncio.get_running_loop() if self._is_async else os.getpid()
        if owner != self._owner:
            self._owner, self._held, self._free, self._hearing = owner, set(), [], None

    async def _taken(self, until: float) -> tuple[float, _Line]:
        while self._free:
            try:
                held_until, line = self._free.pop()
            except IndexError:  # another thread was quicker
                break
            if time.monotonic() < held_until:
                return held_until, line
            await self._give_back(line)
        line = await self._one_more(until, _LoopLine if self._is_async else _PlainLine)
        return time.monotonic() + HELD_SECONDS, line

    async def _one_more(self, until: float, make: Callable[[Any], _L]) -> _L:
        held, place = self._held, object()
        held.add(place)  # from now on: others would take more than the pool's quarter meanwhile
        try:
            if len(held) > self._most:
                raise NotAnsweredError
            held.add(line := await self._new(until, make))
        finally:
            held.discard(place)
        return line

    async def _new(self, until: float, make: Callable[[Any], _L]) -> _L:
        pool: Any = self._pool
        names = ("EVALSHA",) if self._wants_a_name else ()
        if self._is_async:
            async with asyncio.timeout_at(until):
                connection = await pool.get_connection(*names)
        else:
            connection = pool.get_connection(*names)
        try:
            return make(connection)
        except AttributeError as error:
            if getattr(connection, "_writer" if self._is_async else "_sock", self) is not None:
                self._most = 0  # it is of an unknown kind; else somebody has closed it meanwhile
            await self._awaited(pool.release(connection))
            raise NotAnsweredError from error

    async def _give_back(self, line: _Line, *, whole: bool = True) -> None:
        """Give a connection back to its pool; one that may owe something is closed before."""
        self._held.discard(line)
        with suppress(Exception):  # any client's: it is closed already
            if whole and line.is_alone and not line.values.rest:
                line.leave()
            else:
                await self._awaited(line.cut())
        with suppress(Exception):  # any client's: the pool does not know it any more
            await self._awaited(self._pool.release(line.connection))

    async def close(self) -> None:
        """Give all back that no call is on, and end the subscription."""
        if self._hearing is not None:
            await self.unsubscribe(self._hearing)
        self._held = set()  # a call's own line goes back when it is answered
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


# Connections that are only subscribed


class _PlainListener:
    """Reads the messages of a plain connection that is subscribed.

    Raises:
        AttributeError: It is no connection of a known kind.
    """

    def __init__(self, connection: Any, hear: Hear) -> None:
        self._connection = connection
        self._inbox = _Inbox(hear)
        self._values = Values()
        _ = connection._sock.recv

    def next(self, timeout_seconds: float) -> Any:
        """Return what is left of the next message; `None` if there is none in time.

        Raises:
            ConnectionError: The connection is broken.
            ValueError: What comes is no RESP.
        """
        until = time.monotonic() + timeout_seconds
        while not self._inbox.left:
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
            for value in self._values.of(data):
                self._inbox.take(value)
        return self._inbox.left.popleft()


class _LoopListener(asyncio.Protocol):
    """Reads the messages of an asyncio connection that is subscribed.

    Raises:
        AttributeError: It is no connection of a known kind.
    """

    def __init__(self, connection: Any, hear: Hear) -> None:
        self._inbox = _LoopInbox(hear)
        self.next = self._inbox.next
        self._values = Values()
        self._transport = connection._writer.transport
        self._before = self._transport.get_protocol()
        self._transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        try:
            for value in self._values.of(data):
                self._inbox.take(value)
        except Exception as error:  # whatever cannot be read
            self._inbox.end(error)

    def eof_received(self) -> None:
        self._before.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._before.connection_lost(exc)
        self._inbox.end(ConnectionError())


Listener = _PlainListener | _LoopListener | HearingLine


def listener(pubsub: Any, hear: Hear, *, is_async: bool) -> Listener | None:
    """Return what reads the messages of a client's subscription; `None`: only the client can."""
    module = type(pubsub).__module__
    if module not in _LIBRARIES:
        return None
    try:
        return (_LoopListener if is_async else _PlainListener)(pubsub.connection, hear)
    except AttributeError:
        return None
