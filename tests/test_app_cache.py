"""Token caches in caches that the app has anyway: what is removed, what comes late, and what is told."""

from __future__ import annotations

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import flask
import pytest
from cachelib import FileSystemCache, SimpleCache
from flask_session import Session as FlaskSessionExtension
from werkzeug.test import Client

from msal_logout_middleware import InSession, Logout, MemoryStore, Provider
from msal_logout_middleware.app_cache import InAppCache
from msal_logout_middleware.caches import Removed, TokenCaches, home_account_id
from msal_logout_middleware.errors import Conflict, LogoutError
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.wsgi import LogoutMiddleware

from .races.token_endpoint import ANA, BEN
from .test_caches import COUNTS, KEY, blob, remove
from .tokens import cache_of, claims_of

ALICE = claims_of("alice", nonce="1")


@pytest.fixture(scope="session")
def django_caches():
    """Django's caches, as the settings of the project have them."""
    from django.core.cache import caches

    from . import django_project

    assert django_project.settings.configured

    return caches


def in_django(caches: Any, **options: Any) -> tuple[Any, TokenCaches]:
    from msal_logout_middleware.django_cache import InDjangoCache

    caches["tokens"].clear()
    return caches["tokens"], InDjangoCache("tokens", **options)


@pytest.fixture(params=["memory", "files", "Django"])
def make(request, tmp_path):
    """What makes an app's cache, and the adapter for it."""

    def make(**options: Any) -> tuple[Any, TokenCaches]:
        options = {"cache_key": home_account_id, **options}
        if request.param == "Django":
            return in_django(request.getfixturevalue("django_caches"), **options)
        cache = SimpleCache() if request.param == "memory" else FileSystemCache(str(tmp_path))
        return cache, InAppCache(cache, **options)

    return make


# What is removed


@pytest.mark.parametrize("as_bytes", [False, True])
def test_user_is_removed_and_their_id_token_returned(make, as_bytes):
    cache, caches = make()
    data, (result,) = blob(ANA)
    cache.set(KEY, data if as_bytes else data.decode())
    removed = remove(caches)
    assert removed.counts == COUNTS
    assert removed.id_token == result["id_token"]
    assert cache.get(KEY) is None
    assert remove(caches) == Removed({})


@pytest.mark.parametrize("kind", [str, bytes])
def test_others_in_the_same_cache_stay_in_what_the_app_wrote(make, kind):
    cache, caches = make(cache_key=lambda claims: "all")
    data, _ = blob(ANA, BEN)
    cache.set("all", data if kind is bytes else data.decode())
    assert remove(caches).counts == COUNTS
    left = cache.get("all")
    assert type(left) is kind
    assert [a["home_account_id"] for a in json.loads(left)["Account"].values()] == [BEN.home_account_id]


@pytest.mark.parametrize(
    ("serialize", "deserialize"),
    [(json.dumps, json.loads), (pickle.loads, pickle.dumps)],
    ids=["a dict", "pickled by the app"],
)
def test_what_the_app_made_of_it_is_read_and_written_as_the_app_does(make, serialize, deserialize):
    cache, caches = make(cache_key=lambda claims: "all", serialize=serialize, deserialize=deserialize)
    cache.set("all", deserialize(blob(ANA, BEN)[0].decode()))
    assert remove(caches).counts == COUNTS
    assert len(json.loads(serialize(cache.get("all")))["Account"]) == 1


def test_cache_without_the_user_is_left_as_it_is(make):
    cache, caches = make()
    cache.set(KEY, blob(BEN)[0])
    assert remove(caches) == Removed({})
    assert cache.get(KEY) == blob(BEN)[0] or len(json.loads(cache.get(KEY))["Account"]) == 1


def test_damaged_cache_is_removed_and_told_without_its_content(make, caplog):
    cache, caches = make()
    cache.set(KEY, '{"secret": ')
    assert remove(caches) == Removed({})
    assert cache.get(KEY) is None
    assert "damaged" in caplog.text
    assert "secret" not in caplog.text


def test_what_nobody_can_tell_the_contents_of_is_no_removal(make):
    cache, caches = make()
    cache.set(KEY, {"token_cache": "secret"})
    with pytest.raises(LogoutError, match=r"of type dict.*serialize= and deserialize=") as refused:
        remove(caches)
    assert "secret" not in str(refused.value)


def test_what_is_left_is_kept_for_as_long_as_asked():
    class Timed(SimpleCache):
        timeouts: tuple[Any, ...] = ()

        def set(self, key: str, value: Any, timeout: int | None = None) -> bool | None:
            self.timeouts += (timeout,)
            return super().set(key, value, timeout)

    for seconds in (None, 60):
        cache = Timed()
        cache.set("all", blob(ANA, BEN)[0])
        remove(InAppCache(cache, cache_key=lambda claims: "all", timeout_seconds=seconds))
        assert cache.timeouts == (None, seconds)


# What comes back


