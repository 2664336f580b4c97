"""The provider's signing keys: which are used, how often they are asked for, and who waits."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA512
from jwt.algorithms import RSAAlgorithm

from msal_logout_middleware._drive import BlockingWorld, LoopWorld, World, run
from msal_logout_middleware.errors import ProviderError
from msal_logout_middleware.fetch import BACK_OFF_SECONDS, THROTTLE_SECONDS
from msal_logout_middleware.keys import SigningKeys, signing_key, signing_keys
from msal_logout_middleware.logout_token import (
    BAD_SIGNATURE,
    NO_KEY,
    Examined,
    LogoutToken,
    LogoutTokenRules,
    Refusal,
    examine,
)
from msal_logout_middleware.provider import Provider
from msal_logout_middleware.testing import EmbeddedProvider, signing
from msal_logout_middleware.trust import NO_KEYS, NOT_THE_ISSUER, Issuer, Trust

from ..json_server import Clock, JsonServer, NobodyWaits, TimePasses
from .rows import CLIENT_ID, ISS, LEFT_OUT, Issuing, by_key, good, part, stranger, with_claims, with_header

NOW = 1_800_000_000.0
RULES = LogoutTokenRules(algorithms=("RS256", "ES256"))
FLOOD = 10_000
WAIT = 1.5


@pytest.fixture
def keys() -> signing.SigningKeys:
    return signing.SigningKeys()


@pytest.fixture
def by(keys: signing.SigningKeys) -> Issuing:
    return Issuing(keys, NOW)


@pytest.fixture
def server(keys: signing.SigningKeys) -> Iterator[JsonServer]:
    server = JsonServer(keys.jwks)
    yield server
    server.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trust(server: JsonServer, clock: Clock) -> Trust:
    return Trust(((Issuer(ISS), SigningKeys(server.url, clock=clock)),))


def examined(token: bytes, iss: str = ISS) -> Examined:
    found = examine(token, RULES, client_id=CLIENT_ID, is_issuer=lambda one, _: one == iss, now=NOW)
    assert isinstance(found, Examined)
    return found


def read(trust: Trust, token: bytes, world: World | None = None) -> LogoutToken | Refusal:
    return run(trust.verify(examined(token), world or BlockingWorld(), wait_seconds=WAIT))


def unknown_kids(by: Issuing) -> Iterator[Examined]:
    """Tokens as an attacker makes them by the thousand: nothing is signed."""
    _, payload, signature = good(by).split(b".")
    for number in range(FLOOD):
        header = part(f'{{"alg":"RS256","kid":"unknown-{number}"}}'.encode())
        yield examined(b".".join((header, payload, signature)))


# Which keys are used.

KEY = signing.new_rsa_key()
EC_KEY = signing.new_ec_key()


def small_key(bits: int) -> dict[str, Any]:
    private = rsa.generate_private_key(65537, bits)
    return RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)


PRIVATE = RSAAlgorithm.to_jwk(KEY.private, as_dict=True)  # type: ignore[arg-type]

NOT_USED: dict[str, object] = {
    "for encryption": {**KEY.jwk, "use": "enc"},
    "for encryption, by its algorithm": {**KEY.jwk, "alg": "RSA-OAEP"},
    "for signing only": {**KEY.jwk, "key_ops": ["sign"]},
    "for nothing": {**KEY.jwk, "key_ops": []},
    "operations of another kind": {**KEY.jwk, "key_ops": "verify"},
    "too small": small_key(1024),
    "a little too small": small_key(2047),
    "a secret": {"kty": "oct", "k": base64.urlsafe_b64encode(b"k" * 32).decode(), "kid": "k"},
    "a secret for a public algorithm": {"kty": "oct", "k": "a2tr", "alg": "RS256", "kid": "k"},
    "its private half is published": {**PRIVATE, "kid": "k", "key_ops": ["verify"]},
    "another algorithm's": {**KEY.jwk, "alg": "ES256"},
    "an algorithm of secrets": {**KEY.jwk, "alg": "HS256"},
    "the algorithm none": {**KEY.jwk, "alg": "none"},
    "an algorithm that is a list": {**KEY.jwk, "alg": ["RS256"]},
    "another curve": {**EC_KEY.jwk, "crv": "secp256k1", "alg": None},
    "a curve for another algorithm": {**EC_KEY.jwk, "alg": "ES384"},
    "no point of the curve": {**EC_KEY.jwk, "x": EC_KEY.jwk["y"]},
    "no modulus": {"kty": "RSA", "e": "AQAB", "kid": "k"},
    "a modulus that is a number": {**KEY.jwk, "n": 7},
    "a modulus that is no base64": {**KEY.jwk, "n": "*"},
    "an exponent of one": {**KEY.jwk, "e": "AQ"},
    "no type": {name: value for name, value in KEY.jwk.items() if name != "kty"},
    "a type that is a list": {**KEY.jwk, "kty": ["RSA"]},
    "a kid that is a number": {**KEY.jwk, "kid": 7},
    "a string": "key",
    "null": None,
    "a list": [KEY.jwk],
}


@pytest.mark.parametrize("jwk", NOT_USED.values(), ids=NOT_USED)
def test_key_that_does_not_fit_is_not_used_and_hides_no_other(jwk: object) -> None:
    assert signing_key(jwk) is None
    assert [key.kid for key in signing_keys({"keys": [jwk, KEY.jwk]})] == [KEY.kid]


@pytest.mark.parametrize(
    ("jwk", "algorithms"),
    [
        (KEY.jwk, {"RS256"}),
        ({**KEY.jwk, "alg": "PS512"}, {"PS512"}),
        ({**KEY.jwk, "alg": None}, {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        ({**KEY.jwk, "key_ops": ["verify", "encrypt"]}, {"RS256"}),
        ({name: value for name, value in KEY.jwk.items() if name != "use"}, {"RS256"}),
        ({**KEY.jwk, "x5c": ["not a certificate"], "x5t": "x"}, {"RS256"}),
        (EC_KEY.jwk, {"ES256"}),
        ({**EC_KEY.jwk, "alg": None}, {"ES256"}),
    ],
)
def test_key_verifies_what_its_type_and_its_algorithm_allow(jwk: object, algorithms: set[str]) -> None:
    key = signing_key(jwk)
    assert key is not None
    assert key.algorithms == algorithms


def test_key_verifies_nothing_by_another_algorithm() -> None:
    key = signing_key(KEY.jwk)
    assert key is not None
    signature = KEY.private.sign(b"x", PKCS1v15(), SHA512())  # type: ignore[call-arg, arg-type]
    assert not key.verifies("RS512", b"x", signature)
    assert not key.verifies("none", b"x", b"")


@pytest.mark.parametrize(
    "document", [{}, {"keys": []}, {"keys": None}, {"keys": {}}, {"keys": "x"}, {"keys": [{}]}]
)
def test_set_without_a_usable_key_is_none(document: dict[str, Any]) -> None:
    with pytest.raises(ProviderError, match="no signing key"):
        signing_keys(document)


def test_key_set_without_a_usable_key_does_not_replace_what_is_held(
    server: JsonServer, trust: Trust, by: Issuing, clock: Clock
) -> None:
    assert isinstance(read(trust, good(by)), LogoutToken)
    server.says({"keys": []})
    clock.now += 1
    assert read(trust, by_key(stranger, kid="unknown")(by)) == NO_KEY
    assert isinstance(read(trust, good(by), NobodyWaits()), LogoutToken)


# How they are had.


def test_held_keys_are_answered_without_waiting(
    server: JsonServer, trust: Trust, by: Issuing, clock: Clock
) -> None:
    assert isinstance(read(trust, good(by)), LogoutToken)
    for _ in range(3):
        clock.now += 1
        assert isinstance(read(trust, good(by), NobodyWaits()), LogoutToken)
        assert read(trust, by_key(stranger)(by), NobodyWaits()) == BAD_SIGNATURE
        assert read(trust, with_header(alg="ES256")(by), NobodyWaits()) == NO_KEY
    assert server.requests == 1


def test_token_signed_by_a_new_key_is_verified_by_the_one_refresh_that_it_causes(
    server: JsonServer, trust: Trust, by: Issuing, clock: Clock
) -> None:
    assert isinstance(read(trust, good(by)), LogoutToken)
    for rotation in (1, 2, 3):  # each at once
        by.keys.rotate(keep=False)
        server.says(by.keys.jwks)
        clock.now += 0.001
        assert isinstance(read(trust, good(by)), LogoutToken)
        assert isinstance(read(trust, good(by), NobodyWaits()), LogoutToken)
        assert server.requests == 1 + rotation


def test_token_without_kid_is_verified_after_a_rotation(
    server: JsonServer, trust: Trust, by: Issuing, clock: Clock
) -> None:
    without_kid = with_header(kid=LEFT_OUT)
    assert isinstance(read(trust, without_kid(by)), LogoutToken)
    by.keys.rotate(keep=False)
    server.says(by.keys.jwks)
    clock.now += 1
    assert isinstance(read(trust, without_kid(by)), LogoutToken)
    assert server.requests == 2
    clock.now += 1
    forged = by_key(stranger, kid=LEFT_OUT)(by)
    assert [read(trust, forged) for _ in range(10)] == [BAD_SIGNATURE] * 10
    assert server.requests == 3


def test_key_that_is_not_published_any_more_is_refused_once_that_is_known(
    server: JsonServer, trust: Trust, by: Issuing, clock: Clock
) -> None:
    old = good(by)
    assert isinstance(read(trust, old), LogoutToken)
    by.keys.rotate(keep=False)
    server.says(by.keys.jwks)
    clock.now += 1
    assert isinstance(read(trust, good(by)), LogoutToken)
    assert read(trust, old) == NO_KEY


def test_flood_of_unknown_kids_causes_one_refresh_for_each_interval(
    server: JsonServer, trust: Trust, by: Issuing, clock: Clock
) -> None:
    assert isinstance(read(trust, good(by)), LogoutToken)
    clock.now += 1
    for forged in unknown_kids(by):
        assert run(trust.verify(forged, BlockingWorld(), wait_seconds=WAIT)) == NO_KEY
    assert server.requests == 2
    assert isinstance(read(trust, good(by), NobodyWaits()), LogoutToken)
    clock.now += THROTTLE_SECONDS
    for forged in unknown_kids(by):
        assert run(trust.verify(forged, BlockingWorld(), wait_seconds=WAIT)) == NO_KEY
    assert server.requests == 3


def test_flood_has_a_provider_that_says_the_same_in_other_words_asked_no_more_often(
    server: JsonServer, trust: Trust, by: Issuing, clock: Clock
) -> None:
    """Such as one whose servers have the keys each in an order of its own."""
    published = [KEY.jwk, EC_KEY.jwk]
    server.says({"keys": published})
    for number, forged in enumerate(islice(unknown_kids(by), 100)):
        assert run(trust.verify(forged, BlockingWorld(), wait_seconds=WAIT)) == NO_KEY
        published.reverse()
        server.says({"keys": published, "number": number})
        clock.now += THROTTLE_SECONDS / FLOOD
    assert server.requests == 2


def test_flood_waits_for_a_slow_provider_no_longer_than_once(
    server: JsonServer, trust: Trust, by: Issuing, clock: Clock
) -> None:
    assert isinstance(read(trust, good(by)), LogoutToken)
    server.may_answer.clear()
    clock.now += 1
    started = clock.now
    for forged in unknown_kids(by):
        assert run(trust.verify(forged, TimePasses(clock), wait_seconds=WAIT)) == NO_KEY
        assert clock.now - started < WAIT + 0.2
    assert isinstance(read(trust, good(by), NobodyWaits()), LogoutToken)
    assert server.asked.acquire(timeout=30)
    assert server.asked.acquire(timeout=30)
    assert server.requests == 2


@pytest.mark.parametrize(
    "answer", [(503, "busy"), None], ids=["says that it is busy", "closes the connection"]
)
def test_flood_asks_a_provider_that_is_down_once_for_each_back_off(
    server: JsonServer, trust: Trust, by: Issuing, clock: Clock, answer: tuple[int, str] | None
) -> None:
    assert isinstance(read(trust, good(by)), LogoutToken)
    server.answer = answer
    for back_off in (1, 2):
        clock.now += BACK_OFF_SECONDS
        for forged in unknown_kids(by):
            assert run(trust.verify(forged, BlockingWorld(), wait_seconds=WAIT)) == NO_KEY
        assert server.requests == 1 + back_off
        assert isinstance(read(trust, good(by), NobodyWaits()), LogoutToken)


def test_flood_of_tokens_at_once_is_one_refresh_and_good_ones_among_them_are_taken(
    server: JsonServer, by: Issuing, clock: Clock
) -> None:
    trust = Trust(((Issuer(ISS), SigningKeys(server.url, clock=clock)),))
    assert isinstance(read(trust, good(by)), LogoutToken)
    clock.now += 1
    server.may_answer.clear()
    old = examined(good(by))
    by.keys.rotate()
    server.says(by.keys.jwks)
    new = examined(good(by))
    results: list[LogoutToken | Refusal] = []

    async def check(token: Examined) -> None:
        results.append(await trust.verify(token, LoopWorld(), wait_seconds=30))

    async def flood() -> None:
        async with anyio.create_task_group() as tasks:
            for number, forged in zip(range(200), unknown_kids(by), strict=False):
                tasks.start_soon(check, new if number == 100 else forged)
            assert await anyio.to_thread.run_sync(lambda: server.asked.acquire(timeout=30))
            assert await anyio.to_thread.run_sync(lambda: server.asked.acquire(timeout=30))
            assert isinstance(await trust.verify(old, LoopWorld(), wait_seconds=0), LogoutToken)
            assert not results
            server.may_answer.set()

    anyio.run(flood)
    assert sum(isinstance(result, LogoutToken) for result in results) == 1
    assert len(results) == 200
    assert server.requests == 2


def test_many_tokens_at_the_first_start_cause_one_fetch(
    server: JsonServer, trust: Trust, by: Issuing
) -> None:
    token = examined(good(by))
    barrier = threading.Barrier(16)
    results: list[LogoutToken | Refusal] = []

    def check() -> None:
        barrier.wait()
        results.append(run(trust.verify(token, BlockingWorld(), wait_seconds=30)))

    threads = [threading.Thread(target=check) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(isinstance(result, LogoutToken) for result in results)
    assert server.requests == 1


def test_without_any_keys_it_is_said_that_there_are_none(
    server: JsonServer, trust: Trust, by: Issuing
) -> None:
    server.answer = (500, "")
    assert read(trust, good(by)) == NO_KEYS
    assert read(trust, good(by), NobodyWaits()) == NO_KEYS
    assert server.requests == 1


def test_keys_come_from_nowhere_else(server: JsonServer, trust: Trust, by: Issuing) -> None:
    elsewhere = JsonServer(by.keys.jwks)
    server.answer = (302, "")
    server.headers = {"Location": elsewhere.url}
    told = with_header(jku=elsewhere.url, x5u=elsewhere.url)
    assert read(trust, told(by)) == NO_KEYS
    elsewhere.close()
    assert elsewhere.requests == 0


# Whose keys.


def test_keys_of_one_issuer_do_not_vouch_for_another(server: JsonServer, by: Issuing, clock: Clock) -> None:
    other = signing.SigningKeys()
    other_server = JsonServer(other.jwks)
    trust = Trust(
        (
            (Issuer(ISS), SigningKeys(server.url, clock=clock)),
            (Issuer("https://other.example"), SigningKeys(other_server.url, clock=clock)),
        )
    )
    for_other = Issuing(other, NOW, iss="https://other.example")
    verified = run(trust.verify(examined(good(for_other), for_other.iss), BlockingWorld(), wait_seconds=30))
    assert isinstance(verified, LogoutToken)
    stolen = Issuing(other, NOW, iss=ISS)
    assert read(trust, good(stolen)) == NO_KEY
    foreign = examined(with_claims(iss="https://third.example")(by), "https://third.example")
    assert run(trust.verify(foreign, BlockingWorld(), wait_seconds=30)) == NOT_THE_ISSUER
    other_server.close()


def test_user_flows_with_one_issuer_have_each_their_keys(
    server: JsonServer, by: Issuing, clock: Clock
) -> None:
    other = signing.SigningKeys()
    other_server = JsonServer(other.jwks)
    trust = Trust(
        tuple((Issuer(ISS), SigningKeys(url, clock=clock)) for url in (server.url, other_server.url))
    )
    assert isinstance(read(trust, good(by)), LogoutToken)
    assert isinstance(read(trust, good(Issuing(other, NOW))), LogoutToken)
    assert isinstance(read(trust, good(Issuing(other, NOW)), NobodyWaits()), LogoutToken)
    assert (server.requests, other_server.requests) == (1, 1)
    other_server.close()


def trusted(provider: Provider, world: World | None = None) -> Trust | None:
    return run(provider.trust(world or BlockingWorld(), wait_seconds=30))


def test_keys_stay_held_from_one_token_to_the_next(server: JsonServer, by: Issuing) -> None:
    provider = Provider.from_metadata({"issuer": ISS, "jwks_uri": server.url}, CLIENT_ID)
    for _ in range(3):
        trust = trusted(provider, NobodyWaits())
        assert trust is not None
        assert trust.is_issuer(ISS, None)
        assert isinstance(read(trust, good(by)), LogoutToken)
    assert server.requests == 1


def test_keys_move_with_the_metadata(server: JsonServer, by: Issuing) -> None:
    metadata = JsonServer({"issuer": ISS, "jwks_uri": server.url})
    provider = Provider.discover(metadata.url, CLIENT_ID)
    assert trusted(provider) is not None
    moved = JsonServer(by.keys.jwks)
    fetch = provider.endpoints[""].fetch
    assert fetch is not None
    fetch._clock = lambda: 1e12
    metadata.says({"issuer": ISS, "jwks_uri": moved.url})
    run(
        fetch.find(
            lambda found: found if found["jwks_uri"] == moved.url else None, BlockingWorld(), wait_seconds=30
        )
    )
    trust = trusted(provider)
    assert trust is not None
    assert isinstance(read(trust, good(by)), LogoutToken)
    assert (server.requests, moved.requests) == (0, 1)
    metadata.close()
    moved.close()


def test_each_user_flow_brings_its_own_keys(server: JsonServer, by: Issuing) -> None:
    other = signing.SigningKeys()
    flows = {"b2c_1_in": server, "b2c_1_edit": JsonServer(other.jwks)}
    provider = Provider.b2c("contoso", list(flows), CLIENT_ID)
    at_b2c = "https://contoso.b2clogin.com/contoso.onmicrosoft.com"
    servers = [flows["b2c_1_edit"]]
    for flow, keys_server in flows.items():
        metadata = JsonServer({"issuer": ISS, "jwks_uri": keys_server.url})
        servers.append(metadata)
        rest = provider.endpoints[flow].rest
        assert rest is not None
        assert rest.url == f"{at_b2c}/{flow}/v2.0/.well-known/openid-configuration"
        rest.url = metadata.url
    trust = trusted(provider)
    assert trust is not None
    assert isinstance(read(trust, good(by)), LogoutToken)
    assert isinstance(read(trust, good(Issuing(other, NOW))), LogoutToken)
    assert provider.issued(ISS) is True
    logout = run(provider.end_session_endpoint({"tfp": "b2c_1_edit"}, NobodyWaits()))
    assert logout == f"{at_b2c}/b2c_1_edit/oauth2/v2.0/logout"
    for one in servers:
        one.close()


def test_user_flow_whose_metadata_cannot_be_had_does_not_hide_the_others(
    server: JsonServer, by: Issuing
) -> None:
    provider = Provider.b2c("contoso", ["b2c_1_in", "b2c_1_edit"], CLIENT_ID)
    metadata = JsonServer({"issuer": ISS, "jwks_uri": server.url})
    for flow, url in {"b2c_1_in": "http://127.0.0.1:1", "b2c_1_edit": metadata.url}.items():
        rest = provider.endpoints[flow].rest
        assert rest is not None
        rest.url = url
    trust = trusted(provider)
    assert trust is not None
    assert isinstance(read(trust, good(by)), LogoutToken)
    assert provider.issued("https://other.example") is None
    metadata.close()


@pytest.mark.parametrize(
    "metadata", [{}, {"issuer": ISS}, {"jwks_uri": "https://op.example/keys"}, {"issuer": ""}]
)
def test_metadata_without_an_issuer_or_keys_is_nobody_to_believe(metadata: dict[str, str]) -> None:
    assert trusted(Provider.from_metadata(metadata, CLIENT_ID)) is None


def test_provider_whose_metadata_cannot_be_had_is_nobody_to_believe(server: JsonServer) -> None:
    server.answer = (500, "")
    assert trusted(Provider.discover(server.url, CLIENT_ID)) is None


def test_entra_is_believed_without_metadata() -> None:
    trust = trusted(Provider.entra("common", CLIENT_ID), NobodyWaits())
    assert trust is not None
    tenant = "11111111-2222-3333-4444-555555555555"
    assert trust.is_issuer(f"https://login.microsoftonline.com/{tenant}/v2.0", tenant)
    assert not trust.is_issuer(f"https://login.microsoftonline.com/{tenant}/v2.0", None)
    [(_, keys)] = trust.sources
    assert keys.url == "https://login.microsoftonline.com/common/discovery/v2.0/keys"


def test_embedded_providers_own_logout_token_is_taken() -> None:
    with EmbeddedProvider() as embedded, embedded.trusted():
        client = embedded.generic.register(CLIENT_ID, backchannel_logout_uri="https://app.example/bc")
        provider = Provider.discover(embedded.generic.oidc_authority, CLIENT_ID)
        trust = trusted(provider)
        assert trust is not None
        token = embedded.logout_token(client, sid="session").encode()
        checked = examine(token, RULES, client_id=CLIENT_ID, is_issuer=trust.is_issuer, now=embedded.now())
        assert isinstance(checked, Examined)
        verified = run(trust.verify(checked, BlockingWorld(), wait_seconds=30))
        assert isinstance(verified, LogoutToken)
        assert (verified.sid, verified.sub) == ("session", None)


@pytest.mark.parametrize(
    ("tid", "issued"), [("{}", True), ("{}x", False), ("{}/v2.0/x", False), ("x{}", False), (" {}", False)]
)
def test_tenant_is_an_id_in_either_case_and_nothing_more(tid: str, issued: bool) -> None:
    tenant = "AAAAAAAA-2222-3333-4444-555555555555"
    some = Issuer("https://op.example/{tenantid}/v2.0", frozenset([tenant.lower()]))
    for of_any in (some, Issuer(some.identifier)):
        for named in (tid.format(tenant), tid.format(tenant.lower())):
            assert of_any.issued(f"https://op.example/{named}/v2.0", named) is issued
