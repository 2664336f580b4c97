"""What a valid logout token is: every row of bad ones is refused, every good one is taken."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from msal_logout_middleware._drive import BlockingWorld, run
from msal_logout_middleware.keys import ALGORITHMS, SigningKey, SigningKeys, signing_keys
from msal_logout_middleware.logout_token import (
    LOGOUT_EVENT,
    Examined,
    LogoutToken,
    LogoutTokenRules,
    Refusal,
    examine,
    verify,
)
from msal_logout_middleware.testing import signing
from msal_logout_middleware.trust import Issuer, Trust

from .rows import (
    BAD,
    CLIENT_ID,
    GOOD,
    ISS,
    Issuing,
    Row,
    by_name,
    dumps,
    good,
    part,
    with_claims,
    with_header,
)

NOW = 1_800_000_000.25
KEYS = signing.SigningKeys()
BY = Issuing(KEYS, NOW)
RULES = LogoutTokenRules()


def is_issuer(iss: str, tid: str | None) -> bool:
    return iss == ISS


def published(keys: signing.SigningKeys = KEYS) -> tuple[SigningKey, ...]:
    return signing_keys(keys.jwks)


def read(token: bytes, rules: LogoutTokenRules = RULES, **more: Any) -> LogoutToken | Refusal:
    """Do both steps, with all published keys."""
    examined = examine(token, rules, **{"client_id": CLIENT_ID, "is_issuer": is_issuer, "now": NOW, **more})
    return examined if isinstance(examined, Refusal) else verify(examined, published())


class CountingKeys(SigningKeys):
    """The provider's keys, which count how often anybody wants one."""

    def __init__(self) -> None:
        super().__init__("https://op.example/keys")
        self.wanted = 0

    @property
    def are_held(self) -> bool:
        return True

    def held(self, kid: str | None) -> tuple[SigningKey, ...]:
        self.wanted += 1
        return published()

    async def find(self, *args: Any, **kwargs: Any) -> tuple[SigningKey, ...]:
        self.wanted += 1
        return published()


def test_there_are_many_rows_and_no_two_have_the_same_name() -> None:
    assert len(by_name(BAD)) >= 100
    assert len(by_name(GOOD)) >= 20


@pytest.mark.parametrize("row", BAD, ids=str)
def test_bad_token_is_refused_with_its_reason(row: Row) -> None:
    assert read(row.build(BY), row.rules) == Refusal(row.reason)


@pytest.mark.parametrize("row", BAD, ids=str)
def test_no_key_is_wanted_where_the_text_condemns(row: Row) -> None:
    keys = CountingKeys()
    trust = Trust(((Issuer(ISS), keys),))
    token = row.build(BY)
    examined = examine(token, row.rules, client_id=CLIENT_ID, is_issuer=trust.is_issuer, now=NOW)
    assert isinstance(examined, Refusal) is row.by_text
    if isinstance(examined, Examined):
        checked = run(trust.verify(examined, BlockingWorld(), wait_seconds=1))
        assert checked == Refusal(row.reason)
    assert (keys.wanted == 0) is row.by_text


@pytest.mark.parametrize("row", GOOD, ids=str)
def test_good_token_is_taken(row: Row) -> None:
    assert isinstance(read(row.build(BY), row.rules), LogoutToken)


def test_token_says_whose_session_and_when() -> None:
    token = with_claims(jti="j", tid="t", iat=int(NOW))(BY)
    assert read(token) == LogoutToken(iss=ISS, jti="j", iat=int(NOW), sub="user", sid="session", tid="t")


def test_what_pyjwt_takes_is_checked_by_us() -> None:
    public = KEYS._rsa[0].private.public_key()
    by = Issuing(KEYS, time.time())
    taken_by_pyjwt = 0
    for row in BAD:
        token = row.build(by)
        try:
            jwt.decode(
                token,
                public,
                algorithms=["RS256"],
                audience=CLIENT_ID,
                issuer=ISS,
                options={"verify_exp": False},
            )
        except (jwt.PyJWTError, ValueError, RecursionError, TypeError, OverflowError):
            continue
        taken_by_pyjwt += 1
        assert isinstance(read(token, row.rules, now=by.now), Refusal)
    assert taken_by_pyjwt > 40


