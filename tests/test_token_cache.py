"""The token cache of one request: what it loads, what it saves, and what it never brings back."""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import jwt
import msal
import pytest

from msal_logout_middleware.caches import InStore, home_account_id
from msal_logout_middleware.errors import Conflict, StoreError
from msal_logout_middleware.stores import Loaded
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.token_cache import StoredTokenCache

from .races.token_endpoint import (
    ANA,
    AUTH_CODE_FLOW,
    BEN,
    ISSUER,
    SCOPES,
    TENANT,
    Endpoint,
    User,
    part,
    silent,
)

KEY = ANA.home_account_id
DAMAGED = (
    b'{"secret',
    b"[]",
    b"7",
    b'{"AccessToken": []}',
    b'{"IdToken": {"secret": 7}}',
    b"\xff",
    b"[" * 100_000,
)


class WatchedStore(MemoryStore):
    """Counts writes, and lets a test act between a load and the write that follows."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.before_replace: list[Any] = []

    def replace(self, key: str, expected: str, data: bytes | None) -> bool:
        if self.before_replace:
            self.before_replace.pop(0)()
        written = super().replace(key, expected, data)
        self.writes += written
        return written


class AsyncStore:
    """The same store, with coroutine functions."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    async def load(self, key: str) -> Loaded:
        await anyio.lowlevel.checkpoint()
        return self.store.load(key)

    async def replace(self, key: str, expected: str, data: bytes | None) -> bool:
        await anyio.lowlevel.checkpoint()
        return self.store.replace(key, expected, data)


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


def sign_in(store: MemoryStore, endpoint: Endpoint, user: User = ANA, key: str = KEY) -> dict[str, Any]:
    with StoredTokenCache(store, key=key, cache_key=lambda _: key) as cache:
        return endpoint.sign_in(cache, user)


def sign_out(store: MemoryStore, user: User = ANA, key: str = KEY) -> None:
    removing = InStore(store, cache_key=lambda _: key).remove_accounts(user.claims, None)
    with pytest.raises(StopIteration):
        removing.send(None)


def row(store: MemoryStore, key: str = KEY) -> dict[str, Any]:
    data = store.load(key).data
    return {} if data is None else json.loads(data)


def secrets_of(store: MemoryStore, kind: str, key: str = KEY) -> set[str]:
    return {entry["secret"] for entry in row(store, key).get(kind, {}).values()}


def everything(store: MemoryStore, key: str = KEY) -> str:
    return (store.load(key).data or b"").decode()


def test_tokens_of_a_sign_in_are_there_for_the_next_request(store, endpoint):
    token = sign_in(store, endpoint)["access_token"]
    with StoredTokenCache(store, key=KEY) as cache:
        assert silent(endpoint.app(cache), ANA)["access_token"] == token


def test_request_that_brings_nothing_new_writes_nothing(store, endpoint):
    sign_in(store, endpoint)
    writes = store.writes
    with StoredTokenCache(store, key=KEY) as cache:
        silent(endpoint.app(cache), ANA)
    assert store.writes == writes


def test_drop_of_expired_tokens_on_a_read_is_no_reason_to_write(store, endpoint):
    sign_in(store, endpoint)
    _expire_access_tokens(store)
    writes = store.writes
    with StoredTokenCache(store, key=KEY) as cache:
        list(cache.search("AccessToken", query={"home_account_id": KEY}))
        assert cache.has_state_changed  # what MSAL's own recipe goes by
    assert store.writes == writes


def test_expired_tokens_go_with_the_next_write(store, endpoint):
    sign_in(store, endpoint)
    _expire_access_tokens(store)
    with StoredTokenCache(store, key=KEY) as cache:
        app = endpoint.app(cache)
        app.acquire_token_silent(["https://other.example/read"], account=app.get_accounts()[0])
    assert {entry["target"] for entry in row(store)["AccessToken"].values()} == {"https://other.example/read"}


def test_drop_of_an_expired_token_does_not_drop_what_has_replaced_it(store, endpoint):
    sign_in(store, endpoint)
    _expire_access_tokens(store)
    with StoredTokenCache(store, key=KEY) as cache:
        app = endpoint.app(cache)
        app.acquire_token_silent(["https://other.example/read"], account=app.get_accounts()[0])
        new = sign_in(store, endpoint)
    assert new["access_token"] in secrets_of(store, "AccessToken")


