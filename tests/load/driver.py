"""People at work in an app, some of whom their provider signs out: who is served as whom, and by which worker."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
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
        is_out: Whether it was answered.
    """

    number: int
    cookies: list[str] = field(default_factory=list)
    is_leaving: bool = False
    is_out: bool = False

    @property
    def sub(self) -> str:
        return f"sub-{self.number}"


@dataclass(frozen=True)
class Answer:
    status: int
    cookie: str | None  # the session's, as it is set; empty: deleted
    body: bytes


class Load:
    """Clients that make ordinary requests until told to stop, each request on a connection of its own.

    Args:
        port: Where the server is.
        people: Everybody.
        log_out: Has the provider sign somebody out; tells whether the app answered that it is done.
        kills: How many workers are killed meanwhile.
        directory: Where the `doom` of a worker is put, and found again when it is killed.
        seed: Of all that is random.
    """

    def __init__(
        self,
        port: int,
        people: Sequence[Person],
        log_out: Callable[[Person], bool],
        *,
        kills: int,
        directory: Path,
        seed: int,
    ) -> None:
        self.people = people
        self.killed: set[int] = set()
        self.undone = 0  # logouts that were not answered, or not as done
        self._port = port
        self._log_out = log_out
        self._kills = kills
        self._directory = directory
        self._excused = BROKEN_OFF if kills else ()
        self._random = random.Random(seed)
        self._requests = 0
        self._refusing: set[int] = set()  # workers that refused somebody who was out
        self._serving: set[int] = set()  # workers that served somebody who was not
        self._going_on = threading.Condition()
        self._over = False

    def sign_everybody_in(self) -> None:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(self._sign_in, self.people))

    def _sign_in(self, person: Person) -> None:
        answer = self._ask("POST", f"/sign-in?user={person.number}")
        assert answer.status == 200, answer
        assert answer.cookie
        person.cookies.append(answer.cookie)

    @contextmanager
    def ordinary_requests(self) -> Iterator[None]:
        """Make requests of everybody's until the end of the block, and longer if not every worker was asked."""
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(self._make_requests, self._random.random()) for _ in range(CLIENTS)]
            try:
                yield
                self._wait_until(lambda: len(self._serving) >= WORKERS and len(self._refusing) >= WORKERS)
            finally:
                self._stop()
        for client in clients:
            client.result()

    def sign_out(self, people: Sequence[Person]) -> None:
        """Sign people out at random moments, and have workers killed: some while they do it, the others anyhow."""
        moments = self._random.sample(people, self._kills)
        for person in people:
            self._wait_for_requests(self._random.randrange(1, 2 * CLIENTS))
            if person in moments[::2]:
                (self._directory / "doom").touch()
            elif person in moments:
                self._kill()
            person.is_leaving = True
            while not self._over and not self._log_out(person):
                self.undone += 1
                self._wait_for_requests(CLIENTS)
            person.is_out = True
            for death in self._directory.glob("killed-*"):
                self._note_death(int(death.name.partition("-")[2]))

    def _kill(self) -> None:
        self._wait_until(lambda: len(self._serving) >= 2)  # so that somebody is there
        pid = self._random.choice(sorted(self._serving))
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
        was_out = person.is_out
        answer = self._ask("GET", path, cookie)
        assert answer.status == 200, (person, path, answer)
        said: dict[str, Any] = json.loads(answer.body)
        if was_out:
            assert said["sub"] is None, f"{path} served somebody who was out: {person}"
            assert not answer.cookie, f"{path} gave somebody a cookie who was out: {person}"
        elif not person.is_leaving:
            assert said["sub"] == person.sub, f"{path} refused somebody who was not out: {person}, {answer}"
            assert answer.cookie != "", f"{path} took the cookie of somebody who was not out: {person}"
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

    def _ask(self, method: str, path: str, cookie: str | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LONG_SECONDS)
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
        self._wait_until(lambda: self._requests >= until)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        with self._going_on:
            assert self._going_on.wait_for(lambda: self._over or condition(), LONG_SECONDS), "it never came"

    def _stop(self) -> None:
        with self._going_on:
            self._over = True
            self._going_on.notify_all()
