"""Whose an entry is: found from claims, and never somebody else's."""

from __future__ import annotations

import json

import msal
import pytest

from msal_logout_middleware import accounts
from msal_logout_middleware.accounts import (
    BOOKKEEPING,
    INCARNATIONS,
    remove_accounts,
)
from msal_logout_middleware.errors import LogoutError

from .handmade import (
    ALICE,
    BOB,
    CLIENT,
    ENTRA,
    TENANT,
    app_only,
    cache_of,
    entra_claims,
    entry,
    generic_claims,
    sign_in,
    token,
)

HOME = f"{ALICE}.{TENANT}"
OTHER_TENANT = "7e9a9700-0000-4000-8000-000000000002"
ONE, TWO = "https://one.example/realms/r", "https://two.example/realms/r"
KEPT = {"RefreshToken": {"kept": entry(f"{BOB}.{TENANT}")}}


def left(sections, claims):
    """Return what is left of sections, beside one entry of somebody else, which always is."""
    cache = json.loads(remove_accounts(json.dumps({**sections, "Kept": KEPT["RefreshToken"]}), claims).cache)
    assert cache.pop("Kept") == KEPT["RefreshToken"]
    cache.pop(BOOKKEEPING, None)
    return {kind: section for kind, section in cache.items() if section}


@pytest.mark.parametrize(
    "sections",
    [
        {"AccessToken": {"k": entry(HOME)}},
        {"AccessToken": {"k": entry(HOME.upper())}},
        {"AccessToken": {"k": entry(HOME, "login.windows.net", realm="another", client_id="another")}},
        {"AccessToken": {"k": entry(HOME, ext_cache_key="x", credential_type="atext")}},
        {"PopToken": {"k": entry(HOME)}},
        {"PopToken": {f"{HOME}-{ENTRA}-poptoken": "not an object"}},
        {"RefreshToken": {f"{HOME}-{ENTRA}-refreshtoken-{CLIENT}--": 7}},
        {"RefreshToken": {f"{HOME}-{ENTRA}-refreshtoken-{CLIENT}--": entry(None)}},
        {"RefreshToken": {f"{HOME}-{ENTRA}-refreshtoken-{CLIENT}--": {"secret": "opaque"}}},
        {"RefreshToken": {f"{HOME.upper()}-{ENTRA}-refreshtoken-{CLIENT}--": {"secret": "opaque"}}},
        {"RefreshToken": {f"{ALICE}-b2c_1_any.{TENANT}-x.b2clogin.com-refreshtoken": None}},
        {"IdToken": {"k": {"secret": token(entra_claims())}}},
        {"AccessToken": {"k": {"home_account_id": None, "secret": token({"oid": ALICE, "tid": TENANT})}}},
        {"Account": {"k": {"local_account_id": ALICE, "realm": TENANT}}},
        {"AccessToken": {"k": entry(f"{ALICE}-b2c_1_signin.{TENANT}")}},
        {"AccessToken": {"k": entry(f"{ALICE}-B2C_1A_edit-profile.{TENANT}")}},
        {"IDTokensPartition": {"hash": {"k": entry(HOME)}}},
    ],
)
def test_entry_is_the_users(sections):
    assert left(sections, entra_claims()) in ({}, {"IDTokensPartition": {"hash": {}}})


@pytest.mark.parametrize(
    "sections",
    [
        {"AccessToken": {"k": entry(f"{BOB}.{TENANT}")}},
        {"AccessToken": {"k": entry(f"{ALICE}.{OTHER_TENANT}")}},
        {"AccessToken": {"k": entry(f"{BOB}-{ALICE}.{TENANT}")}},
        {"AccessToken": {"k": entry(f"{ALICE}0.{TENANT}")}},
        {"AccessToken": {f"-{ENTRA}-accesstoken-{CLIENT}-{TENANT}-s": entry(None)}},
        {"AccessToken": {f"-{ENTRA}-accesstoken-{CLIENT}-{TENANT}-s": {"secret": "opaque"}}},
        {"AccessToken": {"k": {"secret": token({"sub": CLIENT, "oid": CLIENT, "tid": TENANT})}}},
        {"AccessToken": {f"{BOB}.{TENANT}-{ENTRA}-accesstoken": {"secret": "opaque"}}},
        {"AccessToken": {f"{BOB}.{TENANT}-{ENTRA}-accesstoken": ["odd"]}},
        {"AccessToken": {f"{HOME}-{ENTRA}-accesstoken": entry(f"{BOB}.{TENANT}")}},
        {"AccessToken": {"k": {"home_account_id": 7, "secret": 7, "environment": [], "realm": {}}}},
        {"Account": {"k": {**entry(f"{BOB}.{TENANT}"), "username": "alice@contoso.example"}}},
        {"Account": {"k": {**entry(f"{BOB}.{TENANT}"), "local_account_id": ALICE, "realm": OTHER_TENANT}}},
        {"IdToken": {"k": {"secret": token(entra_claims(BOB))}}},
        {"IdToken": {"k": {"secret": "a.b.c"}}},
        {"IdToken": {"k": {"secret": "a.WzFd.c"}}},  # [1]
        {"unknown": {"field": "value", HOME: "no key of an entry"}},
    ],
)
def test_entry_is_not_the_users(sections):
    claims = entra_claims(preferred_username="alice@contoso.example")
    assert left(sections, claims) == sections


