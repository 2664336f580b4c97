"""Caches in the form in which MSAL .NET, Java, Node and Go write them: of Alice and Bob."""

from __future__ import annotations

import json
import re

import pytest

from msal_logout_middleware.accounts import BOOKKEEPING, remove_accounts

from .handmade import ALICE, BOB, CLIENT, TENANT, entra_claims, token

ELSEWHERE = "7e9a9700-0000-4000-8000-000000000002"
GUEST = "9e570000-0000-4000-8000-000000000001"
ALIAS = "login.windows.net"
HOMES = {ALICE: f"{ALICE}.{TENANT}", BOB: f"{BOB}.{TENANT}"}
ID_TOKENS = {
    ALICE: token(entra_claims()),
    BOB: token(entra_claims(BOB)),
    GUEST: token(entra_claims(GUEST, ELSEWHERE)),
}


def dotnet(oid):
    """Null fields, `client_info`, `ext_expires_on`, `user_assertion_hash`, broker ids; keys in small letters."""
    home = HOMES[oid]
    common = {
        "home_account_id": home,
        "environment": ALIAS,
        "client_info": "eyJ1aWQiOiIifQ",
        "client_id": CLIENT,
    }
    account = {
        "home_account_id": home,
        "environment": ALIAS,
        "username": "a+b@contoso.example",
        "given_name": None,
    }
    tenants = {TENANT: oid} | ({ELSEWHERE: GUEST} if oid == ALICE else {})
    return {
        "AccessToken": {
            f"{home}-{ALIAS}-accesstoken-{CLIENT}-{tid}-user.read": {
                **common,
                "secret": f"at {local}",
                "credential_type": "AccessToken",
                "realm": tid,
                "target": "User.Read",
                "user_assertion_hash": None,
                "cached_at": "1556523483",
                "extended_expires_on": "-62135596800",
                "ext_expires_on": "-62135596800",
            }
            for tid, local in tenants.items()
        }
        | {
            f"{home}-{ALIAS}-atext-{CLIENT}-{TENANT}-user.read-hash": {
                **common,
                "secret": f"atext {oid}",
                "credential_type": "AccessToken_Extended",
                "ext_cache_key": "hash",
            }
        },
        "RefreshToken": {
            f"{home}-{ALIAS}-refreshtoken-1--": {**common, "secret": f"rt {oid}", "family_id": "1"},
        },
        "IdToken": {
            f"{home}-{ALIAS}-idtoken-{CLIENT}-{tid}-": {**common, "secret": ID_TOKENS[local], "realm": tid}
            for tid, local in tenants.items()
        },
        "Account": {
            f"{home}-{ALIAS}-{tid}": {
                **account,
                "local_account_id": local,
                "authority_type": "MSSTS",
                "realm": tid,
                "wam_account_ids": {CLIENT: f"wam {local}"},
            }
            for tid, local in tenants.items()
        },
        "AppMetadata": {f"appmetadata-{ALIAS}-{CLIENT}": {"environment": ALIAS, "family_id": None}},
    }


def java(oid):
    """Another order, few fields, odd entries and unknown members."""
    home, environment = HOMES[oid], "login.microsoftonline.com"
    common = {"environment": environment, "client_id": CLIENT, "home_account_id": home}
    return {
        "Account": {
            f"{home}-{environment}-{TENANT}": {
                "username": "A",
                "local_account_id": oid,
                "realm": TENANT,
                "environment": environment,
                "home_account_id": home,
                "authority_type": "MSSTS",
            }
        },
        "RefreshToken": {f"{home}-{environment}-refreshtoken-{CLIENT}--s2 s1": {"target": "s2 s1", **common}},
        "AccessToken": {
            "an-entry": {"foo": "bar"},
            f"{home}-{environment}-accesstoken-{CLIENT}-{TENANT}-s2 s1": {"secret": f"at {oid}", **common},
        },
        "IdToken": {f"{home}-{environment}-idtoken-{CLIENT}-{TENANT}-": {"secret": ID_TOKENS[oid], **common}},
        "unknownEntity": {"field1": "1", "field2": "whats"},
        "AppMetadata": {f"appmetadata-{environment}-{CLIENT}": {"family_id": None}},
    }


