"""What every worker does from time to time: it finishes what others, or itself, have left, and has the keys ready."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any

from . import remote
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
    """Commit the endings that could not be, write back marks, go on with the journal, and forget what is over.

    Nothing is raised: what fails is told, and the next round comes.
    """
    for number, unfinished in config.unmarked.take():
        if isinstance(unfinished, Unfinished):
            await _guarded("an ending could not be committed yet", _commit(config, number, unfinished, world))
    await _guarded("the store could not be asked", gate.write_back(world))
    await _guarded("the store could not be asked", _go_on(config, world))
    if config.back_channel_path is not None:
        await _guarded("the provider could not be asked", config.provider.prepare(world))
    gate.sweep()


async def _commit(config: Configuration, number: int, unfinished: Unfinished, world: World) -> None:
    """Commit an ending at last; whoever has signed in since is spared."""
    target = unfinished.target
    spared = await remote.spared(config, target.found_by, signed_in_after=target.asked_at)
    target = target.sparing(spared)
    await end_sessions(config, unfinished.work, Steps(config, world), target=target)
    config.unmarked.done(number)  # if it failed again, it has been added again


async def _go_on(config: Configuration, world: World) -> None:
    """Take up the journal's open rows, each once: one that fails comes again when its lease is over."""
    while await settle(config.store.open_rows()):
        rows = await settle(config.store.take(limit=_ROWS_AT_ONCE, lease_seconds=LEASE_SECONDS))
        for row in rows:
            await _guarded(
                "a row of the journal was not finished",
                resume(config, row, Steps(config, world, retry_seconds=0)),
            )
        if len(rows) < _ROWS_AT_ONCE:
            return


async def _guarded(otherwise: str, flow: Coroutine[Any, Any, object]) -> None:
    try:
        await flow
    except Exception as error:  # any engine's, or of a row that another version wrote
        said = error if isinstance(error, LogoutError) else type(error).__name__
        logger.error("upkeep: %s: %s", otherwise, said)  # noqa: TRY400  # an engine's text may quote what it was given
