"""From when on a worker refuses somebody: each worker looks by itself, since nobody can choose who answers a request.

1. A worker listens at a socket of its own beside the server's: it is told a session's cookie, and makes requests with
   it in its own process, through the door, a millisecond after each other.
2. It says when it has served the session once, so that the worker knows it, and again when it has refused it.
3. All processes of a machine have one monotonic clock.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from werkzeug.test import create_environ

_EVERY_SECONDS = 0.001
_LONGEST_SECONDS = 60.0
_MESSAGE_BYTES = 65_536


class Refusal(NamedTuple):
    """What a worker has seen of a session that ended.

    Args:
        pid: The worker's.
        served_at: When the last request that it served had begun.
        refused_at: When the first that it refused had been answered.
    """

    pid: int
    served_at: float
    refused_at: float


# In the worker


class _Watch:
    """One session, as one worker looks at it."""

    def __init__(self, message: bytes, door: socket.socket) -> None:
        told = json.loads(message)
        self.cookie: str = told["cookie"]
        self._number, self._to, self._door = told["number"], told["to"], door
        self._served_at = self._refused_at = -1.0
        self._until = time.monotonic() + _LONGEST_SECONDS

    def goes_on(self, began_at: float, status: int, body: bytes) -> bool:
        """Take in an answer; tell whether to ask again. One that is neither yes nor no counts as none."""
        if status == 200 and json.loads(body)["sub"] is not None:
            if self._served_at >= 0 or self._says({}):
                self._served_at = began_at
        elif status == 200:
            self._refused_at = time.monotonic() if self._refused_at < 0 else self._refused_at
            if self._says({"served_at": self._served_at, "refused_at": self._refused_at}):
                return False
        return time.monotonic() < self._until

    def _says(self, what: dict[str, float]) -> bool:
        """Tell the test; `False`: it has not yet taken up the ten messages that wait, so it is to be told again."""
        said = {"number": self._number, "pid": os.getpid(), **what}
        try:
            self._door.sendto(json.dumps(said).encode(), self._to)
        except BlockingIOError:
            return False
        except OSError:  # nobody wants to know any more
            return True
        return True


def _door(directory: Path) -> socket.socket:
    """A socket that is there, by its name, as soon as it can be spoken to."""
    path = directory / f"watch-{os.getpid()}"
    door = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    door.bind(f"{path}.new")
    path.with_name(f"{path.name}.new").rename(path)
    return door


def watch_from_a_thread(app: Any, directory: Path) -> None:
    """Have a thread of a WSGI app's worker look."""
    threading.Thread(target=_watch_all, args=(app.wsgi_app, _door(directory)), daemon=True).start()


def _watch_all(app: Any, door: socket.socket) -> None:
    watches: list[_Watch] = []
    environ = create_environ("/me")
    while True:
        if select.select([door], [], [], _EVERY_SECONDS if watches else None)[0]:
            watches.append(_Watch(door.recv(_MESSAGE_BYTES), door))
        watches = [watch for watch in watches if watch.goes_on(*_asked(app, environ, watch.cookie))]


def _asked(app: Any, environ: dict[str, Any], cookie: str) -> tuple[float, int, bytes]:
    began_at, statuses = time.monotonic(), []

    def start(status: str, _headers: Any, _error: Any = None) -> Any:
        statuses.append(int(status[:3]))

    environ = {**environ, "HTTP_COOKIE": f"session={cookie}", "wsgi.input": BytesIO()}
    chunks = app(environ, start)
    try:
        body = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    return began_at, statuses[-1], body


_tasks: set[asyncio.Task[None]] = set()


def watch_from_a_task(app: Any, directory: Path) -> None:
    """Have tasks of an ASGI app's worker look."""
    loop, door = asyncio.get_running_loop(), _door(directory)
    door.setblocking(False)

    def begin() -> None:
        task = loop.create_task(_watch_one(app, _Watch(door.recv(_MESSAGE_BYTES), door)))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    loop.add_reader(door, begin)


