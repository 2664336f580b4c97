"""Encryption at rest: what stands in a store opens with a key of the app's only, and in its own row only.

1. Each row has a key of its own, derived by HKDF-SHA256 (RFC 5869) from the app's and what the store calls the row.
   So a token cache that somebody copies into another user's row does not open there.
2. What no key opens is absent, with its real version: its user signs in again, and the next save takes its place.
3. Nothing here raises for what stands in a store.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from . import Loaded

logger = logging.getLogger("msal_logout_middleware")

Clear: TypeAlias = Literal["refused", "read", "written"]

_MINIMUM_BYTES = 32
_HOW = 'python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'
_FIRST_BYTE = b"\x80"  # of all that Fernet makes (its version), and of no text in UTF-8 (RFC 3629, 3)


class Encryption:
    """The keys that token caches are encrypted with in a store.

    Args:
        keys: Fernet keys, or secrets of at least 32 bytes. The first encrypts, all of them open.
        clear: What becomes of token caches that stand in the store in clear. `"refused"`: they are absent, since
            whoever can write the store could have put them there. `"read"`: they are read, and encrypted when they
            are written next. `"written"`: nothing is encrypted, but what is encrypted is read; this is for the time
            when not all workers know the keys yet.

    Raises:
        ValueError: There is no key, or one is too short to be one.
        TypeError: A key is neither text nor bytes.
    """

    def __init__(self, keys: str | bytes | Sequence[str | bytes], *, clear: Clear = "refused") -> None:
        given = [keys] if isinstance(keys, (str, bytes)) else list(keys)
        if not given:
            raise ValueError(f"encryption needs a key, for example the output of: {_HOW}")
        if not all(isinstance(key, (str, bytes)) for key in given):
            raise TypeError(
                f"a key of the encryption must be str or bytes, for example the output of: {_HOW}"
            )
        self._keys = [key.encode() if isinstance(key, str) else key for key in given]
        if any(len(key) < _MINIMUM_BYTES for key in self._keys):
            raise ValueError(
                f"a key of the encryption must have at least {_MINIMUM_BYTES} bytes, for example the output of: {_HOW}"
            )
        if clear not in get_args(Clear):
            raise ValueError(f"clear must be one of {', '.join(map(repr, get_args(Clear)))}")
        self._clear: Clear = clear
        self._has_told = False

    @property
    def clear(self) -> Clear:
        """What becomes of token caches that stand in the store in clear."""
        return self._clear

    def protect(self, row: str, data: bytes) -> bytes:
        """Return a token cache as it is to stand in the store.

        Args:
            row: What the store calls the row.
            data: The serialized token cache.
        """
        if self._clear == "written":
            return data
        return base64.urlsafe_b64decode(_fernet(self._keys[0], row).encrypt(data))

    def open(self, row: str, data: bytes) -> bytes | None:
        """Return a token cache that stands in the store; `None` if it is not one that `protect` made for this row."""
        if not _is_encrypted(data):
            return None if self._clear == "refused" else data
        return _opened(self._keys, row, data)

    def is_current(self, row: str, data: bytes) -> bool:
        """Tell whether a token cache stands in the store as `protect` would write it now."""
        if self._clear == "written":
            return not _is_encrypted(data)
        return _opened(self._keys[:1], row, data) is not None

    def tell_of_unopened(self) -> None:
        """Log, once, that there are token caches which nobody can open."""
        if self._has_told:
            return
        self._has_told = True
        logger.error(
            "a token cache in the store opens with no key of encryption=, and is taken as absent: its user signs in"
            " again. If a key is missing, add it behind the first"
        )


def protected(encryption: Encryption | None, row: str, data: bytes | None) -> bytes | None:
    """Return a token cache as a store is to keep it; for each write of a store."""
    if encryption is None or data is None:
        return data
    return encryption.protect(row, data)


def opened(encryption: Encryption | None, row: str, there: Loaded) -> Loaded:
    """Return a token cache that stands in a store, as the store is to hand it out; for each load of a store.

    The version is the row's in any case: what does not open can be overwritten, and removed, as any other.
    """
    if encryption is None or there.data is None:
        return there
    data = encryption.open(row, there.data)
    if data is None:
        encryption.tell_of_unopened()
    return Loaded(data, there.version)


def _opened(keys: Sequence[bytes], row: str, data: bytes) -> bytes | None:
    try:
        return MultiFernet([_fernet(key, row) for key in keys]).decrypt(base64.urlsafe_b64encode(data))
    except InvalidToken:
        return None


def _is_encrypted(data: bytes) -> bool:
    return data.startswith(_FIRST_BYTE)


def _fernet(key: bytes, row: str) -> Fernet:
    info = b"msal-logout-middleware/token-cache/" + row.encode()
    return Fernet(base64.urlsafe_b64encode(HKDF(SHA256(), 32, salt=None, info=info).derive(key)))