def test_reason_shows_nothing_of_the_token() -> None:
    for row in BAD:
        refusal = read(row.build(BY), row.rules)
        assert isinstance(refusal, Refusal)
        for content in ("evil.example", "victim", "k" * 20, ISS, CLIENT_ID):
            assert content not in refusal.reason


def test_repr_shows_no_user_and_no_session() -> None:
    examined = examine(good(BY), RULES, client_id=CLIENT_ID, is_issuer=is_issuer, now=NOW)
    assert isinstance(examined, Examined)
    for shown in (repr(examined), repr(examined.claimed)):
        assert "session'" not in shown
        assert "user" not in shown


def test_issuer_is_asked_with_the_tenant() -> None:
    asked = []

    def ask(iss: str, tid: str | None) -> bool:
        asked.append((iss, tid))
        return True

    read(with_claims(tid="t")(BY), is_issuer=ask)
    read(good(BY), is_issuer=ask)
    assert asked == [(ISS, "t"), (ISS, None)]


@pytest.mark.parametrize("offset", [-720, -719.5, 120])
def test_iat_at_the_edges_is_taken(offset: float) -> None:
    assert isinstance(read(with_claims(iat=NOW + offset)(BY)), LogoutToken)


@pytest.mark.parametrize(
    ("claim", "offset"), [("iat", -720.5), ("iat", 120.5), ("exp", -120), ("nbf", 120.5)]
)
def test_time_beyond_the_edges_is_refused(claim: str, offset: float) -> None:
    assert isinstance(read(with_claims(**{claim: NOW + offset})(BY)), Refusal)


def test_token_of_the_greatest_length_is_taken() -> None:
    token = good(BY)
    fits = with_claims(padding="x" * 600)(BY)
    assert isinstance(read(token, LogoutTokenRules(maximum_bytes=max(len(token), 1024))), LogoutToken)
    assert isinstance(read(fits, LogoutTokenRules(maximum_bytes=len(fits))), LogoutToken)
    assert read(fits, LogoutTokenRules(maximum_bytes=len(fits) - 1)) == Refusal("the token is too long")


@pytest.mark.parametrize(
    "algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
)
def test_every_algorithm_that_is_configured_verifies(algorithm: str) -> None:
    private, jwk = key_for(algorithm)
    token = jwt.encode(BY.claims(), private, algorithm=algorithm, headers={"kid": "k"}).encode()
    rules = LogoutTokenRules(algorithms=(algorithm,))
    examined = examine(token, rules, client_id=CLIENT_ID, is_issuer=is_issuer, now=NOW)
    assert isinstance(examined, Examined)
    assert isinstance(verify(examined, signing_keys({"keys": [jwk]})), LogoutToken)
    forged = verify(examined, signing_keys({"keys": [key_for(algorithm)[1]]}))
    assert forged == Refusal("the signature is not the provider's")


CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


def key_for(algorithm: str) -> tuple[Any, dict[str, Any]]:
    kty, crv = ALGORITHMS[algorithm]
    private: Any
    if kty == "RSA":
        private = rsa.generate_private_key(65537, 2048)
    elif kty == "EC":
        private = ec.generate_private_key(CURVES[str(crv)])
    else:
        private = ed25519.Ed25519PrivateKey.generate()
    public = jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key(), as_dict=True)
    return private, {**public, "kid": "k"}


def test_of_keys_with_one_kid_each_is_tried() -> None:
    stranger = signing.SigningKeys()
    kid = BY.header()["kid"]
    keys = signing_keys({"keys": [{**stranger.jwks["keys"][0], "kid": kid}, *KEYS.jwks["keys"]]})
    examined = examine(good(BY), RULES, client_id=CLIENT_ID, is_issuer=is_issuer, now=NOW)
    assert isinstance(examined, Examined)
    assert isinstance(verify(examined, keys), LogoutToken)