async def _watch_one(app: Any, watch: _Watch) -> None:
    while watch.goes_on(*await _awaited(app, watch.cookie)):
        await asyncio.sleep(_EVERY_SECONDS)


async def _awaited(app: Any, cookie: str) -> tuple[float, int, bytes]:
    began_at, messages = time.monotonic(), []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/me",
        "query_string": b"",
        "headers": [(b"cookie", f"session={cookie}".encode())],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        messages.append(message)

    await app(scope, receive, send)
    return began_at, messages[0]["status"], b"".join(message.get("body", b"") for message in messages)


# In the test


class Watchers:
    """All workers, as a test asks them.

    Args:
        directory: Where their sockets are.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)
        self._all: dict[int, Watching] = {}
        self._path = directory / "watchers"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._path))
        self._news = threading.Condition()
        # All the time: what a worker says while nobody listens would be lost.
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def close(self) -> None:
        self._socket.sendto(b"", str(self._path))
        self._listener.join()
        self._socket.close()
        self._path.unlink()

    def _listen(self) -> None:
        while said := self._socket.recv(_MESSAGE_BYTES):
            told = json.loads(said)
            with self._news:
                self._all[told["number"]].hear(told)
                self._news.notify_all()

    def pids(self) -> set[int]:
        """The workers that live and can be asked."""
        found = set()
        for path in self._directory.glob("watch-*"):
            if path.suffix:
                continue  # not ready
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as trying, suppress(OSError):
                trying.connect(str(path))  # refused, if it has been killed
                found.add(int(path.name.partition("-")[2]))
        return found

    @contextmanager
    def on(self, cookie: str) -> Iterator[Watching]:
        """Have every worker look at a session until it is refused; begins when all have served it."""
        number = next(self._numbers)
        watching = self._all[number] = Watching(self)
        message = {"number": number, "cookie": cookie, "to": str(self._path)}
        for pid in self.pids():
            with suppress(OSError):  # it has been killed meanwhile
                self._socket.sendto(json.dumps(message).encode(), str(self._directory / f"watch-{pid}"))
                watching.asked.add(pid)
        watching.wait(lambda: watching.ready)
        yield watching

    def wait(self, condition: Callable[[], bool]) -> bool:
        """Wait for a moment until something is so, as workers may have said; tell whether it is."""
        with self._news:
            return self._news.wait_for(condition, 0.1)


class Watching:
    """One session, as every worker looks at it."""

    def __init__(self, watchers: Watchers) -> None:
        self.asked: set[int] = set()
        self.ready: set[int] = set()
        self.refused: dict[int, Refusal] = {}
        self._watchers = watchers

    def until_refused(self) -> list[Refusal]:
        """Wait until every worker that lives has refused the session."""
        self.wait(lambda: self.refused)
        return list(self.refused.values())

    def wait(self, heard: Any) -> None:
        until = time.monotonic() + _LONGEST_SECONDS
        while not self._watchers.wait(lambda: self.asked <= {*heard(), *self.refused}):
            assert time.monotonic() < until, "a worker never said so"
            self.asked &= self._watchers.pids()  # the others have been killed

    def hear(self, said: dict[str, Any]) -> None:
        """Take in what a worker says of this session."""
        if "refused_at" in said:
            self.refused[said["pid"]] = Refusal(said["pid"], said["served_at"], said["refused_at"])
        else:
            self.ready.add(said["pid"])


def quantiles(seconds: Iterable[float]) -> str:
    """Median, 99th percentile and worst, in milliseconds, for people."""
    found = sorted(seconds)
    at = {"median": len(found) // 2, "p99": -(-len(found) * 99 // 100) - 1, "worst": -1}
    return ", ".join(f"{name} {1000 * found[place]:.1f} ms" for name, place in at.items())
