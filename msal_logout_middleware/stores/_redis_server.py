"""The talk with a Redis or Valkey server: commands, scripts and messages by a client, and what is wrong in a sentence.

1. Hot commands go over the client's connections directly (`_redis_wire.py`), and by the client where that cannot be.
2. No error quotes what an engine says: it may hold what it was given.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Coroutine, Sequence
from contextlib import nullcontext, suppress
from typing import Any, TypeVar

from .._drive import MaybeAwaitable, run
from ..errors import StoreError
from ._redis_scripts import Script
from ._redis_wire import Hear, HearingLine, Lines, Listener, listener
from ._resp import NotAnsweredError, packed, packed_call

logger = logging.getLogger("msal_logout_middleware")

T = TypeVar("T")


class Server:
    """A client of the server, plain or asyncio: coroutines that wait in their own world.

    Args:
        client_or_url: The client, or the URL that a plain one is made of.
        timeout_seconds: How long a call waits for the server; a plain client that was given has a timeout of its own.
        wait_seconds: How long a call waits for replicas.

    Raises:
        TypeError: It is no client, or one that remembers what it has read.
        ValueError: The URL cannot be read.
        ImportError: The URL's client is not installed.
    """

    def __init__(self, client_or_url: Any, timeout_seconds: float, wait_seconds: float) -> None:
        self._is_ours = isinstance(client_or_url, str)
        self._client = _client(client_or_url, timeout_seconds) if self._is_ours else client_or_url
        if hasattr(self._client, "master_for"):
            raise TypeError(
                'RedisStore needs the client of a Sentinel\'s primary: sentinel.master_for("name")'
            )
        is_client = callable(getattr(self._client, "execute_command", None))
        if not is_client or isinstance(self._client, type):
            raise TypeError("RedisStore needs a client of redis-py or valkey-py, or a URL")
        if getattr(getattr(self._client, "connection_pool", None), "cache", None) is not None:
            raise TypeError(
                "RedisStore needs a client without cache_config: what it reads may change at any time"
            )
        self._timeout = timeout_seconds
        self._wait_milliseconds = int(wait_seconds * 1000)
        self.is_async = hasattr(self._client, "__aenter__")
        self.is_cluster = hasattr(self._client, "get_node_from_key")
        self.has_messages = hasattr(self._client, "pubsub")
        self._lines = Lines(self._client, is_async=self.is_async)
        if not self.is_async and not self._is_ours and _waits_for_ever(self._client):
            logger.warning(
                "the store's client has no socket_timeout: when the server hangs, so will requests; give it one"
            )

    def drive(self, flow: Coroutine[Any, Any, T]) -> MaybeAwaitable[T]:
        """Return what a coroutine comes to; an asynchronous one is the caller's to await."""
        return flow if self.is_async else run(flow)

    async def read(self, *command: bytes | str) -> Any:
        """Send one command that reads, and return its answer.

        Raises:
            StoreError: The server did not do it.
        """
        try:
            return await self._directly(packed(*command), command)
        except Exception as error:  # any client's
            raise StoreError(_sentence(error)) from error

    async def ask(self, *command: Any, **options: Any) -> Any:
        """Send one command by the client, and return what that makes of the answer.

        Raises:
            StoreError: The server did not do it, or maybe did and could not say so.
        """
        try:
            return await self._sent(*command, **options)
        except Exception as error:  # any client's
            raise StoreError(_sentence(error)) from error

    async def call(self, script: Script, keys: tuple[bytes, ...], args: Sequence[Any]) -> Any:
        """Run a script, and return its answer.

        Raises:
            StoreError: The server did not run it, or maybe did and could not say so.
        """
        try:
            try:
                called = "EVALSHA", script.sha, len(keys), *keys, *args
                return await self._directly(packed_call(script.sha, keys, args), called)
            except Exception as error:  # any client's
                if "NoScriptError" not in _names(error):
                    raise
                return await self._sent("EVAL", script.text, len(keys), *keys, *args)
        except Exception as error:  # any client's
            raise StoreError(_sentence(error)) from error

    async def call_and_wait(
        self, script: Script, keys: tuple[bytes, ...], args: Sequence[Any], *, replicas: int
    ) -> tuple[Any, int]:
        """Run a script; return its answer, and how many replicas have what it wrote.

        Raises:
            StoreError: The server did not run it, or maybe did and could not say so.
        """
        try:
            try:
                return await self._sent_and_waited(replicas, "EVALSHA", script.sha, len(keys), *keys, *args)
            except Exception as error:  # any client's
                if "NoScriptError" not in _names(error):
                    raise
                return await self._sent_and_waited(replicas, "EVAL", script.text, len(keys), *keys, *args)
        except Exception as error:  # any client's
            raise StoreError(_sentence(error)) from error

    async def scan(self, pattern: bytes, after: str | None, limit: int) -> tuple[Sequence[bytes], str | None]:
        """Look at some keys; return those like a pattern, and where to go on: at each primary of a cluster in turn.

        Raises:
            StoreError: The server did not do it, or the cluster has other primaries than before.
        """
        try:
            primaries = await self._primaries()
        except Exception as error:  # any client's
            raise StoreError(_sentence(error)) from error
        names = sorted(primaries)
        cursor, at, names_before = (0, 0, names) if after is None else json.loads(after)
        if names_before != names:
            raise StoreError("the cluster's primaries have changed meanwhile: start anew")
        # Not by a script: a proxy in front of many servers would run it on one of them.
        scan = ("SCAN", cursor, "MATCH", pattern, "COUNT", limit)
        cursor, found = await self.ask(*scan, **primaries[names[at]])
        if isinstance(cursor, dict):  # a client of a cluster says whose it is
            (cursor,) = cursor.values()
        if not cursor:
            at += 1
        return found, json.dumps([cursor, at, names]) if at < len(names) else None

    async def _primaries(self) -> dict[str, dict[str, Any]]:
        """Return how each server that has keys is sent a command, by its name; without a cluster it is one."""
        if not self.is_cluster:
            return {"": {}}
        async with asyncio.timeout(self._timeout) if self.is_async else nullcontext():
            await self.know_cluster()
        return {node.name: {"target_nodes": [node]} for node in self._client.get_primaries()}

    async def know_cluster(self) -> None:
        """Have the client of a cluster know its servers; a plain one does when it is made."""
        if self.is_cluster and self.is_async:
            await self._client.initialize()

    async def _directly(self, sent: bytes, command: Sequence[Any]) -> Any:
        """Send a command, given twice: as its bytes, and as the client takes it where those get no plain answer."""
        until = asyncio.get_running_loop().time() + self._timeout if self.is_async else 0.0
        try:
            return await self._lines.ask(sent, until=until)
        except NotAnsweredError:
            return await self._sent(*command, until=until)

    async def _sent(self, *command: Any, until: float | None = None, **options: Any) -> Any:
        # The option has bytes stay bytes where the client would decode them.
        if not self.is_async:
            return self._client.execute_command(*command, NEVER_DECODE=True, **options)
        async with asyncio.timeout(self._timeout) if until is None else asyncio.timeout_at(until):
            return await self._client.execute_command(*command, NEVER_DECODE=True, **options)

    async def _sent_and_waited(self, replicas: int, *command: Any) -> tuple[Any, int]:
        """Send a command, and wait for replicas on the same connection, since the server goes by that."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.execute_command(*command, NEVER_DECODE=True)
        pipeline.execute_command("WAIT", replicas, self._wait_milliseconds)
        sent = pipeline.execute(raise_on_error=False)  # an error that it raises would quote the command
        if self.is_async:
            async with asyncio.timeout(self._timeout + self._wait_milliseconds / 1000):
                sent = await sent
        for answer in sent:
            if isinstance(answer, Exception):
                raise answer
        answer, acknowledged = sent
        return answer, int(acknowledged)

    async def subscribe(self, channel: bytes, hear: Hear) -> Messages | None:
        """Subscribe to a channel; the server has it when this returns. `None`: the client cannot.

        Args:
            channel: Its name.
            hear: Is given each message as soon as it is there; what it returns is left for whoever waits.

        Raises:
            StoreError: The server could not be asked, or refused.
        """
        if not self.has_messages:
            return None
        messages = Messages(self, self._client, self._lines, hear)
        try:
            await messages.begin(channel, self._timeout)
        except BaseException:
            await messages.closed()
            raise
        return messages

    async def close(self, following: asyncio.Task[None] | None) -> None:
        """Close what is ours, when the feed's task has ended."""
        if following is not None and following.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([following])
        await self._lines.close()
        if self._is_ours:
            self._client.connection_pool.disconnect()  # redis-py 5.0.0's `close` leaves it


