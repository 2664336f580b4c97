"""A set of names that takes three bytes for each of them, and claims one in 20,000 that is not in it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

_BITS_FOR_EACH = 24
_PROBES: Callable[[bytes], tuple[int, ...]] = struct.Struct("8I").unpack


class MarkFilter:
    """Names that can be added, and never taken out: a Bloom filter.

    Not for several threads that add at once.

    Args:
        capacity: For how many names it is made.
    """

    def __init__(self, capacity: int) -> None:
        self._bits = bytearray(-(-capacity * _BITS_FOR_EACH // 8))
        self._capacity = capacity
        self._size = len(self._bits) * 8
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether another name would make it claim more than it should."""
        return self._count >= self._capacity

    def add(self, name: str) -> None:
        """Add a name."""
        for probe in probes(name):
            at = probe % self._size
            self._bits[at >> 3] |= 1 << (at & 7)
        self._count += 1

    def may_have(self, where: tuple[int, ...]) -> bool:
        """Tell whether a name may be in it; what was added always is.

        Args:
            where: The name's `probes`.
        """
        bits, size = self._bits, self._size
        for probe in where:
            at = probe % size
            if not bits[at >> 3] >> (at & 7) & 1:
                return False
        return True


def probes(name: str) -> tuple[int, ...]:
    """Return where a name stands in a filter of any size."""
    return _PROBES(hashlib.blake2b(name.encode(), digest_size=32).digest())