def _expire_access_tokens(store: MemoryStore) -> None:
    document = row(store)
    for entry in document["AccessToken"].values():
        entry["expires_on"] = str(int(time.time()) - 60)
    assert store.replace(KEY, store.load(KEY).version, json.dumps(document).encode())


def test_rotated_refresh_token_is_saved(store, endpoint):
    first = sign_in(store, endpoint)["refresh_token"]
    with StoredTokenCache(store, key=KEY) as cache:
        silent(endpoint.app(cache), ANA, force_refresh=True)
    (rotated,) = secrets_of(store, "RefreshToken")
    assert rotated != first


def test_rotated_refresh_token_is_saved_although_the_block_raised(store, endpoint):
    first = sign_in(store, endpoint)["refresh_token"]
    with suppress(ZeroDivisionError), StoredTokenCache(store, key=KEY) as cache:
        silent(endpoint.app(cache), ANA, force_refresh=True)
        raise ZeroDivisionError
    assert secrets_of(store, "RefreshToken") != {first}


def test_removal_after_a_sign_in_is_saved_although_the_block_raised(store, endpoint):
    sign_in(store, endpoint)
    with suppress(ZeroDivisionError), StoredTokenCache(store, key=KEY) as cache:
        endpoint.sign_in(cache, ANA)
        app = endpoint.app(cache)
        app.remove_account(app.get_accounts()[0])
        raise ZeroDivisionError
    assert store.load(KEY).data is None


def test_sign_in_that_msal_refuses_for_its_nonce_is_not_saved(store, endpoint):
    def redeem_stolen_code() -> None:
        with StoredTokenCache(store, key=KEY) as cache:
            app = endpoint.app(cache)
            flow = app.initiate_auth_code_flow(SCOPES, **AUTH_CODE_FLOW)
            endpoint.users["stolen"] = BEN
            app.acquire_token_by_auth_code_flow(flow, {"code": "stolen", "state": flow["state"]})

    with pytest.raises(RuntimeError, match="nonce"):
        redeem_stolen_code()
    assert store.load(KEY).data is None


def test_key_follows_from_the_sign_in_where_none_was_given(store, endpoint):
    with StoredTokenCache(store) as cache:
        endpoint.sign_in(cache, ANA)
    assert cache.key == KEY == home_account_id(ANA.claims)
    assert secrets_of(store, "RefreshToken")


def test_only_the_sign_in_is_saved_where_no_row_was_loaded(store, endpoint):
    with StoredTokenCache(store) as cache:
        signed_in = endpoint.sign_in(cache, ANA)
        _on_behalf_of(endpoint, cache)
    assert secrets_of(store, "AccessToken") == {signed_in["access_token"]}


def test_tokens_without_a_key_and_a_sign_in_are_not_saved_and_that_is_said(store, endpoint, caplog):
    with StoredTokenCache(store) as cache:
        endpoint.app(cache).acquire_token_for_client(["https://api.example/.default"])
    assert "no key was given" in caplog.text
    assert store.writes == 0


def test_only_the_sign_in_is_saved_where_no_key_was_given(store, endpoint):
    with StoredTokenCache(store) as cache:
        late = _on_behalf_of(endpoint, cache)  # made from nothing that was loaded
        result = endpoint.sign_in(cache, ANA)
    assert result["access_token"] in everything(store)
    assert late["access_token"] not in everything(store)


def test_key_that_logout_will_not_find_is_warned_of_without_naming_it(store, endpoint, caplog):
    with StoredTokenCache(store, key="elsewhere") as cache:
        endpoint.sign_in(cache, ANA)
    assert "logout will not find this token cache" in caplog.text
    assert "elsewhere" not in caplog.text
    assert KEY not in caplog.text


def test_claims_that_lead_to_no_key_are_warned_of_where_a_key_was_given(store, endpoint, caplog):
    def none_of_them(claims: Any) -> str:
        raise ValueError

    with StoredTokenCache(store, key=KEY, cache_key=none_of_them) as cache:
        endpoint.sign_in(cache, ANA)
    assert "logout will not find this token cache" in caplog.text


def test_damaged_row_is_taken_as_absent_and_overwritten(store, endpoint, caplog):
    for damaged in DAMAGED:
        caplog.clear()
        store.replace(KEY, store.load(KEY).version, damaged)
        with StoredTokenCache(store, key=KEY) as cache:
            assert endpoint.app(cache).get_accounts() == []
            endpoint.sign_in(cache, ANA)
        assert [record.levelno for record in caplog.records if record.name == "msal_logout_middleware"][
            :1
        ] == [logging.ERROR]
        assert "secret" not in caplog.text.lower()
        assert secrets_of(store, "RefreshToken")


