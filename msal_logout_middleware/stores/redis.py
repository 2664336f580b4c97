"""The store for many machines: a Redis or Valkey server, by any of their clients, plain or asynchronous.

1. Every change is one Lua script (`_redis_scripts.py`): one round trip, and all of it or nothing.
2. The caller gives the client, or a URL. Clients are known by what they can do, never by their class.
3. Nothing is asked of the server before the first use, so an app starts without it.
4. The workers hear of each ending by a message, and are vouched for by asking (`_feed.py`).
5. No error quotes what an engine says: it may hold what it was given.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeVar

from .._drive import MaybeAwaitable, run
from ..errors import StoreError
from . import Ended, Ending, JournalRow, Loaded, Mark, Marks, Rows, SessionRecord, Weakness
from . import _redis_scripts as scripts
from ._feed import Answer, Feed, Messages, News, Tip
from ._times import CLOCK_STEP_SECONDS, REMOVED_ROW_SECONDS, TOKEN_CACHE_LIFETIME_SECONDS
from .encryption import Encryption, opened, protected

logger = logging.getLogger("msal_logout_middleware")

T = TypeVar("T")

BOUND_SECONDS = 1.0
TIMEOUT_SECONDS = 2.0
WAIT_SECONDS = 1.0

_KINDS: Final = {"h": "handle", "k": "key"}
_LONGEST_MILLISECONDS = 10**15
_BEATS_WITHOUT_MESSAGES = 20  # within the bound
_ANY_ROW = b"[0-9a-f]" * 64


class RedisStore:
    """Keeps everything in Redis or Valkey, for all workers of all machines.

    A client of redis-py or valkey-py, plain or asyncio, for one server, Sentinel or Cluster; its own timeouts hold
    for a plain one, so give it a `socket_timeout`. A store made of an asyncio client is asynchronous.

    Args:
        client_or_url: A client, or a URL (`redis://`, `rediss://`, `unix://`, `valkey://`, `valkeys://`), of which a
            plain client is made.
        prefix: What all keys begin with. Give each app one of its own.
        bound_seconds: For how long at most a worker does not hear of a sign-out, whatever fails.
        timeout_seconds: How long a call waits for the server: one of an asyncio client, or of the client that is
            made of a URL.
        wait_replicas: How many replicas must have a sign-out before it counts as done; not with Cluster.
        wait_seconds: How long to wait for them.
        clock: The time in seconds since 1970, by which things expire.
        token_cache_lifetime_seconds: How long a token cache is kept after its last write.
        removed_row_seconds: How long a removed token cache is remembered, so that a save by a request that began
            before the removal fails. Longer than the longest request.
        encryption: Encrypts token caches on the server; they stand there in clear otherwise.

    Raises:
        ValueError: An argument is not what it must be.
        ImportError: The URL's client is not installed.
    """

    def __init__(
        self,
        client_or_url: Any,
        *,
        prefix: str = "msal-logout",
        bound_seconds: float = BOUND_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        wait_replicas: int = 0,
        wait_seconds: float = WAIT_SECONDS,
        clock: Callable[[], float] = time.time,
        token_cache_lifetime_seconds: float = TOKEN_CACHE_LIFETIME_SECONDS,
        removed_row_seconds: float = REMOVED_ROW_SECONDS,
        encryption: Encryption | None = None,
    ) -> None:
        if not prefix or re.search(r"[{}*?\[\]\\]", prefix):
            raise ValueError("prefix must not be empty, nor contain any of { } * ? [ ] \\")
        if min(bound_seconds, timeout_seconds) <= 0:
            raise ValueError("bound_seconds and timeout_seconds must be more than 0")
        if wait_replicas < 0 or not 0 < wait_seconds < timeout_seconds:
            raise ValueError(
                "wait_replicas must not be less than 0, and wait_seconds be less than timeout_seconds"
            )
        base = f"{{{prefix}}}:"
        self._base = _encoded(base)
        self._caches = _encoded(f"{prefix}:cache:")
        self._index = tuple(_encoded(base + name) for name in scripts.INDEX_KEYS)
        self._clock = clock
        self._token_cache_lifetime = token_cache_lifetime_seconds
        self._removed_row = removed_row_seconds
        self.encryption = encryption
        self._wait_replicas = wait_replicas
        self._server = _Server(client_or_url, timeout_seconds, wait_seconds)
        if wait_replicas and self._server.is_cluster:
            raise ValueError(
                "wait_replicas cannot be had with a Cluster client: see `min-replicas-to-write` instead"
            )
        self.is_async: bool = self._server.is_async
        """Whether the methods return awaitables."""
        self.blocking: bool = not self.is_async
        """Whether calls wait for the network, so that an event loop must call them in a worker thread."""
        beat = None if self._server.has_messages else bound_seconds / _BEATS_WITHOUT_MESSAGES
        self._feed = Feed(_Source(self), bound_seconds=bound_seconds, beat_seconds=beat, wall_clock=clock)
        self.generation: Callable[[], int | None] = self._feed.generation
        """The number of the last ending in whatever process; `None` while the server does not vouch for it."""
        self.drops_caches: bool = not (self._server.is_cluster or wait_replicas)
        """Whether a session's token cache can be removed by the script that ends it: the same server has both."""

    # Token caches

    def load(self, key: str) -> MaybeAwaitable[Loaded]:
        """Return the token cache under a key; one that was never there has the version `""`."""
        return self._server.drive(self._load(_row(key)))

    async def _load(self, row: str) -> Loaded:
        return opened(self.encryption, row, await self._load_row(self._cache(row)))

    async def _load_row(self, name: bytes) -> Loaded:
        version, data, expires_at = await self._server.ask("HMGET", name, "version", "data", "expires_at")
        if version is None or float(expires_at) <= self._clock():
            return Loaded(None, "")
        return Loaded(data, version.decode())

    def replace(self, key: str, expected: str, data: bytes | None) -> MaybeAwaitable[bool]:
        """Write a token cache (`None`: remove it) if its version is still the expected one."""
        row, now = _row(key), self._clock()
        data = protected(self.encryption, row, data)
        expires_at = now + (self._removed_row if data is None else self._token_cache_lifetime)
        new = secrets.token_hex(16)
        args = [_encoded(expected), new, repr(expires_at), _kept(expires_at, now)]
        return self._run(
            bool, scripts.REPLACE, now, *args, *([] if data is None else [data]), keys=(self._cache(row),)
        )

    def rows(self, after: str | None = None, *, limit: int) -> MaybeAwaitable[Rows]:
        """Return some rows, in no order: the keys' SHA-256. A cluster's servers come one after the other."""
        return self._server.drive(self._rows(after, _positive(limit)))

    async def _rows(self, after: str | None, limit: int) -> Rows:
        names, after = await self._server.scan(self._caches + _ANY_ROW, after, limit)
        return Rows([name[len(self._caches) :].decode() for name in names], after)

    def load_row(self, row: str) -> MaybeAwaitable[Loaded]:
        """Return what stands in a row, as it stands there."""
        return self._server.drive(self._load_row(self._cache(row)))

    def replace_row(self, row: str, expected: str, data: bytes) -> MaybeAwaitable[bool]:
        """Write what is to stand in a row, as it is, if its version is still the expected one."""
        args = [_encoded(expected), secrets.token_hex(16), data]
        return self._run(bool, scripts.REPLACE_ROW, self._clock(), *args, keys=(self._cache(row),))

    def _cache(self, row: str) -> bytes:
        """Return the server's key of a row."""
        return self._caches + _encoded(row)

    # The session index

    def add(self, record: SessionRecord, *, sign_in: bool) -> MaybeAwaitable[bool]:
        """Record a session under its first handle; `False` if it has ended."""
        now = self._clock()
        return self._run(bool, scripts.ADD, now, *self._written(record, now), int(sign_in))

    def join(self, record: SessionRecord) -> MaybeAwaitable[bool]:
        """Record one more handle of a session, or more keys of one that it has; `False` if it has ended."""
        now = self._clock()
        return self._run(bool, scripts.JOIN, now, *self._written(record, now))

    def _written(self, record: SessionRecord, now: float) -> list[Any]:
        times: list[float | str] = [record.issued_at, record.expires_at]
        if record.cache is not None and self.drops_caches:
            times.append(_row(record.cache))
        kept = _kept(record.expires_at, now)
        head = (_json(record.session), _json(record.keys), _json(times)[1:-1])
        return [_encoded(record.handle), *head, record.data, kept]

    def get(self, handle: str) -> MaybeAwaitable[SessionRecord | None]:
        """Return the record of a live handle."""
        return self._server.drive(self._get(handle, _encoded(handle)))

    async def _get(self, handle: str, name: bytes) -> SessionRecord | None:
        found = await self._server.ask("GET", self._base + b"record:" + name)
        record = None if found is None else _record(handle, found)
        return record if record and record.expires_at > self._clock() else None

    def find(self, key: str) -> MaybeAwaitable[Sequence[SessionRecord]]:
        """Return the live records that are found by a key, in the order in which they were recorded."""
        return self._run(_records, scripts.FIND, self._clock(), _encoded(key))

    def end(self, ending: Ending) -> MaybeAwaitable[Ended]:
        """End sessions: marks, journal and `jti` in one script. Every ending is committed here."""
        now = self._clock()
        name, epoch, tip, version = _new_names(8, 16, 8, 16)
        drops = self._dropping(now, version) if ending.drops and self.drops_caches else False
        args = [name, epoch, tip, _kept(ending.expires_at, now), _json([*_as_list(ending, now), drops])]
        if ending.work is not None:
            args.append(ending.work)
        return self._server.drive(self._end(name, now, args, waits=ending.work is None))

    async def _end(self, name: str, now: float, args: list[Any], *, waits: bool) -> Ended:
        replicas = self._wait_replicas if waits else 0  # with work, `finish` waits
        with self._doubting():
            answer, acknowledged = await self._server.call(
                scripts.END, self._index, [repr(now), *args], replicas=replicas
            )
            claimed, has_row, sequence, message, records, dropped = answer
            if message == b"again":  # the first answer was lost, and with it who else has ended something
                self._feed.doubt()
            elif message:
                self._feed.ended(_news(message))
        if message and acknowledged < replicas:
            raise _too_few(acknowledged, replicas)
        caches = {handle.decode(): self._opened(cache.decode(), data) for handle, cache, data in dropped}
        row = name if has_row else None
        return Ended(bool(claimed), row, sequence, tuple(_records(records)), caches)

    def _opened(self, row: str, data: bytes | None) -> bytes | None:
        return opened(self.encryption, row, Loaded(data, "")).data

    def _dropping(self, now: float, version: str) -> list[str]:
        """Say what the script leaves of a token cache: as `replace` does, its version, for a while."""
        expires_at = now + self._removed_row
        kept = str(_kept(expires_at, now))
        return [self._caches.decode(), version, repr(expires_at), kept]

    @contextmanager
    def _doubting(self) -> Iterator[None]:
        """Let this worker not be sure of what it knows, if it cannot be told whether an ending was written."""
        try:
            yield
        except BaseException:  # cancelled ones as well
            self._feed.doubt()
            raise

    def take(self, *, limit: int, lease_seconds: float) -> MaybeAwaitable[Sequence[JournalRow]]:
        """Lease open journal rows whose lease has run out, the oldest first, so that no other worker does."""
        now = self._clock()
        return self._run(_rows, scripts.TAKE, now, _positive(limit), repr(now + lease_seconds))

    def finish(self, row: str) -> MaybeAwaitable[None]:
        """Clear a journal row; no error if it is gone. It stays if too few replicas have what came before."""
        return self._server.drive(self._finish(_encoded(row)))

    async def _finish(self, row: bytes) -> None:
        wanted = self._wait_replicas
        if wanted:
            _, acknowledged = await self._server.call(scripts.TOUCH, self._index[:1], [], replicas=wanted)
            if acknowledged < wanted:
                raise _too_few(acknowledged, wanted)
        await self._server.call(scripts.FINISH, self._index, [repr(self._clock()), row])

    def marks_since(self, cursor: int, *, limit: int) -> MaybeAwaitable[Marks]:
        """Return unexpired marks after a cursor (0: from the start), at most `limit`, in order.

        They come from memory while the server vouches for it.
        """
        held = self._feed.held(cursor, _positive(limit), self._clock())
        return held if held is not None else self._server.drive(self._feed.marks_since(cursor, limit))

    def open_rows(self) -> MaybeAwaitable[int]:
        """Return how many journal rows are not finished, leased or not."""
        return self._run(int, scripts.OPEN_ROWS, self._clock())

    # Upkeep

    def sweep(self) -> MaybeAwaitable[int]:
        """Delete all of the index that has expired; return how many things that was.

        Each write sweeps a little, and everything expires by itself, token caches too: this is for quiet times.
        """
        return self._server.drive(self._sweep())

    async def _sweep(self) -> int:
        total, cursor, goes_on = 0, b"0", 1
        while goes_on:
            args = [repr(self._clock()), self._base + b"record:*", cursor]
            (cursor, swept, goes_on), _ = await self._server.call(scripts.SWEEP, self._index, args)
            total += swept
        return total

    def weaknesses(self) -> MaybeAwaitable[Sequence[Weakness]]:
        """Return by which of its settings the server may forget sign-outs; nothing is known of a Cluster's.

        Raises:
            StoreError: The server does not say: its user needs `+info` for it.
        """
        return self._server.drive(self._weaknesses())

    async def _weaknesses(self) -> Sequence[Weakness]:
        if self._server.is_cluster:
            return ()
        memory = await self._server.ask("INFO", "memory")
        disk = await self._server.ask("INFO", "persistence")
        found = []
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            found.append(Weakness(f"the server's maxmemory-policy is {policy}", "set it to noeviction"))
        if not disk.get("aof_enabled", 1):
            seen = "the server keeps no append-only file: a restart forgets the last sign-outs, or all"
            found.append(Weakness(seen, "set appendonly yes"))
        return found

    def close(self) -> MaybeAwaitable[None]:
        """Stop listening, and close what the store made: not a client that it was given. It may be used again."""
        following = self._feed.stop()
        return self._server.drive(self._server.close(following))

    def _run(
        self,
        convert: Callable[[Any], T],
        script: scripts.Script,
        now: float,
        *args: Any,
        keys: Sequence[bytes] | None = None,
    ) -> MaybeAwaitable[T]:
        """Call a script, and return what its answer means."""
        return self._server.drive(self._called(convert, script, keys or self._index, [repr(now), *args]))

    async def _called(
        self, convert: Callable[[Any], T], script: scripts.Script, keys: Sequence[bytes], args: list[Any]
    ) -> T:
        answer, _ = await self._server.call(script, keys, args)
        return convert(answer)

    async def _ask(self, known: Tip | None, cursor: int | None, limit: int) -> Answer:
        tip = ("", "") if known is None else known
        args = [repr(self._clock()), *_new_names(16, 8), *tip, "" if cursor is None else cursor, limit]
        answer, _ = await self._server.call(scripts.ASK, self._index, args)
        epoch, sequence, name, has_known, is_all, marks = answer
        return Answer(
            epoch.decode(), Tip(sequence, name.decode()), bool(has_known), [*map(_mark, marks)], bool(is_all)
        )

    async def _subscribe(self) -> _Messages | None:
        return await self._server.subscribe(self._base + b"endings")


