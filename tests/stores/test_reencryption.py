"""Bringing all token caches of a store under the first key, while it is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from msal_logout_middleware._drive import run
from msal_logout_middleware.stores.encryption import Encryption
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.reencryption import Reencrypted, reencrypt
from msal_logout_middleware.stores.sqlite import SQLiteStore

from .test_encryption import NEW, OLD, content_of_the_files

OTHER = "a key that nobody has any more, 32 bytes long"


def put(store: MemoryStore | SQLiteStore, encryption: Encryption | None, *keys: str) -> None:
    before, store.encryption = store.encryption, encryption
    for key in keys:
        assert store.replace(key, store.load(key).version, b"tokens of " + key.encode())
    store.encryption = before


@pytest.fixture
def store() -> MemoryStore:
    """One cache in clear, one under each of three keys; the store has two of them."""
    store = MemoryStore(encryption=Encryption([NEW, OLD]))
    put(store, None, "clear")
    for key, name in ((OLD, "old"), (NEW, "new"), (OTHER, "other")):
        put(store, Encryption(key), name)
    return store


def test_each_cache_is_counted_as_what_it_is(store: MemoryStore) -> None:
    done = run(reencrypt(store))
    assert done == Reencrypted(False, current=1, reencrypted=1, unopened=2)
    assert not done.complete
    store.encryption = Encryption(NEW)
    assert store.load("old").data == b"tokens of old"
    assert store.load("new").data == b"tokens of new"


def test_what_no_key_opens_stays_as_it_is(store: MemoryStore) -> None:
    before = store.load_row("other"), store.load_row("clear")
    run(reencrypt(store))
    assert (store.load_row("other"), store.load_row("clear")) == before


def test_what_is_in_clear_is_encrypted_if_it_may_be_read(store: MemoryStore) -> None:
    store.encryption = Encryption([NEW, OLD, OTHER], clear="read")
    assert run(reencrypt(store)) == Reencrypted(False, current=1, reencrypted=3)
    assert run(reencrypt(store)) == Reencrypted(False, current=4)


def test_encryption_is_taken_back_where_all_is_to_be_in_clear(store: MemoryStore) -> None:
    store.encryption = Encryption([NEW, OLD, OTHER], clear="written")
    assert run(reencrypt(store)) == Reencrypted(False, current=1, reencrypted=3)
    store.encryption = None
    for key in ("clear", "old", "new", "other"):
        assert store.load(key).data == b"tokens of " + key.encode()


def test_dry_run_counts_and_changes_nothing(store: MemoryStore) -> None:
    before = [store.load_row(row) for row in store.rows(limit=9).names]
    assert run(reencrypt(store, dry_run=True)) == Reencrypted(True, current=1, reencrypted=1, unopened=2)
    assert [store.load_row(row) for row in store.rows(limit=9).names] == before


@pytest.mark.parametrize("batch", [1, 2, 4, 7, 100])
def test_no_cache_is_left_out_whatever_the_batch(batch: int) -> None:
    store = MemoryStore(encryption=Encryption([NEW, OLD]))
    put(store, Encryption(OLD), *map(str, range(8)))
    assert run(reencrypt(store, batch=batch)) == Reencrypted(False, reencrypted=8)


class Racing(MemoryStore):
    """Somebody writes, each time that a row has just been read, as often as they are told to."""

    def __init__(self, times: int, data: bytes | None) -> None:
        super().__init__(encryption=Encryption([NEW, OLD]))
        self.times, self.data = times, data

    def replace_row(self, row: str, expected: str, data: bytes) -> bool:
        if self.times:
            self.times -= 1
            self.encryption, own = Encryption(OLD), self.encryption
            assert self.replace(row, self.load(row).version, self.data)
            self.encryption = own
        return super().replace_row(row, expected, data)


def test_what_is_saved_meanwhile_is_encrypted_and_not_lost() -> None:
    store = Racing(3, b"new tokens")
    put(store, Encryption(OLD), "alice")
    assert run(reencrypt(store)) == Reencrypted(False, reencrypted=1)
    store.encryption = Encryption(NEW)
    assert store.load("alice").data == b"new tokens"


def test_what_is_removed_meanwhile_is_not_brought_back() -> None:
    store = Racing(1, None)
    put(store, Encryption(OLD), "alice")
    assert run(reencrypt(store)) == Reencrypted(False)
    assert store.load_row("alice").data is None


def test_row_where_others_are_always_quicker_is_told_as_left() -> None:
    store = Racing(99, b"new tokens")
    put(store, Encryption(OLD), "alice")
    done = run(reencrypt(store))
    assert (done, done.complete) == (Reencrypted(False, left=1), False)


def test_save_that_began_before_is_merged_and_not_refused() -> None:
    """A new version, of the same content: `StoredTokenCache` loads again and merges, as after any other write."""
    store = MemoryStore(encryption=Encryption([NEW, OLD]))
    put(store, Encryption(OLD), "alice")
    before = store.load("alice")
    run(reencrypt(store))
    assert not store.replace("alice", before.version, b"1")
    assert store.replace("alice", store.load("alice").version, b"1")


def test_store_without_keys_is_refused() -> None:
    with pytest.raises(ValueError, match="no encryption="):
        run(reencrypt(MemoryStore()))


def test_nothing_in_clear_is_left_in_the_files_of_an_sqlite_store(tmp_path: Path) -> None:
    path = tmp_path / "logout.db"
    other = SQLiteStore(path)  # a worker, whose connection keeps the log from going
    put(other, None, "alice", "bob")
    assert b"tokens of" in content_of_the_files(path)
    store = SQLiteStore(path, encryption=Encryption(NEW, clear="read"))
    assert run(reencrypt(store)) == Reencrypted(False, reencrypted=2)
    assert b"tokens of" not in content_of_the_files(path)
    assert store.load("alice").data == b"tokens of alice"
    store.close()
    other.close()
