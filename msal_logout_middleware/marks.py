"""The ended marks as one worker holds them, so that an ordinary request asks no store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from itertools import count, islice

from .stores import Marks

_FORGOTTEN_AT_ONCE = 5000


class HeldMarks:
    """Handles that are dead, up to a place in the store's order of changes.

    `generation` is the store's generation that they are known to be complete for; `None` while they are not. `place`
    is the store's epoch, and the cursor to go on from.
    """

    def __init__(self) -> None:
        self.generation: int | None = None
        self.place: tuple[str | None, int] = (None, 0)
        self._expires_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._expires_at)

    def has(self, handles: Iterable[str]) -> bool:
        """Tell whether one of the handles is dead."""
        return any(handle in self._expires_at for handle in handles)

    def take(self, found: Marks, place: tuple[str | None, int]) -> bool:
        """Take in what the store has told; marks that are held already stay.

        Args:
            found: The marks.
            place: That with whose cursor it was asked.

        Returns:
            Whether the store is still the one that it was, with all that it had. If not, it must be asked from the
            start.
        """
        epoch, since = place
        same = epoch in (None, found.epoch) and found.cursor >= since
        for mark in found.marks:
            if mark.kind == "handle":
                self._expires_at[mark.value] = mark.expires_at
        held_epoch, held = self.place  # another thread may have asked meanwhile
        cursor = max(held, found.cursor) if held_epoch == found.epoch else found.cursor
        self.place = (found.epoch, cursor if same else 0)
        return same

    def forget(self, now: float) -> None:
        """Forget marks whose time is over: the sessions that they ended have expired as well.

        A bounded number of them, the oldest first, so that an event loop is not held.
        """
        oldest: list[tuple[str, float]] = []
        with suppress(RuntimeError):  # another thread takes marks in: the next round comes
            oldest = list(islice(self._expires_at.items(), _FORGOTTEN_AT_ONCE))
        for handle, expires_at in oldest:
            if expires_at > now:
                return
            self._expires_at.pop(handle, None)


class Unmarked:
    """Endings that could not be committed: this worker refuses their sessions, and commits them when it can.

    While the store is away anybody may send more of them; the oldest beyond what is kept are given up.
    """

    _KEPT = 10_000

    def __init__(self) -> None:
        self.on_add: Callable[[], None] = lambda: None
        self._number = count()
        # Threads add and take out at once: each of these is one operation of a `dict`.
        self._endings: dict[int, tuple[object, frozenset[str]]] = {}

    def __len__(self) -> int:
        return len(self._endings)

    def add(self, ending: object, names: Iterable[str]) -> None:
        """Keep an ending for another try; its handles and keys are refused meanwhile."""
        number = next(self._number)
        self._endings[number] = ending, frozenset(names)
        self._endings.pop(number - self._KEPT, None)
        self.on_add()

    def take(self) -> list[tuple[int, object]]:
        """Return what is to be tried again, numbered; its sessions are refused until it is `done`."""
        return [(number, ending) for number, (ending, _) in list(self._endings.items())]

    def done(self, number: int) -> None:
        """Forget an ending that has been committed."""
        self._endings.pop(number, None)

    def names(self, found: Collection[str]) -> bool:
        """Tell whether one of these handles and keys is refused."""
        if not self._endings:
            return False
        return any(not names.isdisjoint(found) for _, names in list(self._endings.values()))
