"""The generation in shared memory: no process takes marks for complete once an ending has returned."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.stores import Ending, KeyMark
from msal_logout_middleware.stores import _generation as generation_module
from msal_logout_middleware.stores._generation import Generation
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.sqlite import SQLiteStore

from . import workers
from .readers import Reader

if sys.platform != "win32":
    import fcntl

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no locks of files and no shared maps here")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
may_warn = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # there may be threads

POINTS = ("locked", "pending", "committed", "told")


class Monotonic:
    """A clock that stands still until it is set ahead."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> Monotonic:
    clock = Monotonic()
    monkeypatch.setattr(generation_module, "monotonic", clock)
    return clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logout.db"


@pytest.fixture
def word(path: Path) -> Path:
    return Path(f"{path}-generation")


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    with contextlib.closing(SQLiteStore(path)) as store:
        yield store


@pytest.fixture
def other(path: Path) -> Iterator[SQLiteStore]:
    """The same database in another worker, as far as maps and connections go."""
    with contextlib.closing(SQLiteStore(path, busy_timeout_seconds=0.05)) as store:
        yield store


@pytest.fixture
def reader(other: SQLiteStore, monotonic: Monotonic) -> Reader:
    """A worker that knows all that has ended, and holds the generation of it. No second passes by itself."""
    reader = Reader(other)
    for _ in range(3):
        reader.look()
    assert other.generation() is not None
    return reader


def end(store: SQLiteStore, handle: str) -> None:
    store.end(Ending(handles=(handle,), expires_at=9e9))


def all_marks(path: Path) -> set[str]:
    with contextlib.closing(SQLiteStore(path)) as store:
        return {mark.value for mark in store.marks_since(0, limit=1000).marks}


# One worker ends, another one looks


def test_ending_is_seen_by_another_worker_at_once(store: SQLiteStore, reader: Reader) -> None:
    for number in range(5):
        end(store, str(number))
        assert str(number) in reader.look()


def test_reader_asks_nobody_while_nothing_ends(store: SQLiteStore, reader: Reader) -> None:
    end(store, "h")
    reader.look()
    asked = reader.asked
    store.replace("alice", "", b"1")
    store.end(Ending(found_by=("nobody's",), work=b"work"))
    for _ in range(100):
        reader.look()
    assert reader.asked == asked


def test_no_two_databases_or_endings_have_one_number(tmp_path: Path) -> None:
    numbers = []
    for name in ("a.db", "b.db"):
        with contextlib.closing(SQLiteStore(tmp_path / name)) as store:
            for _ in range(3):
                store.end(Ending(keys=(KeyMark("sub", 1.0),), expires_at=9e9))
                numbers.append(store.generation())
    assert None not in numbers
    assert len(set(numbers)) == 6


def test_store_that_is_not_used_makes_no_file_to_tell_its_generation(path: Path) -> None:
    assert SQLiteStore(path).generation() is None
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["loop.db", "folder that is not there/logout.db"])
def test_generation_of_what_cannot_be_opened_is_not_told_and_no_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.db").symlink_to(tmp_path / "loop.db")
    assert SQLiteStore(tmp_path / name).generation() is None


def test_closed_store_tells_the_generation_anew(store: SQLiteStore, reader: Reader) -> None:
    reader.store.close()
    end(store, "h")
    assert "h" in reader.look()


def test_link_to_the_database_leads_to_one_generation(store: SQLiteStore, path: Path, tmp_path: Path) -> None:
    end(store, "h")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.db").symlink_to(path)
    with contextlib.closing(SQLiteStore(tmp_path / "elsewhere" / "link.db")) as linked:
        reader = Reader(linked)
        reader.look()
        end(store, "h2")
        assert "h2" in reader.look()
        assert linked.generation() == store.generation()


# Many workers


def test_no_worker_misses_an_ending_that_has_returned(path: Path) -> None:
    workers.end_and_read(str(path))


def test_counting_a_word_up_without_a_lock_would_lose_endings(path: Path) -> None:
    Path(f"{path}-count").write_bytes(bytes(8))
    workers.in_workers(4, workers.count_without_lock, str(path))
    (count,) = struct.unpack("Q", Path(f"{path}-count").read_bytes())
    assert count < 400_000


# A writer that stops in the middle


