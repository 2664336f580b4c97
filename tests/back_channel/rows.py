"""Logout tokens, good and bad, as data: what each is made of, and why the bad ones are refused.

    for row in BAD:
        token = row.build(Issuing(provider_keys, now=time.time(), iss=..., client_id=...))

`keys` are the embedded provider's, so the same rows do for the pure functions and for requests through both doors.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import get_algorithm_by_name

from msal_logout_middleware.logout_token import LOGOUT_EVENT, LogoutTokenRules
from msal_logout_middleware.testing.signing import SigningKeys, new_rsa_key

ISS = "https://op.example/realm"
CLIENT_ID = "client"
LEFT_OUT = object()
"""A member with this value is not there."""

_STRANGER = new_rsa_key()

Json = dict[str, Any]


@dataclass(frozen=True)
class Issuing:
    """Who issues logout tokens, to whom, and when.

    Args:
        keys: The provider's.
        now: In seconds since 1970, by the app's clock.
        iss: The provider.
        client_id: The app.
        sub: The user.
        sid: The session.
    """

    keys: SigningKeys
    now: float
    iss: str = ISS
    client_id: str = CLIENT_ID
    sub: str = "user"
    sid: str = "session"

    def claims(self, **changes: Any) -> Json:
        """Return the claims of a good token, with changes."""
        claims = {
            "iss": self.iss,
            "aud": self.client_id,
            "iat": int(self.now),
            "exp": int(self.now) + 120,
            "jti": str(uuid.uuid4()),
            "sub": self.sub,
            "sid": self.sid,
            "events": {LOGOUT_EVENT: {}},
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not LEFT_OUT}

    def header(self, **changes: Any) -> Json:
        """Return the header of a good token, with changes."""
        header = {"typ": "logout+jwt", "alg": "RS256", "kid": self.keys.jwks["keys"][0]["kid"], **changes}
        return {name: value for name, value in header.items() if value is not LEFT_OUT}

    def signed(self, header: str, claims: str) -> bytes:
        """Sign what no library would, by RS256 and the provider's newest key."""
        return self.signed_parts(part(header.encode()), part(claims.encode()))

    def signed_parts(self, *parts: bytes) -> bytes:
        """Sign parts that are encoded already."""
        signed = b".".join(parts)
        return signed + b"." + part(rs256(self.keys._rsa[0].private, signed))


Build = Callable[[Issuing], bytes]


@dataclass(frozen=True)
class Row:
    """A logout token.

    Args:
        name: What is special about it.
        build: Makes it.
        reason: Why it is refused; empty if it is good.
        rules: The rules, if they are not the default ones.
        by_text: Whether its own text condemns it, so that no key may be fetched for it.
    """

    name: str
    build: Build = field(repr=False)
    reason: str = ""
    rules: LogoutTokenRules = field(default=LogoutTokenRules(), repr=False)
    by_text: bool = True

    def __str__(self) -> str:
        return self.name


def part(raw: bytes) -> bytes:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def rs256(private: Any, signed: bytes) -> bytes:
    """Return the signature."""
    signature: bytes = get_algorithm_by_name("RS256").sign(signed, private)
    return signature


def dumps(value: Any) -> str:
    """Return JSON as PyJWT writes it."""
    return json.dumps(value, separators=(",", ":"))


def with_claims(**changes: Any) -> Build:
    """A good token but for these claims; a callable is given the `Issuing`."""

    def build(by: Issuing) -> bytes:
        ready = {name: value(by) if callable(value) else value for name, value in changes.items()}
        return by.signed(dumps(by.header()), dumps(by.claims(**ready)))

    return build


def with_header(**changes: Any) -> Build:
    """A good token but for these members of the header; a callable is given the `Issuing`."""

    def build(by: Issuing) -> bytes:
        ready = {name: value(by) if callable(value) else value for name, value in changes.items()}
        return by.signed(dumps(by.header(**ready)), dumps(by.claims()))

    return build


