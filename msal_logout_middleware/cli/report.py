"""What the doctor found, for people and for programs."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from .checks import Finding, Level


@dataclass(frozen=True, slots=True)
class Report:
    """All of it.

    Args:
        app: The import path that was given.
        found: What the `Logout` is made of, by name.
        register: The URLs to register at the provider, by name.
        checks: What the checks found.
    """

    app: str
    found: Mapping[str, str]
    register: Mapping[str, str]
    checks: Sequence[Finding]

    def count(self, level: Level) -> int:
        """Return how many findings are of a level."""
        return sum(finding.level == level for finding in self.checks)

    def as_json(self) -> str:
        """Return the report as a JSON object."""
        counts = {"errors": self.count("error"), "warnings": self.count("warning")}
        return json.dumps({**asdict(self), **counts}, indent=2)

    def as_text(self) -> str:
        """Return the report as text, as wide as the terminal."""
        return "\n".join(self._lines(min(shutil.get_terminal_size((100, 24)).columns, 120)))

    def _lines(self, width: int) -> Iterator[str]:
        yield f"msal-logout doctor: {self.app}"
        yield from ("", "Found")
        yield from _table(self.found, width)
        yield from ("", "To register at the provider, letter by letter")
        yield from _table(self.register, 0)  # a URL that is to be copied is not wrapped
        yield from ("", "Checks")
        names = max(len(finding.check) for finding in self.checks)
        for finding in self.checks:
            head = f"  {finding.level:<8} {finding.check:<{names}}  "
            yield from _wrapped(head, finding.seen, width)
            if finding.to_do:
                yield from _wrapped(f"{'':{len(head)}}-> ", finding.to_do, width)
        yield from ("", self._verdict())

    def _verdict(self) -> str:
        errors, warnings = self.count("error"), self.count("warning")
        if not errors and not warnings:
            return "All is well."
        counts = (_plural(errors, "error"), _plural(warnings, "warning"))
        return f"{', '.join(count for count in counts if count)}."


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' if count > 1 else ''}" if count else ""


def _table(rows: Mapping[str, str], width: int) -> Iterator[str]:
    names = max(map(len, rows))
    for name, value in rows.items():
        yield from _wrapped(f"  {name:<{names}}  ", value, width)


def _wrapped(head: str, text: str, width: int) -> list[str]:
    if width < len(head) + 20:  # too narrow for columns
        return [head + text]
    indent = " " * len(head)
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=head,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [head]
