"""The command line, for the people who run an app: `msal-logout end-sessions`, `reencrypt` and `doctor`.

1. Standard output has what was asked for and nothing else; what the app prints and logs goes to standard error.
2. No token, no session id and no raw identifier is printed.
3. The exit code is 0 if all is well, 1 if something is left undone or wrong, 2 if the command cannot be carried
   out as it was given.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Coroutine, Sequence
from contextlib import redirect_stdout
from typing import Any
from urllib.parse import urlsplit

from .._drive import settle
from ..logout import Logout
from .doctor import examine, read_claims
from .end_sessions import end_sessions
from .errors import CommandError
from .loading import load
from .reencrypt import reencrypt

_IDENTIFIERS = {
    "oid": "the user's object id in Entra ID; with --tid",
    "tid": "the tenant's id; with --oid",
    "sub": "the user's sub; with --iss",
    "sid": "the provider's session",
    "iss": "the issuer of --sub or --sid",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What follows the program's name; that of the process by default.

    Returns:
        The exit code.
    """
    given = _parser().parse_args(arguments)
    try:
        with redirect_stdout(sys.stderr):
            said, exit_code = _COMMANDS[given.command](given)
    except CommandError as error:
        print(f"msal-logout: {error}", file=sys.stderr)
        return error.exit_code
    print(said)
    return exit_code


def _end_sessions(given: argparse.Namespace) -> tuple[str, int]:
    named = {name: getattr(given, name) for name in _IDENTIFIERS}
    _check_named(named)
    logout = load(given.app).logout
    result = asyncio.run(_closing(logout, end_sessions(logout, named, dry_run=given.dry_run)))
    return result.as_json() if given.json else result.as_text(), 0 if result.complete else 1


def _doctor(given: argparse.Namespace) -> tuple[str, int]:
    claims = read_claims(given.claims)
    if given.url is not None and not urlsplit(given.url).hostname:
        raise CommandError(f"--url={given.url} must be an absolute URL, such as https://app.example.com/shop")
    loaded = load(given.app)
    report = asyncio.run(_closing(loaded.logout, examine(loaded, claims=claims, url=given.url)))
    return report.as_json() if given.json else report.as_text(), 1 if report.count("error") else 0


def _reencrypt(given: argparse.Namespace) -> tuple[str, int]:
    logout = load(given.app).logout
    report = asyncio.run(_closing(logout, reencrypt(logout, dry_run=given.dry_run)))
    return report.as_json() if given.json else report.as_text(), 0 if report.complete else 1


_COMMANDS = {"doctor": _doctor, "end-sessions": _end_sessions, "reencrypt": _reencrypt}


async def _closing(logout: Logout, flow: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await flow
    finally:
        await settle(logout.configuration.store.close())


def _check_named(named: dict[str, str | None]) -> None:
    given = {name for name, value in named.items() if value}
    if given not in ({"oid", "tid"}, {"sub", "iss"}, {"sid"}, {"sid", "iss"}):
        raise CommandError("say whose sessions: --oid and --tid, --sub and --iss, or --sid (and --iss)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="msal-logout",
        description="Signs users out, and says what is wrong, for an app that uses msal_logout_middleware.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    ending = commands.add_parser(
        "end-sessions",
        help="end sessions from outside the app",
        description="Ends sessions from outside the app.",
    )
    for name, what in _IDENTIFIERS.items():
        ending.add_argument(f"--{name}", metavar=name.upper(), help=what)
    ending.add_argument("--dry-run", action="store_true", help="say how many sessions would end")

    reencryption = commands.add_parser(
        "reencrypt",
        help="bring all token caches under the first key",
        description="Encrypts the token caches anew that are not under the first key, while the app is running.",
    )
    reencryption.add_argument(
        "--dry-run", action="store_true", help="say how many token caches that would be"
    )

    doctor = commands.add_parser(
        "doctor",
        help="say what was found, and what is wrong",
        description="Says what was found, and what is wrong.",
    )
    doctor.add_argument(
        "--claims", metavar="FILE", help="one user's ID token or its claims, as JSON; - for input"
    )
    doctor.add_argument("--url", help="where browsers find the app, with the path that it is mounted at")

    for command in (ending, reencryption, doctor):
        command.add_argument(
            "app", metavar="APP", help="module:name of the Logout, or of an app that it is around"
        )
        command.add_argument("--json", action="store_true", help="a JSON object instead of sentences")
    return parser