def test_guest_is_found_by_an_id_token():
    claims = entra_claims("9e570000-0000-4000-8000-000000000001", OTHER_TENANT)
    cache = msal.SerializableTokenCache()
    sign_in(cache, claims, home=(ALICE, TENANT))
    sign_in(cache, entra_claims(ALICE), scope="Mail.Read")
    sign_in(cache, entra_claims(BOB))

    removal = remove_accounts(cache.serialize(), claims)

    assert removal.home_account_ids == {HOME}
    assert {one["home_account_id"] for one in json.loads(removal.cache)["Account"].values()} == {
        f"{BOB}.{TENANT}"
    }


def test_guest_is_found_by_an_account_entry():
    account = entry(HOME, local_account_id=ALICE.upper(), realm=OTHER_TENANT.upper())
    sections = {"Account": {"a": account}, "RefreshToken": {"r": entry(HOME)}}
    assert left(sections, {"oid": ALICE, "tid": OTHER_TENANT}) == {}


def test_guest_is_found_by_an_access_token():
    sections = {
        "AccessToken": {"a": entry(HOME, secret=token({"oid": "9e57", "tid": OTHER_TENANT}))},
        "RefreshToken": {"r": entry(HOME)},
    }
    assert left(sections, {"oid": "9e57", "tid": OTHER_TENANT}) == {}


def test_user_of_another_client_is_found_although_sub_differs():
    claims = entra_claims(iss=f"https://sts.windows.net/{TENANT}/", sub="another", aud="another client")
    sections = {
        "IdToken": {"i": entry("uid.utid", secret=token(claims))},
        "RefreshToken": {"r": entry("uid.utid")},
    }
    assert left(sections, entra_claims()) == {}


def test_b2c_leaves_tid_out_of_the_claims():
    claims = {"iss": f"https://contoso.b2clogin.com/{TENANT}/v2.0/", "sub": ALICE}
    sections = {
        "RefreshToken": {
            "1": entry(f"{ALICE}-b2c_1_signin.{TENANT}"),
            "2": entry(f"{ALICE}-b2c_1_edit.{TENANT}"),
        }
    }
    assert left(sections, claims) == {}


def test_issuer_does_not_speak_for_another_tenants_users():
    sections = cache_of(entra_claims())
    assert left(sections, generic_claims(oid=ALICE, tid=TENANT)) == sections
    sections["IdToken"]["odd"] = entry("x", secret=token(generic_claims(oid=ALICE, tid=TENANT)))
    assert left(sections, entra_claims())["IdToken"] == {"odd": sections["IdToken"]["odd"]}


def test_claims_without_identity_find_nothing():
    sections = {
        "AccessToken": {"k": entry(HOME), f"{HOME}-{ENTRA}-accesstoken": 1, "-x": 2},
        "Account": {"k": {}},
    }
    for claims in ({}, {"sub": "", "oid": "", "tid": ""}, {"sub": 7, "oid": None, "tid": [], "iss": {}}):
        assert left(sections, claims) == sections


@pytest.mark.parametrize(
    (
        "others_issuer",
        "others_client",
    ),  # at the same host with the same client, MSAL gives both the same keys
    [(TWO, CLIENT), (TWO, "another client"), ("https://one.example/realms/another", "another client")],
)
def test_same_sub_of_another_issuer_is_somebody_else(others_issuer, others_client):
    cache = msal.SerializableTokenCache()
    other = {"client": others_client, "scope": "theirs"}
    sign_in(cache, generic_claims(iss=others_issuer), **other)
    app_only(cache, "one.example")
    theirs = json.loads(cache.serialize())
    sign_in(cache, generic_claims(iss=ONE), scope="mine")

    removal = remove_accounts(cache.serialize(), generic_claims(iss=ONE))

    after = json.loads(removal.cache)
    for kind in ("AccessToken", "RefreshToken", "IdToken"):
        assert after[kind] == theirs[kind]
    assert removal.home_account_ids == {"42"}


