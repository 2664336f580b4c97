"""The store for many machines: a Redis or Valkey server, by any of their clients, plain or asynchronous.

1. Every change is one Lua script (`_redis_scripts.py`): one round trip, and all of it or nothing.
2. The caller gives the client, or a URL. Clients are known by what they can do, never by their class.
3. Nothing is asked of the server before the first use, so an app starts without it.
4. The workers hear of each ending by a message, and are vouched for by asking (`_feed.py`).
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeVar

from .._drive import MaybeAwaitable
from ..errors import StoreError
from . import Ended, Ending, JournalRow, Loaded, Mark, Marks, Rows, SessionRecord, Weakness
from . import _redis_scripts as scripts
from ._feed import Answer, Feed, News, Tip
from ._keys import encoded, positive, row_of
from ._options import check_options, check_prefix
from ._redis_server import Messages, Server
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
_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


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
        wait_seconds: How long to wait for them; with an asyncio client that comes on top of `timeout_seconds`.
        clock: The time in seconds since 1970, by which things expire.
        token_cache_lifetime_seconds: How long a token cache is kept after its last write.
        removed_row_seconds: How long a removed token cache is remembered, so that a save by a request that began
            before the removal fails. Longer than the longest request.
        encryption: Encrypts token caches on the server; they stand there in clear otherwise.

    Raises:
        ValueError: An argument is not what it must be.
        TypeError: It is no such client, or one with a `cache_config`: what that has read may change at any time.
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
        check_prefix(prefix)
        if not prefix or re.search(r"[{}*?\[\]\\]", prefix):
            raise ValueError("prefix must not be empty, nor contain any of { } * ? [ ] \\")
        check_options(
            encryption,
            token_cache_lifetime_seconds=token_cache_lifetime_seconds,
            removed_row_seconds=removed_row_seconds,
            bound_seconds=bound_seconds,
            timeout_seconds=timeout_seconds,
        )
        if wait_replicas < 0 or not 0 < wait_seconds < timeout_seconds:
            raise ValueError(
                "wait_replicas must not be less than 0, and wait_seconds be less than timeout_seconds"
            )
        base = f"{{{prefix}}}:"
        self._base = encoded(base)
        self._caches = encoded(f"{prefix}:cache:")
        self._index = tuple(encoded(base + name) for name in scripts.INDEX_KEYS)
        self._clock = clock
        self._token_cache_lifetime = token_cache_lifetime_seconds
        self._removed_row = removed_row_seconds
        self.encryption = encryption
        self._wait_replicas = wait_replicas
        self._server = Server(client_or_url, timeout_seconds, wait_seconds)
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
        return self._server.drive(self._load(row_of(key)))

    async def _load(self, row: str) -> Loaded:
        return opened(self.encryption, row, await self._load_row(self._cache(row)))

    async def _load_row(self, name: bytes) -> Loaded:
        version, data, expires_at = await self._server.read("HMGET", name, "version", "data", "expires_at")
        if version is None or float(expires_at) <= self._clock():
            return Loaded(None, "")
        return Loaded(data, version.decode())

    def replace(self, key: str, expected: str, data: bytes | None) -> MaybeAwaitable[bool]:
        """Write a token cache (`None`: remove it) if its version is still the expected one."""
        row, now = row_of(key), self._clock()
        data = protected(self.encryption, row, data)
        expires_at = now + (self._removed_row if data is None else self._token_cache_lifetime)
        new = secrets.token_hex(16)
        args = [encoded(expected), new, repr(expires_at), _kept(expires_at, now)]
        return self._run(
            bool, scripts.REPLACE, now, *args, *([] if data is None else [data]), keys=(self._cache(row),)
        )

    def rows(self, after: str | None = None, *, limit: int) -> MaybeAwaitable[Rows]:
        """Return some rows, in no order: the keys' SHA-256. A cluster's servers come one after the other."""
        return self._server.drive(self._rows(after, positive(limit)))

    async def _rows(self, after: str | None, limit: int) -> Rows:
        names, after = await self._server.scan(self._caches + _ANY_ROW, after, limit)
        return Rows([name[len(self._caches) :].decode() for name in names], after)

    def load_row(self, row: str) -> MaybeAwaitable[Loaded]:
        """Return what stands in a row, as it stands there."""
        return self._server.drive(self._load_row(self._cache(row)))

    def replace_row(self, row: str, expected: str, data: bytes) -> MaybeAwaitable[bool]:
        """Write what is to stand in a row, as it is, if its version is still the expected one."""
        args = [encoded(expected), secrets.token_hex(16), data]
        return self._run(bool, scripts.REPLACE_ROW, self._clock(), *args, keys=(self._cache(row),))

    def _cache(self, row: str) -> bytes:
        """Return the server's key of a row."""
        return self._caches + encoded(row)

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
            times.append(row_of(record.cache))
        kept = _kept(record.expires_at, now)
        head = (_json(record.session), _json(record.keys), _json(times)[1:-1])
        return [encoded(record.handle), *head, record.data, kept]

    def get(self, handle: str) -> MaybeAwaitable[SessionRecord | None]:
        """Return the record of a live handle."""
        return self._server.drive(self._get(handle, encoded(handle)))

    async def _get(self, handle: str, name: bytes) -> SessionRecord | None:
        found = await self._server.read("GET", self._base + b"record:" + name)
        record = None if found is None else _record(handle, found)
        return record if record and record.expires_at > self._clock() else None

    def find(self, key: str) -> MaybeAwaitable[Sequence[SessionRecord]]:
        """Return the live records that are found by a key, in the order in which they were recorded."""
        return self._run(_records, scripts.FIND, self._clock(), encoded(key))

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
        try:
            called = scripts.END, self._index, (repr(now), *args)
            if replicas:
                answer, acknowledged = await self._server.call_and_wait(*called, replicas=replicas)
            else:
                answer, acknowledged = await self._server.call(*called), 0
            claimed, has_row, sequence, message, records, dropped = answer
            if message == b"again":  # the first answer was lost, and with it who else has ended something
                self._feed.doubt()
            elif message:
                self._feed.ended(_news(message))
        except BaseException:  # cancelled ones as well: whether the ending was written cannot be told
            self._feed.doubt()
            raise
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

    def take(self, *, limit: int, lease_seconds: float) -> MaybeAwaitable[Sequence[JournalRow]]:
        """Lease open journal rows whose lease has run out, the oldest first, so that no other worker does."""
        now = self._clock()
        return self._run(_rows, scripts.TAKE, now, positive(limit), repr(now + lease_seconds))

    def finish(self, row: str) -> MaybeAwaitable[None]:
        """Clear a journal row; no error if it is gone. It stays if too few replicas have what came before."""
        return self._server.drive(self._finish(encoded(row)))

    async def _finish(self, row: bytes) -> None:
        wanted = self._wait_replicas
        if wanted:
            touched = scripts.TOUCH, self._index[:1], ()
            _, acknowledged = await self._server.call_and_wait(*touched, replicas=wanted)
            if acknowledged < wanted:
                raise _too_few(acknowledged, wanted)
        await self._server.call(scripts.FINISH, self._index, [repr(self._clock()), row])

    def marks_since(self, cursor: int, *, limit: int) -> MaybeAwaitable[Marks]:
        """Return unexpired marks after a cursor (0: from the start), at most `limit`, in order.

        They come from memory while the server vouches for it.
        """
        held = self._feed.held(cursor, positive(limit), self._clock())
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
            cursor, swept, goes_on = await self._server.call(scripts.SWEEP, self._index, args)
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
        """Stop listening, and close what the store made: not a client that it was given. It may be used again.

        A plain store waits for the thread that listens: for twice `bound_seconds` at most.
        """
        following = self._feed.stop()
        return self._server.drive(self._server.close(following))

    def _run(
        self,
        convert: Callable[[Any], T],
        script: scripts.Script,
        now: float,
        *args: Any,
        keys: tuple[bytes, ...] | None = None,
    ) -> MaybeAwaitable[T]:
        """Call a script, and return what its answer means."""
        return self._server.drive(self._called(convert, script, keys or self._index, [repr(now), *args]))

    async def _called(
        self, convert: Callable[[Any], T], script: scripts.Script, keys: tuple[bytes, ...], args: list[Any]
    ) -> T:
        return convert(await self._server.call(script, keys, args))

    async def _ask(self, known: Tip | None, cursor: int | None, limit: int) -> Answer:
        tip = ("", "") if known is None else known
        args = [repr(self._clock()), *_new_names(16, 8), *tip, "" if cursor is None else cursor, limit]
        answer = await self._server.call(scripts.ASK, self._index, args)
        epoch, sequence, name, has_known, is_all, marks, server = answer
        told = [_mark([field.decode() for field in mark]) for mark in marks]
        tip = Tip(sequence, name.decode())
        return Answer(epoch.decode(), tip, bool(has_known), told, bool(is_all), server.decode())

    async def _subscribe(self) -> Messages | None:
        return await self._server.subscribe(self._base + b"endings", self._hear)

    def _hear(self, message: bytes | str) -> News | None:
        """Take a message in at once if it follows what is known, as most do; the feed's follower sees to others."""
        try:
            news = _news(message)
        except Exception:  # whatever it is: somebody else's message tells nothing
            return None
        return None if self._feed.hears(news) else news


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


