"""What may befall the server that all machines share, and what users then see."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.load.driver import Load
from tests.load.proxy import Proxy, proxied
from tests.stores.databases import PostgreSQL
from tests.stores.servers import client, serving
from tests.stories.servers import until


class Fault:
    """One of them, over one server.

    Args:
        server: The server.
        proxy: How the workers come to it.
        load: What goes on meanwhile.
        seconds: How long it lasts at least, if it is one that lasts.

    Attributes:
        refuses_sign_outs: No sign-out can be done while it lasts.
        keeps_tokens: The token caches of those who stay are there afterwards.
        serves_who_is_known: Users whom a worker knows are served all the time.
    """

    refuses_sign_outs = False
    keeps_tokens = True
    serves_who_is_known = False

    def __init__(self, server: Any, proxy: Proxy, load: Load, seconds: float) -> None:
        self._server = server
        self._proxy = proxy
        self._load = load
        self._seconds = seconds
        self.left = ExitStack()  # what goes when the test is over

    def prepare(self) -> None:
        """Do what must be done before the sign-outs that may be lost."""

    @contextmanager
    def befall(self) -> Iterator[None]:
        """Let it last for the block; afterwards the server can be had again."""
        raise NotImplementedError  # each kind of fault has its own

    def lasts(self) -> None:
        """Wait until it has lasted long enough."""
        since = time.monotonic()
        self._load.wait_until(lambda: time.monotonic() > since + self._seconds)


class Restarted(Fault):
    """The server is stopped, and started again; what it had written is there."""

    @contextmanager
    def befall(self) -> Iterator[None]:
        self._server.stop()
        yield
        self._server.start()


class Cut(Fault):
    """All connections break off, more than once."""

    @contextmanager
    def befall(self) -> Iterator[None]:
        self._proxy.cut()
        yield
        self._proxy.cut()


class Paused(Fault):
    """The server hangs with all connections open, for longer than anybody is vouched for."""

    refuses_sign_outs = True

    @contextmanager
    def befall(self) -> Iterator[None]:
        with self._server.paused():
            began = len(self._load.troubles)
            yield
            self.lasts()
            self._load.wait_until(lambda: len(self._load.troubles) > began)


class Full(Fault):
    """The server has no memory left, and evicts nothing."""

    refuses_sign_outs = True
    serves_who_is_known = True

    @contextmanager
    def befall(self) -> Iterator[None]:
        self._server.admin.config_set("maxmemory", 1)
        yield
        self.lasts()
        self._server.admin.config_set("maxmemory", 0)


class FailedOver(Fault):
    """The server is lost, and a replica promoted that does not have what came last."""

    def prepare(self) -> None:
        link = self.left.enter_context(proxied(self._server.port))
        self._replica = self.left.enter_context(serving("--replicaof", "127.0.0.1", str(link.port)))
        until(lambda: self._replica.admin.info("replication")["master_link_status"] == "up")
        link.swallows = lambda _said: True

    @contextmanager
    def befall(self) -> Iterator[None]:
        self._server.stop()
        self._proxy.cut()
        yield
        self._replica.admin.execute_command("REPLICAOF", "NO", "ONE")
        self._proxy.lead_to(self._replica.port)
        self._proxy.cut()


class PromotedBySentinel(Fault):
    """The server is lost, and a Sentinel promotes a replica that does not have what came last."""

    def prepare(self) -> None:
        self._sentinel = client(f"redis://127.0.0.1:{self._proxy.port}", socket_timeout=20)
        self.left.callback(self._sentinel.close)
        link = self.left.enter_context(proxied(self._server.port))
        self._replica = self.left.enter_context(serving("--replicaof", "127.0.0.1", str(link.port)))
        until(lambda: self._replica.admin.info("replication")["master_link_status"] == "up")
        self._sentinel.sentinel_reset("primary")  # so that it looks for replicas at once
        until(lambda: self._sentinel.sentinel_slaves("primary"), timeout_seconds=30)
        link.swallows = lambda _said: True

    @contextmanager
    def befall(self) -> Iterator[None]:
        self._server.stop()
        yield
        until(lambda: self._primary() == self._replica.port, timeout_seconds=60)
        until(lambda: self._replica.admin.info("replication")["role"] == "master")

    def _primary(self) -> int:
        return int(self._sentinel.sentinel_get_master_addr_by_name("primary")[1])


class Flushed(Fault):
    """The server is emptied."""

    keeps_tokens = False

    @contextmanager
    def befall(self) -> Iterator[None]:
        self._server.admin.flushall()
        yield


class Restored(Fault):
    """The server is put back from a backup, which does not have what came last."""

    def prepare(self) -> None:
        self._backup = self._server.folder / "backup"
        if isinstance(self._server, PostgreSQL):
            self._server.stop()
            self._copy()
            self._server.start()
        else:
            self._copy()

    def _copy(self) -> None:
        subprocess.run(["cp", "-a", self._data, self._backup], check=True)  # whose the files are, too

    @property
    def _data(self) -> Path:
        is_database = isinstance(self._server, PostgreSQL)
        return self._server.data if is_database else self._server.folder / "appendonlydir"

    @contextmanager
    def befall(self) -> Iterator[None]:
        self._server.stop()
        yield
        shutil.rmtree(self._data)
        self._backup.rename(self._data)
        self._server.start()


class Silent(Fault):
    """The server's messages do not arrive any more; all else does."""

    serves_who_is_known = True

    @contextmanager
    def befall(self) -> Iterator[None]:
        tells = _tells_of_postgresql if isinstance(self._server, PostgreSQL) else _tells_of_valkey
        self._proxy.swallows = tells
        yield
        self.lasts()
        self._proxy.swallows = lambda _said: False


def _tells_of_valkey(said: bytes) -> bool:
    return b"\r\nmessage\r\n" in said and b"subscribe" not in said


def _tells_of_postgresql(said: bytes) -> bool:
    """Tell whether something said begins with a NotificationResponse; one to who listens comes by itself."""
    return said[:1] == b"A"


OF_VALKEY = (
    Restarted,
    Cut,
    Paused,
    Full,
    Flushed,
    Restored,
    Silent,
    FailedOver,
)  # which takes the server away
OF_SENTINEL = (PromotedBySentinel,)
OF_POSTGRESQL = (Restarted, Cut, Paused, Restored, Silent)
