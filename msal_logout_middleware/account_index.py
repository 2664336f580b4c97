"""An index over a live token cache: from claims to a user's accounts, from an account to its entries.

It finds what `accounts.remove_accounts` finds in the same cache when that is serialized.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import msal

from .grants import Event, client_info, decode, id_token_claims
from .session import Claims

Entry: TypeAlias = Mapping[str, Any]
Name: TypeAlias = str  # what accounts are found by

_Kind: Final = msal.TokenCache.CredentialType
_GUID: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Named(NamedTuple):
    """Whom an ID token names, and to whom it was issued."""

    iss: object
    sub: object
    aud: object
    iat: float


RefreshTokens: TypeAlias = list[str]
"""The secret of a refresh token, and of the one that it was rotated from."""

Beside: TypeAlias = Named | RefreshTokens | None
"""What is noted beside the place of an ID token, of a refresh token, and of anything else."""


@dataclass(slots=True, eq=False)
class Account:
    """An account in one environment: two providers may use the same bare `sub` as its id.

    Args:
        home: Its `home_account_id`; empty where an entry does not say whose it is.
        environment: Its environment.
        names: What it is found by.
        places: Where its entries stand, by kind and key.
    """

    home: str
    environment: str
    names: list[Name] = field(default_factory=list)
    places: dict[str, dict[str, Beside]] = field(default_factory=dict)


class AccountIndex:
    """The accounts of one token cache."""

    def __init__(self) -> None:
        self._by_name: dict[Name, tuple[Account, ...]] = {}
        self._by_refresh_token: dict[str, Account] = {}
        self._adopted: dict[tuple[str, str], Account] = {}  # entries that do not say whose they are

    def put(
        self,
        kind: str,
        key: str,
        entry: Entry,
        *,
        before: Entry | None = None,
        adopter: Account | None = None,
        came_of: str | None = None,
    ) -> None:
        """Take up an entry.

        Args:
            kind: Its kind.
            key: Where it stands.
            entry: The entry.
            before: The one that stood there.
            adopter: Whose it is if it does not say.
            came_of: The refresh token that this one was rotated from; other requests may be using it.
        """
        if kind == _Kind.APP_METADATA:
            return
        home = _home(key, entry)
        if before is not None and (not home or home != _home(key, before)):
            self.take(kind, key, before)
        token = decode(entry.get("secret"))
        names = dict.fromkeys(_names_of_entry(home.lower(), entry, token))
        account = self.account_of(kind, key, entry)
        if account is None:
            account = Account(home, _text(entry, "environment").lower())
            if not home:
                if adopter is None and not names:
                    return  # an app-only token
                account = self._adopted[kind, key] = adopter or account
        new = [name for name in names if name not in account.names]
        account.names += new
        for name in new:
            self._by_name[name] = (*self._by_name.get(name, ()), account)
        keys = account.places.setdefault(kind, {})
        self._forget_secrets(account, keys.get(key))
        keys[key] = None
        if kind == _Kind.ID_TOKEN and token is not None:
            keys[key] = _named(token)
        if kind == _Kind.REFRESH_TOKEN:
            keys[key] = secrets = [*filter(None, (_text(entry, "secret"), came_of))]
            self._by_refresh_token.update(dict.fromkeys(secrets, account))

    def take(self, kind: str, key: str, entry: Entry) -> None:
        """Forget an entry; no error if it is an app-only token."""
        account = self.account_of(kind, key, entry)
        if account is None:
            return
        self._adopted.pop((kind, key), None)
        keys = account.places[kind]
        self._forget_secrets(account, keys.pop(key))
        if not keys:
            del account.places[kind]
        if not account.places:
            self.take_all(account)

    def take_all(self, account: Account) -> None:
        """Forget an account."""
        for name in account.names:
            sharing = self._by_name.pop(name)
            if len(sharing) > 1:
                self._by_name[name] = tuple(other for other in sharing if other is not account)
        for secrets in account.places.get(_Kind.REFRESH_TOKEN, {}).values():
            self._forget_secrets(account, secrets)
        if self._adopted:
            for kind, keys in account.places.items():
                for key in keys:
                    self._adopted.pop((kind, key), None)

    def _forget_secrets(self, account: Account, beside: Beside) -> None:
        for secret in beside if isinstance(beside, list) else ():
            if self._by_refresh_token.get(secret) is account:
                del self._by_refresh_token[secret]

    def find(self, names: Set[Name], claims: Claims) -> list[Account]:
        """Return the accounts of a user.

        Args:
            names: `names_of` the claims.
            claims: ID token claims of the user.
        """
        bare = spellings(claims)
        found: dict[Account, None] = {}
        for name in names:
            for account in self._by_name.get(name, ()):
                # In another environment, the same bare `sub` is another provider's user.
                if name[0] != "h" or (account.home in bare and account.environment in _hosts(claims)):
                    found[account] = None
        for account in tuple(found):  # the same account in other environments
            if account.home and account.home not in bare:
                found |= dict.fromkeys(self._by_name[home_name(account.home)])
        return list(found)

    def account_of(self, kind: str, key: str, entry: Entry) -> Account | None:
        """Return whose entry this is."""
        home, environment = _home(key, entry), _text(entry, "environment").lower()
        if not home:
            return self._adopted.get((kind, key))
        accounts = self._by_name.get(home_name(home), ())
        return next((a for a in accounts if a.home == home and a.environment == environment), None)

    def account_of_refresh_token(self, secret: str | None) -> Account | None:
        """Return whose refresh token this is, or was until it was rotated."""
        return self._by_refresh_token.get(secret) if secret else None


def names_of(claims: Claims) -> Iterator[Name]:
    """Yield what a user's accounts are found by."""
    iss, sub = _text(claims, "iss"), _text(claims, "sub")
    if iss and sub:
        yield _issued_name(iss, sub)
    oid, tid = _text(claims, "oid").lower(), _tenant(claims)
    if oid and tid:
        yield f"object {oid} {tid}"
    if sub and tid and sub.lower() != oid:  # B2C's `sub` is the `oid`, which it may leave out
        yield f"object {sub.lower()} {tid}"
    if sub:
        yield home_name(sub)


