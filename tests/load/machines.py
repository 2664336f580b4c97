"""Two machines, as far as one can have them on one: two servers, each with workers of its own, over one store."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import requests

from msal_logout_middleware.testing import EmbeddedProvider
from tests.load.apps import Setting, app_of
from tests.load.driver import WORKERS, Load, Person
from tests.load.watching import Refusal, Watchers, quantiles
from tests.races.token_endpoint import User
from tests.stories.servers import bound, until

MACHINES = 2
SEED = 20240229


@dataclass
class Machines:
    """The servers, and the provider of their users."""

    setting: Setting
    ports: Sequence[int]
    provider: EmbeddedProvider
    client: Any
    watchers: Watchers

    def log_out(self, person: Person) -> bool:
        """Have the provider call one of the machines; tell whether that answered that it is done."""
        named = {"sub": person.sub}, {"sid": f"sid-{person.number}"}
        token = self.provider.logout_token(self.client, **(*named, named[0] | named[1])[person.number % 3])
        port = self.ports[person.number % len(self.ports)]
        try:
            url = f"http://127.0.0.1:{port}/logout/back-channel"
            answer = requests.post(url, {"logout_token": token}, timeout=30)
        except requests.RequestException:  # a worker that was killed
            return False
        assert answer.status_code in (200, 400), answer.text
        return answer.status_code == 200

    def desk(self) -> Any:
        """One more worker, in this process: it knows only what the store tells."""
        return app_of(replace(self.setting, kind="flask"))[1]


@contextmanager
def machines(kind: str, url: str, provider: EmbeddedProvider, **times: float) -> Iterator[Machines]:
    """Serve an app of a kind from two servers, whose workers share the store at a URL."""
    with ExitStack() as everything:
        directory = Path(everything.enter_context(tempfile.TemporaryDirectory(prefix="mlm-")))
        listening = [everything.enter_context(bound()) for _ in range(MACHINES)]
        ports = [each.getsockname()[1] for each in listening]
        client = provider.generic.register(
            redirect_uris=[], backchannel_logout_uri=f"http://localhost:{ports[0]}/logout/back-channel"
        )
        setting = Setting(
            kind=kind,
            directory=str(directory),
            began_at=time.time(),
            discovery=provider.generic.oidc_authority,
            issuer=provider.generic.oidc_authority,
            client_id=client.client_id,
            ca_file=provider.ca_file,
            url=url,
            **times,
        )
        for each in listening:
            everything.enter_context(_server(setting, each.fileno()))
        watchers = Watchers(directory)
        everything.callback(watchers.close)
        until(lambda: len(watchers.pids()) == WORKERS, timeout_seconds=60)
        yield Machines(setting, ports, provider, client, watchers)


@contextmanager
def _server(setting: Setting, fd: int) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, *_command(setting.kind, fd)], env=setting.for_a_process(), pass_fds=[fd]
    ) as server:
        try:
            yield
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
                raise


def _command(kind: str, fd: int) -> list[str]:
    app, workers = "tests.load.apps:app_of_this_process", ("--workers", str(WORKERS // MACHINES))
    if kind.startswith("starlette"):
        return ["-m", "uvicorn", "--fd", str(fd), *workers, "--log-level", "critical", "--factory", app]
    options = ("--threads", "2", "--log-level", "critical")
    return ["-m", "gunicorn", "--bind", f"fd://{fd}", *workers, *options, f"{app}()"]


def load_of(place: Machines, people: list[Person], **options: Any) -> Load:
    return Load(
        place.ports,
        people,
        place.log_out,
        directory=Path(place.setting.directory),
        seed=SEED,
        bound_seconds=place.setting.bound_seconds,
        **options,
    )


@dataclass
class Measured:
    """How long it took until the last worker refused somebody, in seconds, for each logout."""

    from_answer: list[float] = field(default_factory=list)
    from_first: list[float] = field(default_factory=list)  # refusal: of the worker that has ended the session
    from_call: list[float] = field(default_factory=list)

    def add(self, called_at: float, person: Person, refusals: Sequence[Refusal]) -> None:
        first, *_, last = sorted(refusal.refused_at for refusal in (refusals[0], *refusals))
        self.from_answer.append(max(0.0, last - person.out_at))
        self.from_first.append(last - first)
        self.from_call.append(last - called_at)

    def __str__(self) -> str:
        return "\n".join(
            f"  since {what}: {quantiles(seconds)}"
            for what, seconds in (
                ("the answer to the provider", self.from_answer),
                ("the first worker's refusal", self.from_first),
                ("the provider's call       ", self.from_call),
            )
        )


@contextmanager
def watched(place: Machines, person: Person, measured: Measured) -> Iterator[None]:
    """Have every worker look at somebody who is signed out in the block, and wait until all refuse them."""
    with place.watchers.on(person.cookies[0]) as watching:
        called_at = time.monotonic()
        yield
        refusals = watching.until_refused()
    for refusal in refusals:
        late = refusal.served_at - person.out_at
        assert late <= place.setting.bound_seconds, f"{person} was served {late} s after the answer"
    if refusals:  # not all of them were killed
        measured.add(called_at, person, refusals)


def assert_nothing_is_left_but_of_who_stayed(place: Machines, load: Load) -> None:
    """See that those who are out have no session and no token in the store, and all others have both."""
    logout = place.desk()
    store = logout.store
    try:
        until(lambda: store.open_rows() == 0, timeout_seconds=60)  # what those who were killed have left
        for person in load.people:
            claims = place.setting.claims(person.number)
            sessions = logout.count_sessions(iss=claims["iss"], sub=claims["sub"])
            data = store.load(logout.cache_key(claims)).data
            if person.is_out:
                assert (sessions, data) == (0, None), person
                continue
            assert sessions == 1, person
            tokens = json.loads(data or b"{}")
            kinds = ("Account", "AccessToken", "RefreshToken", "IdToken")
            assert not load.keeps_tokens or all(tokens.get(kind) for kind in kinds), person
            assert not data or User(person.number).oid in data.decode()
    finally:
        store.close()