def test_cache_is_empty_after_the_block_and_loads_again_on_entering_again(store, endpoint):
    sign_in(store, endpoint)
    cache = StoredTokenCache(store, key=KEY)
    app = endpoint.app(cache)
    with cache:
        assert silent(app, ANA)
    assert silent(app, ANA) is None
    with cache:
        assert silent(app, ANA)
    sign_out(store)
    with cache:
        assert silent(app, ANA) is None


def test_cache_serves_one_block_at_a_time(store):
    cache = StoredTokenCache(store, key=KEY)
    with cache, pytest.raises(RuntimeError, match="one `with` block at a time"):
        cache.__enter__()


def test_tokens_cannot_be_added_outside_of_the_block(store, endpoint):
    with pytest.raises(RuntimeError, match="only inside its `with` block"):
        endpoint.sign_in(StoredTokenCache(store, key=KEY), ANA)


def test_cache_can_be_entered_again_after_the_store_failed(endpoint):
    class Broken(MemoryStore):
        def load(self, key: str) -> Loaded:
            raise StoreError("away")

    cache = StoredTokenCache(Broken(), key=KEY)
    for _ in range(2):
        with pytest.raises(StoreError):
            cache.__enter__()


def test_asynchronous_store_needs_async_with(store):
    with pytest.raises(TypeError, match="async with"):
        StoredTokenCache(AsyncStore(store), key=KEY).__enter__()


def test_attempts_below_one_are_refused(store):
    with pytest.raises(ValueError, match="attempts"):
        StoredTokenCache(store, attempts=0)


@pytest.mark.parametrize("kind", ["asynchronous", "synchronous", "blocking"])
def test_async_with_loads_and_saves(store, endpoint, kind, monkeypatch):
    threads = []
    load = store.load
    monkeypatch.setattr(store, "load", lambda key: threads.append(threading.current_thread()) or load(key))
    monkeypatch.setattr(store, "blocking", kind == "blocking", raising=False)
    used = AsyncStore(store) if kind == "asynchronous" else store

    async def main() -> None:
        async with StoredTokenCache(used) as cache:
            endpoint.sign_in(cache, ANA)
        async with StoredTokenCache(used, key=KEY) as cache:
            assert silent(endpoint.app(cache), ANA)

    anyio.run(main)
    assert all((thread is threading.main_thread()) != (kind == "blocking") for thread in threads)


def test_cancelled_task_still_saves_a_rotated_refresh_token(store, endpoint):
    first = sign_in(store, endpoint)["refresh_token"]

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with StoredTokenCache(AsyncStore(store), key=KEY) as cache:
                silent(endpoint.app(cache), ANA, force_refresh=True)
                scope.cancel()
                await anyio.sleep_forever()

    anyio.run(main)
    assert secrets_of(store, "RefreshToken") != {first}


# What happened meanwhile


def test_two_requests_that_bring_different_tokens_lose_neither(store, endpoint):
    sign_in(store, endpoint)
    with StoredTokenCache(store, key=KEY) as one, StoredTokenCache(store, key=KEY) as other:
        for cache, scope in ((one, "https://one.example/read"), (other, "https://other.example/read")):
            app = endpoint.app(cache)
            app.acquire_token_silent([scope], account=app.get_accounts()[0])
    targets = {entry["target"] for entry in row(store)["AccessToken"].values()}
    assert targets == {*SCOPES, "https://one.example/read", "https://other.example/read"}


def test_refresh_that_ends_after_a_sign_out_brings_nothing_back(store, endpoint):
    sign_in(store, endpoint)
    with StoredTokenCache(store, key=KEY) as cache:
        assert silent(endpoint.app(cache), ANA, force_refresh=True)["access_token"]
        sign_out(store)
    assert store.load(KEY).data is None


def test_the_same_holds_for_an_account_in_capital_letters(store, endpoint):
    class InCapitals(Endpoint):
        def tokens(self, user: User | None, scope: str) -> dict[str, Any]:
            info = {"client_info": part({"uid": user.oid.upper(), "utid": TENANT})} if user else {}
            return {**super().tokens(user, scope), **info}

    sign_in(store, endpoint, BEN)
    sign_in(store, InCapitals(prefix="capital"))
    with StoredTokenCache(store, key=KEY) as late:
        app = InCapitals(prefix="late").app(late)
        (account,) = (a for a in app.get_accounts() if a["home_account_id"] == KEY.upper())
        assert app.acquire_token_silent(SCOPES, account=account, force_refresh=True)["access_token"]
        sign_out(store)
    assert {a["home_account_id"] for a in row(store)["Account"].values()} == {BEN.home_account_id}
    assert KEY.upper() not in everything(store)


