"""The gate of faults: what makes the provider slow, failing or held, by endpoint."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from starlette.types import Message, Receive, Scope, Send

ENDPOINTS = frozenset(
    {"authorize", "consent", "discovery", "graph", "keys", "logout", "other", "signin", "token"}
)


class Hold:
    """Holds requests until it is released; also a context manager that releases at its end.

    With it a test puts requests where it wants them, instead of hoping for a race.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held = 0
        self._released: list[Callable[[], None]] = []
        self.released = False

    @property
    def held(self) -> int:
        """How many requests have come so far."""
        with self._changed:
            return self._held

    def wait_for(self, count: int, *, timeout_seconds: float = 30) -> None:
        """Wait until so many requests have come.

        Raises:
            TimeoutError: They did not.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._held >= count, timeout_seconds):
                raise TimeoutError(f"{self._held} requests came, not {count}")

    def release(self) -> None:
        """Let all go on, and hold nothing from now on."""
        with self._changed:
            self.released = True
            released, self._released = self._released, []
        for go_on in released:
            go_on()

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    async def pass_through(self) -> None:
        """Wait, on the server's loop, until released."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        with self._changed:
            self._held += 1
            self._changed.notify_all()
            if self.released:
                return
            self._released.append(lambda: loop.call_soon_threadsafe(event.set))
        await event.wait()


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls the requests to some endpoints.

    Args:
        endpoints: Which; empty for all.
        seconds: How long each waits first.
        status: What each is answered instead.
        hold: What holds each until released.
    """

    endpoints: frozenset[str]
    seconds: float = 0.0
    status: int | None = None
    hold: Hold | None = None

    def hits(self, endpoint: str) -> bool:
        """Tell whether an endpoint is among them."""
        return not self.endpoints or endpoint in self.endpoints


class Faults:
    """The faults in force."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._slow: list[Hold] = []

    def add(self, fault: Fault) -> None:
        """Put a fault in force.

        Raises:
            ValueError: There is no such endpoint.
        """
        unknown = fault.endpoints - ENDPOINTS
        if unknown:
            raise ValueError(f"no endpoint is called {sorted(unknown)}; they are {sorted(ENDPOINTS)}")
        self._faults.append(fault)

    def clear(self) -> None:
        """End all faults; what waits goes on at once."""
        faults, self._faults = self._faults, []
        slow, self._slow = self._slow, []
        for hold in (*(fault.hold for fault in faults if fault.hold), *slow):
            hold.release()

    async def befall(self, endpoint: str) -> int | None:
        """Wait as the faults have it, and return the status to answer instead, if any."""
        status = None
        for fault in [fault for fault in self._faults if fault.hits(endpoint)]:
            if fault.hold:
                await fault.hold.pass_through()
            if fault.seconds:
                await self._wait(fault.seconds)
            status = fault.status or status
        return status

    async def _wait(self, seconds: float) -> None:
        slow = Hold()
        self._slow.append(slow)
        try:
            await asyncio.wait_for(slow.pass_through(), seconds)
        except TimeoutError:
            return
        finally:
            slow.released or slow.release()


async def answer_plainly(status: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a status and no body worth reading."""
    start: Message = {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-type", b"text/plain"), (b"content-length", b"0")],
    }
    await send(start)
    await send({"type": "http.response.body", "body": b""})
