"""What all stores may be given: a mistake is told when the store is made, and not at the first sign-out."""

from __future__ import annotations

from .encryption import Encryption


def check_options(encryption: object, **seconds: object) -> None:
    """Check the options that the stores have in common.

    Args:
        encryption: What was given for it.
        seconds: Durations, by name.

    Raises:
        TypeError: One is of another type.
        ValueError: A duration is not more than 0: a removed row that is not kept lets late saves bring tokens back.
    """
    # It may be the key itself, so it is not shown.
    if encryption is not None and not isinstance(encryption, Encryption):
        raise TypeError(f"encryption must be Encryption([KEY]), not of type {type(encryption).__name__}")
    for name, number in seconds.items():
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            raise TypeError(f"{name} must be a number, not {number!r} (of a timedelta give .total_seconds())")
        if not number > 0:
            raise ValueError(f"{name}={number!r} must be more than 0")


def check_prefix(prefix: object) -> None:
    """Check that a prefix is text.

    Raises:
        TypeError: It is not.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string, not {prefix!r}")
