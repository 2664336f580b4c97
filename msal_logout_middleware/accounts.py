"""Takes a user out of a serialized token cache, in pure functions.

1. A user is found by what the provider signed into the cached tokens, then by account entries, then by what the
   claims imply. Never by username: two accounts may have the same.
2. The schema of the cache is shared by MSAL Python, .NET, Java, Node and Go. Nothing is asked of an entry that one of
   them leaves out, and what none of them knows is kept.
3. Entries are cut out of the text; nothing is written anew. So what stays, stays byte for byte.
4. What is left is looked at again, by other code, before it is handed out.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from .errors import DamagedCache, LogoutError
from .session import Claims

BOOKKEEPING: Final = "MsalLogoutMiddleware"
"""The top-level member of a token cache that is ours: neither a credential nor data of a user."""

INCARNATIONS: Final = "incarnations"
"""In our member: a random value for each account, by its `home_account_id` in small letters, renewed by a removal."""

_APP_METADATA: Final = "AppMetadata"
_KNOWN: Final = frozenset({"AccessToken", "RefreshToken", "IdToken", "Account", _APP_METADATA})
_DECODER: Final = json.JSONDecoder(parse_int=float)  # no number is too long, and none is written back
_GUID: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_skip_space: Final = re.compile(r"[ \t\n\r]*").match


@dataclass(frozen=True, slots=True)
class Removal:
    """What was removed from a token cache, and what is left of it.

    Args:
        cache: The cache without the user; `None` when no credential or account is left, so that its row is to be
            deleted. The very bytes that came in if nothing was removed.
        removed: How many entries of each kind (`AccessToken`, `RefreshToken`, ...) were removed.
        left: How many entries of each kind are left.
        home_account_ids: Of the removed entries, as they were spelled.
        id_token: The newest ID token of these claims that stood in the cache, for `id_token_hint`.
    """

    cache: bytes | None = field(repr=False)
    removed: Mapping[str, int]
    left: Mapping[str, int]
    home_account_ids: frozenset[str] = field(default=frozenset(), repr=False)
    id_token: str | None = field(default=None, repr=False)


def remove_accounts(cache: bytes | str, claims: Claims) -> Removal:
    """Remove every entry of a user from a serialized token cache.

    Args:
        cache: As MSAL serialized it, in whatever language.
        claims: ID token claims of the user.

    Raises:
        DamagedCache: The cache cannot be read.
        LogoutError: Something of the user was left: a mistake of ours, and nothing is handed out.
    """
    document = _Document.parse(cache)
    entries = document.entries()
    return _remove(document, entries, _Accounts.of(_User.of(claims), entries), claims)


def count(cache: bytes | str) -> Mapping[str, int]:
    """Return how many entries of each kind a token cache has: of one that is removed as a whole.

    Args:
        cache: As MSAL serialized it, in whatever language.

    Raises:
        DamagedCache: The cache cannot be read.
    """
    try:
        text = cache if isinstance(cache, str) else cache.decode()
        return {kind: number for kind, section in _sections(text) if (number := _count(kind, section))}
    except (ValueError, AttributeError, RecursionError):
        pass
    raise DamagedCache("the token cache cannot be read")


class _User(NamedTuple):
    """Who claims are about. `oid` and `tid` are GUIDs, in small letters; what claims do not say is empty."""

    iss: str
    sub: str
    oid: str
    tid: str

    @classmethod
    def of(cls, claims: Claims) -> _User:
        iss, sub, oid, tid = (_text(claims, name) for name in ("iss", "sub", "oid", "tid"))
        if not tid and (tenant := _GUID.search(iss)):  # B2C leaves `tid` out
            tid = tenant[0]
        if iss and tid.lower() not in iss.lower():
            tid = ""  # an issuer speaks for the users of its own tenant only
        return cls(iss, sub, oid.lower(), tid.lower())

    def is_named_by(self, other: _User) -> bool:
        """Tell whether both are the same user. `sub` may differ between two clients of Entra ID, `oid` does not."""
        if self.iss and self.sub and (self.iss, self.sub) == (other.iss, other.sub):
            return True
        return bool(self.oid and self.tid) and (self.oid, self.tid) == (other.oid, other.tid)

    def implied_ends(self, text: str) -> Iterator[int]:
        """Yield where a `home_account_id` ends that a text, in small letters, begins with and that follows from claims.

        They are `oid.tid`, and B2C's `oid-policy.tid`.
        """
        for uid in (self.oid, self.sub.lower()):  # B2C's `sub` is the `oid`
            if not uid or not self.tid or not text.startswith((f"{uid}.", f"{uid}-")):
                continue
            dot = text.find(".", len(uid))
            if dot >= 0 and text.startswith(self.tid, dot + 1):
                yield dot + 1 + len(self.tid)

    @property
    def hosts(self) -> frozenset[str]:
        """What an environment of this issuer is called, as far as its identifier tells."""
        try:
            url = urlsplit(self.iss)
        except ValueError:
            return frozenset()
        return frozenset(filter(None, (url.hostname, url.netloc.lower())))


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """One entry of a token cache: what tells whose it is, and where it stands in the text."""

    kind: str
    key: str  # in small letters
    home: str  # empty for an app-only token
    environment: str
    client_id: str
    realm: str
    local_account_id: str
    secret: str = field(repr=False)
    token: _User | None  # whom the secret names, if it is a readable JWT
    start: int = 0  # where it stands in the text

    @classmethod
    def of(cls, kind: str, key: str, value: object, start: int = 0) -> _Entry:
        fields: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
        home, environment = _text(fields, "home_account_id"), _text(fields, "environment").lower()
        key = key.lower()
        if not home and environment and kind != _APP_METADATA:
            before, found, _ = key.partition(f"-{environment}-")
            home = before if found else ""
        secret = _text(fields, "secret")
        token = _claims(secret)
        return cls(
            kind,
            key,
            home,
            environment,
            _text(fields, "client_id"),
            _text(fields, "realm").lower(),
            _text(fields, "local_account_id").lower(),
            secret,
            None if token is None else _User.of(token),
            start,
        )

    @property
    def is_id_token(self) -> bool:
        return self.kind.lower().startswith("idtoken")  # MSAL Go has partitions: `IDTokensPartition`

    @property
    def places(self) -> Iterator[tuple[str, ...]]:
        """Where it was obtained, ever more precisely."""
        yield (self.environment,)
        yield (self.environment, self.client_id)
        yield (self.environment, self.client_id, self.realm)

    @property
    def says_whose(self) -> bool:
        return self.is_id_token and self.token is not None and bool(self.token.iss and self.token.sub)

    def names(self, user: _User) -> bool:
        """Tell whether the entry itself says that it is the user's."""
        if self.token is not None and user.is_named_by(self.token):
            return True
        return bool(user.oid and user.tid) and (self.local_account_id, self.realm) == (user.oid, user.tid)


