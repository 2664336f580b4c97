"""What SQLiteStore is beyond the contract: shared by threads and processes, and clear about what is wrong."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.stores import Ended, Ending, Jti, KeyMark, SessionRecord
from msal_logout_middleware.stores import _sqlite_file as sqlite_file
from msal_logout_middleware.stores import sqlite as sqlite_module
from msal_logout_middleware.stores.sqlite import SQLiteStore
from msal_logout_middleware.testing.store_contract import Clock

from . import workers

LONG_SECONDS = 60
ROOT = Path(__file__).parents[2]
DEAD = Ending(handles=("h",), expires_at=9e9)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logout.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path, busy_timeout_seconds=0.05)
    yield store
    store.close()


@pytest.fixture
def other(path: Path) -> Iterator[SQLiteStore]:
    """The same database, opened by another worker."""
    store = SQLiteStore(path, busy_timeout_seconds=0.05)
    yield store
    store.close()


def write(store: SQLiteStore, data: bytes | None, key: str = "alice") -> bool:
    return store.replace(key, store.load(key).version, data)


# The file


def test_calls_block() -> None:
    assert SQLiteStore.blocking is True


@pytest.mark.parametrize("path", ["", ":memory:", "file:logout.db?mode=memory"])
def test_path_that_workers_cannot_share_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="MemoryStore"):
        SQLiteStore(path)


def test_path_that_is_a_url_or_a_folder_is_told_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the path of a file, not a URL") as raised:
        SQLiteStore("postgresql://user:password@db/logout")
    assert "password" not in str(raised.value)
    with pytest.raises(ValueError, match=r"is a folder; give a file in it, such as .*logout\.db"):
        SQLiteStore(tmp_path)


def test_nothing_is_touched_before_the_first_use(path: Path) -> None:
    SQLiteStore(path).close()
    assert not path.exists()


@pytest.mark.skipif(os.name == "nt", reason="no modes here")
def test_files_are_readable_by_their_owner_only(store: SQLiteStore, path: Path) -> None:
    before = os.umask(0)
    try:
        store.end(DEAD)
    finally:
        os.umask(before)
    files = list(path.parent.iterdir())
    assert {file.suffix for file in files} == {".db", ".db-wal", ".db-shm", ".db-generation"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_relative_path_means_the_same_file_wherever_the_app_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore("logout.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write(store, b"1")
    store.close()
    assert (tmp_path / "logout.db").exists()


def test_workers_share_all_that_the_store_holds(store: SQLiteStore, other: SQLiteStore) -> None:
    write(store, b"1")
    ended = store.end(DEAD)
    assert other.load("alice") == store.load("alice")
    assert other.marks_since(0, limit=9) == store.marks_since(0, limit=9)
    assert not other.add(SessionRecord("h", "s", (), 1.0, b"", 9e9), sign_in=True)
    assert other.end(DEAD).sequence > ended.sequence


def test_marks_are_written_through_to_the_disk(store: SQLiteStore) -> None:
    with store._database.writing() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_removed_cache_leaves_no_trace_in_the_files(
    store: SQLiteStore, path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect

    def connect_as_most_builds_do(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **options)
        connection.execute("PRAGMA secure_delete = OFF")  # some builds have it on by default
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_as_most_builds_do)
    write(store, b"SECRET TOKEN " * (size // 13))
    write(store, None)
    store.sweep()
    assert [file for file in path.parent.iterdir() if b"SECRET" in file.read_bytes()] == []


def test_write_sweeps_a_bounded_number_of_rows(path: Path) -> None:
    clock = Clock(1000.0)
    store = SQLiteStore(path, clock=clock)
    for number in range(30):
        name = str(number)
        store.add(SessionRecord(name, name, ("k",), 1.0, b"", 2000.0), sign_in=True)
        store.end(Ending(handles=(f"dead {name}",), expires_at=2000.0, jti=Jti(name, 2000.0)))
    clock.now = 1e6
    write(store, b"1")
    assert store.sweep() == 3 * 30 - 20
    store.close()


# What is wrong


def test_missing_folder_is_named_and_found_once_it_is_made(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "not yet" / "logout.db")
    with pytest.raises(StoreError, match="not yet, does not exist: make it"):
        store.load("alice")
    (tmp_path / "not yet").mkdir()
    assert write(store, b"1")
    store.close()


def test_folder_that_takes_the_files_place_is_a_store_error(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "logout.db")
    (tmp_path / "logout.db").mkdir()
    with pytest.raises(StoreError, match="cannot be opened"):
        store.load("alice")


def test_database_locked_by_another_process_is_a_store_error_until_it_is_free(
    store: SQLiteStore, path: Path
) -> None:
    write(store, b"1")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked by another worker"):
        store.end(DEAD)
    assert store.load("alice").data == b"1"  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    assert store.end(DEAD).claimed


def test_new_database_locked_by_another_process_is_a_store_error_until_it_is_free(
    store: SQLiteStore, path: Path
) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="locked by another worker"):
        store.load("alice")
    other.execute("ROLLBACK")
    other.close()
    assert write(store, b"1")


def test_new_database_that_another_process_is_reading_is_a_store_error_until_it_has_read(
    store: SQLiteStore, path: Path
) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM sqlite_master").fetchall()
    with pytest.raises(StoreError, match="locked by another worker"):
        store.load("alice")  # cannot switch to the write-ahead log
    other.execute("COMMIT")
    other.close()
    assert write(store, b"1")


class StoppedClock:
    """A clock that whoever looks at it from a marked thread is stopped at, inside the store's transaction."""

    def __init__(self) -> None:
        self.stops = threading.local()
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> float:
        if getattr(self.stops, "here", False):
            self.reached.set()
            assert self.go_on.wait(LONG_SECONDS)
        return 1000.0

    @contextlib.contextmanager
    def someone_in_the_middle(self, call: Callable[[], object]) -> Iterator[None]:
        def stopped() -> None:
            self.stops.here = True
            call()

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(stopped)
            assert self.reached.wait(LONG_SECONDS)
            try:
                yield
            finally:
                self.go_on.set()
            running.result(LONG_SECONDS)


