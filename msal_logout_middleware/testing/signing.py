"""The provider's signing keys: they sign tokens, are published as a JWKS, and rotate on demand."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.utils import base64url_encode

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and the `kid` that it is published under."""

    kid: str
    private: PrivateKey

    @property
    def jwk(self) -> dict[str, Any]:
        """The public half, as it stands in the JWKS."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            public = RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
            return {**public, "kid": self.kid, "use": "sig", "alg": "RS256"}
        public = ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {**public, "kid": self.kid, "use": "sig", "alg": "ES256"}


def new_rsa_key() -> SigningKey:
    """Return a new RSA key of 2048 bits under a random `kid`."""
    return SigningKey(
        secrets.token_urlsafe(8), rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )


def new_ec_key() -> SigningKey:
    """Return a new P-256 key under a random `kid`."""
    return SigningKey(secrets.token_urlsafe(8), ec.generate_private_key(ec.SECP256R1()))


def encode(header: Mapping[str, Any], claims: Mapping[str, Any], key: object) -> str:
    """Sign a JWT as told, however wrong it is: PyJWT itself refuses to make most bad tokens.

    Args:
        header: `alg` names the algorithm; `none` leaves the signature empty.
        claims: Any JSON.
        key: What that algorithm signs with.
    """
    algorithm = jwt.get_algorithm_by_name(header["alg"])
    parts = [base64url_encode(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims)]
    signed = b".".join(parts)
    signature = algorithm.sign(signed, key)
    return b".".join((signed, base64url_encode(signature))).decode()


def _public_pem(key: SigningKey) -> bytes:
    return key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class SigningKeys:
    """The keys in use: the newest signs, all that are published verify."""

    def __init__(self) -> None:
        self._rsa = [new_rsa_key()]
        self._ec: SigningKey | None = None

    def sign(
        self, claims: Mapping[str, Any], *, header: Mapping[str, Any] | None = None, algorithm: str = "RS256"
    ) -> str:
        """Sign claims with the newest key.

        Args:
            claims: The payload.
            header: Added to, or instead of, `alg`, `kid` and `typ`; a member of `None` is left out.
            algorithm: `RS256` and its kin; `ES256`, with a key that is published from then on; `none`; or
                `HS256`, keyed with the public RSA key as the attack on confused algorithms does.
        """
        key = self._key(algorithm)
        merged = {"typ": "JWT", "alg": algorithm, "kid": key.kid, **(header or {})}
        present = {name: value for name, value in merged.items() if value is not None}
        secret = _public_pem(key) if algorithm.startswith("HS") else key.private
        return encode(present, claims, secret)

    def verify(self, token: str) -> dict[str, Any]:
        """Return the claims of a token that a published key signed, expired or not.

        Raises:
            jwt.InvalidTokenError: Nobody here signed it.
        """
        kid = jwt.get_unverified_header(token).get("kid")
        for key in self._published:
            if key.kid == kid:
                options: Any = {
                    "verify_signature": True,
                    "verify_exp": False,
                    "verify_aud": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                }
                return jwt.decode(
                    token, key.private.public_key(), algorithms=[key.jwk["alg"]], options=options
                )
        raise jwt.InvalidTokenError("no published key has the token's kid")

    def rotate(self, *, keep: bool = True) -> None:
        """Sign with a new key from now on; the earlier ones stay published only if `keep`."""
        self._rsa = [new_rsa_key(), *(self._rsa if keep else [])]

    @property
    def jwks(self) -> dict[str, Any]:
        """The published keys, as `jwks_uri` answers."""
        return {"keys": [key.jwk for key in self._published]}

    @property
    def _published(self) -> list[SigningKey]:
        return [*self._rsa, *([self._ec] if self._ec else [])]

    def _key(self, algorithm: str) -> SigningKey:
        if not algorithm.startswith("ES"):
            return self._rsa[0]
        if self._ec is None:
            self._ec = new_ec_key()
        return self._ec