def test_two_realms_on_one_host_are_told_apart_by_the_realm():
    mine = entry("42", "one.example", realm="mine")
    theirs = entry("42", "one.example", realm="theirs")
    sections = {
        "IdToken": {
            "mine": {**mine, "secret": token(generic_claims(iss=ONE))},
            "theirs": {**theirs, "secret": token(generic_claims(iss="https://one.example/realms/another"))},
        },
        "AccessToken": {"mine": mine, "theirs": theirs},
    }
    assert left(sections, generic_claims(iss=ONE)) == {
        kind: {"theirs": of["theirs"]} for kind, of in sections.items()
    }


def test_what_msal_itself_cannot_tell_apart_goes_with_either():
    here = entry("42", "one.example", realm="r")
    sections = {
        "IdToken": {
            "mine": {**here, "secret": token(generic_claims(iss=ONE))},
            "theirs": {**here, "secret": token(generic_claims(iss="https://one.example/realms/another"))},
        },
        "RefreshToken": {"whose": entry("42", "one.example")},
    }
    assert left(sections, generic_claims(iss=ONE)) == {"IdToken": {"theirs": sections["IdToken"]["theirs"]}}


def test_orphan_of_a_bare_sub_is_found_on_the_issuers_host_only():
    sections = {"RefreshToken": {"mine": entry("42", "ONE.example"), "theirs": entry("42", "two.example")}}
    expected = {"RefreshToken": {"theirs": sections["RefreshToken"]["theirs"]}}
    assert left(sections, generic_claims(iss=ONE)) == expected
    assert left(sections, generic_claims(iss="https://[nonsense")) == sections


def test_entry_of_a_bare_sub_that_only_its_key_assigns_to_it():
    sections = {
        "RefreshToken": {
            "42-one.example-refreshtoken-c": None,
            "42-authority.example-refreshtoken-c": None,
            "42-two.example-refreshtoken-c": None,
            "42-x-one.example-refreshtoken-c": None,
        },
        "IdToken": {"mine": entry("42", "authority.example", secret=token(generic_claims(iss=ONE)))},
    }
    assert left(sections, generic_claims(iss=ONE)) == {
        "RefreshToken": {"42-two.example-refreshtoken-c": None, "42-x-one.example-refreshtoken-c": None}
    }


def test_user_whose_authority_is_on_another_host_than_the_issuer_is_found_by_the_id_token():
    cache = msal.SerializableTokenCache()
    sign_in(cache, generic_claims(iss=ONE), environment="authority.example")
    sections = json.loads(cache.serialize())
    del sections["AppMetadata"]
    assert left(sections, generic_claims(iss=ONE)) == {}


def test_bare_sub_is_spelled_as_the_provider_spells_it():
    def of(sub):
        return {**entry(sub, "one.example"), "secret": token(generic_claims(sub, ONE))}

    sections = {
        "IdToken": {"mine": of("AbC"), "theirs": of("abc")},
        "RefreshToken": {"mine": entry("AbC", "one.example"), "theirs": entry("abc", "one.example")},
        "AccessToken": {"theirs": entry("ABC", "one.example")},
    }
    expected = {kind: {"theirs": section["theirs"]} for kind, section in sections.items()}
    assert left(sections, generic_claims("AbC", ONE)) == expected


def test_bare_sub_in_small_letters_is_the_users_unless_an_id_token_says_otherwise():
    sections = {"RefreshToken": {"mine": entry("abc", "one.example")}}
    assert left(sections, generic_claims("AbC", ONE)) == {}


def test_bare_sub_in_small_letters_is_found_where_an_id_token_of_the_user_was_obtained():
    mine = {"mine": entry("AbC", "authority.example", secret=token(generic_claims("AbC", ONE)))}
    assert (
        left(
            {"IdToken": mine, "RefreshToken": {"r": entry("abc", "authority.example")}},
            generic_claims("AbC", ONE),
        )
        == {}
    )


def test_key_alone_does_not_tell_where_both_issuers_are_known():
    here = entry("42", "authority.example")
    sections = {
        "IdToken": {
            "mine": {**here, "secret": token(generic_claims(iss=ONE))},
            "theirs": {**here, "client_id": "another", "secret": token(generic_claims(iss=TWO))},
        },
        "RefreshToken": {"42-authority.example-refreshtoken-c": None},
    }
    del sections["IdToken"]["mine"]["client_id"]
    assert left(sections, generic_claims(iss=ONE))["RefreshToken"] == sections["RefreshToken"]


def test_bare_sub_without_iss_counts_where_one_issuer_is_known():
    claims = {"sub": "42"}
    one = cache_of(generic_claims(iss=ONE))
    del one["AppMetadata"]
    assert left(one, claims) == {}
    two = cache_of(generic_claims(iss=ONE), generic_claims(iss=TWO))
    assert left(two, claims) == two


