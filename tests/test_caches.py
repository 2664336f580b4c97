"""Where token caches are: a user's accounts go from each, whatever else happens to it, and others' stay."""

from __future__ import annotations

import inspect
import json
import logging
from typing import Any

import anyio
import anyio.lowlevel
import msal
import pytest

from msal_logout_middleware._drive import run, settle
from msal_logout_middleware.caches import InSession, InStore, Removed, Shared, TokenCaches, home_account_id
from msal_logout_middleware.errors import Conflict
from msal_logout_middleware.session import Session
from msal_logout_middleware.stores import Loaded
from msal_logout_middleware.stores.memory import MemoryStore

from .races.token_endpoint import ANA, BEN, TENANT, Endpoint

KEY = ANA.home_account_id
COUNTS = {"AccessToken": 1, "RefreshToken": 1, "IdToken": 1, "Account": 1}


class AsyncStore(MemoryStore):
    async def load(self, key: str) -> Loaded:  # type: ignore[override]
        await anyio.lowlevel.checkpoint()
        return super().load(key)

    async def replace(self, key: str, expected: str, data: bytes | None) -> bool:  # type: ignore[override]
        await anyio.lowlevel.checkpoint()
        return super().replace(key, expected, data)


class LosingStore(MemoryStore):
    """Another writer is quicker, as often as it is told to."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def replace(self, key: str, expected: str, data: bytes | None) -> bool:
        if self.times:
            self.times -= 1
            there = self.load(key)
            assert super().replace(key, there.version, there.data)
        return super().replace(key, expected, data)


def blob(*users: Any) -> tuple[bytes, list[dict[str, Any]]]:
    """A cache that real MSAL serialized, and what each sign-in brought."""
    cache = msal.SerializableTokenCache()
    endpoint = Endpoint()
    results = [endpoint.sign_in(cache, user) for user in users]
    return cache.serialize().encode(), results


def put(store: MemoryStore, data: bytes, key: str = KEY) -> None:
    there = MemoryStore.load(store, key)
    assert MemoryStore.replace(store, key, there.version, data)


def session(contents: dict[str, Any]) -> Session:
    return Session(id="1", claims=ANA.claims, contents=contents)


def remove(caches: TokenCaches, session: Session | None = None) -> Removed:
    async def flow() -> Removed:
        return await settle(caches.remove_accounts(ANA.claims, session))

    return run(flow())


def test_row_of_a_user_is_removed_and_its_id_token_returned():
    store = MemoryStore()
    data, (result,) = blob(ANA)
    put(store, data)
    removed = remove(InStore(store))
    assert removed.counts == COUNTS
    assert removed.id_token == result["id_token"]
    assert store.load(KEY).data is None
    assert result["id_token"] not in repr(removed)


def test_row_that_others_share_keeps_them():
    store = MemoryStore()
    put(store, blob(ANA, BEN)[0], "all")
    assert remove(InStore(store, cache_key=lambda claims: "all")).counts == COUNTS
    left = json.loads(store.load("all").data or b"")
    assert [account["home_account_id"] for account in left["Account"].values()] == [BEN.home_account_id]


def test_second_removal_finds_nothing():
    store = MemoryStore()
    put(store, blob(ANA)[0])
    remove(InStore(store))
    assert remove(InStore(store)) == Removed({})


def test_absent_row_gets_a_new_version_so_that_a_first_save_under_way_fails():
    store = MemoryStore()
    before = store.load(KEY)
    assert remove(InStore(store)) == Removed({})
    assert not store.replace(KEY, before.version, b"late")


def test_row_without_the_user_is_left_as_it_is():
    store = MemoryStore()
    put(store, blob(BEN)[0])
    before = store.load(KEY)
    assert remove(InStore(store)) == Removed({})
    assert store.load(KEY) == before


def test_damaged_row_is_removed_and_logged_without_its_content(caplog):
    store = MemoryStore()
    put(store, b'{"secret": ')
    assert remove(InStore(store)) == Removed({})
    assert store.load(KEY).data is None
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "damaged" in caplog.text
    assert "secret" not in caplog.text


def test_removal_that_loses_a_race_is_tried_again():
    store = LosingStore(3)
    put(store, blob(ANA)[0])
    assert remove(InStore(store)).counts == COUNTS
    assert store.load(KEY).data is None


def test_what_another_writer_adds_meanwhile_is_removed_as_well():
    class Racing(MemoryStore):
        raced = False

        def replace(self, key: str, expected: str, data: bytes | None) -> bool:
            written = super().replace(key, expected, data)
            if written and not self.raced:
                self.raced = True
                put(self, blob(ANA)[0])
            return written

    store = Racing()
    put(store, blob(ANA)[0])
    removed = remove(InStore(store))
    assert removed.counts == dict.fromkeys(COUNTS, 2)
    assert store.load(KEY).data is None


def test_removal_that_always_loses_ends_in_a_conflict():
    store = LosingStore(3)
    put(store, blob(ANA)[0])
    with pytest.raises(Conflict, match="3 times"):
        remove(InStore(store, attempts=3))


def test_attempts_below_one_are_refused():
    with pytest.raises(ValueError, match="attempts"):
        InStore(MemoryStore(), attempts=0)


def test_asynchronous_store_is_told_and_served():
    store = AsyncStore()
    put(store, blob(ANA)[0])
    caches = InStore(store)

    async def main() -> Removed:
        return await settle(caches.remove_accounts(ANA.claims, None))

    assert caches.is_async
    assert anyio.run(main).counts == COUNTS
    assert MemoryStore.load(store, KEY).data is None


def test_synchronous_caches_never_suspend():
    assert not InStore(MemoryStore()).is_async
    assert not InSession().is_async
    assert not Shared(msal.TokenCache()).is_async
    assert inspect.iscoroutinefunction(InStore.remove_accounts)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_cache_in_the_session_is_counted_and_goes_with_it(as_bytes):
    data, (result,) = blob(ANA)
    contents = {"_token_cache": data if as_bytes else data.decode()}
    removed = remove(InSession(), session(contents))
    assert removed.counts == COUNTS
    assert removed.id_token == result["id_token"]


def test_cache_stands_in_the_session_under_any_name():
    data, _ = blob(ANA)
    assert remove(InSession("token_cache"), session({"token_cache": data.decode()})).counts == COUNTS


@pytest.mark.parametrize("contents", [{}, {"_token_cache": None}, {"_token_cache": ""}])
def test_session_without_a_cache_counts_nothing(contents):
    assert remove(InSession(), session(contents)) == Removed({})


def test_session_that_is_not_known_counts_nothing():
    assert remove(InSession(), None) == Removed({})


@pytest.mark.parametrize("held", ['{"secret"', ["secret"]])
def test_damaged_cache_in_the_session_is_logged_without_its_content(held, caplog):
    assert remove(InSession(), session({"_token_cache": held})) == Removed({})
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "secret" not in caplog.text


def test_accounts_are_removed_from_a_live_cache():
    endpoint = Endpoint()
    cache = msal.TokenCache()
    result = endpoint.sign_in(cache, ANA)
    endpoint.sign_in(cache, BEN)
    removed = remove(Shared(cache))
    assert removed.counts == COUNTS
    assert removed.id_token == result["id_token"]
    assert [account["home_account_id"] for account in endpoint.app(cache).get_accounts()] == [
        BEN.home_account_id
    ]


def test_default_cache_key_is_the_object_and_its_tenant():
    assert home_account_id({"iss": "x", "sub": "s", "oid": "o", "tid": TENANT}) == f"o.{TENANT}"


@pytest.mark.parametrize("claims", [{"sub": "s"}, {"sub": "s", "oid": "o"}, {"sub": "s", "tid": "t"}])
def test_default_cache_key_is_the_bare_sub_elsewhere(claims):
    assert home_account_id(claims) == "s"


@pytest.mark.parametrize("claims", [{}, {"oid": "o"}, {"sub": ""}, {"sub": 1}])
def test_claims_that_lead_to_no_cache_key_are_a_clear_error(claims):
    with pytest.raises(ValueError, match="no cache key"):
        home_account_id(claims)