def with_text(change: Callable[[str], str], of: str = "payload") -> Build:
    """A good token but for the text of its payload or header."""

    def build(by: Issuing) -> bytes:
        header, claims = dumps(by.header()), dumps(by.claims())
        return by.signed(change(header), claims) if of == "header" else by.signed(header, change(claims))

    return build


def with_raw(raw: bytes, of: str = "payload") -> Build:
    """A token with these bytes for a payload or header."""

    def build(by: Issuing) -> bytes:
        header, claims = part(dumps(by.header()).encode()), part(dumps(by.claims()).encode())
        return by.signed_parts(part(raw), claims) if of == "header" else by.signed_parts(header, part(raw))

    return build


def in_encoding(name: str) -> Build:
    """A good token but for the encoding of its payload."""
    return lambda by: by.signed_parts(
        part(dumps(by.header()).encode()), part(dumps(by.claims()).encode(name))
    )


def with_token(change: Callable[[bytes], bytes]) -> Build:
    """A good token, changed after it was signed."""
    return lambda by: change(good(by))


def with_parts(change: Callable[[bytes, bytes, bytes], tuple[bytes, ...]]) -> Build:
    """A good token whose parts are changed after it was signed."""
    return lambda by: b".".join(change(*good(by).split(b".")))


def mixed(header: Build, payload: Build, signature: Build) -> Build:
    """A token of parts of several that are good by themselves."""
    builds = (header, payload, signature)
    return lambda by: b".".join(build(by).split(b".")[place] for place, build in enumerate(builds))


def with_json(text: str) -> Build:
    """A token whose payload has one more member, written as it is."""
    return with_text(lambda claims: claims[:-1] + "," + text + "}")


def by_key(key: Callable[[Issuing], Any], **header: Any) -> Build:
    """A good token but for who signed it."""

    def build(by: Issuing) -> bytes:
        parts = [part(dumps(one).encode()) for one in (by.header(**header), by.claims())]
        return b".".join([*parts, part(rs256(key(by), b".".join(parts)))])

    return build


def by_algorithm(algorithm: str) -> Build:
    """A good token, signed by another algorithm with a key that is published for it."""

    def build(by: Issuing) -> bytes:
        return by.keys.sign(by.claims(), header={"typ": "logout+jwt"}, algorithm=algorithm).encode()

    return build


def by_secret(secret: Callable[[Issuing], bytes], **header: Any) -> Build:
    """A token under HS256 with a "secret" that everybody knows."""

    def build(by: Issuing) -> bytes:
        parts = [part(dumps(one).encode()) for one in (by.header(alg="HS256", **header), by.claims())]
        return b".".join([*parts, part(hmac.digest(secret(by), b".".join(parts), hashlib.sha256))])

    return build


def public_pem(by: Issuing) -> bytes:
    return by.keys._rsa[0].private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def stranger(_: Issuing) -> Any:
    return _STRANGER.private


def shifted(seconds: float) -> Callable[[Issuing], float]:
    """The app's time, and this much more."""
    return lambda by: by.now + seconds


def good(by: Issuing) -> bytes:
    return by.signed(dumps(by.header()), dumps(by.claims()))