class _Source:
    """The store, as its feed asks it."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._server = store._server
        self.is_async = self._server.is_async

    def ask(self, known: Tip | None, cursor: int | None, limit: int) -> MaybeAwaitable[Answer]:
        return self._server.drive(self._store._ask(known, cursor, limit))

    def subscribe(self) -> MaybeAwaitable[Messages | None]:
        return self._server.drive(self._store._subscribe())


# The server


class _Server:
    """A client of the server, plain or asyncio: coroutines that wait in their own world."""

    def __init__(self, client_or_url: Any, timeout_seconds: float, wait_seconds: float) -> None:
        self._is_ours = isinstance(client_or_url, str)
        self._client = _client(client_or_url, timeout_seconds) if self._is_ours else client_or_url
        if not callable(getattr(self._client, "execute_command", None)):
            raise TypeError("RedisStore needs a client of redis-py or valkey-py, or a URL")
        self._timeout = timeout_seconds
        self._wait_milliseconds = int(wait_seconds * 1000)
        self.is_async = hasattr(self._client, "__aenter__")
        self.is_cluster = hasattr(self._client, "get_node_from_key")
        self.has_messages = hasattr(self._client, "pubsub")
        if not self.is_async and not self._is_ours and _waits_for_ever(self._client):
            logger.warning(
                "the store's client has no socket_timeout: when the server hangs, so will requests; give it one"
            )

    def drive(self, flow: Coroutine[Any, Any, T]) -> MaybeAwaitable[T]:
        """Return what a coroutine comes to; an asynchronous one is the caller's to await."""
        return flow if self.is_async else run(flow)

    async def ask(self, *command: Any, **options: Any) -> Any:
        """Send one command, and return its answer.

        Raises:
            StoreError: The server did not do it, or maybe did and could not say so.
        """
        try:
            return await self._sent(*command, **options)
        except Exception as error:  # any client's
            raise StoreError(_sentence(error)) from error

    async def call(
        self, script: scripts.Script, keys: Sequence[bytes], args: list[Any], *, replicas: int = 0
    ) -> tuple[Any, int]:
        """Run a script; return its answer, and how many replicas have what it wrote, if that is asked for.

        Raises:
            StoreError: The server did not run it, or maybe did and could not say so.
        """
        send = self._sent_and_waited if replicas else self._sent
        wait = (replicas,) if replicas else ()
        try:
            try:
                answer = await send(*wait, "EVALSHA", script.sha, len(keys), *keys, *args)
            except Exception as error:  # any client's
                if "NoScriptError" not in _names(error):
                    raise
                answer = await send(*wait, "EVAL", script.text, len(keys), *keys, *args)
        except Exception as error:  # any client's
            raise StoreError(_sentence(error)) from error
        return answer if replicas else (answer, 0)

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
        if self.is_async:  # a plain client knows them when it is made
            async with asyncio.timeout(self._timeout):
                await self._client.initialize()
        return {node.name: {"target_nodes": [node]} for node in self._client.get_primaries()}

    async def _sent(self, *command: Any, **options: Any) -> Any:
        # The option has bytes stay bytes where the client would decode them.
        if not self.is_async:
            return self._client.execute_command(*command, NEVER_DECODE=True, **options)
        async with asyncio.timeout(self._timeout):
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

    async def subscribe(self, channel: bytes) -> _Messages | None:
        """Subscribe to a channel; the server has it when this returns. `None`: the client cannot.

        Raises:
            StoreError: The server could not be asked, or refused.
        """
        if not self.has_messages:
            return None
        messages = _Messages(self, self._client.pubsub())
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
        if self._is_ours:
            self._client.connection_pool.disconnect()  # redis-py 5.0.0's `close` leaves it


