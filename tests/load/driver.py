"""People at work in an app, some of whom their provider signs out: who is served as whom, and by which worker."""

from __future__ import annotations

import http.client
import json
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLIENTS = 6
WORKERS = 4
LONG_SECONDS = 60.0
COPIES = 5  # of a cookie, the first among them
PATHS = ("/me", "/me", "/count", "/call")
BROKEN_OFF = (ConnectionError, http.client.HTTPException)


@dataclass
class Person:
    """Somebody who is signed in.

    Args:
        number: Who.
        cookies: Session cookies that their browser was given, copies of which may be anywhere.
        is_leaving: Whether their logout has begun.
        out_at: When it was answered, by the monotonic clock.
    """

    number: int
    cookies: list[str] = field(default_factory=list)
    is_leaving: bool = False
    out_at: float = math.inf

    @property
    def is_out(self) -> bool:
        return self.out_at < math.inf

    @property
    def sub(self) -> str:
        return f"sub-{self.number}"


@dataclass(frozen=True)
class Answer:
    status: int
    cookie: str | None  # the session's, as it is set; empty: deleted
    body: bytes


@dataclass(frozen=True)
class Trouble:
    """A request of somebody who is not out that was not served.

    Args:
        began_at: When it was made, by the monotonic clock.
        ended_at: When it was answered, or broken off.
        what: What came of it, for people.
    """

    began_at: float
    ended_at: float
    what: str


