"""Measures what removing one account costs: from one shared cache by ours and by MSAL's own, and from a store.

    python bench/shared_cache.py [--quick]

Each account is complete, as real MSAL adds it: access tokens (one with an extended cache key), a refresh token,
and in each of two realms an ID token and an account entry. For one size all ways take turns, removing different
users, so that the machine's moods hit all of them; the A/A row is ours once more, and shows what the figures are
worth. MSAL's takes its turn on the same cache, where our index costs it a few microseconds. Ends with 3 if a bound
is broken.
"""

# ruff: noqa: D102, D103, D401
from __future__ import annotations

import argparse
import base64
import gc
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import msal

from bench.measuring import status
from msal_logout_middleware._drive import run
from msal_logout_middleware.caches import InStore, home_account_id
from msal_logout_middleware.shared_cache import SharedCache
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.sqlite import SQLiteStore

HOST = "login.microsoftonline.com"
HOME, OTHER = "11111111-1111-1111-1111-111111111111", "99999999-9999-9999-9999-999999999999"
CLIENT_ID = "22222222-2222-2222-2222-222222222222"
ENTRIES = (
    9  # 4 access tokens, one with an extended cache key; 1 refresh token, 2 ID tokens, 2 account entries
)
BOUND_US = 50.0

Claims = dict[str, Any]
Removal = Callable[[], None]
Way = Callable[[int], Removal]  # what is not measured is done before

OURS, AGAIN, MSAL = "shared cache, ours", "shared cache, ours again (A/A)", "shared cache, MSAL's own"
LEFT = "tokens that MSAL's own left"
MEMORY, SQLITE = "MemoryStore", "SQLiteStore"


def part(value: Claims) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def claims_of(number: int, tenant: str = HOME) -> Claims:
    return {
        "iss": f"https://{HOST}/{tenant}/v2.0",
        "aud": CLIENT_ID,
        "sub": f"subject-of-user-{number:08}",
        "oid": f"aaaaaaaa-0000-0000-{1 if tenant == HOME else 2:04}-{number:012}",
        "tid": tenant,
        "iat": 1_700_000_000 + number,
        "name": f"User Number {number}",
        "preferred_username": f"user{number}@example.com",
    }


def home_of(number: int) -> str:
    return f"{claims_of(number)['oid']}.{HOME}"


def id_token_of(number: int, tenant: str) -> str:
    return f"{part({'alg': 'RS256', 'typ': 'JWT'})}.{part(claims_of(number, tenant))}.{'s' * 342}"


def signed_in(number: int) -> msal.SerializableTokenCache:
    """Return what real MSAL adds for one user: a sign-in, two more tokens, a sign-in as another tenant's guest."""
    cache = msal.SerializableTokenCache()
    sign_in, refresh = (
        {"grant_type": "authorization_code"},
        {"grant_type": "refresh_token", "skip_account_creation": True},
    )
    for tenant, scope, data, how in (
        (HOME, "read", {}, sign_in),
        (HOME, "write", {}, refresh),
        (HOME, "read", {"client_claims": '{"a":1}'}, refresh),
        (OTHER, "read", {}, sign_in),
    ):
        response = {
            "access_token": "access",
            "id_token": id_token_of(number, tenant),
            "client_info": part({"uid": claims_of(number)["oid"], "utid": HOME}),
            "expires_in": 3600,
        }
        cache.add(
            {
                **how,
                "client_id": CLIENT_ID,
                "scope": [f"https://api.example/{scope}"],
                "token_endpoint": f"https://{HOST}/{tenant}/oauth2/v2.0/token",
                "data": data,
                "response": {**response, "refresh_token": "refresh"} if how is sign_in else response,
            }
        )
    return cache


def shared(accounts: int) -> msal.SerializableTokenCache:
    """One watched cache with many users, filled user by user: the first one's entries with each user's ids and secrets.

    MSAL's `add`, with all that it logs and decodes, would take minutes for a hundred thousand.
    """
    template = [
        (kind, entry)
        for kind, section in signed_in(0)._cache.items()
        for entry in section.values()
        if kind != "AppMetadata"
    ]
    cache = msal.SerializableTokenCache()
    SharedCache.of(cache)
    for number in range(accounts):
        for position, (kind, entry) in enumerate(template):
            own = {**entry, "home_account_id": home_of(number)}
            if kind == "IdToken":
                own["secret"] = id_token_of(number, entry["realm"])
            elif "secret" in entry:
                own["secret"] = f"{kind}-{number}-{position}-{'s' * 200}"
            else:
                own["local_account_id"] = claims_of(number, entry["realm"])["oid"]
            cache.modify(kind, own, own)
    return cache


class Offline:
    """Enough of an HTTP client for MSAL to be built: removing an account asks nobody."""

    def get(self, url: str, **_: Any) -> Any:
        base = f"https://{HOST}/{HOME}/oauth2/v2.0"
        document = {
            "authorization_endpoint": f"{base}/authorize",
            "token_endpoint": f"{base}/token",
            "issuer": base,
        }
        return type("Answer", (), {"status_code": 200, "headers": {}, "text": json.dumps(document)})()


