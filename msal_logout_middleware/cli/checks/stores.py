"""The store and the token caches: whether all workers share them, and whether they can be written."""

from __future__ import annotations

import ast
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..._drive import settle
from ...caches import InSession, Shared, TokenCaches
from ...errors import StoreError
from ...stores import Store
from ...stores.memory import MemoryStore
from . import Finding

_WORKERS_OPTION = re.compile(r"(?:^|\s)(?:-w\s*|--workers[=\s]\s*)(\d+)")


class Workers(NamedTuple):
    """A place that says how many workers serve the app.

    Args:
        where: The place, with what it says.
        several: Whether that is more than one.
    """

    where: str
    several: bool


def workers_said(environment: Mapping[str, str], folder: Path) -> tuple[Workers, ...]:
    """Return what says how many workers there are: for gunicorn, uvicorn and platforms that tell them.

    Args:
        environment: The environment variables.
        folder: Where servers are started, which may hold a `gunicorn.conf.py`.
    """
    said = [
        Workers(f"{name}={environment[name]}", environment[name].strip() not in {"", "0", "1"})
        for name in ("WEB_CONCURRENCY", "UVICORN_WORKERS")
        if name in environment
    ]
    option = _WORKERS_OPTION.search(environment.get("GUNICORN_CMD_ARGS", ""))
    if option:
        said.append(Workers(f"GUNICORN_CMD_ARGS has{option[0]}".replace("has-", "has -"), int(option[1]) > 1))
    configured = _gunicorn_workers(folder / "gunicorn.conf.py")
    if configured is not None:
        said.append(Workers(f"gunicorn.conf.py has workers = {configured}", configured != "1"))
    return tuple(said)


def _gunicorn_workers(file: Path) -> str | None:
    try:
        statements = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return None
    for statement in statements:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "workers":
            return ast.unparse(statement.value)
    return None


def check_workers(store: Store, said: Sequence[Workers]) -> Finding:
    """Check whether all workers share the store."""
    if not isinstance(store, MemoryStore):
        whose = (
            "of the machine" if hasattr(store, "path") else "of all machines that are given the same server"
        )
        return Finding("store-shared", "ok", f"{type(store).__name__} is shared by all workers {whose}")
    several = [workers.where for workers in said if workers.several]
    if several:
        seen = f"MemoryStore is for one process, and {', '.join(several)}: workers do not know each other's sign-outs"
        return Finding("store-shared", "error", seen, "use SQLiteStore")
    how_many = ", ".join(workers.where for workers in said) or "nothing here says how many workers there are"
    seen = f"MemoryStore is for one process ({how_many}), and forgets at a restart which sessions have ended"
    return Finding("store-shared", "warning", seen, "use SQLiteStore, unless this is a test or a demo")


def check_token_caches(caches: TokenCaches, said: Sequence[Workers], *, server_side: bool | None) -> Finding:
    """Check whether a sign-out reaches every copy of a token cache.

    Args:
        caches: Where token caches are.
        said: How many workers there are.
        server_side: Whether sessions are kept on the server; `None` if that cannot be told.
    """
    check = "token-caches"
    several = [workers.where for workers in said if workers.several]
    if isinstance(caches, Shared) and several:
        seen = (
            f"Shared is one worker's memory, and {', '.join(several)}: a sign-out does not reach the others'"
        )
        return Finding(
            check, "error", seen, "keep token caches in the store: leave out caches=, use token_cache()"
        )
    if isinstance(caches, Shared) and not said:
        seen = "Shared is one worker's memory, and nothing here says how many workers there are"
        return Finding(
            check, "warning", seen, "with more than one keep token caches in the store: leave out caches="
        )
    if isinstance(caches, InSession) and server_side is False:
        seen = "tokens are in the session's cookie: who has a copy of the cookie keeps them"
        return Finding(
            check, "warning", seen, "keep them in the store: leave out caches=, and use token_cache()"
        )
    if not getattr(caches, "guarded", False):
        seen = (
            f"{type(caches).__name__} cannot refuse what is saved late: it is removed again when the request returns,"
            " but what a background job saves after a sign-out stays"
        )
        return Finding(check, "warning", seen, "to be sure, leave out caches= and use token_cache()")
    return Finding(check, "ok", "a sign-out reaches every token cache")


