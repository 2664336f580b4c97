"""The errors of this package, and whose fault each one is.

A programmer's mistake is a `ValueError` or a `TypeError` at construction, with a sentence that says what to do.
Everything that can go wrong later is a `LogoutError`.
"""

from __future__ import annotations


class LogoutError(Exception):
    """Any failure of this package at run time."""


class DamagedCache(LogoutError):
    """A stored token cache cannot be read, so nobody can use it: not MSAL either."""


class ProviderError(LogoutError):
    """The provider could not be asked, or what it answered is not what it must be."""


class StoreError(LogoutError):
    """A store could not do what it was asked for. It may be able to later."""


class Conflict(StoreError):
    """A compare-and-swap lost against other writers more often than is allowed."""
