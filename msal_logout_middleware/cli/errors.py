"""What the command line says when it cannot do as it was told."""

from __future__ import annotations


class CommandError(Exception):
    """A command was not carried out; the message is one sentence that says why.

    Args:
        message: The sentence.
        exit_code: 2: the command, as it was given, cannot be carried out; 1: something kept it from being done.
    """

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code
