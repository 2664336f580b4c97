"""The secret: whether it is the same one each time the app starts."""

from __future__ import annotations

import subprocess
import sys

from ...logout import Logout
from . import Finding

_CHECK = "secret"
_TIMEOUT_SECONDS = 60.0

# Loads the app once more, in a process of its own; what the app prints goes to standard error.
_ANOTHER_START = """
import sys
from msal_logout_middleware.cli.checks.secret import fingerprint
from msal_logout_middleware.cli.loading import load
print(fingerprint(load(sys.argv[1]).logout))
"""


def fingerprint(logout: Logout) -> str:
    """Return what tells one secret from another, and nothing more."""
    return logout.configuration.seal.hashes("doctor")[0]


def check_secret(name: str, logout: Logout) -> Finding:
    """Start the app once more, and check that it has the same secret.

    Args:
        name: The import path.
        logout: What it led to.
    """
    try:
        ran = subprocess.run(  # noqa: S603  # this Python, and what the user named
            [sys.executable, "-c", _ANOTHER_START, name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return Finding(_CHECK, "skipped", "the app could not be started once more, to compare")
    if ran.stdout.strip() == fingerprint(logout):
        return Finding(_CHECK, "ok", "the same one each time the app starts")
    seen = "another one each time the app starts: workers and restarts do not know each other's sessions"
    return Finding(_CHECK, "error", seen, "give the app a secret that stays the same, from its configuration")
