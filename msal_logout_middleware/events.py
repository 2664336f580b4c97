"""What happened, as values: handed to `on_event`, and logged. Identifiers are keyed hashes, never raw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Channel = Literal["rp-initiated", "front-channel", "back-channel", "admin", "sign-in", "first-sight", "late"]


@dataclass(frozen=True, slots=True)
class LogoutStarted:
    """A sign-out was accepted and begins.

    Args:
        channel: How it started; `sign-in`: by another user's sign-in in the same session; `first-sight`: a session that
            nobody knew turned out to have ended; `late`: a request saved something after its session had ended.
        session: The start of the first session's handle; empty if there is none.
    """

    channel: Channel
    session: str


@dataclass(frozen=True, slots=True)
class LogoutEnded:
    """A sign-out was completed and verified.

    Args:
        channel: How it started.
        session: The start of the first session's handle; empty if there is none.
        sessions: How many sessions have ended.
        removed: How many entries of each of MSAL's kinds were removed from token caches: `Account`, `AccessToken`,
            `RefreshToken`, `IdToken`.
    """

    channel: Channel
    session: str
    sessions: int
    removed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LogoutRefused:
    """A request to sign out was refused, and nothing was changed.

    Args:
        channel: How it arrived.
        reason: Why. Back-channel logout tells the provider the same; nobody else is told.
    """

    channel: Channel
    reason: str


@dataclass(frozen=True, slots=True)
class LogoutFailed:
    """A sign-out could not be completed.

    Args:
        channel: How it started.
        session: The start of the first session's handle; empty if there is none.
        left: What is left to do: `find`, `read`, `mark`, `session`, `accounts`, `journal`; or, of a logout token that
            could not be verified, `keys`.
    """

    channel: Channel
    session: str
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SessionRefused:
    """The gate refused a session that has ended: the app does not see its cookie.

    Args:
        session: The start of the session's handle.
        during: Whether it ended while its request was running, so that the answer lost the cookie.
    """

    session: str
    during: bool


@dataclass(frozen=True, slots=True)
class SessionUnknowable:
    """A session's claims have no `iat`, no `nonce` and no `uti`, so that ending it cannot be told from ending another.

    A copy of its cookie stays valid after a sign-out: keep all ID token claims in the session.
    """


@dataclass(frozen=True, slots=True)
class StoreUnreachable:
    """The gate could not ask the store, so requests that bear a session are answered with 503. Told once a second.

    Args:
        error: What is wrong, or the name of the engine's error.
    """

    error: str


Event: TypeAlias = (
    LogoutStarted
    | LogoutEnded
    | LogoutRefused
    | LogoutFailed
    | SessionRefused
    | SessionUnknowable
    | StoreUnreachable
)
