"""One live `msal.TokenCache` that many users share: removes accounts at their own cost, and lets nothing late back in.

1. Every write goes through the cache's `add`, `modify` or `deserialize`. These are wrapped on the object itself, so an
   app that holds the cache already needs no change. All that follows happens under the cache's own lock.
2. An index leads from claims to accounts, and from an account to its entries: nothing is ever searched.
   It finds what `accounts.remove_accounts` finds.
3. A silent refresh is kept only if the refresh token that it used is still here, or was rotated here
   into one that is. A removal takes that away, and signing in again does not bring it back.
4. Any other late answer that is no sign-in (on-behalf-of, an imported refresh token) has no such link. It is
   refused for as long after the removal as a request can last.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import msal

from . import accounts
from .grants import (
    Event,
    client_info,
    decode,
    id_token_claims,
    is_sign_in,
    is_silent_refresh,
    used_refresh_token,
)
from .session import Claims

_Entry: TypeAlias = dict[str, Any]
_Name: TypeAlias = tuple[str, ...]  # what accounts are found by

_Kind: Final = msal.TokenCache.CredentialType
_HINT_CLAIMS: Final = ("iss", "sub", "aud", "iat")
_GUID: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ATTRIBUTE: Final = "_msal_logout_middleware"


class _Place(NamedTuple):
    kind: str
    key: str


class _Owner(NamedTuple):
    """An account in one environment: two providers may use the same bare `sub` as its id."""

    home: str
    environment: str


_Places: TypeAlias = dict[_Place, Claims | None]  # beside each ID token, whom it names


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
        self._adding = False
        self._adopter: _Owner | None = None
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
        with self._cache._lock:
            self._rebuild_if_replaced()
            names = frozenset(_names_of(claims))
            owners = self._index.find(names, claims)
            self._recent.remember(names.union(("home", owner.home.lower()) for owner in owners))
            sections, counts = self._sections, Counter[str]()
            id_tokens: list[tuple[Claims, str]] = []
            last: tuple[str, _Entry] | None = None
            for owner in owners:
                for place, named in self._take_out(owner, names, claims).items():
                    last = place.kind, sections[place.kind].pop(place.key)
                    counts[place.kind] += 1
                    if named is not None:
                        id_tokens.append((named, last[1]["secret"]))
            if last is not None:
                self._modify(*last)  # tells the cache that it has changed, and a subclass that persists it
            return SharedRemoval(counts, _newest(id_tokens, claims))

    def _take_out(self, owner: _Owner, names: Set[_Name], claims: Claims) -> _Places:
        if owner.home not in _spellings(claims) or self._index.issuers(owner) <= names:
            return self._index.take_all(owner)
        # Two issuers on one host use the same bare `sub`: the slow way tells them apart, entry by entry.
        sections: dict[str, dict[str, _Entry]] = {}
        for kind, key in self._index.places[owner]:
            sections.setdefault(kind, {})[key] = self._sections[kind][key]
        left = json.loads(accounts.remove_accounts(json.dumps(sections), claims).cache or "{}")
        gone = [place for place in self._index.places[owner] if place.key not in left.get(place.kind, {})]
        return {place: self._index.take(place, self._sections[place.kind][place.key]) for place in gone}

    def _guarded_add(self, event: Event, **kwargs: Any) -> None:
        with self._cache._lock:
            self._rebuild_if_replaced()
            source = self._index.refresh_tokens.get(used_refresh_token(event))
            if is_silent_refresh(event):
                if source is None:
                    return  # its account was removed meanwhile
            elif not is_sign_in(event) and self._recent.has_any(_names_of_event(event)):
                return
            self._adding = True
            # MSAL stores an access token without its owner if the response names none: the refresh token knows.
            self._adopter = source and self._index.owner(source, self._sections[source.kind][source.key])
            try:
                self._add(event, **kwargs)
            finally:
                self._adding, self._adopter = False, None

    def _guarded_modify(
        self, credential_type: str, old_entry: _Entry, new_key_value_pairs: _Entry | None = None
    ) -> None:
        with self._cache._lock:
            self._rebuild_if_replaced()
            place = _Place(credential_type, self._cache.key_makers[credential_type](**old_entry))
            used = None
            if new_key_value_pairs and credential_type == _Kind.REFRESH_TOKEN and not self._adding:
                used = old_entry.get("secret")  # `update_rt`: the provider has rotated it
                if self._index.refresh_tokens.get(used) != place:
                    return  # removed, or replaced by another sign-in
            before = self._sections.get(credential_type, {}).get(place.key)
            self._modify(credential_type, old_entry, new_key_value_pairs)
            after = self._sections.get(credential_type, {}).get(place.key)
            if before is not None:
                self._index.take(place, before)
            if after is not None:
                self._index.put(place, after, adopter=self._adopter, came_of=used)

    def _guarded_deserialize(self, state: str | None) -> None:
        with self._cache._lock:
            self._deserialize(state)
            self._rebuild()

    def _rebuild_if_replaced(self) -> None:
        if self._indexed is not self._sections:
            self._rebuild()

    def _rebuild(self) -> None:
        self._indexed, self._index = self._sections, _Index()
        for kind, section in self._sections.items():
            if isinstance(section, dict) and kind != accounts.BOOKKEEPING:
                for key, entry in section.items():
                    self._index.put(_Place(kind, key), entry)

    @property
    def _sections(self) -> dict[str, dict[str, _Entry]]:
        sections: dict[str, dict[str, _Entry]] = self._cache._cache
        return sections


class _Index:
    """Leads from claims to accounts, from an account to its entries, from a refresh token to where it stands."""

    def __init__(self) -> None:
        self.places: dict[_Owner, _Places] = {}
        self.refresh_tokens: dict[str | None, _Place] = {}  # also what the present one was rotated from
        self._names: dict[_Owner, set[_Name]] = {}
        self._owners: dict[_Name, set[_Owner]] = {}
        self._adopted: dict[_Place, _Owner] = {}  # of entries that do not say whose they are
        self._secrets: dict[_Place, tuple[str, ...]] = {}

    def put(
        self, place: _Place, entry: _Entry, *, adopter: _Owner | None = None, came_of: str | None = None
    ) -> None:
        """Take up an entry.

        Args:
            place: Where it stands.
            entry: The entry.
            adopter: Whose it is if it does not say.
            came_of: The refresh token that this one was rotated from; other requests may be using it.
        """
        if place.kind == _Kind.APP_METADATA:
            return
        token = decode(entry.get("secret"))
        names = set(_names_of_entry(place, entry, token))
        owner = _owner(place, entry)
        if not owner.home:
            if adopter is None and not names:
                return  # an app-only token
            owner = self._adopted[place] = adopter or _Owner("", place.key)
        named = {name: token[name] for name in _HINT_CLAIMS if name in token} if token else None
        self.places.setdefault(owner, {})[place] = named if place.kind == _Kind.ID_TOKEN else None
        self._names.setdefault(owner, set()).update(names)
        for name in names:
            self._owners.setdefault(name, set()).add(owner)
        if place.kind == _Kind.REFRESH_TOKEN:
            secrets = tuple(filter(None, (_text(entry, "secret"), came_of)))
            self._secrets[place] = secrets
            self.refresh_tokens.update(dict.fromkeys(secrets, place))

    def take(self, place: _Place, entry: _Entry) -> Claims | None:
        """Forget one entry; no error if it is an app-only token."""
        owner = self.owner(place, entry)
        self._adopted.pop(place, None)
        places = self.places.get(owner, {})
        named = places.pop(place, None)
        self._take_secrets(place)
        if not places:
            self.take_all(owner)
        return named

    def take_all(self, owner: _Owner) -> _Places:
        """Forget an account, and return what stood where."""
        for name in self._names.pop(owner, ()):
            owners = self._owners[name]
            owners.discard(owner)
            if not owners:
                del self._owners[name]
        places = self.places.pop(owner, {})
        for place in places:
            if place.kind == _Kind.REFRESH_TOKEN:
                self._take_secrets(place)
            if self._adopted:
                self._adopted.pop(place, None)
        return places

    def _take_secrets(self, place: _Place) -> None:
        for secret in self._secrets.pop(place, ()):
            if self.refresh_tokens.get(secret) == place:
                del self.refresh_tokens[secret]

    def find(self, names: Set[_Name], claims: Claims) -> set[_Owner]:
        """Return the accounts of a user."""
        bare = _spellings(claims)
        found: set[_Owner] = set()
        for name in names:
            for owner in self._owners.get(name, ()):
                # In another environment, the same bare `sub` is another provider's user.
                if name[0] != "home" or (owner.home in bare and owner.environment in _hosts(claims)):
                    found.add(owner)
        for owner in tuple(found):  # the same account in other environments
            if owner.home and owner.home not in bare:
                found |= self._owners.get(("home", owner.home.lower()), set())
        return found

    def issuers(self, owner: _Owner) -> set[_Name]:
        """Return by whom, and as whom, an account was issued tokens."""
        return {name for name in self._names[owner] if name[0] == "sub"}

    def owner(self, place: _Place, entry: _Entry) -> _Owner:
        """Return whose entry this is."""
        return self._adopted.get(place) or _owner(place, entry)


@dataclass(slots=True)
class _Recent:
    """The accounts removed lately, in bounded memory: when it is full, everybody counts as removed."""

    seconds: float
    limit: int
    clock: Callable[[], float]
    _until: dict[_Name, float] = field(default_factory=dict)  # in order of time
    _everybody_until: float = float("-inf")

    def remember(self, names: Set[_Name]) -> None:
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

    def has_any(self, names: Set[_Name]) -> bool:
        now = self.clock()
        if names and now < self._everybody_until:
            return True
        return any(now < self._until.get(name, now) for name in names)


def _names_of(claims: Claims) -> Iterator[_Name]:
    """Yield what a user's accounts are found by; the same as `accounts.remove_accounts` goes by."""
    iss, sub = _text(claims, "iss"), _text(claims, "sub")
    if iss and sub:
        yield "sub", iss, sub
    oid, tid = _text(claims, "oid").lower(), _tenant(claims)
    if oid and tid:
        yield "oid", oid, tid
    for uid in {oid, sub.lower()} - {""}:  # B2C's `sub` is the `oid`
        if tid:
            yield "uid", uid, tid
    if sub:
        yield "home", sub.lower()


