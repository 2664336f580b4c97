"""`msal-logout reencrypt`: to bring all token caches under the first key of the store, while the app is running."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import cast

from ..caches import InStore
from ..errors import StoreError
from ..logout import Logout
from ..stores import TokenCacheRows
from ..stores.reencryption import Reencrypted
from ..stores.reencryption import reencrypt as reencrypt_rows
from .checks.stores import out_of_reach
from .errors import CommandError

_ROWS_METHODS = ("rows", "load_row", "replace_row")


@dataclass(frozen=True, slots=True)
class Report:
    """What was done, for people and for programs.

    Args:
        done: What was done.
        into_clear: The store writes token caches in clear, so that is what they were brought into.
    """

    done: Reencrypted
    into_clear: bool = False

    @property
    def complete(self) -> bool:
        """Whether the other keys are of no use any more."""
        return self.done.complete

    def as_json(self) -> str:
        """Return the report as a JSON object."""
        return json.dumps({**asdict(self.done), "complete": self.complete}, indent=2)

    def as_text(self) -> str:
        """Return the report as sentences."""
        return "\n".join(self._sentences())

    def _sentences(self) -> Iterator[str]:
        done = self.done
        would_be = "would be " if done.dry_run else ""
        if self.into_clear:
            yield (
                f'{_caches(done.reencrypted)} {would_be}decrypted, as clear="written" says; {done.current} in clear'
                " already."
            )
        else:
            yield f"{_caches(done.reencrypted)} {would_be}brought under the first key; {done.current} there already."
        if done.unopened:
            yield (
                f'No key opens {_caches(done.unopened)}: add the key that is missing, or clear="read" if they stand'
                " in clear. Otherwise their users sign in again."
            )
        if done.left:
            yield f"Others kept writing {_caches(done.left)}: run the command again."


async def reencrypt(logout: Logout, *, dry_run: bool) -> Report:
    """Encrypt all token caches anew that are not under the first key.

    Args:
        logout: The app's.
        dry_run: Count only.

    Raises:
        CommandError: There is nothing to encrypt, or it cannot be reached from outside the app.
    """
    store = _store(logout)
    try:
        done = await reencrypt_rows(store, dry_run=dry_run)
    except StoreError as error:
        raise CommandError(str(error), exit_code=1) from error
    except Exception as error:  # an engine's own, which may quote what it is connected with
        raise CommandError(f"the store raised {type(error).__name__}", exit_code=1) from error
    encryption = store.encryption
    return Report(done, into_clear=encryption is not None and encryption.clear == "written")


def _store(logout: Logout) -> TokenCacheRows:
    """Return the store that token caches are in."""
    caches = logout.configuration.caches
    if not isinstance(caches, InStore):
        raise CommandError(f"token caches are kept by {type(caches).__name__}, and not in a store")
    store = caches.store
    unreachable = out_of_reach(store)
    if unreachable is not None:
        raise CommandError(unreachable, exit_code=1)
    if getattr(store, "encryption", None) is None:
        raise CommandError(
            f"the {type(store).__name__} has no encryption=, so there is no key to encrypt with"
        )
    if not all(callable(getattr(store, method, None)) for method in _ROWS_METHODS):
        raise CommandError(
            f"the {type(store).__name__} cannot be gone over: it has no {', '.join(_ROWS_METHODS)}"
        )
    return cast("TokenCacheRows", store)


def _caches(count: int) -> str:
    return f"{count} token cache{'' if count == 1 else 's'}"