def other_bits(encoded: bytes) -> bytes:
    """The same bytes once more, by the bits of the last character that mean nothing."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(encoded) % 4, "all bits mean something"
    return encoded[:-1] + bytes([alphabet[alphabet.index(encoded[-1]) ^ 1]])


def id_token(by: Issuing) -> bytes:
    """An ID token of the same user, as the provider signs it."""
    claims = by.claims(events=LEFT_OUT, jti=LEFT_OUT, nonce="n", exp=int(by.now) + 3600)
    return by.signed(dumps(by.header(typ="JWT")), dumps(claims))


SKEW = LogoutTokenRules().clock_skew_seconds
AGE = LogoutTokenRules().maximum_age_seconds
STRICT = LogoutTokenRules(strict_type=True)
NO_EXP = LogoutTokenRules(require_exp=False)
MORE = LogoutTokenRules(algorithms=("RS256", "RS384", "PS256", "ES256", "EdDSA"))

PARTS = "the token has not three parts"
TOO_LONG = "the token is too long"
HEADER_ENCODING, PAYLOAD_ENCODING = "the header is not base64url", "the payload is not base64url"
SIGNATURE_ENCODING = "the signature is not base64url"
HEADER_JSON, PAYLOAD_JSON = "the header is not JSON", "the payload is not JSON"
HEADER_OBJECT, PAYLOAD_OBJECT = "the header is not an object", "the payload is not an object"
HEADER_TWICE, PAYLOAD_TWICE = "the header has a member twice", "the payload has a member twice"
HEADER_DEEP, PAYLOAD_DEEP = "the header is nested too deeply", "the payload is nested too deeply"
ALG = "the header's alg is not one that is configured"
TYP = "the header's typ is not that of a logout token"
CRIT = "the header has a crit"
KID = "the header's kid is not a short string"
ISSUER = "iss is not the provider's"
TID = "tid is not a short string"
AUD = "aud does not name this app"
NO_AZP = "aud names others as well, and azp is not there"
AZP = "azp is not this app"
IAT, FUTURE, OLD = "iat is not a date", "iat is in the future", "iat is too long ago"
WITHOUT_EXP, EXP, OVER = "exp is not there", "exp is not a date", "exp is over"
NBF = "nbf is not a date, or in the future"
NOBODY = "neither sub nor sid is there"
SUB, SID = "sub is not a string with something in it", "sid is not a string with something in it"
EVENTS, EVENT = "events has no logout event", "the logout event is not an object"
NONCE = "nonce is there"
JTI = "jti is not a short string"
NO_KEY = "the header's kid and alg fit no signing key of the provider"
SIGNATURE = "the signature is not the provider's"

BAD: tuple[Row, ...] = (
    # Step 1, and what is no JWT at all.
    Row("nothing", lambda _: b"", PARTS),
    Row("a word", lambda _: b"token", PARTS),
    Row("two parts", with_parts(lambda h, p, s: (h, p)), PARTS),
    Row("four parts", with_parts(lambda h, p, s: (h, p, s, s)), PARTS),
    Row("encrypted", lambda _: b"e30.YQ.YQ.YQ.YQ", "the token is encrypted"),
    Row("only dots", lambda _: b"." * 10_000, PARTS),
    Row("too long", with_claims(padding="x" * 16_384), TOO_LONG),
    Row(
        "too long for the rules",
        with_claims(padding="x" * 1024),
        TOO_LONG,
        LogoutTokenRules(maximum_bytes=1024),
    ),
    Row("a long signature", with_token(lambda token: token + b"A" * 16_384), TOO_LONG),
    Row("a space before", with_token(lambda token: b" " + token), HEADER_ENCODING),
    Row("a line break after", with_token(lambda token: token + b"\n"), SIGNATURE_ENCODING),
    Row("a line break within", with_parts(lambda h, p, s: (h, p[:9] + b"\n" + p[9:], s)), PAYLOAD_ENCODING),
    Row("padding", with_parts(lambda h, p, s: (h, p + b"=", s)), PAYLOAD_ENCODING),
    Row("padding of the header", with_parts(lambda h, p, s: (h + b"==", p, s)), HEADER_ENCODING),
    Row("padding of the signature", with_parts(lambda h, p, s: (h, p, s + b"==")), SIGNATURE_ENCODING),
    Row("base64, not base64url", with_parts(lambda h, p, s: (h, b"+/" + p, s)), PAYLOAD_ENCODING),
    Row("bytes beyond ASCII", with_parts(lambda h, p, s: (h, p + b"\xff", s)), PAYLOAD_ENCODING),
    Row("a NUL", with_parts(lambda h, p, s: (h, p + b"\0", s)), PAYLOAD_ENCODING),
    Row("a character too many", with_parts(lambda h, p, s: (h, b"A" * 5, s)), PAYLOAD_ENCODING),
    Row("other bits of the signature", with_parts(lambda h, p, s: (h, p, other_bits(s))), SIGNATURE_ENCODING),
    Row("other bits of the payload", with_parts(lambda h, p, s: (h, b"e31", s)), PAYLOAD_ENCODING),
    Row("an empty header", with_parts(lambda h, p, s: (b"", p, s)), HEADER_JSON),
    Row("an empty payload", with_parts(lambda h, p, s: (h, b"", s)), PAYLOAD_JSON),
    Row("a header of no JSON", with_raw(b"alg=RS256", "header"), HEADER_JSON),
    Row("a header that is a list", with_raw(b"[]", "header"), HEADER_OBJECT),
    Row("a header that is a string", with_raw(b'"RS256"', "header"), HEADER_OBJECT),
    Row("a payload of no JSON", with_raw(b"sub=user"), PAYLOAD_JSON),
    Row("a payload that is null", with_raw(b"null"), PAYLOAD_OBJECT),
    Row("a payload that is a list", with_raw(b"[{}]"), PAYLOAD_OBJECT),
    Row("a payload and more", with_text(lambda claims: claims + "{}"), PAYLOAD_JSON),
    Row("invalid UTF-8", with_raw(b'{"sub":"\xff"}'), PAYLOAD_JSON),
    Row("overlong UTF-8", with_raw(b'{"sub":"\xc0\xaf"}'), PAYLOAD_JSON),
    Row("a surrogate in UTF-8", with_raw(b'{"sub":"\xed\xa0\x80"}'), PAYLOAD_JSON),
    Row("UTF-16", in_encoding("utf-16"), PAYLOAD_JSON),
    Row("a byte order mark", with_text(lambda claims: "\ufeff" + claims), PAYLOAD_JSON),
    Row("NaN", with_json('"more":NaN'), PAYLOAD_JSON),
    Row("Infinity", with_json('"more":-Infinity'), PAYLOAD_JSON),
    Row("an endless number", with_json('"more":' + "9" * 5000), PAYLOAD_JSON),
    Row("a control character", with_json('"more":"\n"'), PAYLOAD_JSON),
    Row("a member twice", with_json('"sub":"another"'), PAYLOAD_TWICE),
    Row("a member twice, the same", with_json('"sub":"user"'), PAYLOAD_TWICE),
    Row("a member twice, escaped", with_json('"s\\u0075b":"another"'), PAYLOAD_TWICE),
    Row("a member twice, deep down", with_json('"more":[{"a":{"b":1,"b":2}}]'), PAYLOAD_TWICE),
    Row(
        "the logout event twice",
        with_text(lambda claims: claims.replace('"events":{', f'"events":{{"{LOGOUT_EVENT}":{{}},')),
        PAYLOAD_TWICE,
    ),
    Row("alg twice", with_text(lambda header: header[:-1] + ',"alg":"none"}', "header"), HEADER_TWICE),
    Row("kid twice", with_text(lambda header: header[:-1] + ',"kid":"x"}', "header"), HEADER_TWICE),
    Row("deep nesting", with_json('"more":' + "[" * 4000 + "]" * 4000), PAYLOAD_DEEP),
    Row("deep nesting of objects", with_json('"more":' + '{"a":' * 300 + "1" + "}" * 300), PAYLOAD_DEEP),
    Row("deep nesting without an end", with_raw(b"[" * 9000), PAYLOAD_DEEP),
    Row("a deep header", with_raw(b'{"alg":' + b"[" * 9000, "header"), HEADER_DEEP),
    # Steps 2 and 3: the header.
    Row("no alg", with_header(alg=LEFT_OUT), ALG),
    Row("alg none", by_algorithm("none"), ALG),
    Row("alg none, with a signature", with_header(alg="none"), ALG),
    Row("alg None", with_header(alg="None"), ALG),
    Row("alg nOnE", with_header(alg="nOnE"), ALG),
    Row("alg in small letters", with_header(alg="rs256"), ALG),
    Row("alg with a space", with_header(alg="RS256 "), ALG),
    Row("alg null", with_header(alg=None), ALG),
    Row("alg a number", with_header(alg=256), ALG),
    Row("alg a list", with_header(alg=["RS256"]), ALG),
    Row("alg an object", with_header(alg={}), ALG),
    Row("wrong alg with a key of the provider's", by_algorithm("ES256"), ALG),
    Row("RS384 where RS256 is configured", by_algorithm("RS384"), ALG),
    Row("PS256 where RS256 is configured", by_algorithm("PS256"), ALG),
    Row("the public key as a secret", by_algorithm("HS256"), ALG),
    Row("the empty secret", by_secret(lambda _: b""), ALG),
    Row("the public key as a secret, kid left out", by_secret(public_pem, kid=LEFT_OUT), ALG),
    Row("typ of an access token", with_header(typ="at+jwt"), TYP),
    Row("typ of another event", with_header(typ="secevent+jwt"), TYP),
    Row("typ empty", with_header(typ=""), TYP),
    Row("typ null", with_header(typ=None), TYP),
    Row("typ a number", with_header(typ=1), TYP),
    Row("typ a list", with_header(typ=["logout+jwt"]), TYP),
    Row("typ JWT where the rules are strict", with_header(typ="JWT"), TYP, STRICT),
    Row("no typ where the rules are strict", with_header(typ=LEFT_OUT), TYP, STRICT),
    Row("crit", with_header(crit=["exp"]), CRIT),
    Row("crit of an extension", with_header(crit=["b64"], b64=False), CRIT),
    Row("crit empty", with_header(crit=[]), CRIT),
    Row("crit null", with_header(crit=None), CRIT),
    Row("kid long", with_header(kid="k" * 256), KID),
    Row("kid very long", with_header(kid="k" * 10_000), KID),
    Row("kid empty", with_header(kid=""), KID),
    Row("kid null", with_header(kid=None), KID),
    Row("kid a number", with_header(kid=1), KID),
    Row("kid a list", with_header(kid=["k"]), KID),
    Row("kid half a character", with_header(kid="\ud800"), KID),
    # Step 4: for whom, from whom.
    Row("no iss", with_claims(iss=LEFT_OUT), ISSUER),
    Row("another iss", with_claims(iss="https://evil.example"), ISSUER),
    Row("iss and a slash", with_claims(iss=lambda by: by.iss + "/"), ISSUER),
    Row("iss in capitals", with_claims(iss=lambda by: by.iss.upper()), ISSUER),
    Row("iss and more", with_claims(iss=lambda by: by.iss + ".evil.example"), ISSUER),
    Row("iss with a space", with_claims(iss=lambda by: by.iss + " "), ISSUER),
    Row("iss empty", with_claims(iss=""), ISSUER),
    Row("iss null", with_claims(iss=None), ISSUER),
    Row("iss a list", with_claims(iss=lambda by: [by.iss]), ISSUER),
    Row("tid a list", with_claims(tid=["t"]), TID),
    Row("tid null", with_claims(tid=None), TID),
    Row("no aud", with_claims(aud=LEFT_OUT), AUD),
    Row("another aud", with_claims(aud="another"), AUD),
    Row("aud a list of others", with_claims(aud=["another", "others"]), AUD),
    Row("aud an empty list", with_claims(aud=[]), AUD),
    Row("aud null", with_claims(aud=None), AUD),
    Row("aud an object", with_claims(aud=lambda by: {by.client_id: True}), AUD),
    Row("aud in capitals", with_claims(aud=lambda by: by.client_id.upper()), AUD),
    Row("aud that contains the client's", with_claims(aud=lambda by: f"{by.client_id} another"), AUD),
    Row("aud a list with a number", with_claims(aud=lambda by: [by.client_id, 1]), AUD),
    Row("aud a list in a list", with_claims(aud=lambda by: [[by.client_id]]), AUD),
    Row("more audiences and no azp", with_claims(aud=lambda by: [by.client_id, "another"]), NO_AZP),
    Row(
        "more audiences, azp another",
        with_claims(aud=lambda by: [by.client_id, "another"], azp="another"),
        AZP,
    ),
    Row("azp another", with_claims(azp="another"), AZP),
    Row("azp null", with_claims(azp=None), AZP),
    Row("azp a list", with_claims(azp=lambda by: [by.client_id]), AZP),
    # Step 4: when.
    Row("no iat", with_claims(iat=LEFT_OUT), IAT),
    Row("iat null", with_claims(iat=None), IAT),
    Row("iat true", with_claims(iat=True), IAT),
    Row("iat a string", with_claims(iat=lambda by: str(int(by.now))), IAT),
    Row("iat a list", with_claims(iat=lambda by: [by.now]), IAT),
    Row("iat negative", with_claims(iat=-1), IAT),
    Row("iat endless", with_text(lambda claims: claims.replace('"iat":', '"iat":1e999,"x":')), IAT),
    Row("iat larger than a float", with_claims(iat=10**400), IAT),
    Row("iat in 1971", with_claims(iat=40_000_000), OLD),
    Row("iat zero", with_claims(iat=0), OLD),
    Row("iat too long ago", with_claims(iat=shifted(-AGE - SKEW - 2)), OLD),
    Row(
        "iat too long ago for the rules",
        with_claims(iat=shifted(-12)),
        OLD,
        LogoutTokenRules(maximum_age_seconds=10, clock_skew_seconds=0),
    ),
    Row("iat in the future", with_claims(iat=shifted(SKEW + 5)), FUTURE),
    Row("iat in milliseconds", with_claims(iat=lambda by: int(by.now) * 100), FUTURE),
    Row("no exp", with_claims(exp=LEFT_OUT), WITHOUT_EXP),
    Row("exp over", with_claims(exp=shifted(-SKEW - 1)), OVER),
    Row("exp over, though none is required", with_claims(exp=shifted(-SKEW - 1)), OVER, NO_EXP),
    Row("exp zero", with_claims(exp=0), OVER),
    Row("exp null", with_claims(exp=None), EXP),
    Row("exp null, though none is required", with_claims(exp=None), EXP, NO_EXP),
    Row("exp true", with_claims(exp=True), EXP),
    Row("exp a string", with_claims(exp=lambda by: str(int(by.now) + 60)), EXP),
    Row("exp 1e300", with_claims(exp=1e300), EXP),
    Row("exp endless", with_text(lambda claims: claims.replace('"exp":', '"exp":1e999,"x":')), EXP),
    Row("exp in milliseconds", with_claims(exp=lambda by: int(by.now) * 1000), EXP),
    Row("nbf in the future", with_claims(nbf=shifted(SKEW + 5)), NBF),
    Row("nbf a string", with_claims(nbf="0"), NBF),
    Row("nbf null", with_claims(nbf=None), NBF),
    # Step 5: whose session.
    Row("neither sub nor sid", with_claims(sub=LEFT_OUT, sid=LEFT_OUT), NOBODY),
    Row("sub null", with_claims(sub=None), SUB),
    Row("sub null, without sid", with_claims(sub=None, sid=LEFT_OUT), SUB),
    Row("sub empty", with_claims(sub=""), SUB),
    Row("sub a number", with_claims(sub=1), SUB),
    Row("sub a list", with_claims(sub=lambda by: [by.sub]), SUB),
    Row("sub half a character", with_claims(sub="user\ud800"), SUB),
    Row("sid null", with_claims(sid=None), SID),
    Row("sid null, with sub", with_claims(sid=None, sub="user"), SID),
    Row("sid empty", with_claims(sid=""), SID),
    Row("sid true", with_claims(sid=True), SID),
    Row("sid an object", with_claims(sid={}), SID),
    Row("sid half a character", with_claims(sid="\udfff"), SID),
    # Step 6: the event.
    Row("no event", with_claims(events=LEFT_OUT), EVENTS),
    Row("an empty event", with_claims(events={}), EVENTS),
    Row("wrong event", with_claims(events={"http://schemas.openid.net/event/other": {}}), EVENTS),
    Row("the event over https", with_claims(events={LOGOUT_EVENT.replace("http", "https"): {}}), EVENTS),
    Row("the event with a slash", with_claims(events={LOGOUT_EVENT + "/": {}}), EVENTS),
    Row("events a list", with_claims(events=[LOGOUT_EVENT]), EVENTS),
    Row("events a string", with_claims(events=LOGOUT_EVENT), EVENTS),
    Row("events null", with_claims(events=None), EVENTS),
    Row("the event null", with_claims(events={LOGOUT_EVENT: None}), EVENT),
    Row("the event a list", with_claims(events={LOGOUT_EVENT: []}), EVENT),
    Row("the event true", with_claims(events={LOGOUT_EVENT: True}), EVENT),
    Row("the event a string", with_claims(events={LOGOUT_EVENT: "{}"}), EVENT),
    # Step 7: no ID token.
    Row("with nonce", with_claims(nonce="n"), NONCE),
    Row("nonce null", with_claims(nonce=None), NONCE),
    Row("nonce empty", with_claims(nonce=""), NONCE),
    Row("nonce false", with_claims(nonce=False), NONCE),
    Row("an ID token", id_token, EVENTS),
    # Step 8, as far as the text goes.
    Row("no jti", with_claims(jti=LEFT_OUT), JTI),
    Row("jti null", with_claims(jti=None), JTI),
    Row("jti empty", with_claims(jti=""), JTI),
    Row("jti a number", with_claims(jti=1), JTI),
    Row("jti long", with_claims(jti="j" * 256), JTI),
    Row("jti half a character", with_claims(jti="\udc00"), JTI),
    # Step 2: the signature, which only the keys decide.
    Row("no signature", with_parts(lambda h, p, s: (h, p, b"")), SIGNATURE, by_text=False),
    Row("a short signature", with_parts(lambda h, p, s: (h, p, b"AAAA")), SIGNATURE, by_text=False),
    Row(
        "a signature of zeros", with_parts(lambda h, p, s: (h, p, part(bytes(256)))), SIGNATURE, by_text=False
    ),
    Row("another signature", with_parts(lambda h, p, s: (h, p, part(b"\1" * 256))), SIGNATURE, by_text=False),
    Row("a stranger's signature", by_key(stranger), SIGNATURE, by_text=False),
    Row("a stranger's signature, kid left out", by_key(stranger, kid=LEFT_OUT), SIGNATURE, by_text=False),
    Row(
        "a stranger's key in the header",
        by_key(
            stranger,
            jwk=_STRANGER.jwk,
            jku="https://evil.example/keys",
            x5u="https://evil.example/",
            x5c=["MII="],
        ),
        SIGNATURE,
        by_text=False,
    ),
    Row("a stranger's kid", by_key(stranger, kid=_STRANGER.kid), NO_KEY, by_text=False),
    Row("a kid that is a path", with_header(kid="../../dev/null"), NO_KEY, by_text=False),
    Row("a kid that is SQL", with_header(kid="x' UNION SELECT 'key"), NO_KEY, by_text=False),
    Row(
        "kid in other letters",
        with_header(kid=lambda by: by.header()["kid"].swapcase()),
        NO_KEY,
        by_text=False,
    ),
    Row(
        "another payload under the signature",
        mixed(good, with_claims(sub="victim"), good),
        SIGNATURE,
        by_text=False,
    ),
    Row(
        "another header under the signature",
        mixed(with_header(more=1), good, good),
        SIGNATURE,
        by_text=False,
    ),
    Row("RS384 said, RS256 signed", with_header(alg="RS384"), NO_KEY, MORE, by_text=False),
    Row("RS384 with a key for RS256", by_algorithm("RS384"), NO_KEY, MORE, by_text=False),
    Row("PS256 with a key for RS256", by_algorithm("PS256"), NO_KEY, MORE, by_text=False),
    Row("ES256 with an RSA key", with_header(alg="ES256"), NO_KEY, MORE, by_text=False),
    Row("EdDSA with an RSA key", with_header(alg="EdDSA"), NO_KEY, MORE, by_text=False),
)

GOOD: tuple[Row, ...] = (
    Row("sub and sid", good),
    Row("sid only", with_claims(sub=LEFT_OUT)),
    Row("sub only", with_claims(sid=LEFT_OUT)),
    Row("typ logout+jwt where the rules are strict", good, rules=STRICT),
    Row("typ with its tree", with_header(typ="application/logout+jwt")),
    Row("typ in capitals", with_header(typ="Logout+JWT")),
    Row("typ JWT", with_header(typ="JWT")),
    Row("typ jwt", with_header(typ="jwt")),
    Row("no typ", with_header(typ=LEFT_OUT)),
    Row("no kid, one key", with_header(kid=LEFT_OUT)),
    Row("a header with more in it", with_header(jku="https://evil.example/keys", x5t="x", more={"a": [1]})),
    Row("aud a list", with_claims(aud=lambda by: [by.client_id])),
    Row("aud twice the same", with_claims(aud=lambda by: [by.client_id, by.client_id])),
    Row("azp this app", with_claims(azp=lambda by: by.client_id)),
    Row(
        "more audiences, azp this app",
        with_claims(aud=lambda by: ["x", by.client_id], azp=lambda by: by.client_id),
    ),
    Row("iat a fraction", with_claims(iat=lambda by: by.now - 0.5)),
    Row("iat just not in the future", with_claims(iat=shifted(SKEW - 5))),
    Row("iat just not too long ago", with_claims(iat=shifted(-AGE - SKEW + 5))),
    Row("exp just not over", with_claims(exp=shifted(-SKEW + 5))),
    Row("exp a fraction", with_claims(exp=lambda by: by.now + 0.5)),
    Row("exp in a year", with_claims(exp=shifted(365 * 86_400))),
    Row("no exp, where none is required", with_claims(exp=LEFT_OUT), rules=NO_EXP),
    Row("nbf now", with_claims(nbf=shifted(0))),
    Row("another member of events", with_claims(events={LOGOUT_EVENT: {}, "revoke_offline_access": True})),
    Row("a logout event with something in it", with_claims(events={LOGOUT_EVENT: {"more": [1, 2]}})),
    Row("more claims", with_claims(trace_id="x", toe=1, txn="y", sub_id={"format": "opaque", "id": "z"})),
    Row("jti of the longest", with_claims(jti="j" * 255)),
    Row("an issuer's tenant", with_claims(tid="t")),
    Row("letters of the world", with_claims(more="日本語 😀 \u0000")),
    Row("JSON laid out", with_text(lambda claims: " " + json.dumps(json.loads(claims), indent=4) + "\n")),
    Row("ES256 where it is configured", by_algorithm("ES256"), rules=MORE),
)
"""Tokens that end the session of the `Issuing`'s `sub` and `sid`."""


def by_name(rows: tuple[Row, ...]) -> Mapping[str, Row]:
    """Return rows by their names, which are unique."""
    named = {row.name: row for row in rows}
    assert len(named) == len(rows), "two rows have the same name"
    return named