class Messages:
    """A subscription, as the feed reads it."""

    def __init__(self, server: Server, client: Any, lines: Lines, hear: Hear) -> None:
        self._server = server
        self._client = client
        self._lines = lines
        self._hear = hear
        self._pubsub: Any = None
        self._listener: Listener | None = None

    async def begin(self, channel: bytes, timeout_seconds: float) -> None:
        """Subscribe; the server has it when this returns.

        Raises:
            StoreError: The server could not be asked, or refused.
        """
        try:
            if self._server.is_async:
                until = asyncio.get_running_loop().time() + timeout_seconds
                with suppress(NotAnsweredError):
                    self._listener = await self._lines.subscribe(channel, self._hear, until=until)
            if self._listener is None:
                # A plain client's own timeouts hold; an asyncio one may have none, and would wait for ever.
                async with asyncio.timeout(timeout_seconds) if self._server.is_async else nullcontext():
                    await self._begin_by_client(channel, timeout_seconds)
        except Exception as error:  # any client's
            raise StoreError(_sentence(error)) from error

    async def _begin_by_client(self, channel: bytes, timeout_seconds: float) -> None:
        """Subscribe on a connection that does nothing else."""
        until, kind = time.monotonic() + timeout_seconds, None
        await self._server.know_cluster()  # redis-py's subscription takes that for granted
        self._pubsub = self._client.pubsub()
        await self._awaited(self._pubsub.subscribe(channel))
        while kind != "subscribe" and time.monotonic() < until:
            found = await self._read(until - time.monotonic())
            kind = found and found["type"]
        if kind != "subscribe":
            raise TimeoutError
        self._listener = listener(self._pubsub, self._hear, is_async=self._server.is_async)

    def next(self, timeout_seconds: float) -> MaybeAwaitable[Any]:
        """Return what is left of the next message for whoever waits; `None` if there is none in time.

        Raises:
            StoreError: The connection is broken.
        """
        return self._server.drive(self._next(timeout_seconds))

    async def _next(self, timeout_seconds: float) -> Any:
        try:
            if self._listener is not None:
                return await self._awaited(self._listener.next(timeout_seconds))
            found = await self._read(timeout_seconds)
        except Exception as error:  # any client's
            raise StoreError(_sentence(error)) from error
        if found is None or found["type"] != "message":
            return None
        return self._hear(found["data"])

    async def _read(self, timeout_seconds: float) -> Any:
        return await self._awaited(self._pubsub.get_message(timeout=max(0.0, timeout_seconds)))

    def close(self) -> MaybeAwaitable[None]:
        """End the subscription."""
        return self._server.drive(self.closed())

    async def closed(self) -> None:
        """End the subscription."""
        if isinstance(self._listener, HearingLine):
            await self._lines.unsubscribe(self._listener)
        if self._pubsub is None:
            return
        with suppress(Exception):  # any client's: the connection is gone already
            close = getattr(self._pubsub, "aclose", None) or self._pubsub.close
            await self._awaited(close())

    async def _awaited(self, value: Any) -> Any:
        return await value if self._server.is_async else value


