"""A way to a server that may be led elsewhere, cut, and robbed of what the server says."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Passes on what comes to its port; its methods may be called from any thread.

    Args:
        port: Where the server is.

    Attributes:
        port: Where clients connect.
        swallows: Tells of something that the server says whether it is lost on the way.
    """

    def __init__(self, port: int, portal: BlockingPortal) -> None:
        self.swallows: Callable[[bytes], bool] = lambda _said: False
        self._target = port
        self._portal = portal
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any] | None] = set()
        self._door = portal.call(asyncio.start_server, self._serve, "127.0.0.1", 0)
        self.port: int = self._door.sockets[0].getsockname()[1]

    def lead_to(self, port: int) -> None:
        """Have clients that come from now on led to another server."""
        self._target = port

    def cut(self) -> None:
        """Break all connections off, on both sides."""
        self._portal.call(self._cut)

    def close(self) -> None:
        self._portal.call(self._close)

    async def _cut(self) -> None:
        for writer in list(self._writers):
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    async def _close(self) -> None:
        self._door.close()
        await self._cut()
        async with asyncio.timeout(20):
            while self._tasks:
                await asyncio.wait([task for task in self._tasks if task is not None])

    async def _serve(self, source: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        ours = {back}
        self._writers.add(back)
        try:
            with suppress(OSError):
                answers, into = await asyncio.open_connection("127.0.0.1", self._target)
                ours.add(into)
                self._writers.add(into)
                await asyncio.gather(
                    self._pass_on(source, into, lambda _said: False),
                    self._pass_on(answers, back, lambda said: self.swallows(said)),
                )
        finally:
            for writer in ours:
                self._writers.discard(writer)
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
            self._tasks.discard(task)

    async def _pass_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, swallows: Callable[[bytes], bool]
    ) -> None:
        with suppress(OSError):
            while said := await source.read(65_536):
                if not swallows(said):
                    target.write(said)
                    await target.drain()
        with suppress(OSError):
            target.close()


@contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    with start_blocking_portal() as portal:
        proxy = Proxy(port, portal)
        try:
            yield proxy
        finally:
            proxy.close()