def test_database_locked_by_another_thread_is_a_store_error_until_it_is_free(path: Path) -> None:
    clock = StoppedClock()
    store = SQLiteStore(path, clock=clock, busy_timeout_seconds=0.01)
    with clock.someone_in_the_middle(lambda: store.replace("alice", "", b"hers")):
        with pytest.raises(StoreError, match="locked by another worker"):
            store.end(DEAD)
        assert store.load("alice") == (None, "")
    assert store.load("alice").data == b"hers"
    assert store.end(DEAD).claimed
    store.close()


def test_store_closed_in_the_middle_of_a_call_finishes_it(path: Path) -> None:
    clock = StoppedClock()
    store = SQLiteStore(path, clock=clock)
    with clock.someone_in_the_middle(lambda: store.replace("alice", "", b"hers")):
        store.close()
    assert not Path(f"{path}-wal").exists()  # the last connection is closed
    assert store.load("alice").data == b"hers"
    store.close()


def test_newer_schema_is_refused(store: SQLiteStore, path: Path) -> None:
    write(store, b"1")
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 2")
    with pytest.raises(StoreError, match="newer msal_logout_middleware: upgrade"):
        store.load("alice")


def test_database_of_another_application_is_refused_and_left_as_it_is(store: SQLiteStore, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as foreign:
        foreign.execute("CREATE TABLE users (name)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="a file of its own"):
        store.end(DEAD)
    assert path.read_bytes() == before


def test_file_that_is_no_database_is_refused_and_left_as_it_is(store: SQLiteStore, path: Path) -> None:
    path.write_bytes(b"not a database " * 1000)
    with pytest.raises(StoreError, match="not an SQLite database"):
        store.end(DEAD)
    assert path.read_bytes() == b"not a database " * 1000


def test_damaged_database_is_a_store_error_until_it_is_restored(
    store: SQLiteStore, path: Path, tmp_path: Path
) -> None:
    for number in range(200):
        write(store, b"x" * 500, str(number))
    store.close()
    shutil.copy(path, tmp_path / "backup")
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(StoreError, match="damaged"):
        store.load("1")
    with pytest.raises(StoreError, match="damaged"):
        store.end(DEAD)
    store.close()
    shutil.copy(tmp_path / "backup", path)
    assert store.load("1").data == b"x" * 500
    assert store.end(DEAD).claimed


def test_deleted_database_is_made_anew_with_another_epoch_and_a_warning(
    store: SQLiteStore, other: SQLiteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(store, b"1")
    write(other, b"2")
    epoch = store.marks_since(0, limit=1).epoch
    for file in path.parent.iterdir():
        file.unlink()
    assert store.load("alice") == (None, "")
    assert "was deleted" in caplog.text
    assert write(other, b"3")
    assert store.load("alice").data == b"3"
    assert other.marks_since(0, limit=1).epoch == store.marks_since(0, limit=1).epoch != epoch


def test_database_deleted_without_its_log_is_a_store_error_until_it_is_back(
    store: SQLiteStore, path: Path, tmp_path: Path
) -> None:
    write(store, b"1")
    path.rename(tmp_path / "moved")
    with pytest.raises(StoreError, match="put the database back"):
        store.load("alice")
    (tmp_path / "moved").rename(path)
    assert store.load("alice").data == b"1"


def test_database_put_in_the_place_of_another_is_noticed(
    store: SQLiteStore, path: Path, tmp_path: Path
) -> None:
    backup = SQLiteStore(tmp_path / "backup.db")
    write(backup, b"backup")
    backup.close()
    write(store, b"1")
    for file in path.parent.glob("logout.db*"):
        file.unlink()
    (tmp_path / "backup.db").rename(path)
    assert store.load("alice").data == b"backup"


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limits here")
def test_disk_that_takes_no_more_is_a_store_error_until_it_does(store: SQLiteStore, path: Path) -> None:
    write(store, b"1")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(StoreError, match="disk"):
            write(store, b"2" * 1_000_000)
        assert store.load("alice").data == b"1"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert write(store, b"2" * 1_000_000)


AS_NOBODY = """
import os, sys
from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.stores.sqlite import SQLiteStore
if os.geteuid() == 0:
    os.setuid(65534)
try:
    print(SQLiteStore(sys.argv[1]).replace("alice", "", b"1"))
except StoreError as error:
    print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="no modes here")
@pytest.mark.parametrize("there", [True, False])
def test_database_that_may_not_be_written_is_a_store_error_until_it_may(there: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logout.db"
        if there:
            store = SQLiteStore(path)
            store.load("alice")
            store.close()
            path.chmod(0o444)
        Path(folder).chmod(0o555)
        assert "the app must be allowed to write the file and its folder" in as_nobody(path)
        Path(folder).chmod(0o777)
        if there:
            path.chmod(0o666)
        assert as_nobody(path) == "True"


@pytest.mark.skipif(os.name == "nt", reason="no modes here")
def test_folder_that_may_not_be_entered_is_a_store_error_until_it_may() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inner" / "logout.db"
        path.parent.mkdir()
        path.parent.chmod(0o777)
        Path(folder).chmod(0o000)
        assert "the app must be allowed to write the file and its folder" in as_nobody(path)
        Path(folder).chmod(0o777)
        assert as_nobody(path) == "True"


def as_nobody(path: Path) -> str:
    command = [sys.executable, "-c", AS_NOBODY, str(path)]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=LONG_SECONDS
    ).stdout.strip()


def test_value_that_cannot_be_stored_is_a_store_error(store: SQLiteStore) -> None:
    with pytest.raises(StoreError, match="did not do"):
        store.end(Ending(handles=("h",), expires_at=float("nan")))
    with pytest.raises(StoreError, match="did not do"):
        write(store, ["no", "bytes"])  # type: ignore[arg-type]
    assert store.marks_since(0, limit=9).marks == []


@pytest.mark.parametrize(
    ("handles", "work"), [(("h", "\ud800"), b"w"), (("h",), ["no", "bytes"])], ids=["a mark", "the journal"]
)
def test_change_that_cannot_be_written_whole_is_not_written_at_all(
    store: SQLiteStore, handles: tuple[str, ...], work: Any
) -> None:
    with pytest.raises((ValueError, StoreError)):
        store.end(Ending(handles=handles, expires_at=9e9, work=work, jti=Jti("jti", 9e9)))
    assert store.marks_since(0, limit=9).marks == []
    assert store.open_rows() == 0
    assert store.end(Ending(jti=Jti("jti", 9e9))).claimed


def test_sqlite_without_strict_tables_is_enough(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = [statement.replace(", STRICT", "").replace("STRICT", "") for statement in sqlite_file._SCHEMA]
    monkeypatch.setattr(sqlite_file, "_SCHEMA", schema)
    write(store, b"1")
    record = SessionRecord("h", "s", ("k",), 1.0, b"sealed", 9e9)
    assert store.add(record, sign_in=True)
    assert store.find("k") == [record]
    assert store.end(Ending(sessions=("s",), expires_at=9e9)).claimed
    assert store.find("k") == []


# Many sessions


def fill(store: SQLiteStore, sessions: int) -> None:
    """Record sessions of one user each, in one transaction."""
    with store._database.writing() as connection:
        for number in range(sessions):
            keys = (f"sub {number}", f"sid {number}", "oid")
            record = SessionRecord(f"h{number}", f"s{number}", keys, 1.0, b"%d" % number, 9e9)
            sqlite_module._insert(connection, record)


ENDINGS = [
    Ending(found_by=("sub 7", "sid 8"), spared=("s9",), work=b"work", jti=Jti("jti", 9e9), expires_at=9e9),
    Ending(
        handles=("h1", "x"), sessions=("s2", "y"), keys=(KeyMark("sub 3", 1.0),), work=b"", expires_at=9e9
    ),
]


@pytest.mark.parametrize("ending", ENDINGS, ids=["found", "named"])
def test_ending_looks_at_nothing_but_what_ends(store: SQLiteStore, ending: Ending) -> None:
    fill(store, 10)
    said: list[str] = []
    connection = store._database._idle[0].sqlite
    connection.set_trace_callback(said.append)
    assert len(store.end(ending).records) == 2
    connection.set_trace_callback(None)
    statements = {sql for sql in said if sql.startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))}
    plans = [row[3] for sql in statements for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
    assert [plan for plan in plans if plan.startswith("SCAN") and plan != "SCAN meta"] == []
    assert any("records_by_session" in plan for plan in plans)


def test_ending_takes_as_many_steps_among_ten_thousand_sessions_as_among_a_hundred(tmp_path: Path) -> None:
    steps = []
    for sessions in (100, 10_000):
        with contextlib.closing(SQLiteStore(tmp_path / f"{sessions}.db")) as store:
            fill(store, sessions)
            taken = [0]

            def step(taken: list[int] = taken) -> int:
                taken[0] += 1
                return 0

            connection = store._database._idle[0].sqlite
            connection.set_progress_handler(step, 1)  # each instruction of SQLite's machine
            assert len(store.end(ENDINGS[0]).records) == 2
            connection.set_progress_handler(None, 0)
            steps += taken
    assert steps[0] == steps[1] > 100


def test_recording_a_session_takes_as_many_steps_among_ten_thousand_marks_as_among_a_hundred(
    tmp_path: Path,
) -> None:
    steps = []
    for marks in (100, 10_000):
        with contextlib.closing(SQLiteStore(tmp_path / f"{marks}.db")) as store:
            store.end(Ending(handles=tuple(f"ended {number}" for number in range(marks)), expires_at=9e9))
            taken = [0]

            def step(taken: list[int] = taken) -> int:
                taken[0] += 1
                return 0

            connection = store._database._idle[0].sqlite
            connection.set_progress_handler(step, 1)  # each instruction of SQLite's machine
            assert store.add(SessionRecord("h", "s", ("k",), 1.0, b"sealed", 9e9), sign_in=False)
            assert store.join(SessionRecord("i", "s", ("k",), 1.0, b"sealed", 9e9))
            connection.set_progress_handler(None, 0)
            steps += taken
    assert steps[0] == steps[1] > 100


def test_ten_thousand_sessions_of_one_user_end_in_one_operation(store: SQLiteStore) -> None:
    fill(store, 10_000)
    store.add(SessionRecord("other", "other", ("sub",), 1.0, b"", 9e9), sign_in=True)
    ended = store.end(Ending(found_by=("oid",), work=b"work", lease_seconds=-1, expires_at=9e9))
    assert len(ended.records) == 10_000
    assert store.find("oid") == []
    assert store.get("other")
    assert len(store.marks_since(0, limit=20_000).marks) == 10_000
    (row,) = store.take(limit=2, lease_seconds=1)
    assert row.data == tuple(record.data for record in ended.records)
    store.finish(row.row)
    with store._database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM journal_data").fetchone() == (0,)


# Threads


def test_threads_that_start_at_once_share_one_new_database(path: Path) -> None:
    store = SQLiteStore(path, busy_timeout_seconds=LONG_SECONDS)
    start = threading.Barrier(8)

    def work(number: int) -> str:
        start.wait(LONG_SECONDS)
        for _ in range(5):
            write(store, b"1", str(number))
        return store.marks_since(0, limit=1).epoch

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(work, range(8)))) == 1
    store.close()
    assert {file.name for file in path.parent.iterdir()} == {"logout.db", "logout.db-generation"}


# Processes


def test_no_write_of_several_processes_is_lost(path: Path) -> None:
    workers.in_workers(4, workers.count_up, str(path))
    with contextlib.closing(SQLiteStore(path)) as store:
        assert store.load("number").data == b"100"


def test_of_several_processes_one_gets_each_jti_and_one_each_row_of_work(path: Path) -> None:
    granted = workers.in_workers(3, workers.claim_all, str(path))
    assert sorted(jti for each in granted for jti in each) == list(range(25))
    with contextlib.closing(SQLiteStore(path)) as store:
        assert store.open_rows() == len(store.marks_since(0, limit=100).marks) == 25
    taken = workers.in_workers(3, workers.take_all, str(path))
    assert len({row for each in taken for row in each}) == sum(map(len, taken)) == 25


def test_sessions_that_end_while_other_processes_join_them_are_dead(path: Path) -> None:
    workers.in_workers(3, workers.join_or_end, str(path))
    with contextlib.closing(SQLiteStore(path)) as store:
        assert store.find("sub") == []


def test_worker_killed_in_the_middle_leaves_each_ending_whole_or_not_at_all(path: Path) -> None:
    for round_number in range(3):
        command = f"from tests.stores import workers; workers.end_until_killed({str(path)!r})"
        with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout
            for _ in range(20 + 7 * round_number):
                done = int(worker.stdout.readline())
            worker.send_signal(signal.SIGKILL)
            done = max([done, *map(int, worker.stdout.read().split("\n")[:-1])])
        with contextlib.closing(SQLiteStore(path)) as store:
            marks = store.marks_since(0, limit=10_000).marks
            ended = {mark.value for mark in marks if mark.kind == "key"}
            assert ended >= {str(number) for number in range(done + 1)}
            assert len(ended) <= done + 2  # the one that was not told yet
            assert {mark.value for mark in marks if mark.kind == "handle"} == {
                f"{number} {part}" for number in ended for part in "ab"
            }
            assert store.open_rows() == len(ended)
            for number in range(done + 3):
                name = str(number)
                joined = store.join(SessionRecord(f"new {name}", name, (), 1.0, b"", 9e9))
                assert joined is (name not in ended)
                assert store.end(Ending(jti=Jti(name, 9e9))).claimed is (name not in ended)
        for file in path.parent.iterdir():
            file.unlink()


# A process that forks

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
may_warn = pytest.mark.filterwarnings(
    "ignore:.*fork.*:DeprecationWarning"
)  # the tests' process may have threads


def in_child(work: Callable[[], object], fork: Callable[[], int] = os.fork) -> Callable[[], int]:
    """Fork; return what waits for the child, whose exit status is 0 if the work raised nothing."""
    pid = fork()
    if pid == 0:
        signal.alarm(LONG_SECONDS)  # one that hangs is killed, and its test fails
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@forks
@may_warn
def test_nothing_that_a_forked_worker_wrote_is_lost_when_its_parent_closes(
    store: SQLiteStore, path: Path
) -> None:
    write(store, b"by the parent")
    told, tell = os.pipe()
    heard, hear = os.pipe()

    def work() -> None:
        write(store, b"first")
        os.write(tell, b".")
        os.read(heard, 1)  # the parent has closed
        assert write(store, b"by the child")

    wait = in_child(work)
    os.read(told, 1)
    store.close()
    os.write(hear, b".")
    assert wait() == 0
    for end in (told, tell, heard, hear):
        os.close(end)
    assert store.load("alice").data == b"by the child"


@forks
@may_warn
def test_fork_waits_for_a_call_in_another_thread(path: Path) -> None:
    clock = StoppedClock()
    store = SQLiteStore(path, clock=clock, busy_timeout_seconds=LONG_SECONDS)
    forked: list[int] = []

    def fork_now() -> None:
        forked.append(in_child(lambda: write(store, b"by the child"))())

    forking = threading.Thread(target=fork_now)
    with clock.someone_in_the_middle(lambda: store.replace("alice", "", b"by the parent")):
        forking.start()
    forking.join(LONG_SECONDS)
    assert forked == [0]
    assert store.load("alice").data == b"by the child"
    store.close()


# In a process of its own, where no other module's lock is held by who forks.
_TWO_FORKS = """
import os, sys, threading
from msal_logout_middleware.stores import _sqlite_file, sqlite

store = sqlite.SQLiteStore(sys.argv[1])
both, here, forked = threading.Barrier(2), threading.local(), []
before_fork = _sqlite_file.Database.before_fork

def together(database):
    if not hasattr(here, "came"):
        here.came = True
        both.wait(10)
    before_fork(database)

def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    forked.append(os.waitpid(pid, 0)[1])

_sqlite_file.Database.before_fork = together
threads = [threading.Thread(target=fork, daemon=True) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(10)
loading = threading.Thread(target=lambda: print(forked, store.load("alice").data), daemon=True)
loading.start()
loading.join(10)
sys.stdout.flush()
os._exit(0)
"""


@forks
def test_two_threads_may_fork_at_once(path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _TWO_FORKS, os.fspath(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG_SECONDS, check=True)
    assert done.stdout == "[0, 0] None\n", done.stderr


def refuses(store: SQLiteStore) -> None:
    with pytest.raises(StoreError, match="before the fork"):
        store.load("alice")
    with pytest.raises(StoreError, match="before the fork"):
        store.end(DEAD)


@forks
@may_warn
def test_worker_that_was_forked_in_the_middle_of_a_call_that_does_not_end_is_refused(path: Path) -> None:
    clock = StoppedClock()
    store = SQLiteStore(path, clock=clock, busy_timeout_seconds=0.01)
    with clock.someone_in_the_middle(lambda: store.replace("alice", "", b"hers")):
        assert in_child(lambda: refuses(store))() == 0
    assert store.load("alice").data == b"hers"
    store.close()


def is_refused_behind_pythons_back(store: SQLiteStore) -> None:
    write(store, b"1")
    assert in_child(lambda: refuses(store), ctypes.PyDLL(None).fork)() == 0
    assert store.load("alice").data == b"1"


def may_write_behind_pythons_back_when_closed(store: SQLiteStore) -> None:
    write(store, b"1")
    store.close()
    assert in_child(lambda: write(store, b"2"), ctypes.PyDLL(None).fork)() == 0
    assert store.load("alice").data == b"2"


@forks
@pytest.mark.parametrize("story", [is_refused_behind_pythons_back, may_write_behind_pythons_back_when_closed])
def test_worker_that_was_forked_behind_pythons_back_is_refused_unless_the_store_was_closed(
    story: Callable[[SQLiteStore], None], path: Path
) -> None:
    """In a process of its own: Python does not know of such a fork, so a child waits for other threads for ever."""
    code = (
        "import sys; from tests.stores import test_sqlite as tests;"
        "store = tests.SQLiteStore(sys.argv[1]); getattr(tests, sys.argv[2])(store); store.close()"
    )
    command = [sys.executable, "-c", code, str(path), story.__name__]
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=2 * LONG_SECONDS, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_cache_key_does_not_stand_in_the_file(tmp_path):
    store = SQLiteStore(tmp_path / "logout.db")
    assert store.replace("oid-of-ann", "", b"tokens")
    assert store.replace("oid-of-ann", store.load("oid-of-ann").version, None)
    store.close()
    assert b"oid-of-ann" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize("already", ["empty", "dangling link"])
def test_file_that_was_there_already_is_readable_by_its_owner_only(tmp_path, already):
    path, target = tmp_path / "logout.db", tmp_path / "elsewhere.db"
    if already == "empty":
        path.touch(0o644)
    else:
        path.symlink_to(target)
    store = SQLiteStore(path)
    store.replace("ann", "", b"tokens")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    store.close()


def test_what_a_sign_out_removed_is_not_on_disk_once_its_journal_is_cleared(tmp_path):
    store = SQLiteStore(tmp_path / "logout.db")
    store.replace("ann", "", b"live-credential" * 100)
    row = store.end(Ending(handles=("h",), work=b"work", expires_at=4e9)).row
    store.replace("ann", store.load("ann").version, None)
    store.finish(row)
    assert b"live-credential" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    store.close()


def test_what_finds_nobody_waits_for_no_writer(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "logout.db", busy_timeout_seconds=0.01)
    store.sweep()
    with closing(sqlite3.connect(store.path)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert store.end(Ending(found_by=("nobody's",), work=b"work")) == Ended(
            claimed=True, row=None, sequence=0
        )
        writer.rollback()
    store.close()
