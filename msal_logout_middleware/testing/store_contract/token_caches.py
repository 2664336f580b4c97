"""What a store of token caches must do."""

# ruff: noqa: S101, D102 - these are tests: they assert, and their names are their documentation.

from __future__ import annotations

from typing import Any

import pytest

from ..._drive import settle
from ...stores import TokenCacheStore
from .calls import CALLERS, at_once, bound, write


class TokenCacheStoreContract:
    """What a store of token caches must do: two methods, and no write is ever lost.

    Subclass it with a `store` fixture that gives an empty store:

        class TestMyStore(TokenCacheStoreContract):
            @pytest.fixture
            def store(self, tmp_path):
                return MyStore(tmp_path / "caches")
    """

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Return the event loop that the tests run in."""
        return "asyncio"

    @pytest.fixture
    def store(self) -> Any:
        """Return an empty store."""
        raise NotImplementedError("give your subclass a `store` fixture that returns an empty store")

    async def test_cache_that_was_never_written_is_absent(self, store: TokenCacheStore) -> None:
        loaded = await settle(store.load("nobody"))
        assert loaded.data is None
        assert isinstance(loaded.version, str)

    async def test_what_is_written_is_loaded_byte_for_byte(self, store: TokenCacheStore) -> None:
        data = bytes(range(256)) * 2
        assert await write(store, "alice", data)
        assert (await settle(store.load("alice"))).data == data

    async def test_cache_of_a_megabyte_is_kept(self, store: TokenCacheStore) -> None:
        data = b'{"AccessToken": "' + bytes(range(32, 127)) * 11_000 + b'"}'
        assert len(data) > 1_000_000
        assert await write(store, "alice", data)
        assert (await settle(store.load("alice"))).data == data

    async def test_loading_changes_nothing(self, store: TokenCacheStore) -> None:
        await write(store, "alice", b"1")
        assert await settle(store.load("alice")) == await settle(store.load("alice"))

    async def test_save_over_another_save_is_refused(self, store: TokenCacheStore) -> None:
        before = await settle(store.load("alice"))
        assert await settle(store.replace("alice", before.version, b"first"))
        after = await settle(store.load("alice"))
        assert not await settle(store.replace("alice", before.version, b"second"))
        assert await settle(store.load("alice")) == after

    async def test_save_with_a_version_that_never_was_is_refused(self, store: TokenCacheStore) -> None:
        assert not await settle(store.replace("nobody", "no such version", b"1"))
        assert (await settle(store.load("nobody"))).data is None

    async def test_version_of_one_key_is_not_that_of_another(self, store: TokenCacheStore) -> None:
        await write(store, "alice", b"1")
        await write(store, "bob", b"1")
        alice, bob = await settle(store.load("alice")), await settle(store.load("bob"))
        assert alice.version != bob.version
        assert not await settle(store.replace("bob", alice.version, b"2"))

    async def test_removed_cache_is_absent(self, store: TokenCacheStore) -> None:
        await write(store, "alice", b"1")
        assert await write(store, "alice", None)
        assert (await settle(store.load("alice"))).data is None

    async def test_save_after_a_removal_is_refused(self, store: TokenCacheStore) -> None:
        await write(store, "alice", b"1")
        before = await settle(store.load("alice"))
        await write(store, "alice", None)
        assert not await settle(store.replace("alice", before.version, b"late"))
        assert (await settle(store.load("alice"))).data is None

    async def test_first_save_after_another_save_and_its_removal_is_refused(
        self, store: TokenCacheStore
    ) -> None:
        never_there = await settle(store.load("alice"))
        await write(store, "alice", b"1")
        await write(store, "alice", None)
        assert not await settle(store.replace("alice", never_there.version, b"late"))
        assert (await settle(store.load("alice"))).data is None

    async def test_first_save_after_the_removal_of_nothing_is_refused(self, store: TokenCacheStore) -> None:
        never_there = await settle(store.load("alice"))
        assert await settle(store.replace("alice", never_there.version, None))
        assert not await settle(store.replace("alice", never_there.version, b"late"))

    async def test_removing_twice_is_no_error(self, store: TokenCacheStore) -> None:
        await write(store, "alice", b"1")
        assert await write(store, "alice", None)
        assert await write(store, "alice", None)
        assert (await settle(store.load("alice"))).data is None

    async def test_removed_cache_can_be_written_again(self, store: TokenCacheStore) -> None:
        await write(store, "alice", b"1")
        await write(store, "alice", None)
        assert await write(store, "alice", b"2")
        assert (await settle(store.load("alice"))).data == b"2"

    async def test_no_version_comes_twice(self, store: TokenCacheStore) -> None:
        versions = [(await settle(store.load("alice"))).version]
        for data in (b"same", b"same", None, None, b"same", None, b"same") * 3:
            await write(store, "alice", data)
            versions.append((await settle(store.load("alice"))).version)
        assert len(set(versions)) == len(versions)

    async def test_keys_that_look_alike_are_kept_apart(self, store: TokenCacheStore) -> None:
        keys = [
            *(
                "alice",
                "Alice",
                "ALICE",
                "alice ",
                " alice",
                "alice%",
                "alic_",
                "a*",
                "alice\\",
                "'; --",
                '"',
            ),
            *(
                "é",
                "e\u0301",
                "ﬁ",
                "fi",
                "ß",
                "ss",
                "İ",
                "i",
                "\U0001f511",
                "\U0001f510",
                "\u200d",
                "a/b",
                "a:b",
            ),
            *("00000000-0000-0000-0000-000000000001.tid", "x" * 499 + "1", "x" * 499 + "2"),
        ]
        for number, key in enumerate(keys):
            assert await write(store, key, str(number).encode())
        for number, key in enumerate(keys):
            assert (await settle(store.load(key))).data == str(number).encode()

    @pytest.mark.parametrize("key", ["", "alice\0", "alice\0bob", "\ud800", "\udfff alice"])
    async def test_strange_key_is_kept_apart_or_is_a_value_error(
        self, store: TokenCacheStore, key: str
    ) -> None:
        await write(store, "alice", b"hers")
        try:
            written = await write(store, key, b"strange")
        except ValueError:
            with pytest.raises(ValueError):  # noqa: PT011 - the words are the store's own
                await settle(store.load(key))
        else:
            assert written
            assert (await settle(store.load(key))).data == b"strange"
        assert (await settle(store.load("alice"))).data == b"hers"

    async def test_of_saves_at_once_only_one_is_written(self, store: TokenCacheStore) -> None:
        for data in (b"1", None, b"2"):
            version = (await settle(store.load("alice"))).version
            names = [f"{data!r} {number}".encode() for number in range(CALLERS)]
            written = await at_once([bound(store.replace, "alice", version, name) for name in names])
            assert sum(written) == 1
            assert (await settle(store.load("alice"))).data == names[written.index(True)]
            await write(store, "alice", data)

    async def test_no_write_among_many_is_lost(self, store: TokenCacheStore) -> None:
        written = 0
        while written < 3 * CALLERS:
            before = await settle(store.load("alice"))
            count = str(int(before.data or b"0") + 1).encode()
            calls = [bound(store.replace, "alice", before.version, count) for _ in range(CALLERS)]
            written += sum(await at_once(calls))
            assert (await settle(store.load("alice"))).data == str(written).encode()
