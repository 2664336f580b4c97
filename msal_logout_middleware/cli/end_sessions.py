"""`msal-logout end-sessions`: to end the sessions of a user, or those within one of the provider's, from outside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from ..caches import Shared
from ..errors import StoreError
from ..logout import Logout
from .checks.stores import out_of_reach
from .errors import CommandError

Named = Mapping[str, str | None]

# While one of these is left, no worker knows of the sign-out.
_UNRECORDED = {"find", "mark"}


@dataclass(frozen=True, slots=True)
class Result:
    """What was done.

    Args:
        dry_run: Nothing was: the sessions have only been counted.
        sessions: How many sessions have ended, or would.
        removed: How many entries of each of MSAL's kinds were removed from token caches.
        left: The steps that are left to do.
    """

    dry_run: bool
    sessions: int
    removed: Mapping[str, int]
    left: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return not self.left

    def as_json(self) -> str:
        """Return the result as a JSON object."""
        return json.dumps({**asdict(self), "complete": self.complete}, indent=2)

    def as_text(self) -> str:
        """Return the result as sentences."""
        return "\n".join(self._sentences())

    def _sentences(self) -> Iterator[str]:
        sessions = f"{self.sessions} session{'' if self.sessions == 1 else 's'}"
        yield f"{sessions} would end." if self.dry_run else f"{sessions} ended."
        if not self.sessions:
            yield "If somebody is signed in, see that this command has the same secret and store as the app."
        if self.removed:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.removed.items()))
            yield f"Removed from token caches: {kinds}."
        if self.left:
            unrecorded = _UNRECORDED & set(self.left)
            then = "run the command again" if unrecorded else "the app's workers go on with it"
            yield f"Left to do: {', '.join(self.left)}. The log says what failed; {then}."


async def end_sessions(logout: Logout, named: Named, *, dry_run: bool) -> Result:
    """End sessions, or count them.

    Args:
        logout: The app's.
        named: Whose sessions, as the arguments of `Logout.end_sessions`.
        dry_run: Count only.

    Raises:
        CommandError: They cannot be reached from outside the app.
    """
    unreachable = out_of_reach(logout.configuration.store)
    if unreachable is not None:
        raise CommandError(unreachable, exit_code=1)
    try:
        if dry_run:
            return Result(True, await logout.acount_sessions(**named), {}, ())
        ended = await logout.aend_sessions(**named)
    except StoreError as error:
        raise CommandError(str(error), exit_code=1) from error
    except Exception as error:  # an engine's own, which may quote what it is connected with
        raise CommandError(f"the store raised {type(error).__name__}", exit_code=1) from error
    return Result(False, ended.sessions, ended.removed, (*ended.left, *_out_of_reach(logout)))


def _out_of_reach(logout: Logout) -> tuple[str, ...]:
    """Name what only the app's own workers could do."""
    if isinstance(logout.configuration.caches, Shared):
        return ("accounts in the memory of the app's workers",)
    return ()
