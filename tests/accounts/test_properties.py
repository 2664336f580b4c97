"""Arbitrary caches of two users: whoever is removed, the other is not touched."""

from __future__ import annotations

import json
import uuid

import msal
from hypothesis import given, settings
from hypothesis import strategies as st

from msal_logout_middleware.accounts import BOOKKEEPING, remove_accounts
from msal_logout_middleware.errors import DamagedCache

from .handmade import app_only, entra_claims, generic_claims, sign_in, token

quick = settings(deadline=None, database=None, max_examples=100)

guids = st.uuids(version=4).map(str)
HOSTS = ("login.microsoftonline.com", "login.windows.net", "one.example", "two.example")
subs = st.one_of(
    st.sampled_from(["1", "42", "42-x", "4", "appmetadata"]), st.text("abc-.+/=", min_size=1, max_size=8)
)


@st.composite
def entra_users(draw):
    claims = entra_claims(draw(guids), draw(guids), aud=str(draw(guids)))
    home = draw(st.one_of(st.none(), st.tuples(guids, guids)))  # a guest's is elsewhere
    return claims, home or (claims["oid"], claims["tid"])


@st.composite
def b2c_users(draw):
    oid, tid, policy = draw(guids), draw(guids), draw(st.sampled_from(["b2c_1_signin", "b2c_1a-x"]))
    claims = {"iss": f"https://x.b2clogin.com/{tid}/v2.0/", "sub": oid, "aud": "c", "iat": 1}
    return claims, (f"{oid}-{policy}", tid)


@st.composite
def generic_users(draw):
    return generic_claims(draw(subs), f"https://{draw(st.sampled_from(HOSTS[2:]))}/r"), None


users = st.one_of(entra_users(), b2c_users(), generic_users())


@st.composite
def sign_ins(draw):
    return {
        "client": draw(st.sampled_from(["one", "two"])),
        "scope": draw(st.sampled_from(["a", "b c"])),
        "id_token": draw(st.sampled_from([True, True, False])),
    }


@quick
@given(
    alice=users,
    bob=users,
    events=st.lists(st.tuples(st.booleans(), sign_ins(), st.sampled_from(HOSTS)), min_size=1, max_size=12),
    style=st.sampled_from([{"indent": 4}, {}, {"separators": (",", ":")}]),
    with_app=st.booleans(),
)
def test_removing_one_user_never_touches_the_other(alice, bob, events, style, with_app):
    claims = {True: alice[0], False: bob[0]}
    if (
        alice[0]["iss"].split("/")[2] == bob[0]["iss"].split("/")[2]
        and alice[0]["sub"].lower() == bob[0]["sub"].lower()
    ):
        return  # the same user, or two whom MSAL does not tell apart
    both, only_bob = msal.SerializableTokenCache(), msal.SerializableTokenCache()
    for is_alice, event, environment in events:
        home = (alice if is_alice else bob)[1]
        environment = environment if home and "b2c" not in home[0] else None
        for cache in (both,) if is_alice else (both, only_bob):
            sign_in(cache, claims[is_alice], home=home, environment=environment, **event)
    if with_app:
        app_only(both)
        app_only(only_bob)
    removal = remove_accounts(json.dumps(json.loads(both.serialize()), **style), claims[True])

    expected = {
        kind: section
        for kind, section in without_times(only_bob.serialize()).items()
        if kind != "AppMetadata" and section
    }
    if removal.cache is None:
        assert expected == {}
        return
    after = without_times(removal.cache)
    assert {k: v for k, v in after.items() if k not in {"AppMetadata", BOOKKEEPING} and v} == expected
    assert removal.cache.decode() == json.dumps(json.loads(removal.cache), **style)
    assert remove_accounts(removal.cache, claims[True]).removed == {}


def without_times(cache):
    def clean(entry):
        times = {"cached_at", "expires_on", "extended_expires_on", "last_modification_time"}
        return {name: value for name, value in entry.items() if name not in times}

    return {
        kind: section if kind == BOOKKEEPING else {key: clean(entry) for key, entry in section.items()}
        for kind, section in json.loads(cache).items()
    }


HOME = f"{uuid.UUID(int=1)}.{uuid.UUID(int=2)}"
CLAIMS = {
    "oid": str(uuid.UUID(int=1)),
    "tid": str(uuid.UUID(int=2)),
    "iss": f"https://one.example/{uuid.UUID(int=2)}/",
    "sub": "s",
}
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([HOME, "s", "one.example", token(CLAIMS), CLAIMS["oid"], CLAIMS["tid"], "a.e30.b"]),
)
names = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            *(
                "AccessToken",
                "RefreshToken",
                "IdToken",
                "Account",
                "AppMetadata",
                "TokensPartition",
                BOOKKEEPING,
            ),
            *("incarnations", "home_account_id", "environment", "secret", "local_account_id", "realm"),
            *(f"{HOME}-one.example-x", f"{HOME}-", "s-one.example-x", "-one.example-x"),
        ]
    ),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=4)),
    max_leaves=30,
)


@quick
@given(
    cache=st.dictionaries(names, st.dictionaries(names, values, max_size=4), max_size=4),
    indent=st.sampled_from([None, 2]),
)
def test_any_object_of_objects_is_cleaned_and_then_stays_as_it_is(cache, indent):
    text = json.dumps(cache, indent=indent)
    removal = remove_accounts(text, CLAIMS)
    if removal.cache is None:
        assert set(removal.left) <= {"AppMetadata"}
        return
    again = remove_accounts(removal.cache, CLAIMS)
    assert again.cache == removal.cache
    assert not again.removed
    assert again.left == removal.left
    if not removal.removed:
        assert removal.cache == text.encode()


@quick
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60), values.map(json.dumps)))
def test_anything_else_is_damaged_or_kept(cache):
    try:
        removal = remove_accounts(cache, CLAIMS)
    except DamagedCache:
        return
    assert removal.removed or removal.cache in (
        None,
        cache,
        cache.encode() if isinstance(cache, str) else b"",
    )
