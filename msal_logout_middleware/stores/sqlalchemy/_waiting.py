"""psycopg's connections, made so that they wait for the server for a bounded time.

PostgreSQL's own `statement_timeout` does not help where the server itself hangs, nor do TCP's timeouts, since the
kernel of its machine still answers. The other drivers have a timeout of their own for that.
"""

from __future__ import annotations

import asyncio
import select
import selectors
import time
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

# Times the timeout: what the server itself breaks off leaves the connection whole, so that is to come first.
_LATER = 1.25
_LOOKS_EVERY_SECONDS = 0.1


def bound(engine: Engine | AsyncEngine, timeout_seconds: float) -> None:
    """Have an engine's connections wait for a bounded time, if they are psycopg's."""
    dialect = engine.dialect
    if dialect.driver not in {"psycopg", "psycopg_async"}:
        return
    dbapi: Any = dialect.loaded_dbapi
    seconds = _LATER * timeout_seconds
    if isinstance(engine, AsyncEngine):
        asynchronous = _asynchronous(dbapi.psycopg, seconds)

        @event.listens_for(engine.sync_engine, "do_connect")
        def be_asked(_dialect: Any, _record: Any, _args: Any, options: dict[str, Any]) -> None:
            options.setdefault("async_creator_fn", asynchronous.connect)
    else:
        plain = _plain(dbapi, seconds)

        @event.listens_for(engine, "do_connect")
        def connect(_dialect: Any, _record: Any, args: Any, options: dict[str, Any]) -> Any:
            return plain.connect(*args, **options)


@lru_cache(maxsize=16)
def _plain(psycopg: Any, seconds: float) -> Any:
    """Return psycopg's connection, which waits for an answer for so many seconds."""
    hangs, active = _error(psycopg), psycopg.pq.TransactionStatus.ACTIVE

    class Connection(psycopg.Connection):  # type: ignore[misc]  # the driver is handed in, as Any
        def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
            until = time.monotonic() + seconds

            # psycopg's own waiting, which is in C, does not say when nothing comes. So the time is spent here.
            def look(wanted: int) -> None:
                if self.pgconn.transaction_status == active and not _comes(self.pgconn.socket, wanted, until):
                    self.pgconn.finish()
                    raise hangs

            return super().wait(_looking(gen, look), *args, **options)

    return Connection


@lru_cache(maxsize=16)
def _asynchronous(psycopg: Any, seconds: float) -> Any:
    """Return psycopg's asynchronous connection, which waits for an answer for so many seconds."""
    hangs, active = _error(psycopg), psycopg.pq.TransactionStatus.ACTIVE

    class AsyncConnection(psycopg.AsyncConnection):  # type: ignore[misc]  # as above
        async def wait(self, gen: Any, interval: float = _LOOKS_EVERY_SECONDS, **options: Any) -> Any:
            until = time.monotonic() + seconds

            def look(_wanted: int) -> None:
                if self.pgconn.transaction_status == active and time.monotonic() > until:
                    self.pgconn.finish()
                    raise hangs

            wait = psycopg.waiting.wait_async
            try:
                return await wait(_looking(gen, look), self.pgconn.socket, interval=interval, **options)
            except asyncio.CancelledError:  # psycopg's own would ask the server to stop, and wait for that
                if self.pgconn.transaction_status == active:
                    self.pgconn.finish()
                raise

    return AsyncConnection


def _error(psycopg: Any) -> Any:
    class HangsError(psycopg.OperationalError, TimeoutError):  # type: ignore[misc]  # as above
        """The server has not answered."""

    return HangsError


def _looking(gen: Generator[Any, Any, Any], look: Callable[[int], None]) -> Generator[Any, Any, Any]:
    """Go through what psycopg waits for, and look each time before it waits."""
    try:
        wanted = next(gen)
        while True:
            look(wanted)
            ready = yield wanted
            wanted = gen.send(ready)
    except StopIteration as end:
        return end.value


def _comes(socket: int, wanted: int, until: float) -> bool:
    """Tell whether what is waited for comes in time; psycopg names it as selectors do."""
    seconds = max(0.0, until - time.monotonic())
    if hasattr(select, "poll"):  # by hand: a selector takes longer
        poll = select.poll()
        poll.register(socket, _EVENTS[wanted])
        return bool(poll.poll(1000 * seconds))
    with selectors.DefaultSelector() as selector:  # Windows
        selector.register(socket, wanted)
        return bool(selector.select(seconds))


if hasattr(select, "poll"):
    _EVENTS = (0, select.POLLIN, select.POLLOUT, select.POLLIN | select.POLLOUT)
