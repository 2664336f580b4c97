"""psycopg's connections, made so that they wait for the server for a bounded time.

PostgreSQL's own `statement_timeout` does not help where the server itself hangs, nor do TCP's timeouts, since the
kernel of its machine still answers. The other drivers have a timeout of their own for that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

# What the server itself breaks off leaves the connection whole, so that comes first...
_LATER = 1.25
# ...but not so where asyncio would break it off: then psycopg waits for the server once more.
_SOONER = 0.9

_LOOKS_EVERY_SECONDS = 0.1


def bound(engine: Engine | AsyncEngine, timeout_seconds: float) -> None:
    """Have an engine's connections wait for a bounded time, if they are psycopg's."""
    dialect = engine.dialect
    if dialect.driver not in {"psycopg", "psycopg_async"}:
        return
    dbapi: Any = dialect.loaded_dbapi
    if isinstance(engine, AsyncEngine):
        connection = _bounded(dbapi.psycopg, "AsyncConnection", _SOONER * timeout_seconds)

        @event.listens_for(engine.sync_engine, "do_connect")
        def be_asked(_dialect: Any, _record: Any, _args: Any, options: dict[str, Any]) -> None:
            options.setdefault("async_creator_fn", connection.connect)
    else:
        connection = _bounded(dbapi, "Connection", _LATER * timeout_seconds)

        @event.listens_for(engine, "do_connect")
        def connect(_dialect: Any, _record: Any, args: Any, options: dict[str, Any]) -> Any:
            return connection.connect(*args, **options)


@lru_cache(maxsize=16)
def _bounded(psycopg: Any, name: str, seconds: float) -> Any:
    """Return one of psycopg's classes of connections, which waits for an answer for so many seconds."""
    kind: Any = getattr(psycopg, name)
    active = psycopg.pq.TransactionStatus.ACTIVE

    class HangsError(psycopg.OperationalError, TimeoutError):  # type: ignore[misc]  # psycopg is not imported
        """The server has not answered."""

    class Bounded(kind):  # type: ignore[misc]
        def wait(self, gen: Any, interval: float = _LOOKS_EVERY_SECONDS, **options: Any) -> Any:
            bounded = _until(gen, time.monotonic() + seconds, self._give_up)
            return super().wait(bounded, interval=min(interval, seconds / 20), **options)

        def _give_up(self) -> None:
            if self.pgconn.transaction_status == active:  # and does not listen
                self.pgconn.finish()
                raise HangsError

    return Bounded


def _until(
    gen: Generator[Any, Any, Any], until: float, give_up: Callable[[], None]
) -> Generator[Any, Any, Any]:
    """Go through what psycopg waits for; each time that nothing has come, it may be too late."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > until:
                give_up()
            wanted = gen.send(ready)
    except StopIteration as end:
        return end.value
