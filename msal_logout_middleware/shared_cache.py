"""One live `msal.TokenCache` that many users share: removes accounts at their own cost, and lets nothing late back in.

1. Every write goes through the cache's `add`, `modify` or `deserialize`. These are wrapped on the object itself, so an
   app that holds the cache already needs no change. All that follows happens under the cache's own lock.
2. An index leads from claims to accounts, and from an account to its entries: nothing is ever searched.
   It finds what `accounts.remove_accounts` finds.
3. A silent refresh rests on a refresh token. What it brings is dropped where that token has gone, other than by
   a rotation in this cache. A removal takes it away, and signing in again does not bring it back.
4. Any other late answer that is no sign-in (on-behalf-of, an imported refresh token) has no such link. It is
   refused for as long after the removal as a request can last.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msal

from . import accounts
from .account_index import (
    Account,
    AccountIndex,
    Name,
    Named,
    home_name,
    is_issued_name,
    names_of,
    names_of_event,
    spellings,
)
from .grants import Event, is_sign_in, is_silent_refresh, used_refresh_token
from .session import Claims

_Entry: TypeAlias = dict[str, Any]
_Places: TypeAlias = Mapping[str, Collection[str]]
_IdTokens: TypeAlias = list[tuple[Named, str]]

_Kind: Final = msal.TokenCache.CredentialType
# Removing what is not there tells a serializable cache that it has changed, and a subclass that persists it.
_NOT_THERE: Final = _Kind.ACCOUNT, {"home_account_id": "", "environment": "", "realm": ""}
_ATTRIBUTE: Final = "_msal_logout_middleware"


@dataclass(frozen=True, slots=True)
class SharedRemoval:
    """What was removed from a shared cache.

    Args:
        counts: How many entries of each kind.
        id_token: The newest ID token of these claims, for `id_token_hint`.
    """

    counts: Mapping[str, int]
    id_token: str | None = field(repr=False)


class SharedCache:
    """The watch over one live token cache.

    Args:
        cache: The cache, as the app holds it: `cca.token_cache`.
        longest_request_seconds: For how long a token request can be under way (rule 4).
        remembered: How many names of removed accounts are remembered for rule 4. When there are more, everybody's
            account is taken as removed until the time is over.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        cache: msal.TokenCache,
        *,
        longest_request_seconds: float = 120.0,
        remembered: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache: Any = cache
        self._recent = _Recent(longest_request_seconds, remembered, clock)
        self._adopter: Account | None = None
        self._add, self._modify = cache.add, cache.modify
        with self._cache._lock:
            self._rebuild()
            vars(cache).update({"add": self._guarded_add, "modify": self._guarded_modify, _ATTRIBUTE: self})
            if isinstance(cache, msal.SerializableTokenCache):
                self._deserialize = cache.deserialize
                vars(cache)["deserialize"] = self._guarded_deserialize

    @classmethod
    def of(cls, cache: msal.TokenCache, *, longest_request_seconds: float = 120.0) -> SharedCache:
        """Return the watch over a cache: the one it has already, or a new one."""
        watch = vars(cache).get(_ATTRIBUTE)
        return watch if watch is not None else cls(cache, longest_request_seconds=longest_request_seconds)

    def remove_accounts(self, claims: Claims) -> SharedRemoval:
        """Remove every entry of a user, and refuse what is still on its way for them."""
        names = frozenset(names_of(claims))
        with self._cache._lock:
            self._rebuild_if_replaced()
            found = self._index.find(names, claims)
            self._recent.remember(names.union(home_name(account.home) for account in found))
            counts: dict[str, int] = {}
            id_tokens: _IdTokens = []
            for account in found:
                self._remove(account, self._places(account, names, claims), counts, id_tokens)
            if counts:
                self._modify(*_NOT_THERE)
        return SharedRemoval(counts, _newest(id_tokens, claims))

    def _places(self, account: Account, names: Set[Name], claims: Claims) -> _Places:
        if account.home not in spellings(claims) or set(filter(is_issued_name, account.names)) <= names:
            return account.places
        # Two issuers on one host use the same bare `sub`: the slow way tells them apart, entry by entry.
        sections = self._sections
        copy = {kind: {key: sections[kind][key] for key in keys} for kind, keys in account.places.items()}
        left = json.loads(accounts.remove_accounts(json.dumps(copy), claims).cache or "{}")
        return {kind: account.places[kind].keys() - left.get(kind, {}).keys() for kind in account.places}

    def _remove(
        self, account: Account, places: _Places, counts: dict[str, int], id_tokens: _IdTokens
    ) -> None:
        sections = self._sections
        for key in places.get(_Kind.ID_TOKEN, ()):
            named = account.places[_Kind.ID_TOKEN][key]
            if isinstance(named, Named):
                id_tokens.append((named, sections[_Kind.ID_TOKEN][key]["secret"]))
        for kind, keys in places.items():
            section = sections[kind]
            entries = [section.pop(key) for key in keys]
            if entries:
                counts[kind] = counts.get(kind, 0) + len(entries)
            if places is not account.places:
                for key, entry in zip(keys, entries, strict=True):
                    self._index.take(kind, key, entry)
        if places is account.places:
            self._index.take_all(account)

    def _guarded_add(self, event: Event, **kwargs: Any) -> None:
        with self._cache._lock:
            self._rebuild_if_replaced()
            owner = self._index.account_of_refresh_token(used_refresh_token(event))
            if is_silent_refresh(event):
                if owner is None:
                    return  # it was removed meanwhile
            elif not is_sign_in(event) and self._recent.has_any(names_of_event(event)):
                return
            # MSAL stores an access token without its owner if the response names none: the refresh token knows.
            self._adopter = owner
            try:
                self._add(event, **kwargs)
            finally:
                self._adopter = None

    def _guarded_modify(
        self, credential_type: str, old_entry: _Entry, new_key_value_pairs: _Entry | None = None
    ) -> None:
        with self._cache._lock:
            self._rebuild_if_replaced()
            key = self._cache.key_makers[credential_type](**old_entry)
            used = None
            # Not an addition, but `update_rt`: the provider has rotated it.
            if credential_type == _Kind.REFRESH_TOKEN and new_key_value_pairs not in (None, old_entry):
                used = old_entry.get("secret")
                owner = self._index.account_of_refresh_token(used)
                if owner is None or used not in (owner.places[credential_type].get(key) or ()):
                    return  # removed, or replaced by another sign-in
            before = self._sections.get(credential_type, {}).get(key)
            self._modify(credential_type, old_entry, new_key_value_pairs)
            after = self._sections.get(credential_type, {}).get(key)
            if after is None:
                if before is not None:
                    self._index.take(credential_type, key, before)
                return
            if before is None:
                key = next(reversed(self._sections[credential_type]))  # the cache's own string, not its twin
            index = self._index
            index.put(credential_type, key, after, before=before, adopter=self._adopter, came_of=used)

    def _guarded_deserialize(self, state: str | None) -> None:
        with self._cache._lock:
            self._deserialize(state)
            self._rebuild()

    def _rebuild_if_replaced(self) -> None:
        if self._indexed is not self._sections:
            self._rebuild()

    def _rebuild(self) -> None:
        self._indexed, self._index = self._sections, AccountIndex()
        for kind, section in self._sections.items():
            if isinstance(section, dict) and kind != accounts.BOOKKEEPING:
                for key, entry in section.items():
                    self._index.put(kind, key, entry)

    @property
    def _sections(self) -> dict[str, dict[str, _Entry]]:
        sections: dict[str, dict[str, _Entry]] = self._cache._cache
        return sections


@dataclass(slots=True)
class _Recent:
    """The accounts removed lately, in bounded memory: when it is full, everybody counts as removed."""

    seconds: float
    limit: int
    clock: Callable[[], float]
    _until: dict[Name, float] = field(default_factory=dict)  # in order of time
    _everybody_until: float = float("-inf")

    def remember(self, names: Set[Name]) -> None:
        now = self.clock()
        for name in names:
            self._until.pop(name, None)
            self._until[name] = now + self.seconds
        while self._until:
            name, until = next(iter(self._until.items()))
            if until > now:
                if len(self._until) <= self.limit:
                    return
                self._everybody_until = until
            del self._until[name]

    def has_any(self, names: Set[Name]) -> bool:
        now = self.clock()
        if names and now < self._everybody_until:
            return True
        return any(now < self._until.get(name, now) for name in names)


def _newest(id_tokens: _IdTokens, claims: Claims) -> str | None:
    # Another client's token is none of these: the provider would refuse it as a hint of ours.
    asked = [name for name in ("iss", "sub", "aud") if name in claims]
    own = [pair for pair in id_tokens if all(getattr(pair[0], name) == claims[name] for name in asked)]
    return max(own, key=lambda pair: pair[0].iat)[1] if own else None