def test_token_without_kid_is_tried_with_a_bounded_number_of_keys() -> None:
    tried = []

    class Counting(SigningKey):
        __slots__ = ()

        def verifies(self, *_: Any) -> bool:
            tried.append(self)
            return False

    keys = [Counting(str(number), frozenset({"RS256"}), None) for number in range(1000)]
    examined = examine(with_header(kid="x")(BY), RULES, client_id=CLIENT_ID, is_issuer=is_issuer, now=NOW)
    assert isinstance(examined, Examined)
    assert verify(examined, keys) == Refusal("the header's kid and alg fit no signing key of the provider")
    without = examine(
        b".".join([part(dumps({"alg": "RS256"}).encode()), *good(BY).split(b".")[1:]]),
        RULES,
        client_id=CLIENT_ID,
        is_issuer=is_issuer,
        now=NOW,
    )
    assert isinstance(without, Examined)
    assert verify(without, keys) == Refusal("the signature is not the provider's")
    assert len(tried) == 8


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_and_raise_nothing(token: bytes) -> None:
    assert isinstance(read(token), Refusal)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
CLAIM = st.sampled_from(sorted({*BY.claims(), "nonce", "azp", "nbf", "tid"}))


@settings(deadline=None)
@given(st.dictionaries(CLAIM, JSON, min_size=1, max_size=3))
def test_arbitrary_claims_raise_nothing_and_say_only_what_may_be_said(claims: dict[str, Any]) -> None:
    payload = json.dumps({**BY.claims(), **claims})
    token = read(BY.signed(dumps(BY.header()), payload))
    if isinstance(token, LogoutToken):
        assert token.iss == ISS
        assert token.sub or token.sid
        assert all(isinstance(value, str) for value in (token.sub, token.sid, token.jti) if value is not None)
        assert not isinstance(token.iat, bool)
        assert "nonce" not in claims


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "jku", "jwk", "b64"]), JSON, min_size=1))
def test_arbitrary_headers_raise_nothing(header: dict[str, Any]) -> None:
    read(BY.signed(json.dumps({**BY.header(), **header}), dumps(BY.claims())))


SIGNED = good(BY)


@settings(deadline=None)
@given(st.integers(0, len(SIGNED) - 1), st.integers(0, 255))
def test_token_with_any_byte_changed_is_refused(position: int, byte: int) -> None:
    changed = SIGNED[:position] + bytes([byte]) + SIGNED[position + 1 :]
    assert isinstance(read(changed), Refusal) is (changed != SIGNED)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"algorithms": ()}, "algorithms"),
        ({"algorithms": "RS256"}, "must be a tuple"),
        ({"algorithms": ("none",)}, "algorithms"),
        ({"algorithms": 5}, "must be a tuple"),
        ({"algorithms": [["RS256"]]}, "must be a tuple"),
        ({"require_exp": "no"}, "require_exp='no' must be True or False"),
        ({"strict_type": None}, "strict_type=None must be True or False"),
        ({"algorithms": ("RS256", "HS256")}, "algorithms"),
        ({"algorithms": ("RS255",)}, "algorithms"),
        ({"clock_skew_seconds": -1}, "clock_skew_seconds"),
        ({"clock_skew_seconds": 601}, "clock_skew_seconds"),
        ({"clock_skew_seconds": float("nan")}, "clock_skew_seconds"),
        ({"clock_skew_seconds": "120"}, "clock_skew_seconds"),
        ({"maximum_age_seconds": 0}, "maximum_age_seconds"),
        ({"maximum_age_seconds": float("inf")}, "maximum_age_seconds"),
        ({"maximum_age_seconds": True}, "maximum_age_seconds"),
        ({"maximum_bytes": 100}, "maximum_bytes"),
        ({"maximum_bytes": 10**9}, "maximum_bytes"),
    ],
)
def test_rules_that_cannot_be_kept_are_told_at_construction(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogoutTokenRules(**rules)


def test_logout_event_is_the_specifications() -> None:
    assert LOGOUT_EVENT == "http://schemas.openid.net/event/backchannel-logout"