def _too_few(acknowledged: int, wanted: int) -> StoreError:
    return StoreError(
        f"{acknowledged} of the {wanted} replicas that must have a sign-out have it: is one down?"
    )


# What is sent, and what comes back


def _json(value: Any) -> bytes:
    return encoded(_compact(value))


def _new_names(*sizes: int) -> Iterator[str]:
    """Return random names of so many bytes each, for which the system is asked once: that is what takes time."""
    digits, at = secrets.token_hex(sum(sizes)), 0
    for size in sizes:
        yield digits[at : at + 2 * size]
        at += 2 * size


def _kept(expires_at: float, now: float) -> int:
    """Return for how many milliseconds the server keeps something."""
    return max(1, min(int((expires_at - now + CLOCK_STEP_SECONDS) * 1000), _LONGEST_MILLISECONDS))


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
    session, keys, issued_at, expires_at, *_ = json.loads(head.decode())
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


def _mark(fields: Sequence[str]) -> Mark:
    kind, value, before, sequence, expires_at = fields
    return Mark(_KINDS[kind], value, float(before), int(sequence), float(expires_at))  # type: ignore[arg-type]


@lru_cache(maxsize=16)  # of its own ending a worker hears twice: by the script's answer, and by the message
def _news(message: bytes | str) -> News:
    text = message if isinstance(message, str) else message.decode()
    epoch, after, after_name, sequence, name, marks = json.loads(text)
    told = None if marks is None else [_mark(mark) for mark in marks]
    return News(epoch, Tip(int(after), after_name), Tip(int(sequence), name), told)