@dataclass(frozen=True, slots=True)
class _Accounts:
    """The accounts of one user in one token cache.

    Args:
        user: Whose.
        ids: The `home_account_id`s, in small letters, that are the user's wherever they stand.
        seen: Where the bare `sub` is the `home_account_id`, another issuer may use the same one. Whose tokens were
            seen, by spelling and place: the user's (`True`), somebody else's (`False`), or both.
    """

    user: _User
    ids: frozenset[str]
    seen: Mapping[tuple[str, ...], set[bool]]

    @classmethod
    def of(cls, user: _User, entries: Collection[_Entry]) -> _Accounts:
        if user.sub and not user.iss:
            issuers = {
                entry.token.iss for entry in entries if entry.token and entry.token.sub == user.sub
            } - {""}
            user = user._replace(iss=issuers.pop() if len(issuers) == 1 else "")
        bare = {user.sub, user.sub.lower()}
        ids: set[str] = set()
        seen: dict[tuple[str, ...], set[bool]] = {}
        for entry in entries:
            if not entry.home:
                continue
            home, named = entry.home.lower(), entry.names(user)
            if entry.home in bare:
                if named or entry.says_whose:
                    for place in entry.places:
                        seen.setdefault((entry.home, *place), set()).add(named)
            elif named or len(home) in user.implied_ends(home):
                ids.add(home)
        return cls(user, frozenset(ids), seen)

    def own(self, entry: _Entry) -> bool:
        """Tell whether an entry of that cache is the user's."""
        if entry.home.lower() in self.ids or entry.names(self.user):
            return True
        if not entry.home:
            return entry.kind != _APP_METADATA and self._own_key(entry.key)
        return entry.home in (self.user.sub, self.user.sub.lower()) and self._own_bare(entry)

    def _own_bare(self, entry: _Entry) -> bool:
        if entry.says_whose:
            return False
        own = entry.environment in self.user.hosts
        for place in entry.places:
            seen = self.seen.get((entry.home, *place)) or self.seen.get((self.user.sub, *place))
            if not seen:
                break
            if len(seen) == 1:
                return True in seen
            own = True  # MSAL itself cannot tell the two apart, and may use this entry for either
        return own

    def _own_key(self, key: str) -> bool:
        if key.startswith(tuple(f"{home}-" for home in self.ids)):
            return True
        if any(key.startswith("-", end) for end in self.user.implied_ends(key)):
            return True
        somebodys = {place[1] for place, seen in self.seen.items() if False in seen}
        environments = self.user.hosts.union(place[1] for place in self.seen) - somebodys
        sub = self.user.sub.lower()
        return bool(sub) and key.startswith(tuple(f"{sub}-{environment}-" for environment in environments))