def names_of_event(event: Event) -> set[Name]:
    """Return what the user is found by whom a token response is about."""
    response = event.get("response", {})
    names: set[Name] = set()
    for claims in (id_token_claims(event), decode(response.get("access_token"))):
        names.update(names_of(claims or {}))
    info = client_info(event)
    if "uid" in info and "utid" in info:
        names.add(home_name(f"{info['uid']}.{info['utid']}"))
    return names


def home_name(home_account_id: str) -> Name:
    """Return the name that all environments of an account share."""
    return f"home {home_account_id.lower()}"


def is_issued_name(name: Name) -> bool:
    """Tell whether a name is an issuer's for a user: (`iss`, `sub`)."""
    return name.startswith("issued ")


def spellings(claims: Claims) -> Collection[str]:
    """Return how a bare `sub` is spelled as a `home_account_id`."""
    sub = _text(claims, "sub")
    return (sub, sub.lower())


def _issued_name(iss: str, sub: str) -> Name:
    return f"issued {len(iss)} {iss} {sub}"


def _home(key: str, entry: Entry) -> str:
    home, environment = _text(entry, "home_account_id"), _text(entry, "environment").lower()
    if home or not environment:
        return home
    before, found, _ = key.lower().partition(f"-{environment}-")
    return before if found else ""


def _names_of_entry(home: str, entry: Entry, token: Claims | None) -> Iterator[Name]:
    if home:
        yield home_name(home)
        uid, dot, tid = home.rpartition(".")
        if dot:
            yield f"object {uid} {tid}"
            if _GUID.match(uid):  # B2C: `oid-policy`
                yield f"object {uid[:36]} {tid}"
    local_account_id, realm = _text(entry, "local_account_id").lower(), _text(entry, "realm").lower()
    if local_account_id and realm:
        yield f"object {local_account_id} {realm}"
    if token is None:
        return
    iss, sub = _text(token, "iss"), _text(token, "sub")
    if iss and sub:
        yield _issued_name(iss, sub)
    oid, tid = _text(token, "oid").lower(), _tenant(token)
    if oid and tid:
        yield f"object {oid} {tid}"


def _named(token: Claims) -> Named:
    aud, iat = token.get("aud"), token.get("iat")
    aud = sys.intern(aud) if isinstance(aud, str) else aud  # one string for all the users of a client
    return Named(token.get("iss"), token.get("sub"), aud, iat if isinstance(iat, int | float) else 0)


def _tenant(claims: Claims) -> str:
    iss, tid = _text(claims, "iss").lower(), _text(claims, "tid").lower()
    if not tid and (found := _GUID.search(iss)):  # B2C leaves `tid` out
        tid = found[0]
    return tid if not iss or tid in iss else ""  # an issuer speaks for the users of its own tenant only


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
