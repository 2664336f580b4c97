"""The store's messages: a connection of the feed's own that listens, by each driver that can."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from .._feed import News
from ._operations import news_in

_OLDEST_PSYCOPG = (3, 2)  # `notifies` waits for a limited time


def can_listen(engine: Engine) -> bool:
    """Tell whether the engine's driver can wait for PostgreSQL's notifications."""
    dialect: Any = engine.dialect
    if dialect.name != "postgresql":
        return False
    if dialect.driver in {"psycopg", "psycopg_async"}:
        return bool(dialect.psycopg_version >= _OLDEST_PSYCOPG)
    return bool(dialect.driver == "asyncpg")


class Psycopg:
    """A connection of psycopg that listens.

    Args:
        engine: Opens it.
        channel: What to listen to.
    """

    def __init__(self, engine: Engine, channel: str) -> None:
        borrowed = engine.raw_connection()
        connection: Any = borrowed.driver_connection
        borrowed.detach()
        try:
            connection.autocommit = True
            connection.execute(f'LISTEN "{channel}"')
        except BaseException:  # no pool has it any more
            connection.close()
            raise
        self._connection = connection
        self._heard: deque[Any] = deque()

    def next(self, timeout_seconds: float) -> News | None:
        """Return the next message; `None` if there is none in time."""
        if not self._heard:
            self._heard.extend(self._connection.notifies(timeout=timeout_seconds, stop_after=1))
        return news_in(self._heard.popleft().payload) if self._heard else None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class AsyncPsycopg:
    """A connection of psycopg that listens on the event loop."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._heard: deque[Any] = deque()

    @classmethod
    async def open(cls, engine: AsyncEngine, channel: str) -> AsyncPsycopg:
        """Open a connection, and listen to a channel."""
        connection = await _borrowed(engine)
        try:
            await connection.set_autocommit(True)
            await connection.execute(f'LISTEN "{channel}"')
        except BaseException:  # as above
            await connection.close()
            raise
        return cls(connection)

    async def next(self, timeout_seconds: float) -> News | None:
        """Return the next message; `None` if there is none in time."""
        if not self._heard:
            async for one in self._connection.notifies(timeout=timeout_seconds, stop_after=1):
                self._heard.append(one)
        return news_in(self._heard.popleft().payload) if self._heard else None

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()


class Asyncpg:
    """A connection of asyncpg that listens."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._heard: asyncio.Queue[str | None] = asyncio.Queue()
        connection.add_termination_listener(lambda _connection: self._heard.put_nowait(None))

    @classmethod
    async def open(cls, engine: AsyncEngine, channel: str) -> Asyncpg:
        """Open a connection, and listen to a channel."""
        listening = cls(await _borrowed(engine))
        try:
            await listening._connection.add_listener(channel, listening._hear)
        except BaseException:  # as above; and the server may not even answer to a farewell
            listening._connection.terminate()
            raise
        return listening

    def _hear(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        self._heard.put_nowait(payload)

    async def next(self, timeout_seconds: float) -> News | None:
        """Return the next message; `None` if there is none in time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                said = await self._heard.get()
        except TimeoutError:
            return None
        if said is None:
            raise ConnectionResetError
        return news_in(said)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close(timeout=1)


async def _borrowed(engine: AsyncEngine) -> Any:
    """Return a connection of the driver's, for one's own."""
    borrowed = await engine.raw_connection()
    connection = borrowed.driver_connection
    borrowed.detach()
    return connection
