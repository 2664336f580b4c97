"""What a store must do to be gone over row by row, and to keep token caches encrypted."""

# ruff: noqa: S101, D102 - these are tests: they assert, and their names are their documentation.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import pytest

from ..._drive import settle
from ...stores import TokenCacheRows, TokenCacheStore
from ...stores.encryption import Encryption
from ...stores.reencryption import reencrypt
from .calls import Clock, write

_LIFETIME_SECONDS = 90 * 86_400.0
_OLD, _NEW = "the old key of the tests, 32 bytes long", "the new key of the tests, 32 bytes long"
_TOKENS = b'{"RefreshToken": {"key": {"secret": "a token"}}}'


class EncryptedStore(TokenCacheStore, TokenCacheRows, Protocol):
    """A store whose rows can be gone over."""


class TokenCacheRowsContract:
    """What a store must do to be gone over row by row, and to keep token caches encrypted.

    Subclass it with an `open_store` fixture that opens one and the same store, empty at first, with `encryption=`
    and without, and with times from the `clock` fixture:

        class TestMyStore(TokenCacheRowsContract):
            @pytest.fixture
            def open_store(self, clock, tmp_path):
                return lambda encryption=None: MyStore(tmp_path / "caches", clock=clock, encryption=encryption)
    """

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Return the event loop that the tests run in."""
        return "asyncio"

    @pytest.fixture
    def clock(self) -> Clock:
        """Return the clock that the store is to be given."""
        return Clock()

    @pytest.fixture
    def open_store(self) -> Any:
        """Return what opens the store."""
        raise NotImplementedError(
            "give your subclass an `open_store` fixture that returns what opens the store"
        )

    async def test_every_row_is_named_once_at_least_and_no_other(self, open_store: OpenStore) -> None:
        store = open_store(None)
        assert await _names(store) == []
        for number in range(25):
            await write(store, str(number), str(number).encode())
        await write(store, "7", None)
        found = {(await settle(store.load_row(row))).data for row in await _names(store)} - {None}
        assert found == {str(number).encode() for number in range(25)} - {b"7"}

    async def test_name_of_a_row_stays(self, open_store: OpenStore) -> None:
        store = open_store(None)
        await write(store, "alice", b"1")
        before = set(await _names(store))
        await write(store, "alice", b"2")
        assert set(await _names(store)) == before
        assert set(await _names(open_store(_encryption(_OLD)))) == before

    async def test_row_has_the_version_of_its_cache(self, open_store: OpenStore) -> None:
        store = open_store(None)
        await write(store, "alice", b"1")
        (row,) = set(await _names(store))
        assert await settle(store.load_row(row)) == await settle(store.load("alice"))

    async def test_row_is_replaced_by_compare_and_swap(self, open_store: OpenStore) -> None:
        store = open_store(None)
        await write(store, "alice", b"1")
        (row,) = set(await _names(store))
        before = await settle(store.load("alice"))
        assert await settle(store.replace_row(row, before.version, b"2"))
        after = await settle(store.load("alice"))
        assert (after.data, after.version == before.version) == (b"2", False)
        assert not await settle(store.replace_row(row, before.version, b"3"))
        assert not await settle(store.replace("alice", before.version, b"3"))
        assert await settle(store.load("alice")) == after

    async def test_row_that_was_removed_is_not_brought_back(self, open_store: OpenStore) -> None:
        store = open_store(None)
        await write(store, "alice", b"1")
        (row,) = set(await _names(store))
        before = await settle(store.load_row(row))
        await write(store, "alice", None)
        removed = await settle(store.load_row(row))
        assert removed.data is None
        for version in (before.version, removed.version):
            assert not await settle(store.replace_row(row, version, b"late"))
        assert (await settle(store.load("alice"))).data is None

    async def test_row_that_was_never_there_is_absent_and_cannot_be_replaced(
        self, open_store: OpenStore
    ) -> None:
        store = open_store(None)
        loaded = await settle(store.load_row("no such row"))
        assert loaded.data is None
        assert not await settle(store.replace_row("no such row", loaded.version, b"1"))

    async def test_row_that_is_replaced_is_kept_for_no_longer(
        self, open_store: OpenStore, clock: Clock
    ) -> None:
        store = open_store(None)
        await write(store, "alice", b"1")
        (row,) = set(await _names(store))
        clock.advance(_LIFETIME_SECONDS / 2)
        assert await settle(store.replace_row(row, (await settle(store.load_row(row))).version, b"2"))
        clock.advance(_LIFETIME_SECONDS / 2 + 1)
        assert (await settle(store.load("alice"))).data is None

    # Encryption

    async def test_what_is_encrypted_stands_nowhere_in_clear(self, open_store: OpenStore) -> None:
        store = open_store(_encryption(_OLD))
        await write(store, "alice", _TOKENS)
        (row,) = set(await _names(store))
        assert b"secret" not in ((await settle(store.load_row(row))).data or b"")
        assert (await settle(store.load("alice"))).data == _TOKENS

    async def test_blob_of_another_row_is_absent_there(self, open_store: OpenStore) -> None:
        store = open_store(_encryption(_OLD))
        await write(store, "alice", _TOKENS)
        (alice,) = set(await _names(store))
        await write(store, "bob", b"{}")
        (bob,) = set(await _names(store)) - {alice}
        moved, there = await settle(store.load_row(alice)), await settle(store.load_row(bob))
        assert await settle(store.replace_row(bob, there.version, moved.data or b""))
        assert (await settle(store.load("bob"))).data is None
        assert (await settle(store.load("alice"))).data == _TOKENS

    async def test_what_no_key_opens_is_absent_until_it_is_overwritten(self, open_store: OpenStore) -> None:
        await write(open_store(_encryption(_OLD)), "alice", _TOKENS)
        store = open_store(_encryption(_NEW))
        loaded = await settle(store.load("alice"))
        assert loaded.data is None
        assert not await settle(store.replace("alice", "no such version", b"1"))
        assert await settle(store.replace("alice", loaded.version, b"2"))
        assert (await settle(store.load("alice"))).data == b"2"

    async def test_what_no_key_opens_can_be_removed(self, open_store: OpenStore) -> None:
        await write(open_store(_encryption(_OLD)), "alice", _TOKENS)
        assert await write(open_store(_encryption(_NEW)), "alice", None)
        assert (await settle(open_store(_encryption(_OLD)).load("alice"))).data is None

    async def test_keys_are_rotated_without_losing_a_cache(self, open_store: OpenStore) -> None:
        await write(open_store(None), "in clear", _TOKENS)
        await write(open_store(_encryption(_OLD)), "alice", _TOKENS)
        await write(open_store(_encryption(_NEW)), "bob", _TOKENS)
        store = open_store(Encryption([_NEW, _OLD], clear="read"))
        done = await reencrypt(store, batch=1)
        assert (done.current, done.reencrypted, done.complete) == (1, 2, True)
        rotated = open_store(_encryption(_NEW))
        for key in ("in clear", "alice", "bob"):
            assert (await settle(rotated.load(key))).data == _TOKENS


OpenStore: TypeAlias = Callable[[Encryption | None], EncryptedStore]


def _encryption(key: str) -> Encryption:
    return Encryption([key])


async def _names(store: TokenCacheRows) -> list[str]:
    page = await settle(store.rows(limit=3))
    names = [*page.names]
    while page.after is not None:
        page = await settle(store.rows(page.after, limit=3))
        names += page.names
    return names