def test_refresh_of_an_ended_session_never_replaces_the_refresh_token_of_the_new_one(store, endpoint):
    sign_in(store, endpoint)
    with StoredTokenCache(store, key=KEY) as late:
        silent(endpoint.app(late), ANA, force_refresh=True)
        sign_out(store)
        new = sign_in(store, endpoint)
    assert secrets_of(store, "RefreshToken") == {new["refresh_token"]}
    assert secrets_of(store, "AccessToken") == {new["access_token"]}
    assert secrets_of(store, "IdToken") == {new["id_token"]}


def test_the_same_holds_in_a_row_that_others_share(store, endpoint):
    shared = "shared"
    ben = sign_in(store, endpoint, BEN, shared)
    sign_in(store, endpoint, ANA, shared)
    with StoredTokenCache(store, key=shared) as late:
        silent(endpoint.app(late), ANA, force_refresh=True)
        silent(endpoint.app(late), BEN, force_refresh=True)
        sign_out(store, ANA, shared)
        new = sign_in(store, endpoint, ANA, shared)
    tokens = secrets_of(store, "RefreshToken", shared)
    assert new["refresh_token"] in tokens
    assert ben["refresh_token"] not in tokens  # a conflict does not lose what others brought
    assert len(tokens) == 2


def test_sign_in_saves_its_own_tokens_and_none_of_the_ended_session(store, endpoint):
    old = sign_in(store, endpoint)
    with StoredTokenCache(store, key=KEY) as cache:
        endpoint.app(cache).acquire_token_silent(
            ["https://old.example/read"], endpoint.app(cache).get_accounts()[0]
        )
        sign_out(store)
        new = endpoint.sign_in(cache, ANA, ["https://new.example/read"])
    assert secrets_of(store, "RefreshToken") == {new["refresh_token"]}
    assert secrets_of(store, "AccessToken") == {new["access_token"]}
    assert old["access_token"] not in everything(store)


def test_refresh_that_used_the_refresh_token_of_a_sign_in_in_the_same_block_belongs_to_it(store, endpoint):
    sign_in(store, endpoint)
    with StoredTokenCache(store, key=KEY) as cache:
        sign_out(store)
        endpoint.sign_in(cache, ANA)
        for _ in range(2):
            last = silent(endpoint.app(cache), ANA, force_refresh=True)
    assert secrets_of(store, "AccessToken") == {last["access_token"]}
    assert len(secrets_of(store, "RefreshToken")) == 1


def test_refresh_that_began_before_a_sign_in_in_the_same_block_does_not_replace_its_tokens(store):
    arrived, go = threading.Event(), threading.Event()

    def wait(grant: str) -> None:
        if grant == "refresh_token":
            arrived.set()
            assert go.wait(10)

    endpoint = Endpoint(wait)
    sign_in(store, endpoint)
    with StoredTokenCache(store, key=KEY) as cache:
        app = endpoint.app(cache)
        late = threading.Thread(target=silent, args=(app, ANA), kwargs={"force_refresh": True})
        late.start()
        assert arrived.wait(10)
        new = endpoint.sign_in(cache, ANA)
        go.set()
        late.join()
        assert [entry["secret"] for entry in cache.search("RefreshToken")] == [new["refresh_token"]]
    assert secrets_of(store, "RefreshToken") == {new["refresh_token"]}
    assert secrets_of(store, "AccessToken") == {new["access_token"]}


def test_account_that_the_app_itself_removed_is_not_brought_back_by_another_request(store, endpoint):
    sign_in(store, endpoint, BEN)
    sign_in(store, endpoint)
    with StoredTokenCache(store, key=KEY) as late:
        silent(endpoint.app(late), ANA, force_refresh=True)
        with StoredTokenCache(store, key=KEY) as cache:
            app = endpoint.app(cache)
            app.remove_account(next(a for a in app.get_accounts() if a["home_account_id"] == KEY))
    assert KEY not in {
        e["home_account_id"] for kind in ("AccessToken", "RefreshToken") for e in row(store)[kind].values()
    }
    assert BEN.home_account_id in everything(store)