def _client(url: str, timeout_seconds: float) -> Any:
    """Make a client of a URL, with timeouts, and without retries: sign-outs are tried again by the flow."""
    timeouts = {"socket_timeout": timeout_seconds, "socket_connect_timeout": timeout_seconds}
    try:
        if url.startswith(("valkey://", "valkeys://")):
            import valkey  # noqa: PLC0415 - whoever gives a URL needs it
            from valkey.backoff import NoBackoff as NoValkeyBackoff  # noqa: PLC0415
            from valkey.retry import Retry as ValkeyRetry  # noqa: PLC0415

            return valkey.Valkey.from_url(url, retry=ValkeyRetry(NoValkeyBackoff(), 0), **timeouts)
        import redis  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415

        return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **timeouts)
    except ImportError:
        raise ImportError(
            "a URL needs a client: install msal-logout-middleware[redis], or valkey for a valkey:// URL"
        ) from None
    except ValueError:  # which may quote the URL
        raise ValueError(
            "the store's URL cannot be read: redis[s]://[user[:password]@]host[:port][/db], with what is not plain in"
            " the user and the password percent-encoded"
        ) from None


def _waits_for_ever(client: Any) -> bool:
    pool = getattr(client, "connection_pool", None) or getattr(client, "nodes_manager", None)
    options = getattr(pool, "connection_kwargs", {})
    return options.get("socket_timeout") is None


