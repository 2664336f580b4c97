"""A JSON document of the provider: fetched in a thread of its own, held, and refreshed.

1. What is held is answered at once. When it is stale it is fetched anew, and everybody goes on with it for as long as
   nothing better comes.
2. Who does not find what they need waits for the fetch that is running, but not past its first seconds: a provider
   that hangs keeps nobody waiting who comes later.
3. However many ask, one fetch runs at a time. The next is some seconds away after one that failed, and after one that
   brought nothing new to somebody who missed something: so nobody can have us ask the provider again and again.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import requests

from ._drive import World, settle
from .errors import ProviderError

logger = logging.getLogger("msal_logout_middleware")

T = TypeVar("T")
Found = TypeVar("Found")
Json = Mapping[str, Any]
Verify = bool | str

BACK_OFF_SECONDS = 10.0
THROTTLE_SECONDS = 10.0
_MAXIMUM_BYTES = 256 * 1024
_FIRST_PAUSE_SECONDS = 0.005
_LONGEST_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class _Held(Generic[T]):
    """What a fetch brought, and when it started and ended."""

    value: T
    started_at: float
    ended_at: float


class Document(Generic[T]):
    """A JSON object at a URL, read into a value.

    Args:
        url: Where it is.
        read: Makes the value, or raises `ProviderError` or `ValueError`.
        name: What it is, for the log.
        verify: As in `requests`: whether to verify certificates, or the path of a CA bundle.
        timeout_seconds: How long the server may take to connect, and between two pieces.
        fresh_seconds: When it is fetched anew.
        clock: Like `time.monotonic`.
    """

    def __init__(
        self,
        url: str,
        read: Callable[[Json], T],
        *,
        name: str,
        verify: Verify = True,
        timeout_seconds: float = 3.0,
        fresh_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self.verify = verify
        self.timeout_seconds = timeout_seconds
        self._read = read
        self._name = name
        self._fresh = fresh_seconds
        self._clock = clock
        self._held: _Held[T] | None = None
        self._not_before = self._not_in_vain_before = -float("inf")
        self._set_up()

    def _set_up(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._fetching_since: float | None = None

    @property
    def held(self) -> T | None:
        """The value as far as it is known now; nothing is fetched."""
        return self._held.value if self._held else None

    async def get(self, world: World, *, wait_seconds: float) -> T:
        """Return the value; fetched, if there is none yet.

        Args:
            world: Where to wait.
            wait_seconds: For how long at most.

        Raises:
            ProviderError: There is none, or none in time.
        """
        found = await self.find(lambda value: (value,), world, wait_seconds=wait_seconds)
        if found is None:
            raise ProviderError("could not be fetched; the next try is a few seconds away")
        return found[0]

    async def find(
        self, look: Callable[[T], Found | None], world: World, *, wait_seconds: float
    ) -> Found | None:
        """Return what is found in the value; if nothing is, in a newer one, if that can be had in time.

        Args:
            look: Returns what it finds in a value, or `None`.
            world: Where to wait.
            wait_seconds: For how long at most.
        """
        asked_at, waited, pause = self._clock(), 0.0, _FIRST_PAUSE_SECONDS
        while True:
            held = self._held
            found = self.find_held(look)
            if found is not None or (held and held.started_at >= asked_at):
                return found  # what was fetched since then is all that the provider has to say
            if not self._comes(held, wait_seconds) or waited >= wait_seconds:
                return None
            await settle(world.sleep(pause))
            waited, pause = waited + pause, min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def find_held(self, look: Callable[[T], Found | None]) -> Found | None:
        """Return what is found in the value as it is held; if that is stale, it is fetched meanwhile.

        Args:
            look: Returns what it finds in a value, or `None`.
        """
        held = self._held
        found = look(held.value) if held else None
        if held and found is not None and held.ended_at + self._fresh <= self._clock():
            self._start(held, in_vain=False)
        return found

    def _comes(self, held: _Held[T] | None, wait_seconds: float) -> bool:
        """Tell whether something newer is worth waiting for; start to fetch it, if that may be."""
        self._start(held, in_vain=held is not None)
        since = self._fetching_since
        is_young = since is not None and self._clock() - since < wait_seconds
        return is_young or self._held is not held

    def _start(self, held: _Held[T] | None, *, in_vain: bool) -> None:
        """Start to fetch something newer than what is held, unless that is done already, or it is too early.

        Args:
            held: What the caller looked at.
            in_vain: Whether something was looked for there that may be nowhere.
        """
        if self._pid != os.getpid():  # forked: the lock may be held, and the thread is not here
            self._set_up()
        with self._lock:
            now = self._clock()
            earliest = max(self._not_before, self._not_in_vain_before if in_vain else self._not_before)
            if self._fetching_since is not None or self._held is not held or now < earliest:
                return
            thread = threading.Thread(
                target=self._refresh, args=(now,), kwargs={"in_vain": in_vain}, daemon=True
            )
            self._fetching_since = now
            try:
                thread.start()
            except RuntimeError:  # the machine has no thread left
                self._fail(RuntimeError())

    def _refresh(self, started_at: float, *, in_vain: bool) -> None:
        try:
            held = _Held(self._read(self._get()), started_at, self._clock())
        except Exception as error:  # whatever it is, the next try is some seconds away
            self._fail(error)
            return
        if in_vain and self._held and self._held.value == held.value:
            self._not_in_vain_before = held.ended_at + THROTTLE_SECONDS
        self._held = held
        self._fetching_since = None

    def _fail(self, error: Exception) -> None:
        self._not_before = self._clock() + BACK_OFF_SECONDS
        self._fetching_since = None
        known = "the last known one is used" if self._held else "there is none yet"
        reason = type(error).__name__
        # The first is ours, the other that of `requests` where a CA bundle is missing.
        if isinstance(error, ProviderError) or type(error) is OSError:
            reason = f"{reason}: {error}"
        logger.warning("%s: fetch failed (%s) at %s; %s", self._name, reason, self.url, known)

    def _get(self) -> Json:
        with requests.get(
            self.url, verify=self.verify, timeout=self.timeout_seconds, allow_redirects=False, stream=True
        ) as answer:
            if answer.status_code != requests.codes.ok:
                raise ProviderError(f"status {answer.status_code}")
            body = b""
            for chunk in answer.iter_content(16 * 1024):
                body += chunk
                if len(body) > _MAXIMUM_BYTES:
                    raise ProviderError("it is larger than any provider's")
        document = json.loads(body)
        if not isinstance(document, dict):
            raise ProviderError("it is not a JSON object")
        return document