def test_account_that_the_app_removed_is_not_brought_back_by_the_same_cache(store):
    arrived, go = threading.Event(), threading.Event()

    def wait(grant: str) -> None:
        if grant == "refresh_token":
            arrived.set()
            assert go.wait(10)

    endpoint = Endpoint(wait)
    sign_in(store, endpoint)
    with StoredTokenCache(store, key=KEY) as cache:
        app = endpoint.app(cache)
        late = threading.Thread(target=silent, args=(app, ANA), kwargs={"force_refresh": True})
        late.start()
        assert arrived.wait(10)
        app.remove_account(app.get_accounts()[0])
        go.set()
        late.join()
    assert store.load(KEY).data is None


def test_late_on_behalf_of_result_is_dropped_when_the_account_was_removed_meanwhile(store, endpoint):
    sign_in(store, endpoint)
    with StoredTokenCache(store, key=KEY) as late:
        _on_behalf_of(endpoint, late)
        sign_out(store)
    assert store.load(KEY).data is None


def test_late_first_on_behalf_of_result_is_dropped_when_the_user_signed_out_meanwhile(store, endpoint):
    with StoredTokenCache(store, key=KEY) as late:
        _on_behalf_of(endpoint, late)
        sign_out(store)  # there was nothing to remove yet
    assert store.load(KEY).data is None


def test_late_on_behalf_of_result_is_dropped_although_the_user_signed_in_again(store, endpoint):
    with StoredTokenCache(store, key=KEY) as late:
        result = _on_behalf_of(endpoint, late)
        new = sign_in(store, endpoint)
        sign_out(store)
        new = sign_in(store, endpoint)
    assert result["access_token"] not in everything(store)
    assert secrets_of(store, "RefreshToken") == {new["refresh_token"]}


def test_next_request_does_on_behalf_of_again(store, endpoint):
    sign_out(store)
    with StoredTokenCache(store, key=KEY) as cache:
        result = _on_behalf_of(endpoint, cache)
    assert secrets_of(store, "AccessToken") == {result["access_token"]}


def _on_behalf_of(endpoint: Endpoint, cache: msal.TokenCache) -> dict[str, Any]:
    endpoint.users["assertion"] = ANA
    result = endpoint.app(cache).acquire_token_on_behalf_of("assertion", ["https://down.example/read"])
    assert "access_token" in result
    return result


def test_app_only_tokens_are_kept_whoever_signed_out(store, endpoint):
    sign_in(store, endpoint)
    with StoredTokenCache(store, key=KEY) as cache:
        result = endpoint.app(cache).acquire_token_for_client(["https://api.example/.default"])
        sign_out(store)
    assert secrets_of(store, "AccessToken") == {result["access_token"]}


def test_access_token_whose_response_names_no_user_belongs_to_the_account_of_the_refresh_token(
    store, endpoint
):
    sign_in(store, endpoint)
    endpoint.with_id_token = False
    with StoredTokenCache(store, key=KEY) as late:
        late_token = silent(endpoint.app(late), ANA, force_refresh=True)["access_token"]
        sign_out(store)
    assert late_token not in everything(store)


def test_row_without_a_credential_is_removed(store, endpoint):
    sign_in(store, endpoint)
    with StoredTokenCache(store, key=KEY) as cache:
        app = endpoint.app(cache)
        app.remove_account(app.get_accounts()[0])
    assert store.load(KEY).data is None


def test_token_of_another_library_without_an_expiry_can_be_removed(store, endpoint):
    sign_in(store, endpoint)
    document = row(store)
    for entry in document["AccessToken"].values():
        del entry["expires_on"]
    store.replace(KEY, store.load(KEY).version, json.dumps({**document, "scalar": 1}).encode())
    with StoredTokenCache(store, key=KEY) as cache:
        for kind in ("AccessToken", "RefreshToken", "IdToken", "Account"):
            for entry in document[kind].values():
                cache.modify(kind, entry)
    assert store.load(KEY).data is None


def test_what_other_libraries_keep_in_the_row_is_kept(store, endpoint):
    sign_in(store, endpoint)
    document = {**row(store), "Foreign": {"one": {"two": 3}}, "scalar": 1}
    document["Account"]["foreign"] = {"home_account_id": "x.y", "unknown": ["field"]}
    store.replace(KEY, store.load(KEY).version, json.dumps(document).encode())
    with StoredTokenCache(store, key=KEY) as cache:
        silent(endpoint.app(cache), ANA, force_refresh=True)
    after = row(store)
    assert (after["Foreign"], after["scalar"]) == ({"one": {"two": 3}}, 1)
    assert after["Account"]["foreign"] == {"home_account_id": "x.y", "unknown": ["field"]}