_WHAT_IS_WRONG = (
    ({"OOM", "OutOfMemoryError"}, "has no memory left: raise its `maxmemory`"),
    (
        {"NOAUTH", "WRONGPASS", "AuthenticationError", "AuthenticationWrongNumberOfArgsError"},
        "refuses the user or the password",
    ),
    (
        {"NOPERM", "NoPermissionError"},
        "does not allow its user what the store needs: see the ACL in the store's documentation",
    ),
    ({"MOVED", "MovedError"}, "is one of a cluster: give the store a client of the Cluster"),
    ({"READONLY", "ReadOnlyError"}, "is a replica, which cannot be written: connect to the primary"),
    ({"NOREPLICAS"}, "has too few replicas to take a write"),
    ({"DB index"}, "has no database of that number: correct the end of the URL"),
    ({"MISCONF"}, "cannot save to its disk, and so takes no writes"),
    ({"LOADING", "BusyLoadingError"}, "has just started, and is still loading its data"),
    ({"BUSY"}, "is busy with somebody's script"),
    (
        {"CLUSTERDOWN", "ClusterDownError", "MasterDownError", "MASTERDOWN"},
        "is part of a cluster that is down",
    ),
    ({"WRONGTYPE"}, "holds another application's keys under the store's prefix: give it a prefix of its own"),
    ({"UnknownCommandError"}, "is too old: Redis 6.2 or later, or Valkey, is needed"),
    ({"TimeoutError"}, "did not answer in time"),
    (
        {"ConnectionError", "OSError"},
        "cannot be reached: see that it runs, and that the app may connect to it",
    ),
)
_CODE = re.compile(r"\b[A-Z]{4,}\b|\bOOM\b|\bDB index\b")


_RIGHT = re.compile(r"\b(key|channel)s?\b|run the '([a-z|]+)'")


def _lacks(said: str) -> str:
    """Say which right is missing, as far as the server tells."""
    found = _RIGHT.search(said)
    if found is None:
        return "it does not say what"
    return f"the command {found[2]}" if found[2] else f"a {found[1]}: is the prefix the one of the ACL?"


def _tried_for(error: BaseException) -> BaseException:
    """Return what an asyncio client tried again for when its time was over, which says more; else the error."""
    found: BaseException | None = error.__cause__ if isinstance(error, TimeoutError) else None
    while found is not None:
        if type(found).__module__.partition(".")[0] in {"redis", "valkey"}:
            return found
        found = found.__context__
    return error


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _sentence(error: BaseException) -> str:
    """Say what is wrong with the server, and what to do; without the engine's text, which may quote anything."""
    if isinstance(error, StoreError):
        return str(error)
    error = _tried_for(error)
    for said in ({*_CODE.findall(str(error)[:1000])}, _names(error)):
        for names, what in _WHAT_IS_WRONG:
            if said & names:
                lacks = f" ({_lacks(str(error))})" if "NOPERM" in names else ""
                return f"the store's server {what}{lacks}"
    return f"the store's server did not do what it was asked for ({type(error).__name__})"
