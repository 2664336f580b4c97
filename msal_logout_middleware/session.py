"""Values and contract of a session: who is signed in, and how that session is found and deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from ._drive import MaybeAwaitable
from .http import Cookie

Claims = Mapping[str, Any]
Secrets: TypeAlias = str | bytes | Sequence[str | bytes] | None


def plain_claims(claims: Claims | None) -> dict[str, Any]:
    """Return claims as JSON values; what an app has added to them, such as a `datetime`, as text."""
    return {str(name): _plain(value) for name, value in (claims or {}).items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Mapping):
        return plain_claims(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)


@dataclass(frozen=True, slots=True)
class Session:
    """A sign-in at this app, as it stands in the framework's session.

    Args:
        id: The server-side session id; `None` where the whole session is in the cookie. A live credential.
        claims: The ID token claims in the session; `None` while nobody is signed in.
        contents: What the framework keeps in the session, claims included.
    """

    id: str | None = field(repr=False)
    claims: Claims | None = field(repr=False)
    contents: Mapping[str, Any] = field(repr=False)


class SessionReader(Protocol):
    """How one framework's sessions are read and deleted, through that framework's own code.

    Its methods are all plain functions or all coroutine functions. One whose sessions are all in the cookie may have
    the attribute `server_side = False`, which spares looking for others. One that knows cookies by which the app signs
    a user in again may have `remember_cookies`, of the kind of `cookies`: they are deleted and cut out with these. One
    that knows for how long its framework takes a session may have `lifetime_seconds`, for `msal-logout doctor`.
    """

    @property
    def cookies(self) -> tuple[Cookie, ...]:
        """The cookies that carry the session, with the attributes that the app sets them with."""
        ...

    @property
    def secret(self) -> Secrets:
        """The framework's own secret, from which `secret=` is derived by default; `None` if unknown.

        Of several the first signs, and the others are those that the framework still accepts.
        """
        ...

    def read(self, cookie_header: str) -> MaybeAwaitable[Session | None]:
        """Return the session that a `Cookie` header leads to, verified by the framework; `None` if none."""
        ...

    def load(self, session_id: str) -> MaybeAwaitable[Session | None]:
        """Return a server-side session by its id; `None` if there is none, or sessions are in cookies."""
        ...

    def delete(self, session_id: str) -> MaybeAwaitable[None]:
        """Delete a server-side session; no error if it is gone already, or sessions are in cookies."""
        ...
