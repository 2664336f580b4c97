"""What happened, as values: handed to `on_event`, and logged. Identifiers are keyed hashes, never raw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Channel = Literal["rp-initiated", "front-channel", "back-channel", "admin"]


@dataclass(frozen=True, slots=True)
class LogoutStarted:
    """A sign-out was accepted and begins.

    Args:
        channel: How it started.
        session: The start of the session's handle.
    """

    channel: Channel
    session: str


@dataclass(frozen=True, slots=True)
class LogoutEnded:
    """A sign-out was completed and verified.

    Args:
        channel: How it started.
        session: The start of the session's handle.
        removed: How many entries of each of MSAL's kinds were removed from token caches.
    """

    channel: Channel
    session: str
    removed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LogoutRefused:
    """A request to sign out was refused, and nothing was changed.

    Args:
        channel: How it arrived.
        reason: Why, for the log; never an answer to the caller.
    """

    channel: Channel
    reason: str


@dataclass(frozen=True, slots=True)
class LogoutFailed:
    """A sign-out could not be completed.

    Args:
        channel: How it started.
        session: The start of the session's handle.
        left: What is left to do: `read`, `mark`, `session`, `accounts`, `journal`.
    """

    channel: Channel
    session: str
    left: tuple[str, ...]


Event: TypeAlias = LogoutStarted | LogoutEnded | LogoutRefused | LogoutFailed
