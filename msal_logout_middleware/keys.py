"""The provider's signing keys: which of its JSON Web Keys may verify what, and how they are had.

1. A key is used only for what its type, its size and its own members allow (RFC 7517, 4; RFC 7518, 3): so nobody can
   have a signature verified with a key that was published for something else.
2. Keys that are held are answered at once. Keys come from the configured provider only: a token may name one of them,
   and cannot say where another is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from ._drive import World
from .errors import ProviderError
from .fetch import Document, Json, Verify

# What each algorithm needs of a key: its type and its curve (RFC 7518, 3.1; RFC 8037, 3.1). Without those that take a
# secret, and without `none`: a logout token under one of these proves nothing.
ALGORITHMS: Mapping[str, tuple[str, str | None]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", None)),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
_VERIFIERS: Mapping[str, Algorithm] = {
    name: verifier for name, verifier in get_default_algorithms().items() if name in ALGORITHMS
}
_MINIMUM_RSA_BITS = 2048  # RFC 7518, 3.3
_FRESH_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key that the provider signs with.

    Args:
        kid: What tokens name it by; `None` if they do not.
        algorithms: What it may verify.
        public: The key.
    """

    kid: str | None
    algorithms: frozenset[str]
    public: Any = field(repr=False)

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Tell whether the key made a signature, by an algorithm that is among its own."""
        return algorithm in self.algorithms and _VERIFIERS[algorithm].verify(signed, self.public, signature)


class SigningKeys:
    """The keys at one `jwks_uri`, held and refreshed (OpenID Connect Core 1.0, 10.1.1).

    Args:
        url: The `jwks_uri`.
        verify: As in `requests`: whether to verify certificates, or the path of a CA bundle.
        timeout_seconds: How long the server may take to connect, and between two pieces.
        clock: Like `time.monotonic`.
    """

    def __init__(
        self,
        url: str,
        *,
        verify: Verify = True,
        timeout_seconds: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._document = Document(
            url,
            signing_keys,
            name="signing keys",
            verify=verify,
            timeout_seconds=timeout_seconds,
            fresh_seconds=_FRESH_SECONDS,
            clock=clock,
        )

    @property
    def are_held(self) -> bool:
        """Whether any keys are known."""
        return self._document.held is not None

    def held(self, kid: str | None) -> tuple[SigningKey, ...]:
        """Return those of the keys known now that a token may mean.

        Args:
            kid: The key that the token names; `None` if it names none, and any may be meant.
        """
        return self._document.find_held(lambda keys: _meant(keys, kid) or None) or ()

    async def find(
        self, kid: str | None, world: World, *, wait_seconds: float, seen: tuple[SigningKey, ...] = ()
    ) -> tuple[SigningKey, ...]:
        """Return the keys that a token may mean: those that are known, else those that a refresh brings in time.

        Args:
            kid: The key that the token names; `None` if it names none, and any may be meant.
            world: Where to wait.
            wait_seconds: For how long at most.
            seen: Keys that will not do: others are looked for.
        """

        def look(keys: tuple[SigningKey, ...]) -> tuple[SigningKey, ...] | None:
            meant = _meant(keys, kid)
            return meant if meant and meant != seen else None

        return await self._document.find(look, world, wait_seconds=wait_seconds) or ()


def _meant(keys: tuple[SigningKey, ...], kid: str | None) -> tuple[SigningKey, ...]:
    return tuple(key for key in keys if kid is None or key.kid == kid)


def signing_keys(document: Json) -> tuple[SigningKey, ...]:
    """Return the keys of a JSON Web Key Set that can verify anything of a provider's (RFC 7517, 5), in one order.

    Raises:
        ProviderError: There is none.
    """
    members = document.get("keys")
    found = [signing_key(member) for member in members] if isinstance(members, list) else []
    keys = tuple(sorted((key for key in found if key is not None), key=lambda key: key.kid or ""))
    if not keys:
        raise ProviderError("there is no signing key in it")
    return keys


def signing_key(jwk: object) -> SigningKey | None:
    """Return the signing key that a JSON Web Key is; `None` if it is none that may be used (RFC 7517, 4)."""
    if not isinstance(jwk, dict) or "d" in jwk:  # whose private half is published, is everybody's
        return None
    if jwk.get("use", "sig") != "sig" or not _may_verify(jwk.get("key_ops")):
        return None
    kid, algorithms = jwk.get("kid"), _algorithms(jwk)
    if not algorithms or not (kid is None or isinstance(kid, str)):
        return None
    try:
        public = PyJWK(jwk, min(algorithms)).key
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(public, RSAPublicKey) and public.key_size < _MINIMUM_RSA_BITS:
        return None
    return SigningKey(kid, algorithms, public)


def _may_verify(key_ops: object) -> bool:
    return key_ops is None or (isinstance(key_ops, list) and "verify" in key_ops)


def _algorithms(jwk: Mapping[str, Any]) -> frozenset[str]:
    """Return what a key of this type and curve can verify; if it names its algorithm, that one alone."""
    own = jwk.get("alg")
    return frozenset(
        name
        for name, (kty, crv) in ALGORITHMS.items()
        if jwk.get("kty") == kty and (crv is None or jwk.get("crv") == crv) and own in (None, name)
    )