@contextlib.contextmanager
def stopped_writer(path: Path, where: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process that ends a session, and is stopped at a point of it."""
    command = f"from tests.stores import workers; workers.end_stopping_at({str(path)!r}, {where!r})"
    with subprocess.Popen(
        [sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        try:
            assert writer.stdout
            assert writer.stdout.readline() == "there\n"
            yield writer
        finally:
            writer.kill()


def go_on(writer: subprocess.Popen[str]) -> None:
    assert writer.stdin
    assert writer.stdout
    writer.stdin.write("\n")
    writer.stdin.flush()
    assert writer.stdout.readline() == "ended\n"


@pytest.mark.parametrize("where", POINTS)
def test_what_a_slow_writer_ended_is_seen_once_it_has_returned(
    store: SQLiteStore, path: Path, where: str
) -> None:
    end(store, "h")
    reader = Reader(store)
    with stopped_writer(path, where) as writer:
        for _ in range(3):
            reader.look()
        go_on(writer)
        assert reader.look() == {"h", "late"}


@pytest.mark.parametrize("where", POINTS)
def test_writer_killed_in_the_middle_hides_nothing_and_the_generation_heals(
    store: SQLiteStore, path: Path, reader: Reader, where: str
) -> None:
    end(store, "h")
    reader.look()
    with stopped_writer(path, where) as writer:
        reader.look()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    committed = where in {"committed", "told"}
    assert reader.look() == all_marks(path) == ({"h", "late"} if committed else {"h"})
    assert reader.store.generation() is not None
    end(store, "after")
    assert reader.look() == all_marks(path)


def test_generation_cannot_be_told_while_a_writer_is_about_to_commit(
    store: SQLiteStore, path: Path, reader: Reader
) -> None:
    with stopped_writer(path, "pending"):
        assert reader.store.generation() is None
        reader.look()
        assert reader.store.generation() is None  # nobody heals what is not broken


def test_next_writer_waits_for_the_number_of_the_one_before(
    store: SQLiteStore, path: Path, other: SQLiteStore
) -> None:
    with stopped_writer(path, "committed") as writer:
        with pytest.raises(StoreError, match="for too long"):
            end(other, "h")
        assert all_marks(path) == {"late"}
        go_on(writer)
        end(other, "h")
    assert all_marks(path) == {"h", "late"}
    assert store.generation() == other.generation() is not None


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limits here")
def test_ending_that_the_disk_did_not_take_changes_nothing_that_is_known(
    store: SQLiteStore, path: Path, reader: Reader
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(StoreError, match="disk"):
            store.end(Ending(handles=("h",), work=b"w" * 1_000_000, expires_at=9e9))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert reader.look() == set()
    end(store, "h")
    assert reader.look() == {"h"}


# Files that are replaced under the running app


def remove(path: Path) -> None:
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        file.unlink(missing_ok=True)


@pytest.mark.parametrize("how", ["deleted", "replaced", "cut"])
def test_generation_whose_file_was_lost_is_told_again_within_a_second(
    store: SQLiteStore, reader: Reader, word: Path, monotonic: Monotonic, how: str
) -> None:
    reader.look()
    if how == "cut":
        os.truncate(word, 0)
        monotonic.now += 1.001  # before anybody reads: who reads behind a file's end is killed
    else:
        word.unlink()
    if how == "replaced":
        word.write_bytes(bytes(8))
    end(store, "h")
    monotonic.now += 1.001
    assert reader.look() == {"h"}
    for number in range(3):
        end(store, str(number))
        assert str(number) in reader.look()
    assert reader.store.generation() is not None


def test_generation_whose_file_is_gone_is_made_anew_by_whoever_asks(
    reader: Reader, word: Path, monotonic: Monotonic
) -> None:
    word.unlink()
    monotonic.now += 1.001
    assert reader.store.generation() is None
    reader.look()
    assert word.stat().st_mode & 0o777 == 0o600
    assert reader.store.generation() is not None


def test_database_made_anew_is_noticed_within_a_second(
    store: SQLiteStore, path: Path, reader: Reader, monotonic: Monotonic
) -> None:
    end(store, "h")
    assert reader.look() == {"h"}
    remove(path)
    end(store, "new")
    monotonic.now += 1.001
    assert reader.look() == {"new"}


def test_database_restored_from_a_backup_is_noticed_within_a_second(
    store: SQLiteStore, path: Path, reader: Reader, tmp_path: Path, monotonic: Monotonic
) -> None:
    end(store, "h")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(tmp_path / "backup.db"),))
    end(store, "lost")
    assert reader.look() == {"h", "lost"}
    remove(path)
    (tmp_path / "backup.db").rename(path)
    monotonic.now += 1.001
    assert reader.look() == {"h"}
    end(store, "again")
    assert reader.look() == {"h", "again"}


def test_database_that_is_gone_has_no_generation(
    store: SQLiteStore, path: Path, reader: Reader, monotonic: Monotonic
) -> None:
    remove(path)
    monotonic.now += 1.001
    assert reader.store.generation() is None


# What is not there


def test_generation_file_that_may_not_be_opened_is_a_store_error_and_nothing_ends(
    store: SQLiteStore, path: Path, word: Path
) -> None:
    word.mkdir()
    with pytest.raises(StoreError, match=r"logout\.db-generation cannot be written"):
        end(store, "h")
    assert all_marks(path) == set()
    assert store.generation() is None
    word.rmdir()
    end(store, "h")
    assert store.generation() is not None


def test_system_without_shared_maps_asks_the_database_each_time(
    store: SQLiteStore, word: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_module, "SUPPORTED", False)
    reader = Reader(store)
    for number in range(3):
        end(store, str(number))
        assert str(number) in reader.look()
        assert store.generation() is None
    assert not word.exists()


# A process that forks


@forks
@may_warn
def test_parent_and_forked_child_see_each_others_endings(store: SQLiteStore) -> None:
    reader = Reader(store)
    end(store, "before")
    assert "before" in reader.look()
    (told, tell), (heard, hear) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.read(told, 1)  # the parent has ended one
            assert "by the parent" in reader.look()
            end(store, "by the child")
            assert "by the child" in reader.look()
            os.write(hear, b".")
            status = 0
        finally:
            os._exit(status)
    end(store, "by the parent")
    os.write(tell, b".")
    os.close(hear)
    assert os.read(heard, 1) == b"."
    assert reader.look() == {"before", "by the parent", "by the child"}
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for descriptor in (told, tell, heard):
        os.close(descriptor)


@forks
@may_warn
def test_process_that_was_forked_in_the_middle_of_an_ending_does_not_hold_the_next_one_up(
    store: SQLiteStore, path: Path
) -> None:
    end(store, "h")
    wait, go_on = os.pipe()
    with Generation(path).changing(1, wait_seconds=0):
        pid = os.fork()
        if pid == 0:
            os.read(wait, 1)
            os._exit(0)
    try:
        end(store, "h2")
    finally:
        os.write(go_on, b".")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.close(wait)
        os.close(go_on)


@forks
@may_warn
def test_generation_of_a_memory_store_is_not_told_in_a_forked_child() -> None:
    store = MemoryStore()
    store.end(Ending(handles=("h",), expires_at=9e9))
    pid = os.fork()
    if pid == 0:
        os._exit(0 if store.generation() is None and MemoryStore().generation() is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert store.generation() is not None


# What happens between two calls to the system


class Meanwhile:
    """Does something to the word's file once, just before it is locked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
        self.then: Callable[[], object] | None = then
        self.flock = fcntl.flock
        monkeypatch.setattr(generation_module.fcntl, "flock", self)

    def __call__(self, descriptor: int, operation: int) -> None:
        then, self.then = self.then, None
        if then is not None:
            then()
        self.flock(descriptor, operation)


@pytest.mark.parametrize("is_replaced", [True, False], ids=["replaced", "removed"])
def test_ending_is_told_though_the_file_goes_just_before_it_is_locked(
    store: SQLiteStore, reader: Reader, word: Path, monkeypatch: pytest.MonkeyPatch, is_replaced: bool
) -> None:
    end(store, "a")
    reader.look()
    old = word.read_bytes()

    def goes() -> None:
        word.unlink()
        if is_replaced:
            word.write_bytes(old)  # as from a backup

    Meanwhile(monkeypatch, goes)
    end(store, "b")
    assert struct.unpack("Q", word.read_bytes())[0] == store.generation()
    assert word.read_bytes() != old


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files cannot be counted here")
def test_endings_leave_no_file_open(store: SQLiteStore, path: Path) -> None:
    def open_files() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    generation = Generation(path)
    end(store, "a")
    before = open_files()
    for number in range(5):
        end(store, str(number))
    with generation.changing(1, wait_seconds=0):
        holds = open_files()
        for _ in range(5):
            with pytest.raises(TimeoutError), Generation(path).changing(2, wait_seconds=0):
                pass
        assert open_files() == holds
    assert open_files() == before


@forks
@may_warn
def test_reader_of_a_file_that_was_cut_lives_on(
    store: SQLiteStore, word: Path, path: Path, monotonic: Monotonic
) -> None:
    """The kernel kills who reads beyond the end of a mapped file."""
    end(store, "a")
    generation = Generation(path)
    assert generation.read() is not None
    os.truncate(word, 0)
    monotonic.now += 10
    pid = os.fork()
    if pid == 0:
        os._exit(0 if generation.read() is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
