"""The order of the documentation's pages, as a hook of MkDocs; a page that has no place here comes last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ORDER = [
    "index.md",
    "demo.md",
    "examples.md",
    "concepts.md",
    "rp_initiated.md",
    "front_channel.md",
    "back_channel.md",
    "ended_sessions.md",
    "ending_sessions_yourself.md",
    "configuration.md",
    "sessions.md",
    "frameworks/index.md",
    "frameworks/flask.md",
    "frameworks/fastapi.md",
    "frameworks/django.md",
    "frameworks/quart.md",
    "frameworks/litestar.md",
    "frameworks/pyramid.md",
    "frameworks/any.md",
    "stores.md",
    "faults.md",
    "own_store.md",
    "token_cache.md",
    "accounts.md",
    "commands.md",
    "testing.md",
    "performance.md",
    "capacity.md",
    "troubleshooting.md",
    "security.md",
    "hard_cases.md",
    "contributing.md",
]


def on_config(config: Any) -> Any:
    """List the pages that there are."""
    folder = Path(config.docs_dir)
    pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.md"))
    config.nav = sorted(pages, key=lambda page: ORDER.index(page) if page in ORDER else len(ORDER))
    return config
