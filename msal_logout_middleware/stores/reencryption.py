"""To bring all token caches of a store under the first key, row by row, while the app is running.

1. A row is written by compare-and-swap: what somebody saves or removes meanwhile is never undone.
2. A row that no key opens stays as it is. It may be another deployment's, or the key may be missing here only.
"""

from __future__ import annotations

from dataclasses import dataclass

from .._drive import settle
from . import TokenCacheRows
from .encryption import Encryption

_ATTEMPTS = 16


@dataclass(frozen=True, slots=True)
class Reencrypted:
    """What was done, in numbers of token caches.

    Args:
        dry_run: Nothing was: they have only been counted.
        current: Those that the first key had encrypted already.
        reencrypted: Those that were encrypted anew, or would be.
        unopened: Those that no key opens.
        left: Those where other writers were quicker, each time.
    """

    dry_run: bool
    current: int = 0
    reencrypted: int = 0
    unopened: int = 0
    left: int = 0

    @property
    def complete(self) -> bool:
        """Whether every token cache is under the first key, or would be."""
        return not self.unopened and not self.left


async def reencrypt(store: TokenCacheRows, *, dry_run: bool = False, batch: int = 100) -> Reencrypted:
    """Encrypt every token cache that is not under the first key anew.

    Args:
        store: The store, with the keys that it has.
        dry_run: Count only.
        batch: How many rows are asked for at a time.

    Raises:
        ValueError: The store has no `encryption=`.
    """
    encryption = store.encryption
    if encryption is None:
        raise ValueError("the store has no encryption=, so there is no key to encrypt with")
    seen: dict[str, int] = dict.fromkeys(("current", "reencrypted", "unopened", "left"), 0)
    page = await settle(store.rows(limit=batch))
    while True:
        for row in page.names:
            what = await _reencrypt(store, encryption, row, dry_run=dry_run)
            if what is not None:
                seen[what] += 1
        if page.after is None:
            break
        page = await settle(store.rows(page.after, limit=batch))
    sweep = getattr(store, "sweep", None)
    if sweep is not None and seen["reencrypted"] and not dry_run:
        await settle(sweep())  # an engine's log may still hold what stood there before
    return Reencrypted(dry_run, **seen)


async def _reencrypt(store: TokenCacheRows, encryption: Encryption, row: str, *, dry_run: bool) -> str | None:
    """Return what became of a row; `None` if it is gone."""
    for _ in range(_ATTEMPTS):
        there = await settle(store.load_row(row))
        if there.data is None:
            return None
        if encryption.is_current(row, there.data):
            return "current"
        data = encryption.open(row, there.data)
        if data is None:
            return "unopened"
        if dry_run or await settle(store.replace_row(row, there.version, encryption.protect(row, data))):
            return "reencrypted"
    return "left"
