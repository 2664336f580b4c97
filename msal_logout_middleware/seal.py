"""What `secret=` does: keyed hashes, sealed bytes, signed tokens. The first secret writes, all of them read."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from itsdangerous import BadData, URLSafeTimedSerializer

_MINIMUM_BYTES = 16
_AT_HAND = 4096
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str).encode
_HOW = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'


class Seal:
    """Keys derived from the configured secrets, one for each purpose.

    Args:
        secrets: The first signs, seals and hashes; all verify and open.

    Raises:
        ValueError: There is no secret, or one is too short to be one.
    """

    def __init__(self, secrets: Sequence[str | bytes]) -> None:
        self._at_hand: dict[bytes, Any] = {}
        self._secrets = [s.encode() if isinstance(s, str) else s for s in secrets]
        if not self._secrets:
            raise ValueError(
                "secret= is missing, and the app has no secret of its own when it is wrapped: set that, such as "
                f"Flask's SECRET_KEY, or give secret=, at least {_MINIMUM_BYTES} bytes that stay the same across "
                f"restarts and workers, for example the output of: {_HOW}"
            )
        if any(len(secret) < _MINIMUM_BYTES for secret in self._secrets):
            raise ValueError(
                f"secret=, or the framework's own secret in its place, must have at least {_MINIMUM_BYTES} bytes, "
                f"for example the output of: {_HOW}"
            )

    def hashes(self, purpose: str, *parts: Any) -> tuple[str, ...]:
        """Return the keyed hash of JSON values by each secret, the first first, so that a rotation loses nothing."""
        # JSON separates the parts, so that ("ab", "c") and ("a", "bc") differ.
        text = _canonical([purpose, *parts]).encode()
        return tuple(_mac(keyed, text) for keyed in self._keyed)

    def seal(self, purpose: str, value: Any) -> bytes:
        """Encrypt a JSON value."""
        return self._fernet.encrypt(json.dumps([purpose, value]).encode())

    def open(self, purpose: str, sealed: bytes, *, max_age_seconds: int | None = None) -> Any | None:
        """Return a sealed value; `None` if it is not one of ours, for another purpose, or too old."""
        try:
            meant_for, value = json.loads(self._fernet.decrypt(sealed, ttl=max_age_seconds))
        except InvalidToken:
            return None
        return value if meant_for == purpose else None

    def keep_at_hand(self, sealed: bytes, opened: Any) -> None:
        """Remember what this process has sealed, so that it need not open it; the oldest is forgotten."""
        self._at_hand[sealed] = opened
        if len(self._at_hand) > _AT_HAND:
            with suppress(StopIteration, RuntimeError):  # another thread did
                self._at_hand.pop(next(iter(self._at_hand)), None)

    def at_hand(self, sealed: bytes) -> Any | None:
        """Return what `keep_at_hand` was told of sealed bytes, if it is still known."""
        return self._at_hand.get(sealed)

    def sign(self, purpose: str, value: Any) -> str:
        """Return a signed token that carries a JSON value in clear, for URLs, cookies and forms."""
        return self._serializer(purpose).dumps(value)

    def verify(self, purpose: str, token: str | None, *, max_age_seconds: int) -> Any | None:
        """Return what a signed token carries; `None` if it is absent, forged, for another purpose, or too old."""
        try:
            return self._serializer(purpose).loads(token or "", max_age=max_age_seconds)
        except BadData:
            return None

    @cached_property
    def _keyed(self) -> tuple[hmac.HMAC, ...]:
        return tuple(hmac.new(_derive(secret, "hash"), digestmod="sha256") for secret in self._secrets)

    @cached_property
    def _fernet(self) -> MultiFernet:
        return MultiFernet(
            [Fernet(base64.urlsafe_b64encode(_derive(secret, "seal"))) for secret in self._secrets]
        )

    def _serializer(self, purpose: str) -> URLSafeTimedSerializer:
        # itsdangerous signs with the last key of its list, and verifies with all.
        keys = [_derive(secret, "sign") for secret in reversed(self._secrets)]
        return URLSafeTimedSerializer(
            keys, salt=f"msal-logout-middleware/{purpose}", signer_kwargs={"digest_method": hashlib.sha256}
        )


def _derive(secret: bytes, use: str) -> bytes:
    return hmac.digest(secret, f"msal-logout-middleware/{use}".encode(), "sha256")


def _mac(keyed: hmac.HMAC, text: bytes) -> str:
    mac = keyed.copy()
    mac.update(text)
    return mac.hexdigest()
