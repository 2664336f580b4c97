"""Two workers of one site, whose store has its own clock, and which can be killed at any call to the store."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from msal_logout_middleware import Logout, asgi, wsgi
from msal_logout_middleware.stores import Ended, Ending
from tests.doors import AsgiDoor, WsgiDoor

EVERYTHING = "*"


class Killed(BaseException):
    """The worker is not there any more."""


class Mortal:
    """A store whose worker can be killed: at its next `end`, before or after that is committed, or when it removes.

    While `is_pending`, it does not tell its generation, as where another worker is about to write an ending. The
    methods that are named in `away` fail, or all do.

    Args:
        store: The store of both workers.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self.dies: str | None = None
        self.is_pending = False
        self.away: frozenset[str] = frozenset()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._reach(name)
            return found(*args, **kwargs)

        return call if callable(found) else found

    def _reach(self, name: str) -> None:
        if name in self.away or EVERYTHING in self.away:
            raise OSError("the store is away")

    def generation(self) -> int | None:
        return None if self.is_pending else self._store.generation()

    def end(self, ending: Ending) -> Ended:
        self._reach("end")
        self._maybe_die("before the mark")
        ended: Ended = self._store.end(ending)
        if ended.row is not None:
            self._maybe_die("after the mark")
        return ended

    def replace(self, key: str, expected: str, data: bytes | None) -> bool:
        self._reach("replace")
        self._maybe_die("in the removal")
        written: bool = self._store.replace(key, expected, data)
        return written

    def finish(self, row: str) -> None:
        self._reach("finish")
        self._maybe_die("before the end")
        self._store.finish(row)

    def _maybe_die(self, where: str) -> None:
        if self.dies == where:
            raise Killed


class Loops:
    """An event loop for each thread that calls a door, kept open from call to call."""

    def __init__(self) -> None:
        self._of_thread = threading.local()
        self._all: list[asyncio.Runner] = []

    def run(self, call: Any) -> Any:
        if not hasattr(self._of_thread, "runner"):
            self._of_thread.runner = asyncio.Runner()
            self._all.append(self._of_thread.runner)
        return self._of_thread.runner.run(call)

    def close(self) -> None:
        for runner in self._all:
            runner.close()


class OpenDoor(AsgiDoor):
    """An ASGI app's door whose loop stays open."""

    def __init__(self, app: Any, loops: Loops) -> None:
        super().__init__(app)
        self._loops = loops

    def call(self, method: str, path: str, headers: Any, body: bytes, **scope: Any) -> Any:
        return self._loops.run(self._call(method, path, headers, body, scope))


class _NeverTidyByItself(asgi.LogoutMiddleware):
    def _start_upkeep(self) -> None:
        pass


class Worker:
    """One worker: what it knows is lost when it is gone. Only its machine tells it to tidy up."""

    def __init__(self, site: Any, loops: Loops) -> None:
        self.store = Mortal(site.store)
        self.logout = Logout(**site.options | {"store": self.store})
        if site.is_asgi:
            self.door: Any = OpenDoor(_NeverTidyByItself(site.app, self.logout), loops)
        else:
            within = wsgi.LogoutMiddleware(site.app, self.logout)
            within._upkeep.runs = True
            self.door = WsgiDoor(within)