class _Messages:
    """A subscription, as the feed reads it."""

    def __init__(self, server: _Server, pubsub: Any) -> None:
        self._server = server
        self._pubsub = pubsub

    async def begin(self, channel: bytes, timeout_seconds: float) -> None:
        until, kind = time.monotonic() + timeout_seconds, None
        try:
            await self._awaited(self._pubsub.subscribe(channel))
            while kind != "subscribe" and time.monotonic() < until:
                found = await self._read(until - time.monotonic())
                kind = found and found["type"]
        except Exception as error:  # any client's
            raise StoreError(_sentence(error)) from error
        if kind != "subscribe":
            raise StoreError(_sentence(TimeoutError()))

    def next(self, timeout_seconds: float) -> MaybeAwaitable[News | None]:
        return self._server.drive(self._next(timeout_seconds))

    async def _next(self, timeout_seconds: float) -> News | None:
        try:
            found = await self._read(timeout_seconds)
        except Exception as error:  # any client's
            raise StoreError(_sentence(error)) from error
        if found is None or found["type"] != "message":
            return None
        with suppress(ValueError, TypeError, KeyError):  # somebody else's message tells nothing
            return _news(found["data"])
        return None

    async def _read(self, timeout_seconds: float) -> Any:
        return await self._awaited(self._pubsub.get_message(timeout=max(0.0, timeout_seconds)))

    def close(self) -> MaybeAwaitable[None]:
        return self._server.drive(self.closed())

    async def closed(self) -> None:
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
        "does not allow its user what the store needs: see the store's documentation",
    ),
    ({"READONLY", "ReadOnlyError"}, "is a replica, which cannot be written: connect to the primary"),
    ({"NOREPLICAS"}, "has too few replicas to take a write"),
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
_CODE = re.compile(r"\b[A-Z]{4,}\b|\bOOM\b")


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _sentence(error: Exception) -> str:
    """Say what is wrong with the server, and what to do; without the engine's text, which may quote anything."""
    if isinstance(error, StoreError):
        return str(error)
    for said in ({*_CODE.findall(str(error)[:1000])}, _names(error)):
        for names, what in _WHAT_IS_WRONG:
            if said & names:
                return f"the store's server {what}"
    return f"the store's server did not do what it was asked for ({type(error).__name__})"


