"""What MemoryStore is beyond the contract: of one process, and cheap."""

import os
import threading

import pytest

from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.stores import Ending, Jti, KeyMark, Mark, SessionRecord
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.testing.store_contract import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


def test_calls_never_block() -> None:
    assert MemoryStore.blocking is False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the tests' process may have threads
def test_store_of_a_process_that_forked_is_refused_in_the_workers() -> None:
    store = MemoryStore()
    store.replace("alice", "", b"1")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            store.load("alice")
        except StoreError as error:
            status = 0 if "SQLiteStore" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert store.load("alice").data == b"1"


def test_clock_that_fails_once_locks_nobody_out() -> None:
    told = iter([OSError, 1000.0])

    def fails_once() -> float:
        now = next(told)
        if isinstance(now, float):
            return now
        raise now

    store = MemoryStore(clock=fails_once)
    with pytest.raises(OSError):
        store.open_rows()
    call = threading.Thread(target=store.open_rows, daemon=True)
    call.start()
    call.join(20)
    assert not call.is_alive()


def test_key_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        MemoryStore().load("\ud800")


def test_nothing_is_kept_of_what_has_expired(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    empty = sizes(store)
    for number in range(100):
        name = str(number)
        store.replace(name, "", b"cache")
        store.add(SessionRecord(name, name, ("a", "b"), 1.0, b"", 1500.0), sign_in=True)
        store.end(
            Ending(
                handles=(f"dead {name}",),
                sessions=(f"dead {name}",),
                keys=(KeyMark(name, 1.0),),
                expires_at=1500.0,
                jti=Jti(name, 1500.0),
            )
        )
    assert store.sweep() == 0
    clock.now = 1e9
    assert store.sweep() == 600
    assert sizes(store) == empty


def sizes(store: MemoryStore) -> dict[str, int]:
    """How much each of the store's containers holds."""
    found = {}
    for name, value in vars(store).items():
        if hasattr(value, "__dict__"):
            found |= {
                f"{name}.{inner}": len(part)
                for inner, part in vars(value).items()
                if hasattr(part, "__len__")
            }
        elif hasattr(value, "__len__") and not isinstance(value, str):
            found[name] = len(value)
    return found


def test_writes_forget_what_has_expired_by_the_way(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    for number in range(40):
        store.add(SessionRecord(str(number), "s", (), 1.0, b"", 1500.0), sign_in=True)
    clock.now = 2000.0
    for _ in range(2):
        store.replace("alice", store.load("alice").version, b"1")
    assert store.sweep() == 0


def test_renewing_a_cache_over_and_over_costs_no_memory(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    for _ in range(100):
        clock.advance(60)
        store.replace("alice", store.load("alice").version, b"cache")
    assert sizes(store)["_token_caches._queue"] == 1


def test_oldest_marks_are_forgotten_without_hiding_the_newer(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    for number in range(10):
        store.end(Ending(handles=(f"h{number}",), expires_at=1010.0 + number))
    clock.now = 1015.0 + 3600
    store.sweep()
    store.end(Ending(handles=("new",), expires_at=9e9))
    marks = store.marks_since(0, limit=100).marks
    assert marks == [Mark("handle", "new", 0.0, marks[0].sequence, 9e9)]


def test_cache_that_is_removed_and_written_again_expires_by_its_last_write(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    for data in (b"1", None, b"2"):
        store.replace("alice", store.load("alice").version, data)
        clock.advance(60)
    clock.advance(3600)
    assert store.sweep() == 0
    assert store.load("alice").data == b"2"
    clock.now = 1e9
    assert store.sweep() == 1


def test_session_that_has_a_key_twice_ends_like_any_other(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    store.add(SessionRecord("h", "s", ("k", "k"), 1.0, b"", 9e9), sign_in=True)
    store.end(Ending(sessions=("s",), expires_at=9e9))
    assert store.find("k") == []


def test_empty_name_expires_like_any_other(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    store.replace("", "", b"1")
    clock.now = 1e9
    assert store.sweep() == 1
