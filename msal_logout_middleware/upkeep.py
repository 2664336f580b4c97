"""What every worker does from time to time: it finishes what others, or itself, have left."""

from __future__ import annotations

import logging

from ._drive import World, settle
from .configuration import Configuration
from .ending import Steps, Unfinished, end_sessions, resume
from .errors import LogoutError
from .gate import Gate

logger = logging.getLogger("msal_logout_middleware")

INTERVAL_SECONDS = 5.0
LEASE_SECONDS = 30.0
_ROWS_AT_ONCE = 20


async def tidy(config: Configuration, gate: Gate, world: World) -> None:
    """Commit the endings that could not be, go on with the journal, and forget what is over."""
    try:
        for unfinished in config.unmarked.take():
            if isinstance(unfinished, Unfinished):
                await _commit(config, unfinished, world)
        while await settle(config.store.open_rows()):
            rows = await settle(config.store.take(limit=_ROWS_AT_ONCE, lease_seconds=LEASE_SECONDS))
            for row in rows:
                try:
                    await resume(config, row, Steps(config, world))
                except LogoutError as error:
                    logger.error("journal: %s", error)  # noqa: TRY400  # our own sentence says it all
            if len(rows) < _ROWS_AT_ONCE:
                break
    except Exception as error:  # any engine's; the next round comes
        said = error if isinstance(error, LogoutError) else type(error).__name__
        logger.warning("journal: the store could not be asked: %s", said)
    gate.sweep()


async def _commit(config: Configuration, unfinished: Unfinished, world: World) -> None:
    await end_sessions(config, unfinished.work, Steps(config, world), target=unfinished.target)
    config.unmarked.done(unfinished)  # if it failed again, it has been added again