def test_user_called_like_the_metadata_does_not_take_it_away():
    cache = cache_of(generic_claims("appmetadata", ONE))
    assert left(cache, generic_claims("appmetadata", ONE)) == {"AppMetadata": cache["AppMetadata"]}


def test_newest_id_token_of_the_claims_is_handed_out():
    def held(name, **claims):
        return {name: entry(HOME, secret=token(entra_claims(**claims)))}

    section = {
        **held("old", iat=1),
        **held("new", iat=3, sid="newest"),
        **held("odd", iat="9"),
        **held("other client", iat=4, aud="other"),
        **held("other user", oid=BOB, sub="bob", iat=5),
    }
    cache = json.dumps({"IdToken": section})
    removal = remove_accounts(cache, entra_claims(iat=1))
    assert removal.id_token == section["new"]["secret"]
    assert removal.id_token not in repr(removal)
    assert HOME not in repr(removal)
    assert remove_accounts(cache, entra_claims(aud="unknown")).id_token is None


def test_cache_of_nobody_else_is_none():
    cache = msal.SerializableTokenCache()
    sign_in(cache, entra_claims())
    removal = remove_accounts(cache.serialize(), entra_claims())
    assert removal.cache is None
    assert removal.removed == {"AccessToken": 1, "RefreshToken": 1, "IdToken": 1, "Account": 1}
    assert removal.left == {"AppMetadata": 1}


@pytest.mark.parametrize(
    "cache",
    ["", " ", "{}", '{"AppMetadata": {"k": {}}}', '{"MsalLogoutMiddleware": {"incarnations": {"a": "b"}}}'],
)
def test_cache_in_which_nobody_is_left_is_none(cache):
    assert remove_accounts(cache, entra_claims()).cache is None


def test_app_only_token_keeps_the_cache():
    cache = msal.SerializableTokenCache()
    app_only(cache)
    before = json.loads(cache.serialize())
    sign_in(cache, entra_claims())
    after = json.loads(remove_accounts(cache.serialize(), entra_claims()).cache)
    assert after["AccessToken"] == before["AccessToken"]
    assert after["RefreshToken"] == after["IdToken"] == after["Account"] == {}


def test_each_removal_gives_its_accounts_a_new_incarnation():
    sections = cache_of(entra_claims(), entra_claims(BOB))
    held = {HOME: "old", "somebody": "else"}
    cache = json.dumps({**sections, BOOKKEEPING: {INCARNATIONS: held, "more": 1}})

    first, second = (json.loads(remove_accounts(cache, entra_claims()).cache) for _ in range(2))

    renewed = first[BOOKKEEPING][INCARNATIONS]
    assert renewed == {HOME: renewed[HOME], "somebody": "else"}
    assert len({renewed[HOME], second[BOOKKEEPING][INCARNATIONS][HOME], "old"}) == 3
    assert len(bytes.fromhex(renewed[HOME])) == 8


@pytest.mark.parametrize("bookkeeping", [None, [], {"incarnations": 1}, "text"])
def test_odd_bookkeeping_is_made_anew(bookkeeping):
    cache = json.dumps({BOOKKEEPING: bookkeeping, **cache_of(entra_claims(), entra_claims(BOB))})
    after = json.loads(remove_accounts(cache, entra_claims()).cache)
    assert list(after[BOOKKEEPING]) == [INCARNATIONS]
    assert list(after[BOOKKEEPING][INCARNATIONS]) == [HOME]


@pytest.mark.parametrize("find", [entra_claims(), {"oid": ALICE, "tid": TENANT}])
@pytest.mark.parametrize(
    "kind", ["AccessToken", "RefreshToken", "IdToken", "Account", "keyed", "named", "account"]
)
def test_anything_that_is_left_is_noticed(monkeypatch, kind, find):
    sections = cache_of(entra_claims(), entra_claims(BOB))
    sections["keyed"] = {f"{HOME}-{ENTRA}-x": {"environment": ENTRA}, f"{HOME}-": 1}
    sections["named"] = {"k": {"secret": token(find)}}
    sections["account"] = {"k": {"local_account_id": ALICE, "realm": TENANT}}
    cache = json.dumps({kind: sections[kind], "Kept": KEPT["RefreshToken"], "AppMetadata": {"k": {}}})
    monkeypatch.setattr(accounts, "_cuts", lambda *_: ())
    with pytest.raises(LogoutError, match="left in the token cache") as caught:
        remove_accounts(cache, find)
    assert ALICE not in str(caught.value)