class Load:
    """Clients that make ordinary requests until told to stop, each request on a connection of its own.

    Args:
        ports: Where the servers are.
        people: Everybody.
        log_out: Has the provider sign somebody out; tells whether the app answered that it is done.
        kills: How many workers are killed meanwhile.
        directory: Where the `doom` of a worker is put, and found again when it is killed.
        seed: Of all that is random.
        bound_seconds: For how long after that answer somebody may still be served.
        survives: Whether it may happen that somebody who is not out cannot be served; that is written down.
        clients: How many they are.
    """

    def __init__(
        self,
        ports: Sequence[int],
        people: Sequence[Person],
        log_out: Callable[[Person], bool],
        *,
        kills: int,
        directory: Path,
        seed: int,
        bound_seconds: float = 0.0,
        survives: bool = False,
        clients: int = CLIENTS,
    ) -> None:
        self.people = people
        self.killed: set[int] = set()
        self.undone = 0  # logouts that were not answered, or not as done
        self.troubles: list[Trouble] = []
        self.keeps_tokens = True  # cleared where the store may lose them
        self._ports = ports
        self._bound = bound_seconds
        self._survives = survives
        self._clients = clients
        self._log_out = log_out
        self._kills = kills
        self._directory = directory
        self._excused = BROKEN_OFF if kills or survives else ()
        self._random = random.Random(seed)
        self._requests = 0
        self._refusing: set[int] = set()  # workers that refused somebody who was out
        self._serving: set[int] = set()  # workers that served somebody who was not
        self._going_on = threading.Condition()
        self._over = False

    def sign_everybody_in(self) -> None:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(self._sign_in, self.people))

    def ask_everybody(self) -> None:
        """Make one more request of everybody's, after the load."""
        for person in self.people:
            self._make_request(person, "/me", person.cookies[-1])

    def _sign_in(self, person: Person) -> None:
        answer = self._ask("POST", f"/sign-in?user={person.number}")
        assert answer.status == 200, answer
        assert answer.cookie
        person.cookies.append(answer.cookie)

    @contextmanager
    def ordinary_requests(self) -> Iterator[None]:
        """Make requests of everybody's until the end of the block, and longer if not every worker was asked."""
        with ThreadPoolExecutor(self._clients) as pool:
            clients = [pool.submit(self._make_requests, self._random.random()) for _ in range(self._clients)]
            try:
                yield
                self.wait_until(lambda: len(self._serving) >= WORKERS and len(self._refusing) >= WORKERS)
            finally:
                self._stop()
        for client in clients:
            client.result()

    def sign_out(
        self,
        people: Sequence[Person],
        *,
        watched: Callable[[Person], AbstractContextManager[None]] = lambda _person: nullcontext(),
    ) -> None:
        """Sign people out at random moments, and have workers killed: some while they do it, the others anyhow.

        Args:
            people: Who is to leave.
            watched: Is entered for each logout.
        """
        moments = self._random.sample(people, self._kills)
        for person in people:
            self._wait_for_requests(self._random.randrange(1, 2 * CLIENTS))
            if person in moments[::2]:
                (self._directory / "doom").touch()
            elif person in moments:
                self._kill()
            with watched(person):
                while not self._over and not self.log_out(person):
                    self._wait_for_requests(CLIENTS)
            for death in self._directory.glob("killed-*"):
                self._note_death(int(death.name.partition("-")[2]))

    def log_out(self, person: Person) -> bool:
        """Have somebody signed out, once; tell whether that was answered as done."""
        person.is_leaving = True
        if not self._log_out(person):
            self.undone += 1
            return False
        person.out_at = time.monotonic()
        return True

    def _kill(self) -> None:
        # An answer of one that is dead may come late, and so there must be two more, so that somebody is there.
        self.wait_until(lambda: len(self._serving - self.killed) >= 2)
        pid = self._random.choice(sorted(self._serving - self.killed))
        self._note_death(pid)
        with suppress(ProcessLookupError):  # its master was quicker
            os.kill(pid, signal.SIGKILL)

    def _note_death(self, pid: int) -> None:
        with self._going_on:
            self.killed.add(pid)
            self._serving.discard(pid)
            self._refusing.discard(pid)

    def _make_requests(self, seed: float) -> None:
        choose = random.Random(seed)
        try:
            while not self._over:
                person = choose.choice(self.people)
                with suppress(*self._excused):
                    self._make_request(person, choose.choice(PATHS), choose.choice(person.cookies))
        except BaseException:
            self._stop()
            raise

    def _make_request(self, person: Person, path: str, cookie: str) -> None:
        began_at = time.monotonic()
        was_out = began_at > person.out_at + self._bound
        try:
            answer = self._ask("GET", path, cookie)
        except BROKEN_OFF as error:
            self._note_trouble(person, began_at, f"{path}: {error!r}")
            raise
        if answer.status == 503 and self._survives:
            self._note_trouble(person, began_at, f"{path}: 503")
            return
        assert answer.status == 200, (person, path, answer)
        said: dict[str, Any] = json.loads(answer.body)
        if was_out:
            assert said["sub"] is None, f"{path} served somebody who was out: {person}"
            assert not answer.cookie, f"{path} gave somebody a cookie who was out: {person}"
        elif not person.is_leaving:
            assert said["sub"] == person.sub, f"{path} refused somebody who was not out: {person}, {answer}"
            assert answer.cookie != "", f"{path} took the cookie of somebody who was not out: {person}"
            if self.keeps_tokens:
                assert said.get("token", True), f"{path} found no token of somebody who was not out: {person}"
        else:
            assert said["sub"] in (None, person.sub), f"{path} served {said} for {person}"
        if answer.cookie and answer.cookie not in person.cookies:
            person.cookies = [*person.cookies[:1], *person.cookies[1 - COPIES :], answer.cookie]
        with self._going_on:
            self._requests += 1
            if said["pid"] not in self.killed:
                (self._refusing if was_out else self._serving).add(said["pid"])
            self._going_on.notify_all()

    def _note_trouble(self, person: Person, began_at: float, what: str) -> None:
        with self._going_on:
            if not person.is_leaving:
                self.troubles.append(Trouble(began_at, time.monotonic(), what))
            self._requests += 1
            self._going_on.notify_all()

    def _ask(self, method: str, path: str, cookie: str | None = None) -> Answer:
        port = random.choice(self._ports)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG_SECONDS)
        try:
            headers = {"cookie": f"session={cookie}"} if cookie else {}
            connection.request(method, path, headers={"connection": "close", **headers})
            response = connection.getresponse()
            set_cookies = response.headers.get_all("set-cookie", [])
            values = [
                value.removeprefix("session=").partition(";")[0]
                for value in set_cookies
                if value.startswith("session=")
            ]
            assert len(values) <= 1, set_cookies
            return Answer(response.status, values[0] if values else None, response.read())
        finally:
            connection.close()

    def _wait_for_requests(self, count: int) -> None:
        until = self._requests + count
        self.wait_until(lambda: self._requests >= until)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so, as each request may have made it."""
        with self._going_on:
            assert self._going_on.wait_for(lambda: self._over or condition(), LONG_SECONDS), "it never came"

    def _stop(self) -> None:
        with self._going_on:
            self._over = True
            self._going_on.notify_all()
