"""The ended marks as one worker holds them, so that an ordinary request asks no store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import islice, takewhile

from .stores import Marks

_FORGOTTEN_AT_ONCE = 5000


class HeldMarks:
    """Handles that are dead, up to a place in the store's order of changes.

    `generation` is the store's generation that they are known to be complete for; `None` while they are not.
    """

    def __init__(self) -> None:
        self.generation: int | None = None
        self.cursor = 0
        self._epoch: str | None = None
        self._expires_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._expires_at)

    def has(self, handles: Iterable[str]) -> bool:
        """Tell whether one of the handles is dead."""
        return any(handle in self._expires_at for handle in handles)

    def take(self, found: Marks, since: int) -> bool:
        """Take in what the store has told; marks that are held already stay.

        Args:
            found: The marks.
            since: The cursor that it was asked with.

        Returns:
            Whether the store is still the one that it was, with all that it had. If not, it must be asked from the
            start.
        """
        same = self._epoch in (None, found.epoch) and found.cursor >= since
        self._epoch = found.epoch
        for mark in found.marks:
            if mark.kind == "handle":
                self._expires_at[mark.value] = mark.expires_at
        self.cursor = max(self.cursor, found.cursor) if same else 0
        return same

    def forget(self, now: float) -> None:
        """Forget marks whose time is over: the sessions that they ended have expired as well.

        A bounded number of them, the oldest first, so that an event loop is not held.
        """
        oldest = islice(self._expires_at.items(), _FORGOTTEN_AT_ONCE)
        for handle in [handle for handle, _ in takewhile(lambda mark: mark[1] <= now, oldest)]:
            del self._expires_at[handle]


class Unmarked:
    """Endings that could not be committed: this worker refuses their sessions, and commits them when it can.

    While the store is away anybody may send more of them; the oldest beyond what is kept are given up.
    """

    _KEPT = 10_000

    def __init__(self) -> None:
        self.on_add: Callable[[], None] = lambda: None
        self._endings: list[tuple[object, frozenset[str]]] = []

    def __len__(self) -> int:
        return len(self._endings)

    def add(self, ending: object, names: Iterable[str]) -> None:
        """Keep an ending for another try; its handles and keys are refused meanwhile."""
        self._endings = [*self._endings[1 - self._KEPT :], (ending, frozenset(names))]
        self.on_add()

    def take(self) -> list[object]:
        """Return what is to be tried again; its sessions are refused until it is `done`."""
        return [ending for ending, _ in self._endings]

    def done(self, ending: object) -> None:
        """Forget an ending that has been committed."""
        self._endings = [kept for kept in self._endings if kept[0] is not ending]

    def names(self, found: Collection[str]) -> bool:
        """Tell whether one of these handles and keys is refused."""
        return any(not names.isdisjoint(found) for _, names in self._endings)
