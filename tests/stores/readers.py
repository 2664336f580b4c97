"""A reader of the generation: it holds the ended marks as the gate of a worker does."""

from __future__ import annotations

from msal_logout_middleware.stores.sqlite import SQLiteStore


class Reader:
    """Holds all marks, and asks the store for new ones only where the generation has changed or cannot be told."""

    def __init__(self, store: SQLiteStore) -> None:
        self.store = store
        self.asked = 0
        self._generation: int | None = None
        self._epoch = ""
        self._cursor = 0
        self._marks: set[str] = set()

    def look(self) -> set[str]:
        """Return what is ended, as the gate would have it for a request that comes in now."""
        generation = self.store.generation()
        if generation is None or generation != self._generation:
            self._generation = generation  # read before the marks: what ends in between shows the next time
            self._ask()
        return self._marks

    def _ask(self) -> None:
        self.asked += 1
        feed = self.store.marks_since(self._cursor, limit=100_000)
        if feed.epoch != self._epoch or feed.cursor < self._cursor:
            self._marks.clear()
            feed = self.store.marks_since(0, limit=100_000)
        self._epoch, self._cursor = feed.epoch, feed.cursor
        self._marks.update(mark.value for mark in feed.marks)