def _remove(document: _Document, entries: Collection[_Entry], accounts: _Accounts, claims: Claims) -> Removal:
    gone = [entry for entry in entries if accounts.own(entry)]
    removed = Counter(entry.kind for entry in gone)
    left = Counter(entry.kind for entry in entries) - removed
    homes = frozenset(entry.home for entry in gone if entry.home)
    data: bytes | None = document.data
    if not left.keys() - {_APP_METADATA}:
        data = None
    elif gone:
        text = document.without(
            {entry.start for entry in gone}, renew=sorted({home.lower() for home in homes})
        )
        _look_again(text, accounts)
        data = text.encode()
    return Removal(data, dict(removed), dict(left), homes, _newest_id_token(gone, accounts.user, claims))


def _newest_id_token(entries: Iterable[_Entry], user: _User, claims: Claims) -> str | None:
    newest, secret = -1.0, None
    for entry in entries:
        if not entry.is_id_token or entry.token is None or not user.is_named_by(entry.token):
            continue
        token = _claims(entry.secret) or {}
        if any(token.get(name) != claims[name] for name in ("iss", "sub", "aud") if name in claims):
            continue  # another client's: the provider would refuse it as a hint of ours
        issued_at = token.get("iat")
        issued_at = issued_at if isinstance(issued_at, float) else 0.0
        if issued_at >= newest:
            newest, secret = issued_at, entry.secret
    return secret


def _look_again(text: str, accounts: _Accounts) -> None:
    """Raise if anything of the user is left: each entry is judged by itself, from the text that will be stored."""
    try:
        left = sum(_is_left(kind, key, value, accounts) for kind, key, value in _entries(text))
    except RecursionError:
        raise DamagedCache("the token cache is nested too deeply") from None
    if left:
        raise LogoutError(
            f"{left} entries of the user were left in the token cache after removal; it was not changed"
        )


def _is_left(kind: str, key: str, value: object, accounts: _Accounts) -> bool:
    entry: Mapping[str, Any] = value if isinstance(value, dict) else {}
    user = accounts.user
    if (home := _text(entry, "home_account_id").lower()) in accounts.ids:
        return True
    if (token := _claims(_text(entry, "secret"))) is not None and user.is_named_by(_User.of(token)):
        return True
    local = (_text(entry, "local_account_id").lower(), _text(entry, "realm").lower())
    if all(local) and local == (user.oid, user.tid):
        return True
    if home or kind == _APP_METADATA:
        return False
    environment = f"{_text(entry, 'environment').lower()}-".lstrip("-")
    return key.lower().startswith(tuple(f"{mine}-{environment}" for mine in accounts.ids))


def _count(kind: str, section: dict[str, object]) -> int:
    if kind == _APP_METADATA:
        return 0
    if not _is_partitioned(kind):
        return len(section)
    return sum(len(value) if isinstance(value, dict) else 1 for value in section.values())


