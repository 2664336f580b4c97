"""One live cache for all users: a removal is complete, costs what the account costs, and nothing late comes back."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msal
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msal_logout_middleware import accounts
from msal_logout_middleware.shared_cache import SharedCache

from .races.token_endpoint import ANA, BEN, HOST, SCOPES, TENANT, Endpoint, jwt, part, silent

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class Waiting(Endpoint):
    """Holds answers to one grant until they are let go."""

    def __init__(self, grant: str) -> None:
        super().__init__(self._wait)
        self.grant = grant
        self.arrived, self.go = threading.Event(), threading.Event()

    def _wait(self, grant: str) -> None:
        if grant == self.grant:
            self.arrived.set()
            assert self.go.wait(10)

    @contextmanager
    def under_way(self, call: Any) -> Iterator[list[Any]]:
        """Run a call in a thread; its answer is let go, and added, when the block ends."""
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(call()))
        thread.start()
        assert self.arrived.wait(10)
        yield results
        self.go.set()
        thread.join()
        self.arrived.clear()
        self.go.clear()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=[msal.TokenCache, msal.SerializableTokenCache])
def cache(request: pytest.FixtureRequest) -> msal.TokenCache:
    return request.param()


def secrets_in(cache: msal.TokenCache) -> set[str]:
    return {e["secret"] for kind in ("AccessToken", "RefreshToken", "IdToken") for e in cache.search(kind)}


def users_in(cache: msal.TokenCache) -> set[str | None]:
    kinds = ("AccessToken", "RefreshToken", "IdToken", "Account")
    return {entry.get("home_account_id") for kind in kinds for entry in cache._cache.get(kind, {}).values()}


def test_removal_leaves_nothing_of_the_user_and_everything_of_others(cache):
    endpoint = Endpoint()
    endpoint.sign_in(cache, ANA)
    shared = SharedCache.of(cache)
    bens = endpoint.sign_in(cache, BEN)
    app_token = endpoint.app(cache).acquire_token_for_client(["https://api.example/.default"])
    app = endpoint.app(cache)
    own = silent(app, ANA, force_refresh=True, data={"client_claims": '{"extended": 1}'})
    assert own["access_token"] in secrets_in(cache) | {
        e["secret"] for e in cache._cache["AccessToken"].values()
    }
    removed = shared.remove_accounts(ANA.claims)
    assert removed.counts == {"AccessToken": 2, "RefreshToken": 1, "IdToken": 1, "Account": 1}
    assert users_in(cache) == {BEN.home_account_id, None}
    assert silent(app, BEN)["access_token"] == bens["access_token"]
    assert (
        app.acquire_token_for_client(["https://api.example/.default"])["access_token"]
        == app_token["access_token"]
    )
    assert shared.remove_accounts(ANA.claims).counts == {}


def test_id_token_of_the_user_is_returned_and_not_shown(cache):
    endpoint = Endpoint()
    result = endpoint.sign_in(cache, ANA)
    removed = SharedCache.of(cache).remove_accounts(ANA.claims)
    assert removed.id_token == result["id_token"]
    assert removed.id_token not in repr(removed)


def test_id_token_of_another_client_is_no_hint(cache):
    endpoint = Endpoint()
    endpoint.sign_in(cache, ANA)
    removed = SharedCache.of(cache).remove_accounts({**ANA.claims, "aud": "another"})
    assert removed.id_token is None
    assert users_in(cache) == set()


def test_removal_tells_a_serializable_cache_that_it_has_changed():
    cache = msal.SerializableTokenCache()
    endpoint = Endpoint()
    endpoint.sign_in(cache, ANA)
    shared = SharedCache.of(cache)
    cache.serialize()
    shared.remove_accounts(ANA.claims)
    assert cache.has_state_changed


def test_cache_is_watched_once(cache):
    assert SharedCache.of(cache) is SharedCache.of(cache)


def test_deserialized_accounts_are_known():
    endpoint = Endpoint()
    source = msal.SerializableTokenCache()
    endpoint.sign_in(source, ANA)
    cache = msal.SerializableTokenCache()
    shared = SharedCache.of(cache)
    cache.deserialize(source.serialize())
    assert shared.remove_accounts(ANA.claims).counts
    cache.deserialize(None)
    assert shared.remove_accounts(ANA.claims).counts == {}


def test_accounts_are_known_although_the_contents_were_replaced_behind_our_back(cache):
    endpoint = Endpoint()
    shared = SharedCache.of(cache)
    other = msal.TokenCache()
    endpoint.sign_in(other, ANA)
    cache._cache = other._cache
    assert shared.remove_accounts(ANA.claims).counts


def test_expired_tokens_that_msal_drops_leave_the_index(cache):
    endpoint = Endpoint()
    shared = SharedCache.of(cache)
    endpoint.sign_in(cache, ANA)
    list(cache.search("AccessToken", now=time.time() + 7200))
    assert shared.remove_accounts(ANA.claims).counts == {"RefreshToken": 1, "IdToken": 1, "Account": 1}


def test_removal_by_msal_leaves_the_index(cache):
    endpoint = Endpoint()
    shared = SharedCache.of(cache)
    endpoint.sign_in(cache, ANA)
    app = endpoint.app(cache)
    app.remove_account(app.get_accounts()[0])
    assert shared.remove_accounts(ANA.claims).counts == {}


def test_unchanged_app_refreshes_and_rotates_as_before(cache):
    endpoint = Endpoint()
    SharedCache.of(cache)
    endpoint.sign_in(cache, ANA)
    app = endpoint.app(cache)
    tokens = [silent(app, ANA, force_refresh=True) for _ in range(3)]
    assert silent(app, ANA)["access_token"] == tokens[-1]["access_token"]
    assert len(list(cache.search("RefreshToken"))) == 1


def test_refresh_under_way_brings_nothing_back(cache):
    endpoint = Waiting("refresh_token")
    endpoint.sign_in(cache, ANA)
    shared = SharedCache.of(cache)
    app = endpoint.app(cache)
    with endpoint.under_way(lambda: silent(app, ANA, force_refresh=True)) as results:
        shared.remove_accounts(ANA.claims)
    assert results[0]["access_token"]  # its caller gets it
    assert users_in(cache) == set()


def test_refresh_under_way_does_not_replace_the_tokens_of_the_next_sign_in(cache):
    endpoint = Waiting("refresh_token")
    endpoint.sign_in(cache, ANA)
    shared = SharedCache.of(cache)
    app = endpoint.app(cache)
    with endpoint.under_way(lambda: silent(app, ANA, force_refresh=True)):
        shared.remove_accounts(ANA.claims)
        new = endpoint.sign_in(cache, ANA)
    assert secrets_in(cache) == {new["access_token"], new["refresh_token"], new["id_token"]}


def test_refreshes_with_the_same_refresh_token_at_the_same_time_lose_neither(cache):
    endpoint = Waiting("refresh_token")
    SharedCache.of(cache)
    endpoint.sign_in(cache, ANA)
    app = endpoint.app(cache)
    account = app.get_accounts()[0]
    late_scope = ["https://late.example/read"]
    with endpoint.under_way(lambda: app.acquire_token_silent(late_scope, account)) as results:
        endpoint.before_answer = lambda grant: None
        endpoint.app(cache).acquire_token_silent(["https://quick.example/read"], account)
    assert results[0]["access_token"] in secrets_in(cache)
    refresh_tokens = [entry["secret"] for entry in cache.search("RefreshToken")]
    assert (
        refresh_tokens == [results[0]["refresh_token"]] if "refresh_token" in results[0] else refresh_tokens
    )


def test_access_token_whose_response_names_no_user_goes_with_the_account(cache):
    endpoint = Endpoint()
    endpoint.sign_in(cache, ANA)
    shared = SharedCache.of(cache)
    endpoint.with_id_token = False
    token = silent(endpoint.app(cache), ANA, force_refresh=True)["access_token"]
    app_token = endpoint.app(cache).acquire_token_for_client(["https://api.example/.default"])["access_token"]
    assert token in secrets_in(cache)
    shared.remove_accounts(ANA.claims)
    assert secrets_in(cache) == {app_token}


def _on_behalf_of(endpoint: Endpoint, cache: msal.TokenCache) -> dict[str, Any]:
    endpoint.users["assertion"] = ANA
    return endpoint.app(cache).acquire_token_on_behalf_of("assertion", SCOPES)


def test_on_behalf_of_under_way_brings_nothing_back(cache):
    endpoint = Waiting(JWT_BEARER)
    shared = SharedCache.of(cache)
    with endpoint.under_way(lambda: _on_behalf_of(endpoint, cache)) as results:
        shared.remove_accounts(ANA.claims)  # also where nothing was there yet
    assert results[0]["access_token"]
    assert users_in(cache) == set()


def test_on_behalf_of_is_cached_again_when_no_request_can_be_under_way_any_more(cache):
    endpoint, clock = Endpoint(), Clock()
    shared = SharedCache(cache, longest_request_seconds=120, clock=clock)
    shared.remove_accounts(ANA.claims)
    clock.now = 119.9
    assert _on_behalf_of(endpoint, cache)["access_token"] not in secrets_in(cache)
    clock.now = 120.0
    assert _on_behalf_of(endpoint, cache)["access_token"] in secrets_in(cache)


def test_on_behalf_of_for_others_is_cached_at_once(cache):
    endpoint = Endpoint()
    SharedCache.of(cache).remove_accounts(BEN.claims)
    assert _on_behalf_of(endpoint, cache)["access_token"] in secrets_in(cache)


def test_memory_of_removals_is_bounded_and_then_errs_on_the_safe_side(cache):
    endpoint, clock = Endpoint(), Clock()
    shared = SharedCache(cache, longest_request_seconds=120, clock=clock, remembered=6)
    shared.remove_accounts(ANA.claims)
    clock.now = 60.0
    for number in range(10, 20):
        shared.remove_accounts({"iss": "x", "sub": str(number)})
    assert len(shared._recent._until) <= 6
    assert _on_behalf_of(endpoint, cache)["access_token"] not in secrets_in(cache)
    clock.now = 180.0
    assert _on_behalf_of(endpoint, cache)["access_token"] in secrets_in(cache)


@pytest.mark.parametrize(
    "response",
    [
        {"access_token": jwt(ANA.claims)},
        {"access_token": "opaque", "client_info": part({"uid": ANA.oid, "utid": TENANT})},
        {"access_token": "opaque", "id_token": jwt(ANA.claims)},
    ],
    ids=["access token", "client_info", "ID token"],
)
def test_user_of_an_on_behalf_of_answer_is_known_by_any_of_its_parts(cache, response):
    shared = SharedCache.of(cache)
    event = {
        "client_id": "one",
        "scope": SCOPES,
        "token_endpoint": f"https://{HOST}/{TENANT}/oauth2/v2.0/token",
        "grant_type": JWT_BEARER,
        "data": {},
        "response": response,
    }
    cache.add(event)
    assert shared.remove_accounts(ANA.claims).counts["AccessToken"] == 1
    cache.add(event)
    assert secrets_in(cache) == set()


def test_app_only_tokens_can_be_removed(cache):
    endpoint = Endpoint()
    SharedCache.of(cache)
    app = endpoint.app(cache)
    app.acquire_token_for_client(["https://api.example/.default"])
    app.remove_tokens_for_client()
    assert secrets_in(cache) == set()


def test_access_token_without_an_owner_belongs_to_who_refreshed_it_last(cache):
    endpoint = Endpoint()
    shared = SharedCache.of(cache)
    for user in (ANA, BEN):
        endpoint.sign_in(cache, user)
    endpoint.with_id_token = False
    for user in (ANA, BEN):  # MSAL stores both in one place
        last = silent(endpoint.app(cache), user, force_refresh=True)
    shared.remove_accounts(ANA.claims)
    assert last["access_token"] in secrets_in(cache)
    shared.remove_accounts(BEN.claims)
    assert secrets_in(cache) == set()


def test_unreadable_id_token_and_issuer_hinder_nothing(cache):
    shared = SharedCache.of(cache)
    entry = {"home_account_id": "7", "environment": "one.example", "secret": "unreadable"}
    cache.modify("IdToken", entry, entry)
    assert shared.remove_accounts({"iss": "https://[", "sub": "7"}).counts == {}
    removal = shared.remove_accounts({"iss": "https://one.example", "sub": "7"})
    assert (removal.counts, removal.id_token) == ({"IdToken": 1}, None)


def test_entries_whose_key_alone_names_the_account_are_removed():
    cache = msal.SerializableTokenCache()
    shared = SharedCache.of(cache)
    key = f"{ANA.home_account_id}-{HOST}-refreshtoken-one--"
    cache.deserialize(
        json.dumps({"RefreshToken": {key: {"environment": HOST, "secret": "opaque"}}, "Odd": 1})
    )
    assert shared.remove_accounts(ANA.claims).counts == {"RefreshToken": 1}


def test_imported_refresh_token_follows_the_same_rule(cache):
    endpoint, clock = Endpoint(), Clock()
    shared = SharedCache(cache, clock=clock)
    endpoint.users["from elsewhere"] = ANA
    app = endpoint.app(cache)
    shared.remove_accounts(ANA.claims)
    app.acquire_token_by_refresh_token("from elsewhere", SCOPES)
    assert users_in(cache) == set()
    clock.now = 1000
    app.acquire_token_by_refresh_token("from elsewhere", SCOPES)
    assert users_in(cache) == {ANA.home_account_id}


def test_sign_in_is_kept_right_after_a_removal(cache):
    endpoint = Endpoint()
    shared = SharedCache.of(cache)
    shared.remove_accounts(ANA.claims)
    endpoint.sign_in(cache, ANA)
    endpoint.users["ana"] = ANA
    endpoint.app(cache).acquire_token_by_username_password("ana", "password", SCOPES)
    assert silent(endpoint.app(cache), ANA)


def test_b2c_accounts_of_every_policy_are_found_where_the_sub_is_the_object_id(cache):
    shared = SharedCache.of(cache)
    for policy in ("b2c_1_signin", "b2c_1_edit"):
        entry = {"home_account_id": f"{ANA.oid}-{policy}.{TENANT}", "environment": HOST, "secret": "opaque"}
        cache.modify("RefreshToken", entry, entry)
    claims = {"iss": f"https://contoso.b2clogin.com/{TENANT}/v2.0/", "sub": ANA.oid}
    assert shared.remove_accounts(claims).counts == {"RefreshToken": 2}


def test_same_bare_sub_at_another_provider_stays(cache):
    shared = SharedCache.of(cache)
    for host in ("one.example", "two.example"):
        entry = {"home_account_id": "7", "environment": host, "secret": "opaque"}
        cache.modify("RefreshToken", entry, entry)
    assert shared.remove_accounts({"iss": "https://one.example/realms/a", "sub": "7"}).counts == {
        "RefreshToken": 1
    }
    assert [entry["environment"] for entry in cache.search("RefreshToken")] == ["two.example"]


def test_same_bare_sub_at_another_issuer_of_one_host_stays(cache):
    shared = SharedCache.of(cache)
    issuers = ["https://one.example/realms/a", "https://one.example/realms/b"]
    for client, iss in zip(("client-a", "client-b"), issuers, strict=True):
        entry = {"home_account_id": "7", "environment": "one.example", "client_id": client, "realm": "realms"}
        cache.modify("RefreshToken", own := {**entry, "secret": "opaque"}, own)
        cache.modify("IdToken", own := {**entry, "secret": jwt({"iss": iss, "sub": "7"})}, own)
    assert shared.remove_accounts({"iss": issuers[0], "sub": "7"}).counts == {"IdToken": 1, "RefreshToken": 1}
    assert [entry["client_id"] for entry in cache.search("RefreshToken")] == ["client-b"]


def test_entry_that_changes_hands_goes_with_its_new_owner(cache):
    shared = SharedCache.of(cache)
    for home in ("SUB", "sub"):  # one key to MSAL
        entry = {"home_account_id": home, "environment": "one.example", "secret": "opaque"}
        cache.modify("RefreshToken", entry, entry)
    assert shared.remove_accounts({"iss": "https://one.example", "sub": "Sub"}).counts == {"RefreshToken": 1}
    assert shared.remove_accounts({"iss": "https://one.example", "sub": "SUB"}).counts == {}


# The index finds what `accounts.remove_accounts` finds.

OTHER_TENANT = TENANT.replace("1", "3")
OIDS = [ANA.oid, BEN.oid]
SUBS = ["sub-1", "sub-2", "SUB-1"]
ISSUERS = [f"https://{HOST}/{TENANT}/v2.0", "https://other.example/", "https://third.example/realms/a"]


@st.composite
def claims_of_somebody(draw: st.DrawFn) -> dict[str, Any]:
    claims: dict[str, Any] = {"iss": draw(st.sampled_from(ISSUERS)), "sub": draw(st.sampled_from(SUBS))}
    if draw(st.booleans()):
        claims |= {"oid": draw(st.sampled_from(OIDS)), "tid": draw(st.sampled_from([TENANT, OTHER_TENANT]))}
    return claims


@st.composite
def entries(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    kind = draw(st.sampled_from(["AccessToken", "RefreshToken", "IdToken", "Account"]))
    homes = [f"{oid}{policy}.{TENANT}" for oid in OIDS for policy in ("", "-b2c_1_one", "-b2c_1_two")]
    entry: dict[str, Any] = {
        "home_account_id": draw(st.sampled_from([*homes, "sub-1", "sub-2", None])),
        "environment": draw(st.sampled_from([HOST, "other.example", "third.example"])),
        "client_id": draw(st.sampled_from(["one", "two"])),
        "realm": draw(st.sampled_from([TENANT, OTHER_TENANT, "common"])),
    }
    if kind == "Account":
        entry["local_account_id"] = draw(st.sampled_from(OIDS))
        return kind, entry
    token = draw(st.none() | claims_of_somebody())
    entry["secret"] = jwt(token) if token else draw(st.sampled_from(["opaque", "a.b.c"]))
    entry["target"] = draw(st.sampled_from(["a", "b"]))
    return kind, entry


@settings(max_examples=400, deadline=None)
@given(st.lists(entries(), max_size=12), claims_of_somebody())
def test_removal_is_the_same_as_from_a_serialized_cache(listed, claims):
    cache = msal.SerializableTokenCache()
    for kind, entry in listed:
        cache.modify(kind, entry, entry)
    before = copy.deepcopy(cache._cache)
    removal = accounts.remove_accounts(json.dumps(before), claims)
    SharedCache.of(cache).remove_accounts(claims)
    expected = json.loads(removal.cache or "{}")
    for kind in before:
        assert set(cache._cache[kind]) == set(expected.get(kind, {})), kind
