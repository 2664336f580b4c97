"""Four workers, real processes over one `SQLiteStore`, under load: whoever is signed out is out of all of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from msal_logout_middleware.testing import EmbeddedProvider
from tests.load.apps import Setting, app_of
from tests.load.driver import WORKERS, Load, Person
from tests.races.token_endpoint import User
from tests.stories.servers import bound, until

SEED = 20240229
KINDS = ("flask", "flask-session", "starlette")
SHORT = [
    ("flask", 50, 0),
    ("starlette", 50, 4),
    *(
        pytest.param(*more, marks=pytest.mark.matrix)
        for more in (("flask-session", 100, 4), ("starlette", 100, 0))
    ),
]
LONG = [pytest.param(kind, 1000, kills, marks=pytest.mark.soak) for kind in KINDS for kills in (0, 40)]


@dataclass
class Place:
    """A server with four workers, and the provider of its users."""

    setting: Setting
    port: int
    provider: EmbeddedProvider
    client: Any

    def log_out(self, person: Person) -> bool:
        """Have the provider call the app; tell whether that answered that it is done."""
        token = self.provider.logout_token(self.client, **self._named(person))
        call = self.provider.post_logout_token(self.client, token)
        return call.status == 200

    def _named(self, person: Person) -> dict[str, str]:
        sub, sid = {"sub": person.sub}, {"sid": f"sid-{person.number}"}
        return (sub, sid, sub | sid)[person.number % 3]


@contextmanager
def serving(kind: str, directory: Path, provider: EmbeddedProvider) -> Iterator[Place]:
    with bound() as listening:
        port = listening.getsockname()[1]
        uri = f"http://localhost:{port}/logout/back-channel"
        client = provider.generic.register(redirect_uris=[], backchannel_logout_uri=uri)
        setting = Setting(
            kind=kind,
            directory=str(directory),
            began_at=time.time(),
            discovery=provider.generic.oidc_authority,
            issuer=provider.generic.oidc_authority,
            client_id=client.client_id,
            ca_file=provider.ca_file,
        )
        with subprocess.Popen(
            [sys.executable, *command(kind, listening.fileno())],
            env=setting.for_a_process(),
            pass_fds=[listening.fileno()],
        ) as server:
            try:
                yield Place(setting, port, provider, client)
            finally:
                server.terminate()
                try:
                    server.wait(60)
                except subprocess.TimeoutExpired:
                    server.kill()
                    raise


def command(kind: str, fd: int) -> list[str]:
    app, workers = "tests.load.apps:app_of_this_process", ("--workers", str(WORKERS))
    if kind == "starlette":
        return ["-m", "uvicorn", "--fd", str(fd), *workers, "--log-level", "critical", "--factory", app]
    options = ("--threads", "2", "--log-level", "critical")
    return ["-m", "gunicorn", "--bind", f"fd://{fd}", *workers, *options, f"{app}()"]


def traces(directory: Path, people: list[Person]) -> list[tuple[str, bytes]]:
    """Return where something of these people can be read, and what."""
    numbers = "|".join(str(person.number) for person in people).encode()
    oids = "|".join(User(person.number).oid for person in people).encode()
    sought = re.compile(rb"(?:sub-|sid-|[AR]T-\d+-\d+:)(?:%s)(?!\d)|%s" % (numbers, oids))
    # Who is killed while cachelib writes a session's file leaves it half done, and nobody ever reads or clears it.
    files = [path for path in directory.rglob("*") if path.is_file() and path.suffix != ".__wz_cache"]
    return [(path.name, found) for path in files for found in sought.findall(path.read_bytes())]


@pytest.mark.parametrize(("kind", "count", "kills"), [*SHORT, *LONG])
def test_who_is_signed_out_is_out_of_every_worker_and_nobody_else_is(kind, count, kills, provider, tmp_path):
    everybody = [Person(number) for number in range(1, count + 1)]
    leaving, staying = everybody[::2], everybody[1::2]
    with serving(kind, tmp_path, provider) as place:
        load = Load([place.port], everybody, place.log_out, kills=kills, directory=tmp_path, seed=SEED)
        load.sign_everybody_in()
        with load.ordinary_requests():
            load.sign_out(leaving)
        assert len(load.killed) == kills
        assert load.undone < len(
            leaving
        )  # no more than a slow machine, and those who are killed, leave undone
        store = place.setting.store()
        until(lambda: store.open_rows() == 0, timeout_seconds=60)  # what those who were killed have left

    _, logout = app_of(place.setting)
    for person in everybody:
        claims = place.setting.claims(person.number)
        sessions = logout.count_sessions(iss=claims["iss"], sub=claims["sub"])
        data = store.load(logout.cache_key(claims)).data
        if person.is_out:
            assert (sessions, data) == (0, None)
        else:
            assert sessions == 1
            tokens = json.loads(data or b"{}")
            assert all(tokens[kind] for kind in ("Account", "AccessToken", "RefreshToken", "IdToken"))
    store.sweep()
    store.close()
    assert not traces(tmp_path, leaving)
    assert traces(tmp_path, staying)