def test_each_account_has_an_incarnation_that_only_a_removal_renews(store, endpoint):
    def incarnations() -> dict[str, str]:
        return row(store)["MsalLogoutMiddleware"]["incarnations"]

    sign_in(store, endpoint)
    sign_in(store, endpoint, BEN)
    first = incarnations()
    assert set(first) == {ANA.home_account_id, BEN.home_account_id}
    sign_in(store, endpoint)
    assert incarnations() == first
    sign_out(store)
    assert incarnations()[BEN.home_account_id] == first[BEN.home_account_id]
    assert incarnations()[ANA.home_account_id] != first[ANA.home_account_id]


def test_save_that_loses_a_race_is_tried_again(store, endpoint):
    sign_in(store, endpoint)
    store.before_replace = [lambda: sign_in(store, endpoint, BEN)] * 3
    with StoredTokenCache(store, key=KEY) as cache:
        token = silent(endpoint.app(cache), ANA, force_refresh=True)
    assert token["access_token"] in secrets_of(store, "AccessToken")


def test_save_that_always_loses_ends_in_a_conflict(store, endpoint):
    sign_in(store, endpoint)

    def again() -> None:
        saved = store.load(KEY)
        assert MemoryStore.replace(store, KEY, saved.version, saved.data)

    store.before_replace = [again] * 3
    cache = StoredTokenCache(store, key=KEY, attempts=3)
    cache.__enter__()
    silent(endpoint.app(cache), ANA, force_refresh=True)
    with pytest.raises(Conflict, match="3 times"):
        cache.__exit__(None, None, None)


def test_nothing_but_our_own_logger_is_used_and_it_names_nobody(store, endpoint, caplog):
    caplog.set_level(logging.INFO)
    sign_in(store, endpoint)
    assert TENANT not in caplog.text
    assert ISSUER not in caplog.text


def test_late_answer_of_an_earlier_block_is_dropped(store):
    cache = StoredTokenCache(store, key="ann", cache_key=lambda _: "ann")
    with cache:
        cache.add(signed_in_event("rt-of-ended-session"))
    store.replace("ann", store.load("ann").version, None)
    with cache:
        cache.add(signed_in_event("rt-of-new-session"))
    with cache:
        cache.add(refreshed_event(used="rt-of-ended-session", new="rt-rotated"))
    assert b"rt-of-new-session" in store.load("ann").data
    assert b"rt-rotated" not in store.load("ann").data


def test_write_after_the_block_is_told_and_not_saved_by_the_next(store):
    cache = StoredTokenCache(store, key="ann", cache_key=lambda _: "ann")
    with cache:
        cache.add(signed_in_event("rt"))
        (token,) = cache.search("RefreshToken")
    store.replace("ann", store.load("ann").version, None)
    with pytest.raises(RuntimeError, match="inside its `with` block"):
        cache.update_rt(token, "rt-late")
    cache.remove_rt(token)
    with cache:
        pass
    assert store.load("ann").data is None


def test_second_silent_answer_without_an_owner_follows_the_rotated_token(store):
    with StoredTokenCache(store, key="ann", cache_key=lambda _: "ann") as cache:
        cache.add(signed_in_event("rt1"))
    with StoredTokenCache(store, key="ann", cache_key=lambda _: "ann") as cache:
        (token,) = cache.search("RefreshToken")
        cache.add(ownerless_event(used="rt1"))
        cache.update_rt(token, "rt2")
        store.replace("ann", store.load("ann").version, None)
        cache.add(ownerless_event(used="rt1"))
    assert store.load("ann").data is None


def signed_in_event(refresh_token):
    return event("authorization_code", {"refresh_token": refresh_token, "id_token": ID_TOKEN}, {})


def refreshed_event(*, used, new):
    response = {"refresh_token": new, "id_token": ID_TOKEN}
    return event("refresh_token", response, {"refresh_token": used}) | {"skip_account_creation": True}


def ownerless_event(*, used):
    return event("refresh_token", {}, {"refresh_token": used}) | {"skip_account_creation": True}


ID_TOKEN = jwt.encode({"iss": "https://op.example", "sub": "ann", "aud": "app"}, "k" * 32, algorithm="HS256")


def event(grant_type, response, data):
    return {
        "client_id": "app",
        "scope": ["s"],
        "token_endpoint": "https://op.example/t/token",
        "grant_type": grant_type,
        "response": {"access_token": "at", "expires_in": 3600, **response},
        "data": data,
    }