class Racing(SimpleCache):
    """The app saves again after each removal, as often as it is told to."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def delete(self, key: str) -> bool:
        there = self.get(key)
        gone = super().delete(key)
        if self.times:
            self.times -= 1
            self.set(key, there)
        return gone


def test_what_is_saved_meanwhile_is_removed_as_well():
    cache = Racing(3)
    cache.set(KEY, blob(ANA)[0])
    assert remove(InAppCache(cache, cache_key=home_account_id)).counts == dict.fromkeys(COUNTS, 4)
    assert cache.get(KEY) is None


def test_what_is_always_there_again_ends_in_a_conflict():
    cache = Racing(99)
    cache.set(KEY, blob(ANA)[0])
    with pytest.raises(Conflict, match="3 times"):
        remove(InAppCache(cache, cache_key=home_account_id, attempts=3))


def test_write_that_the_cache_did_not_take_is_no_removal():
    class Full(SimpleCache):
        def delete(self, key: str) -> bool:
            return False

    cache = Full()
    cache.set(KEY, blob(ANA)[0])
    with pytest.raises(Conflict):
        remove(InAppCache(cache, cache_key=home_account_id))


# What is no such cache


class Asynchronous(SimpleCache):
    async def get(self, key: str) -> Any:  # type: ignore[override]
        raise NotImplementedError


@pytest.mark.parametrize(
    ("cache", "options", "error", "said"),
    [
        (object(), {}, TypeError, "object has no get"),
        (Asynchronous(), {}, TypeError, "must be synchronous"),
        (SimpleCache(), {"serialize": json.dumps}, ValueError, "needed both"),
        (SimpleCache(), {"deserialize": json.loads}, ValueError, "needed both"),
        (SimpleCache(), {"attempts": 0}, ValueError, "attempts"),
    ],
)
def test_what_is_no_such_cache_is_refused_with_a_sentence(cache, options, error, said):
    with pytest.raises(error, match=said):
        InAppCache(cache, cache_key=home_account_id, **options)


def test_cache_that_django_does_not_have_is_refused_with_a_sentence(django_caches):
    from msal_logout_middleware.django_cache import InDjangoCache

    with pytest.raises(ValueError, match="has no cache 'nowhere'"):
        InDjangoCache("nowhere", cache_key=home_account_id)


def test_django_gives_each_thread_an_object_of_its_own(django_caches):
    _, caches = in_django(django_caches, cache_key=home_account_id)
    django_caches["tokens"].set(KEY, blob(ANA)[0])
    removed = []
    thread = threading.Thread(target=lambda: removed.append(remove(caches)))
    thread.start()
    thread.join()
    assert removed[0].counts == COUNTS


def test_it_says_that_it_is_not_guarded(make):
    _, caches = make()
    assert (caches.guarded, caches.is_async, caches.blocking) == (False, False, True)


# Behind the middleware


class Shop:
    """A Flask app that keeps token caches in a cache of its own, and has a slow view that saves at its end."""

    def __init__(self, cache: Any, caches: TokenCaches, sessions: Path) -> None:
        self.cache = cache
        self.is_at_work, self.may_go_on = threading.Event(), threading.Event()
        app = flask.Flask("shop")
        app.config.update(
            SECRET_KEY="secret of the shop",
            SESSION_TYPE="cachelib",
            SESSION_CACHELIB=FileSystemCache(str(sessions)),
        )
        FlaskSessionExtension(app)
        self.logout = Logout(
            provider=Provider.from_metadata({}, "shop"),
            session=FlaskSession(app),
            store=MemoryStore(),
            caches=caches,
            post_logout_redirect_uri="https://shop.example.com/",
            retry_seconds=0.0,
        )

        @app.get("/sign-in")
        def sign_in() -> str:
            flask.session["user"] = ALICE
            flask.session["_token_cache"] = cache_of(ALICE)
            self.save()
            return "in"

        @app.get("/slow")
        def slow() -> str:
            self.is_at_work.set()
            assert self.may_go_on.wait(60)
            self.save()
            return "done"

        app.wsgi_app = LogoutMiddleware(app.wsgi_app, self.logout)  # type: ignore[method-assign]
        self.client = Client(app)

    def save(self) -> None:
        self.cache.set(home_account_id(ALICE), cache_of(ALICE))

    def tokens(self) -> Any:
        return self.cache.get(home_account_id(ALICE))

    def sign_out_elsewhere(self) -> None:
        assert self.logout.end_sessions(iss=ALICE["iss"], sub=ALICE["sub"]).complete


def test_what_a_running_request_saves_late_is_removed_when_it_returns(make, tmp_path):
    shop = Shop(*make(), tmp_path / "sessions")
    shop.client.get("/sign-in")
    assert shop.tokens()
    request = threading.Thread(target=shop.client.get, args=("/slow",))
    request.start()
    assert shop.is_at_work.wait(60)
    shop.sign_out_elsewhere()
    assert shop.tokens() is None
    shop.may_go_on.set()
    request.join()
    assert shop.tokens() is None


def test_session_of_flask_session_goes_with_the_tokens_in_it(tmp_path):
    shop = Shop(SimpleCache(), InSession("_token_cache"), tmp_path / "sessions")
    shop.client.get("/sign-in")
    token = f"rt-of-{ALICE['sub']}".encode()
    assert token in b"".join(file.read_bytes() for file in (tmp_path / "sessions").iterdir())
    shop.sign_out_elsewhere()
    assert token not in b"".join(file.read_bytes() for file in (tmp_path / "sessions").iterdir())