def _sections(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for kind, section in _DECODER.decode(text.removeprefix("\ufeff")).items():
        if kind != BOOKKEEPING and isinstance(section, dict):
            yield kind, section


def _entries(text: str) -> Iterator[tuple[str, str, object]]:
    for kind, section in _sections(text):
        for key, value in section.items():
            if _is_partitioned(kind) and isinstance(value, dict):
                yield from ((kind, inner, entry) for inner, entry in value.items())
            else:
                yield kind, key, value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _claims(secret: str) -> Mapping[str, Any] | None:
    """Return the claims of a JWT, unverified: it is one of our own tokens, and nobody is let in by it."""
    _, dot, rest = secret.partition(".")
    if not dot:
        return None
    payload = rest.partition(".")[0].rstrip("=")
    try:
        claims = _DECODER.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).decode())
    except (ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


def _is_partitioned(kind: str) -> bool:
    """Tell whether a section has another level between itself and its entries, as MSAL Go's on-behalf-of caches do."""
    return kind.endswith("Partition")


class _Member(NamedTuple):
    """A member of an object in the text: where its name and its value stand, and what the value is."""

    name: str
    start: int
    value_start: int
    end: int
    value: Any


class _Object(NamedTuple):
    """An object in the text, with its members."""

    start: int
    end: int
    members: list[_Member]


@dataclass(frozen=True, slots=True)
class _Document:
    """A serialized token cache, and where in its text each entry stands."""

    data: bytes
    text: str
    root: _Object

    @classmethod
    def parse(cls, cache: bytes | str) -> _Document:
        # Raised outside of `except`: the parser's own error holds the whole cache, and may end in a log.
        data, text, root, trouble = b"", "", None, ""
        try:
            data = cache.encode() if isinstance(cache, str) else cache
            text = data.decode()
            at = _space(text, 1 if text.startswith("\ufeff") else 0)
            root, end = _read(text, at, objects=2) if at < len(text) else (_Object(at, at, []), at)
            trouble = "is not JSON" if _space(text, end) < len(text) else ""
        except UnicodeError:
            trouble = "is not UTF-8 text"
        except RecursionError:
            trouble = "is nested too deeply"
        except (ValueError, IndexError):
            trouble = "is not JSON"
        if trouble:
            raise DamagedCache(f"the token cache {trouble}")
        if not isinstance(root, _Object):
            raise DamagedCache("the token cache is not a JSON object")
        for member in root.members:
            if member.name in _KNOWN and not isinstance(member.value, _Object):
                raise DamagedCache(f"the section {member.name} of the token cache is not a JSON object")
        return cls(data, text, root)

    @property
    def sections(self) -> Iterator[tuple[str, _Object]]:
        """Every object that holds entries, and the kind of them. The same kind may come twice."""
        for kind, _, _, _, section in self.root.members:
            if isinstance(section, _Object):
                yield kind, section
                yield from ((kind, part.value) for part in section.members if isinstance(part.value, _Object))

    def entries(self) -> list[_Entry]:
        return [
            _Entry.of(kind, key, value, start)
            for kind, section in self.sections
            for key, start, _, _, value in section.members
            if not isinstance(value, _Object)
        ]

    def without(self, gone: Collection[int], *, renew: Collection[str]) -> str:
        """Return the text without the entries that start there, and with new incarnations of their accounts."""
        edits = [self._renewal(renew)] if renew else []
        edits += [(start, end, "") for _, section in self.sections for start, end in _cuts(section, gone)]
        pieces: list[str] = []
        at = 0
        for start, end, new in sorted(edits):
            pieces += self.text[at:start], new
            at = end
        return "".join((*pieces, self.text[at:]))

    def _renewal(self, homes: Collection[str]) -> tuple[int, int, str]:
        """Return the edit that gives accounts new incarnations, in the style of the cache."""
        first, last = self.root.members[0], self.root.members[-1]
        ours = next((member for member in reversed(self.root.members) if member.name == BOOKKEEPING), None)
        held = ours.value.get(INCARNATIONS) if ours and isinstance(ours.value, dict) else None
        renewed = {home: secrets.token_hex(8) for home in homes}
        value = {INCARNATIONS: {**held, **renewed} if isinstance(held, dict) else renewed}
        colon = ": " if self.text[first.value_start - 1].isspace() else ":"
        space = self.text[self.root.start + 1 : first.start] or colon[1:]
        if "\n" in space:
            indent = space.rpartition("\n")[2]
            written = json.dumps(value, indent=indent, separators=(",", colon)).replace("\n", space)
        else:
            written = json.dumps(value, separators=("," + space, colon))
        if ours:
            return ours.value_start, ours.end, written
        return last.end, last.end, f',{space}"{BOOKKEEPING}"{colon}{written}'


def _cuts(section: _Object, gone: Collection[int]) -> Iterator[tuple[int, int]]:
    """Yield what to cut out of a section, so that its commas and spaces stay as its writer sets them."""
    members = section.members
    first = next((at for at, member in enumerate(members) if member.start not in gone), None)
    if first is None:
        yield section.start + 1, section.end - 1
        return
    if first:
        yield members[0].start, members[first].start
    for before, member in zip(members[first:], members[first + 1 :], strict=False):
        if member.start in gone:
            yield before.end, member.end


def _read(text: str, at: int, *, objects: int) -> tuple[Any, int]:
    """Read the JSON value at `at`, and return where it ends; the outermost levels of objects as `_Object`."""
    if not objects or text[at] != "{":
        return _DECODER.raw_decode(text, at)
    start = at
    members: list[_Member] = []
    at = _space(text, at + 1)
    while text[at] != "}" or members:
        key_start = at
        key, at = _DECODER.raw_decode(text, at)
        at = _space(text, at)
        if not isinstance(key, str) or text[at] != ":":
            raise ValueError
        value_start = _space(text, at + 1)
        deeper = 0 if key == BOOKKEEPING else objects - 1 + _is_partitioned(key)
        value, at = _read(text, value_start, objects=deeper)
        members.append(_Member(key, key_start, value_start, at, value))
        at = _space(text, at)
        if text[at] == "}":
            break
        if text[at] != ",":
            raise ValueError
        at = _space(text, at + 1)
    return _Object(start, at + 1, members), at + 1


def _space(text: str, at: int) -> int:
    match = _skip_space(text, at)
    return match.end() if match else at