def _spellings(claims: Claims) -> set[str]:
    """Return how a bare `sub` is spelled as a `home_account_id`."""
    sub = _text(claims, "sub")
    return {sub, sub.lower()}


def _owner(place: _Place, entry: _Entry) -> _Owner:
    home, environment = _text(entry, "home_account_id"), _text(entry, "environment").lower()
    if not home and environment:
        before, found, _ = place.key.lower().partition(f"-{environment}-")
        home = before if found else ""
    return _Owner(home, environment)


def _names_of_entry(place: _Place, entry: _Entry, token: Claims | None) -> Iterator[_Name]:
    home = _owner(place, entry).home.lower()
    if home:
        yield "home", home
        uid, dot, tid = home.rpartition(".")
        if dot:
            yield "uid", uid, tid
            if _GUID.match(uid):  # B2C: `oid-policy`
                yield "uid", uid[:36], tid
    account, realm = _text(entry, "local_account_id").lower(), _text(entry, "realm").lower()
    if account and realm:
        yield "oid", account, realm
    if token is not None:
        yield from (name for name in _names_of(token) if name[0] in {"sub", "oid"})


def _names_of_event(event: Event) -> set[_Name]:
    response = event.get("response", {})
    names: set[_Name] = set()
    for claims in (id_token_claims(event), decode(response.get("access_token"))):
        names.update(_names_of(claims or {}))
    info = client_info(event)
    if "uid" in info and "utid" in info:
        names.add(("home", f"{info['uid']}.{info['utid']}".lower()))
    return names


def _newest(id_tokens: Collection[tuple[Claims, str]], claims: Claims) -> str | None:
    # Another client's token is none of these: the provider would refuse it as a hint of ours.
    asked = [name for name in ("iss", "sub", "aud") if name in claims]
    own = [
        (held, token) for held, token in id_tokens if all(held.get(name) == claims[name] for name in asked)
    ]
    return max(own, key=lambda pair: pair[0].get("iat", 0))[1] if own else None


def _tenant(claims: Claims) -> str:
    tid = _text(claims, "tid").lower()
    if tid:
        return tid
    found = _GUID.search(_text(claims, "iss").lower())  # B2C leaves `tid` out
    return found[0] if found else ""


def _hosts(claims: Claims) -> Collection[str]:
    """Return what an environment of the issuer is called, as far as its identifier tells."""
    try:
        url = urlsplit(_text(claims, "iss"))
    except ValueError:
        return ()
    return tuple(filter(None, (url.hostname, url.netloc.lower())))


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""
