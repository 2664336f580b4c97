"""A session as the session index holds it: its handles, the keys that it is found by, and what ending it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .seal import Seal
from .session import Claims, Session, plain_claims
from .stores import SessionRecord

# Of the ID token's claims these are kept: they say who it is, and where the provider signs them out.
_KEPT_CLAIMS = ("iss", "sub", "aud", "sid", "oid", "tid", "tfp", "acr", "login_hint")

# One of these makes each sign-in unlike every other (OpenID Connect Core 1.0, 2; `uti` is Entra's).
_UNIQUE_CLAIMS = ("iat", "nonce", "uti")


@dataclass(frozen=True, slots=True)
class KnownSession:
    """What is known of a session in which somebody is signed in; enough for any worker to end it.

    Args:
        session_id: The server-side session's id; `None` if the session is in the cookie. A live credential.
        handles: The session's handle by each secret, the first first; empty if it cannot be told from other
            sign-ins of the same user.
        claims: Those of its claims that are needed.
        cache_key: The key of its token cache; `None` where there is none, or the claims lead to none.
        keys: What the session index finds it by.
        issued_at: The ID token's `iat`, in seconds since 1970; 0 if it has none.
        sign_in: A hash of all claims: where a server-side session has others, somebody has signed in anew.
        group: What the session index groups the session's handles by, if it is from there.
        signed_in_at: When its sign-in was seen, in seconds since 1970; `None` if it was not.
    """

    session_id: str | None = field(repr=False)
    handles: tuple[str, ...]
    claims: Claims = field(repr=False)
    cache_key: str | None = field(default=None, repr=False)
    keys: tuple[str, ...] = ()
    issued_at: float = 0.0
    sign_in: str = ""
    group: str | None = None
    signed_in_at: float | None = None

    @property
    def user(self) -> tuple[Any, Any]:
        """Who is signed in (OpenID Connect Core 1.0, 5.7)."""
        return self.claims.get("iss"), self.claims.get("sub")

    def as_json(self) -> dict[str, Any]:
        """Return what ending the session needs as a JSON value, to be sealed."""
        return {
            "id": self.session_id,
            "handles": self.handles,
            "claims": dict(self.claims),
            "key": self.cache_key,
            "group": self.group,
            "signed_in_at": self.signed_in_at,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> KnownSession:
        """Return what `as_json` made the value of."""
        return cls(
            session_id=value["id"],
            handles=tuple(value["handles"]),
            claims=value["claims"],
            cache_key=value["key"],
            group=value["group"],
            signed_in_at=value["signed_in_at"],
        )

    def record(
        self, seal: Seal, *, session: str, expires_at: float, has_own_cache: bool = False
    ) -> SessionRecord:
        """Return the record of the session's first handle.

        Args:
            seal: Seals what ending the session needs.
            session: Groups the handles of the session.
            expires_at: When the session's lifetime is over, in seconds since 1970.
            has_own_cache: Whether its token cache is its user's alone, so that the store may remove it as a whole.
        """
        cache = self.cache_key if has_own_cache else None
        known = replace(self, group=session)
        data = seal.seal("record", known.as_json())
        seal.keep_at_hand(data, known)
        return SessionRecord(self.handles[0], session, self.keys, self.issued_at, data, expires_at, cache)


def known_session(
    seal: Seal, session: Session, *, cache_key: str | None, sid: str | None = None, is_ours: bool = True
) -> KnownSession:
    """Return what is known of a session in which somebody is signed in.

    Args:
        seal: Makes the hashes.
        session: The session.
        cache_key: The key of its token cache.
        sid: The provider's session, where the claims do not say it.
        is_ours: Whether the provider's own calls, which may have no `iss`, can mean this session.
    """
    said = session.claims or {}
    claims = plain_claims({name: said[name] for name in _KEPT_CLAIMS if name in said})
    sids: list[str | None] = [one for one in (claims.get("sid"), sid) if isinstance(one, str)]
    issued_at = said.get("iat")
    found = handles(seal, session)
    return KnownSession(
        session_id=session.id,
        handles=found,
        claims=claims,
        cache_key=cache_key,
        keys=tuple(
            dict.fromkeys(
                key for one in sids or [None] for key in keys(seal, claims | {"sid": one}, is_ours=is_ours)
            )
        ),
        issued_at=float(issued_at) if isinstance(issued_at, (int, float)) else 0.0,
        sign_in=found[0] if found and session.id is None else sign_in(seal, session),
    )


def opened(seal: Seal, data: bytes) -> KnownSession | None:
    """Return what a record's data says; `None` if no secret opens it any more."""
    known: KnownSession | None = seal.at_hand(data)
    if known is None and (value := seal.open("record", data)) is not None:
        known = KnownSession.from_json(value)
    return known


def handles(seal: Seal, session: Session) -> tuple[str, ...]:
    """Return a session's handle by each secret: a keyed hash of its id, or else of all claims in it.

    Claims that no sign-in makes unlike another's give none: a mark on them would refuse the next sign-in as well.
    """
    if session.id is not None:
        return seal.hashes("session id", session.id)
    claims = session.claims or {}
    if not any(claims.get(name) for name in _UNIQUE_CLAIMS):
        return ()
    return seal.hashes("claims", plain_claims(claims))


def sign_in(seal: Seal, session: Session) -> str:
    """Return a hash of all claims in a session."""
    return seal.hashes("claims", plain_claims(session.claims))[0]


def keys(seal: Seal, claims: Claims, *, is_ours: bool = False) -> tuple[str, ...]:
    """Return all keys that claims lead to, by each secret.

    `sid` and `sub` mean something only with their `iss`. A bare `sid` is what Entra ID sends.

    Args:
        seal: Makes the hashes.
        claims: Of an ID token.
        is_ours: Whether the configured provider issued them, so that a bare `sid` of its means them.
    """
    iss, sub, sid, oid, tid = (claims.get(name) for name in ("iss", "sub", "sid", "oid", "tid"))
    found = [
        key(seal, iss=iss, sub=sub),
        key(seal, iss=iss, sid=sid),
        key(seal, iss=iss, sid=sid, sub=sub),
        key(seal, oid=oid, tid=tid),
        key(seal, sid=sid) if is_ours else (),
    ]
    return tuple(dict.fromkeys(one for by_each_secret in found for one in by_each_secret))


def key(seal: Seal, **parts: Any) -> tuple[str, ...]:
    """Return the key for some claims, by each secret; nothing, if one of them is no string, or empty."""
    if not all(isinstance(value, str) and value for value in parts.values()):
        return ()
    return seal.hashes("key", parts)
