"""What the app hands to MSAL: a token cache that is loaded from a store and saved there without undoing a sign-out.

1. What MSAL writes is recorded, entry by entry. Only that is saved, merged into the row as it stands *then*.
   What was merely loaded is never written again: it may have been removed meanwhile.
2. Each account in a row has an incarnation, renewed by every removal. A change is saved only into the
   incarnation that it was made from...
3. ...except what came of a sign-in in this very block: that user has just been at the provider.
4. After the block the cache is empty: nothing is served from memory that may have been removed.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeAlias

import anyio
import msal

from ._drive import is_async, run, run_beside_loop, settle
from .accounts import BOOKKEEPING, INCARNATIONS
from .caches import home_account_id
from .errors import Conflict
from .grants import Event, id_token_claims, is_sign_in, is_silent_refresh, used_refresh_token
from .session import Claims
from .stores import Loaded, TokenCacheStore

logger = logging.getLogger("msal_logout_middleware")

_Entry: TypeAlias = dict[str, Any]
_Document: TypeAlias = dict[str, Any]  # {kind: {key: entry}}, and members of other libraries
_Place: TypeAlias = tuple[str, str]  # (kind, key)

_Kind: Final = msal.TokenCache.CredentialType
_KINDS: Final = (_Kind.ACCESS_TOKEN, _Kind.REFRESH_TOKEN, _Kind.ID_TOKEN, _Kind.ACCOUNT, _Kind.APP_METADATA)


@dataclass(frozen=True, slots=True)
class _Origin:
    """Whose tokens an `add` brings, and whether they come of a sign-in in this block."""

    account: str | None = None
    signed_in: bool = False


class _Change(NamedTuple):
    entry: _Entry | None  # None: removed
    origin: _Origin


@dataclass(slots=True)
class _Changes:
    """What MSAL has done to the cache in this block."""

    entries: dict[_Place, _Change] = field(default_factory=dict)
    expired: dict[_Place, _Entry] = field(default_factory=dict)  # dropped on a read: no reason to save
    removed: set[str] = field(default_factory=set)  # accounts that the app itself removed
    sign_ins: list[Claims] = field(default_factory=list)
    own_refresh_tokens: set[str] = field(default_factory=set)  # those that came of a sign-in in this block

    def forget_sign_ins(self) -> None:
        self.sign_ins.clear()
        self.entries = {at: change for at, change in self.entries.items() if not change.origin.signed_in}


class StoredTokenCache(msal.SerializableTokenCache):  # type: ignore[misc]  # MSAL is not typed
    """A token cache in a store, for one request.

        with StoredTokenCache(store, key=key) as cache:  # or `async with`
            app = msal.ConfidentialClientApplication(..., token_cache=cache)
            accounts = app.get_accounts()
            result = app.acquire_token_silent(scopes, account=accounts[0]) if accounts else None

    The row is loaded on entering. On leaving, what MSAL added or removed is saved, if it did; also when the block
    raised (a refresh token that the provider has rotated must not be lost), but then without a sign-in:
    MSAL adds its tokens before it looks at the nonce. Entering again loads again.

    Args:
        store: Where the row is.
        key: The row's cache key. `None` where it is not known before the sign-in: then nothing is
            loaded, and the key is what `cache_key` makes of the claims that the sign-in brings.
        cache_key: Makes the key of ID token claims, as in `InStore(store, cache_key=...)`.
        attempts: How often a save is tried against other writers of the row.

    Raises:
        ValueError: `attempts` is below 1.
    """

    def __init__(
        self,
        store: TokenCacheStore,
        *,
        key: str | None = None,
        cache_key: Callable[[Claims], str] = home_account_id,
        attempts: int = 16,
    ) -> None:
        super().__init__()
        if attempts < 1:
            raise ValueError("attempts must be at least 1")
        self._store = store
        self._given_key = key
        self._cache_key = cache_key
        self._attempts = attempts
        self._store_is_async = is_async(store, "load", "replace")
        self._needs_thread = not self._store_is_async and getattr(store, "blocking", True)
        self._row: Loaded | None = None
        self._incarnations: dict[str, str] = {}
        self._entered = False
        self._origin: _Origin | None = None
        self._owners: dict[str, str | None] = {}  # of every refresh token that was in this block
        self._changes = _Changes()
        self.key = key
        """The cache key; after a block without a given key, the one that the sign-in led to."""

    def __enter__(self) -> Self:
        """Load the row.

        Raises:
            TypeError: The store is asynchronous.
            RuntimeError: The cache is in a `with` block already.
        """
        if self._store_is_async:
            raise TypeError("the store is asynchronous: use `async with`")
        run(self._enter())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Save what is new.

        Raises:
            Conflict: Other writers were quicker, `attempts` times.
        """
        run(self._exit(raised=kind is not None))

    async def __aenter__(self) -> Self:
        """Load the row; from a store that blocks in a worker thread.

        Raises:
            RuntimeError: The cache is in a `with` block already.
        """
        await (run_beside_loop(self._enter()) if self._needs_thread else self._enter())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Save what is new, also when the task is being cancelled.

        Raises:
            Conflict: Other writers were quicker, `attempts` times.
        """
        with anyio.CancelScope(shield=True):
            leaving = self._exit(raised=kind is not None)
            await (run_beside_loop(leaving) if self._needs_thread else leaving)

    def add(self, event: Event, **kwargs: Any) -> None:
        """Add what a token response brought (MSAL calls this).

        Raises:
            RuntimeError: Outside of the `with` block, where it could not be saved.
        """
        with self._lock:
            self._require_block()
            if is_silent_refresh(event) and used_refresh_token(event) not in self._owners:
                return  # it answers another block's request, whose sign-in may have ended since
            self._origin = self._origin_of(event)
            try:
                super().add(event, **kwargs)
            finally:
                self._origin = None

    def modify(
        self, credential_type: str, old_entry: _Entry, new_key_value_pairs: _Entry | None = None
    ) -> None:
        """Write or remove one entry (MSAL calls this).

        Raises:
            RuntimeError: It is a write, outside of the `with` block, where it could not be saved.
        """
        with self._lock:
            if new_key_value_pairs:
                self._require_block()
            origin = self._origin or self._origin_of_rotation(old_entry, new_key_value_pairs)
            account = _account(old_entry) or origin.account
            place = credential_type, self.key_makers[credential_type](**old_entry)
            if new_key_value_pairs and self._is_late(place, account, origin):
                return
            before = self._entry(place)
            super().modify(credential_type, old_entry, new_key_value_pairs)
            after = self._entry(place)
            if credential_type == _Kind.REFRESH_TOKEN and after is not None:
                self._owners[after["secret"]] = account
            if after != before:
                self._record(place, before, after, _Origin(account, origin.signed_in))

    def _record(self, place: _Place, before: _Entry | None, after: _Entry | None, origin: _Origin) -> None:
        changes = self._changes
        if after is None and before is not None:
            if place[0] == _Kind.ACCESS_TOKEN and _has_expired(before):
                changes.expired[place] = before
                return
            if place[0] == _Kind.ACCOUNT and origin.account:
                changes.removed.add(origin.account)
            origin = _Origin(origin.account)  # a removal is no part of a sign-in
        changes.entries[place] = _Change(after, origin)

    def _origin_of(self, event: Event) -> _Origin:
        changes = self._changes
        used = used_refresh_token(event)
        signed_in = is_sign_in(event) or used in changes.own_refresh_tokens
        if is_sign_in(event):
            changes.sign_ins += filter(None, [id_token_claims(event)])
        if signed_in:
            changes.own_refresh_tokens |= {event["response"].get("refresh_token")} - {None}
        # MSAL stores an access token without its owner if the response names none: the refresh token knows.
        return _Origin(self._owners.get(used or ""), signed_in)

    def _origin_of_rotation(self, old: _Entry, new: _Entry | None) -> _Origin:
        signed_in = old.get("secret") in self._changes.own_refresh_tokens
        if signed_in and new and "secret" in new:
            self._changes.own_refresh_tokens.add(new["secret"])
        return _Origin(_account(old), signed_in)

    def _is_late(self, place: _Place, account: str | None, origin: _Origin) -> bool:
        """Tell whether a write belongs to a sign-in that this block has replaced, or removed, meanwhile."""
        if origin.signed_in:
            return False
        earlier = self._changes.entries.get(place)
        return account in self._changes.removed or (earlier is not None and earlier.origin.signed_in)

    def _require_block(self) -> None:
        if not self._entered:
            raise RuntimeError("a StoredTokenCache saves tokens only inside its `with` block")

    def _entry(self, place: _Place) -> _Entry | None:
        kind, key = place
        entry: _Entry | None = self._cache.get(kind, {}).get(key)
        return entry

    async def _enter(self) -> None:
        with self._lock:
            if self._entered:
                raise RuntimeError("a StoredTokenCache serves one `with` block at a time")
            self._entered = True
        try:
            self.key = self._given_key
            self._row = None if self.key is None else await settle(self._store.load(self.key))
        except BaseException:
            self._entered = False
            raise
        document = _readable(self._row)
        tokens = document.get(_Kind.REFRESH_TOKEN, {}).values()
        with self._lock:
            self._incarnations = _incarnations(document)
            self._owners = {token.get("secret", ""): _account(token) for token in tokens}
            self._changes = _Changes()
            self._cache = document

    async def _exit(self, *, raised: bool) -> None:
        with self._lock:
            changes, self._changes = self._changes, _Changes()
            self._cache = {}
            self._entered = False
        if raised:
            changes.forget_sign_ins()
        if changes.entries:
            await self._save(changes)

    async def _save(self, changes: _Changes) -> None:
        self.key = key = self._key_for(changes.sign_ins)
        if key is None:
            logger.warning("tokens were not saved: no key was given, and no sign-in led to one")
            return
        there = await settle(self._store.load(key)) if self._row is None else self._row
        for _ in range(self._attempts):
            data = self._merged(changes, there)
            if data == there.data or await settle(self._store.replace(key, there.version, data)):
                return
            there = await settle(self._store.load(key))
        raise Conflict(f"the token cache was not saved: other writers were quicker {self._attempts} times")

    def _key_for(self, sign_ins: list[Claims]) -> str | None:
        if self._given_key is None:
            return self._cache_key(sign_ins[-1]) if sign_ins else None
        if not all(self._leads_here(claims) for claims in sign_ins):
            logger.warning(
                "the key given to StoredTokenCache is not what `cache_key` makes of the claims of the user who "
                "signed in: logout will not find this token cache"
            )
        return self._given_key

    def _leads_here(self, claims: Claims) -> bool:
        try:
            return self._cache_key(claims) == self._given_key
        except ValueError:
            return False

    def _merged(self, changes: _Changes, there: Loaded) -> bytes | None:
        document = _readable(there)
        lives = _incarnations(document)
        applied = {
            place: change for place, change in changes.entries.items() if self._applies(change, there, lives)
        }
        if not applied:
            return there.data
        for (kind, key), (entry, origin) in applied.items():
            if entry is not None:
                document.setdefault(kind, {})[key] = entry
                continue
            document.get(kind, {}).pop(key, None)
            if kind == _Kind.ACCOUNT and origin.account:
                lives[origin.account] = _new_incarnation()
        for (kind, key), entry in changes.expired.items():
            if document.get(kind, {}).get(key) == entry:
                del document[kind][key]
        return _serialized(document, lives)

    def _applies(self, change: _Change, there: Loaded, lives: dict[str, str]) -> bool:
        account = change.origin.account
        if account is None or change.origin.signed_in:
            return True
        if self._row is None:
            return False
        if there.version == self._row.version:
            return True
        if self._row.data is None or there.data is None:
            return False  # the row itself has ended, or begun, and what came between cannot be known
        return lives.get(account) == self._incarnations.get(account)


def _account(entry: _Entry) -> str | None:
    home = entry.get("home_account_id")
    return home.lower() if isinstance(home, str) and home else None


def _has_expired(access_token: _Entry) -> bool:
    try:
        return int(access_token["expires_on"]) < time.time()
    except (KeyError, TypeError, ValueError):  # another library's
        return False


def _readable(row: Loaded | None) -> _Document:
    """Return the token cache in a row; an empty one if there is none, or nobody can read it."""
    if row is None or row.data is None:
        return {}
    try:
        document: _Document = json.loads(row.data)
        if all(isinstance(entry, dict) for kind in _KINDS for entry in document.get(kind, {}).values()):
            return document
    except (ValueError, RecursionError, AttributeError):  # no JSON, or something else where an object must be
        pass
    # Not the parser's words: they may quote what they could not read.
    logger.error("a token cache is damaged, so that nobody can read it; it is taken as absent")
    return {}


def _incarnations(document: _Document) -> dict[str, str]:
    ours = document.get(BOOKKEEPING)
    held = ours.get(INCARNATIONS) if isinstance(ours, dict) else None
    return dict(held) if isinstance(held, dict) else {}


def _serialized(document: _Document, incarnations: dict[str, str]) -> bytes | None:
    """Return the row; `None` if no credential and no account is left."""
    sections = [
        section
        for kind, section in document.items()
        if isinstance(section, dict) and kind not in {BOOKKEEPING, _Kind.APP_METADATA}
    ]
    if not any(sections):
        return None
    for section in sections:
        for entry in section.values():
            account = _account(entry) if isinstance(entry, dict) else None
            if account:
                incarnations.setdefault(account, _new_incarnation())
    return json.dumps({**document, BOOKKEEPING: {INCARNATIONS: incarnations}}).encode()


def _new_incarnation() -> str:
    return secrets.token_hex(8)
