"""The gate of faults: what makes the provider slow, failing or held, by endpoint."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
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
        self._waiting: list[Callable[[], object]] = []
        self._released = False

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
            self._released = True
            waiting, self._waiting = self._waiting, []
        for go_on in waiting:
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
            if self._released:
                return
            self._waiting.append(lambda: loop.call_soon_threadsafe(event.set))
        await event.wait()


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls the requests to some endpoints.

    Args:
        endpoints: Which; empty for all.
        seconds: How long each waits at most.
        status: What each is answered instead.
        hold: What each waits for.
    """

    endpoints: frozenset[str]
    seconds: float | None = None
    status: int | None = None
    hold: Hold | None = None


class Faults:
    """The faults in force."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

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
        for fault in faults:
            if fault.hold:
                fault.hold.release()

    async def befall(self, endpoint: str) -> int | None:
        """Wait as the faults have it, and return the status to answer instead, if any."""
        status = None
        for fault in [each for each in self._faults if not each.endpoints or endpoint in each.endpoints]:
            if fault.hold:
                with suppress(TimeoutError):
                    await asyncio.wait_for(fault.hold.pass_through(), fault.seconds)
            status = fault.status or status
        return status


async def answer_plainly(status: int, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a status and no body worth reading."""
    start: Message = {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-type", b"text/plain"), (b"content-length", b"0")],
    }
    await send(start)
    await send({"type": "http.response.body", "body": b""})