def out_of_reach(store: object) -> str | None:
    """Say why a command must not touch a store; `None` if it may."""
    if isinstance(store, MemoryStore):
        return (
            "this Logout keeps everything in a MemoryStore, in the memory of the app's own process, which no command"
            " can reach; use SQLiteStore"
        )
    unusable = unusable_file(store)
    return None if unusable is None else f"{unusable}; run this command as the app's user and in its folder"


def unusable_file(store: object) -> str | None:
    """Say why this process must not touch the store's file; `None` if it may.

    A file that this command made would be another user's, or in another folder, than the app's.
    """
    path = getattr(store, "path", None)
    if not isinstance(path, Path):
        return None
    try:
        owner = path.stat().st_uid
    except OSError:
        return f"{path} cannot be found: the app has not used it yet, or runs in another folder"
    if sys.platform == "win32" or owner == os.geteuid():
        return None
    return (
        f"{path} belongs to another user: what this command makes beside it would be out of the app's reach"
    )


async def check_store(store: Store) -> list[Finding]:
    """Check whether the store is on this machine, can be written and read, and has nothing left to do."""
    find_mount = getattr(store, "network_mount", None)
    mount = find_mount() if find_mount is not None else None
    if mount is not None:
        seen = f"the store's file is on a network mount ({mount}), which other machines may write as well"
        return [Finding("store-mount", "error", seen, "put it on a local disk")]
    findings = []
    if find_mount is not None:
        findings.append(Finding("store-mount", "ok", "not on a network mount, as far as can be told"))
    unusable = unusable_file(store)
    if unusable is not None and not _lacks_folder(store):
        to_do = "run this command as the app's user and in its folder, when the app has run"
        return [*findings, Finding("store-access", "skipped", unusable, to_do)]
    try:
        await _write_and_read(store)
        rows = await settle(store.open_rows())
    except Exception as error:  # any engine's
        said = _said(error)
        to_do = "see that this user reaches the store, and what it needs (Stores, in the documentation)"
        return [*findings, Finding("store-access", "error", said, to_do)]
    access = Finding("store-access", "ok", "written, read and removed again")
    return [*findings, access, *await _server(store), _journal(rows)]


async def _server(store: Store) -> list[Finding]:
    """Check whether the server's settings let it forget sign-outs, where the store can tell."""
    ask = getattr(store, "weaknesses", None)
    if ask is None:
        return []
    check = "store-server"
    try:
        found = await settle(ask())
    except Exception as error:  # any engine's
        said = _said(error)
        to_do = "allow the store's user `+info`, or see Stores in the documentation for what to set"
        return [Finding(check, "skipped", said, to_do)]
    ok = Finding(check, "ok", "no setting of the server is known to let it forget sign-outs")
    return [Finding(check, "warning", seen, to_do) for seen, to_do in found] or [ok]


def _said(error: Exception) -> str:
    """Return what may be told of an engine's error, which may quote what it is connected with."""
    return str(error) if isinstance(error, StoreError) else f"the store raised {type(error).__name__}"


def _lacks_folder(store: Store) -> bool:
    """Tell whether the folder of the store's file is missing, which the store itself tells best."""
    path = getattr(store, "path", None)
    try:
        return isinstance(path, Path) and not path.parent.is_dir()
    except OSError:  # another user's, so it cannot be told
        return False


def _journal(rows: int) -> Finding:
    if not rows:
        return Finding("journal", "ok", "every sign-out was completed")
    seen = f"{rows} sign-out{'s are' if rows > 1 else ' is'} not completed"
    return Finding(
        "journal",
        "warning",
        seen,
        "workers go on with them; if it stays so, see what the app's log says after a step",
    )


async def _write_and_read(store: Store) -> None:
    """Write a row of our own, read it, and remove it.

    Raises:
        StoreError: It is not what was written.
    """
    key, written = f"msal-logout doctor {secrets.token_hex(8)}", b"{}"
    before = await settle(store.load(key))
    await settle(store.replace(key, before.version, written))
    row = await settle(store.load(key))
    await settle(store.replace(key, row.version, None))
    if row.data != written:
        raise StoreError("the store does not return what was written to it")
