"""What the doctor checks, one module for each place where people go wrong: values in, findings out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "warning", "error", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Args:
        check: The check's name, which stays the same from version to version.
        level: `error`: a sign-out will fail, or leave something; `warning`: it may; `skipped`: it could not be told.
        seen: What was seen.
        to_do: What to do about it; empty where there is nothing to do.
    """

    check: str
    level: Level
    seen: str
    to_do: str = ""
