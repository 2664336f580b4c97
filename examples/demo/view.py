"""What stands in the apps' session stores and token caches: whose, and how many of each kind; never a secret.

It reads what the apps have on disk, as another worker of the app would.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cachelib import FileSystemCache

from msal_logout_middleware.stores.sqlite import SQLiteStore
from msal_logout_middleware.testing import User

KINDS = ("AccessToken", "RefreshToken", "IdToken", "Account")


@dataclass(frozen=True)
class Tokens:
    """One user's entries in one token cache, by kind."""

    user: str
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Standing:
    """What stands at one app.

    Args:
        sessions: The user of each session on the server; empty text while nobody has signed in to it.
        tokens: What token caches hold.
        marks: How many sessions are marked as ended.
        unfinished: How many sign-outs are not finished.
    """

    sessions: tuple[str, ...]
    tokens: tuple[Tokens, ...]
    marks: int
    unfinished: int

    def users(self) -> frozenset[str]:
        """Return everybody of whom anything is there."""
        return frozenset(self.sessions) | {each.user for each in self.tokens}


@dataclass(frozen=True)
class Kept:
    """All that an app keeps for one user, to be compared with itself later."""

    sessions: list[dict[str, Any]] = field(repr=False)
    token_caches: list[str | bytes] = field(repr=False)

    def secrets(self) -> frozenset[bytes]:
        """Return each access, refresh and ID token."""
        entries = (
            entry
            for cache in map(json.loads, self.token_caches)
            for kind in KINDS
            for entry in cache.get(kind, {}).values()
        )
        return frozenset(entry["secret"].encode() for entry in entries if "secret" in entry)


class FlaskView:
    """Looks at the Flask app's session files, with the token caches in them."""

    session_store = "Files of Flask-Session"
    token_cache = "In each session, where identity keeps it"

    def __init__(self, folder: Path, store: SQLiteStore) -> None:
        self.folder = folder
        self.store = store

    def standing(self, users: Collection[User]) -> Standing:
        """Return what stands there now."""
        contents = list(self._sessions())
        caches = [session["_token_cache"] for session in contents if session.get("_token_cache")]
        return Standing(
            tuple(sorted(_name(session) for session in contents)),
            tuple(sorted((t for cache in caches for t in tokens_in(cache)), key=lambda each: each.user)),
            *_marks(self.store),
        )

    def kept_for(self, user: User) -> Kept:
        """Return all that is kept for a user."""
        sessions = [session for session in self._sessions() if _name(session) == user.username]
        return Kept(sessions, [session["_token_cache"] for session in sessions])

    def _sessions(self) -> Iterator[dict[str, Any]]:
        for path in sorted((self.folder / "sessions").iterdir()):
            if path.suffix:  # cachelib is writing it, to rename it when it is complete
                continue
            try:
                with path.open("rb") as file:
                    file.seek(4)  # cachelib writes when it expires, then the value
                    value = FileSystemCache.serializer.load(file)
            except FileNotFoundError:  # deleted just now
                continue
            if isinstance(value, dict):  # cachelib counts its files in one more
                yield value


class FastAPIView:
    """Looks at the FastAPI app's token caches; its sessions are in the browsers' cookies."""

    session_store = "None: a signed cookie in each browser"
    token_cache = "In SQLite, one row for each user"

    def __init__(self, folder: Path, store: SQLiteStore, cache_key: Callable[[User], str]) -> None:
        self.folder = folder
        self.store = store
        self._cache_key = cache_key

    def standing(self, users: Collection[User]) -> Standing:
        """Return what stands there now."""
        rows = [self.store.load(self._cache_key(user)).data for user in users]
        return Standing((), tuple(t for row in rows if row for t in tokens_in(row)), *_marks(self.store))

    def kept_for(self, user: User) -> Kept:
        """Return all that is kept for a user."""
        row = self.store.load(self._cache_key(user)).data
        return Kept([], [row] if row else [])


View = FlaskView | FastAPIView


def tokens_in(cache: str | bytes) -> Iterator[Tokens]:
    """Count the entries of a serialized token cache, by user and kind."""
    document = json.loads(cache)
    names = {entry["home_account_id"]: entry["username"] for entry in document.get("Account", {}).values()}
    counts: dict[str, Counter[str]] = {}
    for kind in KINDS:
        for entry in document.get(kind, {}).values():
            home_account_id = entry["home_account_id"]
            name = names.get(home_account_id, f"{home_account_id} (no account entry)")
            counts.setdefault(name, Counter())[kind] += 1
    return (Tokens(name, dict(counted)) for name, counted in sorted(counts.items()))


def _name(session: Mapping[str, Any]) -> str:
    return str((session.get("_logged_in_user") or {}).get("preferred_username", ""))


def _marks(store: SQLiteStore) -> tuple[int, int]:
    return len(store.marks_since(0, limit=1000).marks), store.open_rows()
