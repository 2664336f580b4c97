"""The ended marks as one worker holds them, so that an ordinary request asks no store."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from operator import itemgetter
from typing import NamedTuple

from .mark_filter import MarkFilter, probes
from .stores import Mark, Marks

KEPT = 500_000
_FORGOTTEN_AT_ONCE = 5000
_FOLDED_TOGETHER = 1_000_000


class _Lock:
    """A lock that is open in a process that was forked: the thread that held it stays behind in the parent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _after_fork_in_child() -> None:
    for one in list(_locks):
        one._lock = threading.Lock()


_locks: weakref.WeakSet[_Lock] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_after_fork_in_child)


@dataclass
class _Folded:
    """Marks that are not kept by name, and when the last of them expires, in seconds since 1970."""

    names: MarkFilter
    expires_at: float = 0.0


class HeldMarks:
    """Handles that are dead, up to a place in the store's order of changes.

    `generation` is the store's generation that they are known to be complete for; `None` while they are not. `place`
    is the store's epoch, and the cursor to go on from. `losses` counts how often the store had lost something.

    Those beyond what is kept by name are kept in filters, the oldest first: what may be one of them is for the store to
    say. They are not written back to a store that has lost them.

    Args:
        kept: How many are kept by name.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._filters: list[_Folded] = []
        self._folding = _Lock()
        self._taking = _Lock()
        self.generation: int | None = None
        self.place: tuple[str | None, int] = (None, 0)
        self._expires_at: dict[str, float] = {}
        self.losses = 0
        self._told_anew: set[str] | None = None  # what a new life of the store has told so far

    def __len__(self) -> int:
        return len(self._expires_at) + sum(len(folded.names) for folded in self._filters)

    def has(self, handles: Iterable[str]) -> bool:
        """Tell whether one of the handles is dead, as far as they are known by name."""
        return any(handle in self._expires_at for handle in handles)

    def may_have(self, handles: Iterable[str]) -> bool:
        """Tell whether one of the handles may be one of those that are not kept by name."""
        filters = self._filters
        if not filters:
            return False
        where = [probes(handle) for handle in handles]
        return any(folded.names.may_have(each) for folded in filters for each in where)

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
        is_same = epoch in (None, found.epoch) and found.cursor >= since
        with self._taking:
            held_epoch, held = self.place  # another thread may have asked meanwhile
            is_held = found.epoch == held_epoch
            if is_same:
                # What another thread has asked of the life before says nothing of what the new one has.
                self._hold(found.marks, self._told_anew if is_held else None)
                self.place = (found.epoch, max(held, found.cursor) if is_held else found.cursor)
            else:
                has_noticed = is_held and epoch != held_epoch and found.cursor >= held
                if not has_noticed:
                    self.losses += 1
                    self._told_anew = set()
                    self.place = (found.epoch, 0)
                self._hold(found.marks, self._told_anew)
                for mark in found.lost:
                    if mark.kind == "handle":
                        self._expires_at.setdefault(mark.value, mark.expires_at)
        if len(self._expires_at) > self._kept:
            self._fold()
        return is_same

    def _hold(self, marks: Iterable[Mark], told_anew: set[str] | None) -> None:
        for mark in marks:
            if mark.kind == "handle":
                self._expires_at[mark.value] = mark.expires_at
                if told_anew is not None:
                    told_anew.add(mark.value)

    def _fold(self) -> None:
        """Put the oldest beyond what is kept by name into a filter; no mark is missing meanwhile."""
        with self._folding:
            oldest: list[tuple[str, float]] = []
            with suppress(RuntimeError):  # another thread takes marks in, and folds them afterwards
                oldest = list(islice(self._expires_at.items(), max(0, len(self._expires_at) - self._kept)))
            for handle, expires_at in oldest:
                if not self._filters or self._filters[-1].names.is_full:
                    # Each is larger than the one before, so that there are few to look into.
                    capacity = min(_FOLDED_TOGETHER << len(self._filters), 16 * _FOLDED_TOGETHER)
                    self._filters = [*self._filters, _Folded(MarkFilter(capacity))]
                last = self._filters[-1]
                last.expires_at = max(last.expires_at, expires_at)
                last.names.add(handle)
                self._expires_at.pop(handle, None)

    def lost(self, now: float) -> list[tuple[str, float]]:
        """Return the handles, each with its expiry, that a new life of the store has not told again."""
        told_anew = self._told_anew
        if told_anew is None:
            return []
        held = list(self._expires_at.items())
        return [(handle, at) for handle, at in held if at > now and handle not in told_anew]

    def are_written_back(self, losses: int) -> None:
        """Note that the store has again what it had lost.

        Args:
            losses: How many losses there had been when it was looked at what was lost: another may have come since.
        """
        with self._taking:
            if losses == self.losses:
                self._told_anew = None

    def forget(self, now: float) -> None:
        """Forget marks whose time is over: the sessions that they ended have expired as well.

        A bounded number of them, the oldest first, so that an event loop is not held.
        """
        with self._folding:
            self._filters = [folded for folded in self._filters if folded.expires_at > now]
        oldest: list[tuple[str, float]] = []
        with suppress(RuntimeError):  # another thread takes marks in: the next round comes
            oldest = list(islice(self._expires_at.items(), _FORGOTTEN_AT_ONCE))
        for handle, expires_at in oldest:
            if expires_at > now:
                return
            self._expires_at.pop(handle, None)


class _Waiting(NamedTuple):
    """An ending that could not be committed: by which names it is known, and when it was asked for."""

    ending: object
    names: frozenset[str]
    asked_at: float


class Unmarked:
    """Endings that could not be committed: this worker refuses their sessions, and commits them when it can.

    While the store is away anybody may send more of them. The oldest beyond what is kept are given up: of those that
    nobody vouches for, for one more of their kind; of the others, for one more of theirs.
    """

    _KEPT = 10_000
    _KEPT_UNVOUCHED = 1_000

    def __init__(self) -> None:
        self.on_add: Callable[[], None] = lambda: None
        self._number = count()
        self._lock = _Lock()
        self._vouched: dict[int, _Waiting] = {}
        self._unvouched: dict[int, _Waiting] = {}
        self._named: dict[str, Counter[float]] = {}  # when the endings that have a name were asked for

    def __len__(self) -> int:
        return len(self._vouched) + len(self._unvouched)

    def add(
        self, ending: object, names: Iterable[str], *, vouched: bool = True, asked_at: float = math.inf
    ) -> object | None:
        """Keep an ending for another try; its handles and keys are refused meanwhile.

        Args:
            ending: The ending.
            names: Its handles and keys.
            vouched: Whether more than an unsigned request asks for it.
            asked_at: When it was asked for, in seconds since 1970.

        Returns:
            The ending that is given up for it, if one is.
        """
        kept, most = (self._vouched, self._KEPT) if vouched else (self._unvouched, self._KEPT_UNVOUCHED)
        one, given_up = _Waiting(ending, frozenset(names), asked_at), None
        with self._lock:
            kept[next(self._number)] = one
            for name in one.names:
                # Never changed, since others look at it meanwhile.
                self._named[name] = self._named.get(name, Counter()) + Counter([asked_at])
            if len(kept) > most:
                given_up = kept.pop(next(iter(kept)))
                self._drop(given_up)
        self.on_add()
        return given_up and given_up.ending

    def take(self) -> list[tuple[int, object]]:
        """Return what is to be tried again, numbered; its sessions are refused until it is `done`."""
        with self._lock:
            everything = [*self._vouched.items(), *self._unvouched.items()]
        return [(number, one.ending) for number, one in sorted(everything, key=itemgetter(0))]

    def done(self, number: int) -> None:
        """Forget an ending that has been committed."""
        with self._lock:
            kept = self._vouched if number in self._vouched else self._unvouched
            if number in kept:
                self._drop(kept.pop(number))

    def names(
        self, found: Iterable[str], keys: Iterable[str] = (), signed_in_at: float | None = None
    ) -> bool:
        """Tell whether a session is refused.

        Args:
            found: Names that it has whenever it was signed in: its handles, and its group.
            keys: Those of its user, and of its `sid`.
            signed_in_at: When its sign-in was seen, in seconds since 1970: no ending that was asked for before means it
                by its keys.
        """
        named = self._named
        if not named:
            return False
        if any(name in named for name in found):
            return True
        endings = (named.get(key, ()) for key in keys)
        return any(signed_in_at is None or signed_in_at <= at for each in endings for at in each)

    def _drop(self, one: _Waiting) -> None:
        for name in one.names:
            left = self._named[name] - Counter([one.asked_at])
            if left:
                self._named[name] = left
            else:
                del self._named[name]