def node(oid):
    """Home ids in small letters, tenant profiles as text, keys with more dashes, absent fields."""
    home, environment = HOMES[oid].lower(), ALIAS
    common = {"home_account_id": home, "environment": environment, "client_id": CLIENT}
    profiles = [json.dumps({"tenantId": TENANT, "localAccountId": oid, "isHomeTenant": True})]
    return {
        "Account": {
            f"{home}-{environment}-{TENANT}": {
                "home_account_id": home,
                "environment": environment,
                "realm": TENANT,
                "local_account_id": oid,
                "username": "A",
                "authority_type": "MSSTS",
                "client_info": "eyJ1aWQiOiIifQ",
                "tenantProfiles": profiles,
            }
        },
        "IdToken": {
            f"{home}-{environment}-idtoken-{CLIENT}-{TENANT}---": {**common, "secret": ID_TOKENS[oid]}
        },
        "AccessToken": {
            f"{home}-{environment}-accesstoken_with_authscheme-{CLIENT}-{TENANT}-s--pop": {
                **common,
                "secret": f"at {oid}",
                "keyId": "k",
                "tokenType": "pop",
            }
        },
        "RefreshToken": {
            f"{home}-{environment}-refreshtoken-{CLIENT}----": {**common, "secret": f"rt {oid}"}
        },
        "AppMetadata": {f"appmetadata-{environment}-{CLIENT}": {"client_id": CLIENT}},
        "Unrecognized_Entity": {"ABC123": {"abc": "def"}},
    }


def go(oid):
    """`IDToken` as credential type, no empty fields; an ID token of two parts."""
    home, environment = HOMES[oid], "login.microsoftonline.com"
    common = {"home_account_id": home, "environment": environment, "client_id": CLIENT}
    return {
        "AccessToken": {
            f"{home}-{environment}-accesstoken-{CLIENT}-organizations-s": {**common, "secret": "at"}
        },
        "RefreshToken": {f"{home}-{environment}-refreshtoken-{CLIENT}": {**common, "secret": "rt"}},
        "IdToken": {
            f"{home}-{environment}-idtoken-{CLIENT}-organizations": {
                **common,
                "realm": "organizations",
                "credential_type": "IDToken",
                "secret": ID_TOKENS[oid].rpartition(".")[0],
            }
        },
        "Account": {f"{home}-{environment}-organizations": {**common, "local_account_id": oid}},
        "AppMetadata": {f"AppMetadata-{environment}-{CLIENT}": {"client_id": CLIENT}},
    }


def go_on_behalf_of(oid):
    """Another level, by the hash of the assertion; of the same user for two assertions."""
    return {
        {"IdToken": "IDTokens"}.get(kind, f"{kind}s") + "Partition": {
            f"hash of {oid}": section,
            f"2nd of {oid}": section,
        }
        for kind, section in go(oid).items()
        if kind != "AppMetadata"
    } | {"AppMetadata": {}}


def merged(*caches):
    merged = {}
    for cache in caches:
        for kind, section in cache.items():
            merged.setdefault(kind, {}).update(section)
    return merged


WRITERS = pytest.mark.parametrize("write", [dotnet, java, node, go, go_on_behalf_of])
USERS = pytest.mark.parametrize(("gone", "stays"), [(ALICE, BOB), (BOB, ALICE)])


@WRITERS
@USERS
def test_one_user_goes_and_the_other_stays(write, gone, stays):
    for order in ((gone, stays), (stays, gone)):
        cache = json.dumps(merged(*map(write, order)), separators=(",", ":"))
        removal = remove_accounts(cache, entra_claims(gone))

        after = json.loads(removal.cache)
        assert set(after.pop(BOOKKEEPING)["incarnations"]) == {HOMES[gone]}
        if write is go_on_behalf_of:
            for kind in after.keys() - {"AppMetadata"}:
                assert not after[kind].pop(f"hash of {gone}")
                assert not after[kind].pop(f"2nd of {gone}")
        assert after == write(stays)
        assert not re.search(gone, json.dumps(after))
        assert removal.id_token in (ID_TOKENS[gone], ID_TOKENS[gone].rpartition(".")[0])


def test_guest_goes_by_the_claims_of_the_other_tenant():
    cache = json.dumps(merged(dotnet(BOB), dotnet(ALICE)))
    removal = remove_accounts(cache, entra_claims(GUEST, ELSEWHERE))
    after = json.loads(removal.cache)
    del after[BOOKKEEPING]
    assert after == dotnet(BOB)
    assert removal.removed == {"AccessToken": 3, "RefreshToken": 1, "IdToken": 2, "Account": 2}


def test_user_of_ad_fs_is_found_by_a_bare_sub_with_signs_in_it():
    sub, environment = "unZYjm1NugFL+1l338bxhRYyHbtCYOWX1P/F2fCsiQ=", "fs.contoso.example"
    claims = {"iss": f"https://{environment}/adfs", "sub": sub}
    common = {"home_account_id": sub, "environment": environment}
    cache = {
        "RefreshToken": {
            f"{sub}-{environment}-refreshtoken-c--".lower(): common,
            "kept": {**common, "home_account_id": sub[::-1]},
        },
        "IdToken": {f"{sub}-{environment}-idtoken-c--".lower(): {**common, "secret": token(claims)}},
        "Account": {f"{sub}-{environment}-": {**common, "username": "A"}},
    }
    after = json.loads(remove_accounts(json.dumps(cache), claims).cache)
    assert {kind: list(section) for kind, section in after.items() if kind != BOOKKEEPING} == {
        "RefreshToken": ["kept"],
        "IdToken": [],
        "Account": [],
    }
