"""A store and sessions that fail when a test says so, and count what they are asked."""

from __future__ import annotations

from collections import Counter


class Faulty:
    """Passes everything on; the methods named in `away` fail, or all do."""

    def __init__(self, inner):
        self.inner = inner
        self.away = set()
        self.asked = Counter()

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if not callable(found) or name == "generation":
            return found

        def call(*args, **kwargs):
            self.asked[name] += 1
            if name in self.away or "*" in self.away:
                raise OSError("what an engine says may hold a secret")
            return found(*args, **kwargs)

        return call