def _too_few(acknowledged: int, wanted: int) -> StoreError:
    return StoreError(
        f"{acknowledged} of the {wanted} replicas that must have a sign-out have it: is one down?"
    )


# What is sent, and what comes back


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError("a key is not valid Unicode: it holds a lone surrogate") from None


def _row(key: str) -> str:
    """Return what a cache key's row is called: the key often is a user's id, and a removed one is remembered."""
    return hashlib.sha256(_encoded(key)).hexdigest()


def _json(value: Any) -> bytes:
    return _encoded(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _new_names(*sizes: int) -> Iterator[str]:
    """Return random names of so many bytes each, for which the system is asked once: that is what takes time."""
    digits, at = secrets.token_hex(sum(sizes)), 0
    for size in sizes:
        yield digits[at : at + 2 * size]
        at += 2 * size


def _kept(expires_at: float, now: float) -> int:
    """Return for how many milliseconds the server keeps something."""
    return max(1, min(int((expires_at - now + CLOCK_STEP_SECONDS) * 1000), _LONGEST_MILLISECONDS))


def _positive(limit: int) -> int:
    if limit < 1:
        raise ValueError("limit must be at least 1")
    return limit


def _as_list(ending: Ending, now: float) -> list[Any]:
    jti = ending.jti
    return [
        list(dict.fromkeys(ending.handles)),
        list(ending.sessions),
        list(ending.found_by),
        list(ending.spared),
        [[mark.key, repr(mark.before)] for mark in ending.keys],
        [repr(ending.expires_at), repr(now + ending.lease_seconds)],
        [jti.key, repr(jti.expires_at), str(_kept(jti.expires_at, now))] if jti else False,
    ]


class _Stored(NamedTuple):
    number: int
    record: SessionRecord


def _stored(handle: str, value: bytes) -> _Stored:
    number, head, data = value.split(b"\n", 2)
    session, keys, issued_at, expires_at, *_ = json.loads(head)
    return _Stored(int(number), SessionRecord(handle, session, tuple(keys), issued_at, data, expires_at))


def _record(handle: str, value: bytes) -> SessionRecord:
    return _stored(handle, value).record


def _records(answer: Sequence[bytes]) -> list[SessionRecord]:
    found = [_stored(handle.decode(), value) for handle, value in zip(answer[::2], answer[1::2], strict=True)]
    return [record for _, record in sorted(found, key=itemgetter(0))]


def _rows(answer: Sequence[tuple[bytes, bytes, Sequence[bytes]]]) -> list[JournalRow]:
    return [
        JournalRow(row.decode(), work, tuple(dict.fromkeys(_record("", each).data for each in records)))
        for row, work, records in answer
    ]


def _mark(fields: Sequence[bytes | str]) -> Mark:
    kind, value, before, sequence, expires_at = (
        field if isinstance(field, str) else field.decode() for field in fields
    )
    return Mark(_KINDS[kind], value, float(before), int(sequence), float(expires_at))  # type: ignore[arg-type]


@lru_cache(maxsize=16)  # of its own ending a worker hears twice: by the script's answer, and by the message
def _news(message: bytes | str) -> News:
    text = message if isinstance(message, str) else message.decode()
    epoch, after, after_name, sequence, name, marks = json.loads(text)
    told = None if marks is None else [_mark(mark) for mark in marks]
    return News(epoch, Tip(int(after), after_name), Tip(int(sequence), name), told)