def by_us(cache: msal.TokenCache) -> Way:
    watched = SharedCache.of(cache)

    def remove(number: int) -> Removal:
        claims = claims_of(number)
        return lambda: check(watched.remove_accounts(claims).counts)

    return remove


def check(counts: Mapping[str, int]) -> None:
    if sum(counts.values()) != ENTRIES:
        raise SystemExit(f"a removal was not complete: {counts}")


def by_msal(cache: msal.TokenCache) -> Way:
    app = msal.ConfidentialClientApplication(
        CLIENT_ID,
        client_credential="secret",
        authority=f"https://{HOST}/{HOME}",
        instance_discovery=False,
        http_client=Offline(),
        token_cache=cache,
    )

    def remove(number: int) -> Removal:
        account = {"home_account_id": home_of(number), "environment": HOST}
        return lambda: app.remove_account(account)

    return remove


def in_store(store: MemoryStore | SQLiteStore, accounts: int, path: Path) -> Way:
    """A row for each user; only the rows that will be removed are their user's own, the others are as large."""
    blob = signed_in(0).serialize().encode()
    for number in users(accounts):
        store.replace(home_account_id(claims_of(number)), "", signed_in(number).serialize().encode())
    if isinstance(store, SQLiteStore):
        fill_file(path, accounts, blob)
    else:
        for number in range(accounts):
            store.replace(home_account_id(claims_of(number)), "", blob)
    caches = InStore(store)

    def remove(number: int) -> Removal:
        claims = claims_of(number)
        return lambda: check(run(caches.remove_accounts(claims, None)).counts)

    return remove


def fill_file(path: Path, accounts: int, blob: bytes) -> None:
    """Fill the other rows in one transaction: a hundred thousand would take minutes."""
    with closing(sqlite3.connect(path)) as db, db:
        rows = ((home_account_id(claims_of(number)), blob, str(number), 1e11) for number in range(accounts))
        db.executemany(
            "INSERT OR IGNORE INTO token_caches (key, data, version, expires_at) VALUES (?, ?, ?, ?)", rows
        )


def users(accounts: int) -> list[int]:
    """Return who is removed: far from each other, none twice, and few enough that the size stays what it is."""
    turns = max(4, min(accounts // 2, 300))
    return [turn * accounts // turns for turn in range(turns)]


def take_turns(ways: dict[str, Way], accounts: int) -> dict[str, float]:
    """Return each way's median in microseconds. MSAL's own gets every tenth turn: it takes so long."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    waiting, order, turn = users(accounts), list(ways), 0
    while len(waiting) >= len(ways):
        for name in order:
            if name == MSAL and turn % 10:
                continue
            removal = ways[name](waiting.pop())
            start = time.perf_counter()
            removal()
            times[name].append((time.perf_counter() - start) * 1e6)
        order, turn = [*order[1:], order[0]], turn + 1
    return {name: median(values) for name, values in times.items()}


def measure(accounts: int, folder: Path) -> dict[str, float]:
    """Return the figures for one size, by name."""
    cache = shared(accounts)
    ways = {OURS: by_us(cache), AGAIN: by_us(cache), MSAL: by_msal(cache)}
    gc.collect()
    gc.freeze()  # a collection among millions of entries in the middle of a turn measures Python
    figures = take_turns(ways, accounts)
    figures[LEFT] = float(left_without_account(cache))
    del cache, ways
    gc.unfreeze()
    for name, store in ((MEMORY, MemoryStore()), (SQLITE, None)):
        path = folder / f"{accounts}.db"
        opened = store or SQLiteStore(path)
        figures |= take_turns({name: in_store(opened, accounts, path)}, accounts)
        opened.close()
    return figures


def left_without_account(cache: msal.TokenCache) -> int:
    """Return how many tokens stand there of accounts that do not, so that `get_accounts` never leads to them."""
    present = {entry["home_account_id"] for entry in cache._cache["Account"].values()}
    tokens = [
        entry for kind in ("AccessToken", "RefreshToken", "IdToken") for entry in cache._cache[kind].values()
    ]
    return sum(entry["home_account_id"] not in present for entry in tokens)


def main() -> int:
    """Measure, print, and tell by the exit status whether the bound was kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, and no bound is checked")
    quick = parser.parse_args().quick
    sizes = (10, 1_000) if quick else (10, 1_000, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        columns = [measure(size, Path(folder)) for size in sizes]
    print(f"{'median microseconds, accounts:':34}" + "".join(f"{size:>14,}" for size in sizes))
    for name in columns[0]:
        print(f"{name:34}" + "".join(f"{column[name]:>14,.1f}" for column in columns))
    if quick:
        return 0
    worst = columns[-1][OURS]
    print(f"bound at {sizes[-1]:,} accounts: {BOUND_US:.0f} us, {'kept' if worst <= BOUND_US else 'BROKEN'}")
    return status(kept=worst <= BOUND_US)


if __name__ == "__main__":
    sys.exit(main())
