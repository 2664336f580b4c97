"""What people get wrong about workers, token caches, files, layers, claims and URLs."""

import base64
import json
import os
from datetime import timedelta

import msal
import pytest
import starsessions
from cachelib import SimpleCache
from flask import Flask
from litestar import Litestar
from litestar.middleware.session.client_side import CookieBackendConfig
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from msal_logout_middleware import InSession, Logout, MemoryStore, Provider, Shared, SQLiteStore
from msal_logout_middleware._drive import run
from msal_logout_middleware.app_cache import InAppCache
from msal_logout_middleware.asgi import LogoutMiddleware as ASGIMiddleware
from msal_logout_middleware.cli.checks.claims import check_claims, parsed_claims
from msal_logout_middleware.cli.checks.middleware import check_lifetime, check_middleware
from msal_logout_middleware.cli.checks.stores import (
    Workers,
    check_store,
    check_token_caches,
    check_workers,
    unusable_file,
    workers_said,
)
from msal_logout_middleware.cli.checks.urls import check_urls, to_register
from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.layers import layers
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.sessions.litestar import LitestarSession
from msal_logout_middleware.stores import Ending, Weakness
from msal_logout_middleware.wsgi import LogoutMiddleware as WSGIMiddleware
from tests.cli import SECRET
from tests.tokens import claims_of


def flask_app():
    app = Flask("shop")
    app.secret_key = SECRET
    return app


def logout_of(session, **options):
    settings = {
        "provider": Provider.from_metadata({}, "shop"),
        "store": MemoryStore(),
        "post_logout_redirect_uri": "https://shop.example.com/",
    }
    return Logout(session=session, **settings | options)


# Workers


@pytest.mark.parametrize(
    ("environment", "file", "where", "several"),
    [
        ({"WEB_CONCURRENCY": "4"}, "", "WEB_CONCURRENCY=4", True),
        ({"WEB_CONCURRENCY": "1"}, "", "WEB_CONCURRENCY=1", False),
        ({"UVICORN_WORKERS": "2"}, "", "UVICORN_WORKERS=2", True),
        ({"GUNICORN_CMD_ARGS": "--bind :80 --workers=3"}, "", "GUNICORN_CMD_ARGS has --workers=3", True),
        ({"GUNICORN_CMD_ARGS": "--workers 3"}, "", "GUNICORN_CMD_ARGS has --workers 3", True),
        ({"GUNICORN_CMD_ARGS": "-b :80 -w 1"}, "", "GUNICORN_CMD_ARGS has -w 1", False),
        ({"GUNICORN_CMD_ARGS": "-w8"}, "", "GUNICORN_CMD_ARGS has -w8", True),
        ({}, "bind = ':80'\nworkers = 5", "gunicorn.conf.py has workers = 5", True),
        ({}, "workers = 1", "gunicorn.conf.py has workers = 1", False),
        (
            {},
            "import os\nworkers = os.cpu_count() * 2",
            "gunicorn.conf.py has workers = os.cpu_count() * 2",
            True,
        ),
    ],
)
def test_what_says_how_many_workers_there_are_is_read(tmp_path, environment, file, where, several):
    (tmp_path / "gunicorn.conf.py").write_text(file)
    assert workers_said(environment, tmp_path) == ((where, several),)


@pytest.mark.parametrize("file", [None, "bind = ':80'", "workers ="])
def test_what_does_not_say_how_many_workers_there_are_says_nothing(tmp_path, file):
    if file is not None:
        (tmp_path / "gunicorn.conf.py").write_text(file)
    environment = {"GUNICORN_CMD_ARGS": "--worker-class gthread --threads 4", "HOME": "4"}
    assert workers_said(environment, tmp_path) == ()


FOUR = (Workers("WEB_CONCURRENCY=4", several=True),)
ONE = (Workers("WEB_CONCURRENCY=1", several=False),)


@pytest.mark.parametrize(
    ("said", "level", "sees"),
    [
        (FOUR, "error", "and WEB_CONCURRENCY=4"),
        (ONE, "warning", "WEB_CONCURRENCY=1"),
        ((), "warning", "nothing here"),
    ],
)
def test_memory_of_one_worker_is_not_shared(said, level, sees):
    finding = check_workers(MemoryStore(), said)
    assert (finding.check, finding.level) == ("store-shared", level)
    assert sees in finding.seen


def test_file_of_all_workers_is_shared(tmp_path):
    assert check_workers(SQLiteStore(tmp_path / "logout.db"), FOUR).level == "ok"


@pytest.mark.parametrize(
    ("caches", "said", "server_side", "level"),
    [
        (Shared(msal.TokenCache()), FOUR, True, "error"),
        (Shared(msal.TokenCache()), (), True, "warning"),
        (Shared(msal.TokenCache()), ONE, True, "ok"),
        (InSession(), FOUR, False, "warning"),
        (InSession(), FOUR, True, "ok"),
        (InSession(), FOUR, None, "ok"),
        (InAppCache(SimpleCache(), cache_key=str), FOUR, True, "warning"),
        (None, FOUR, False, "ok"),
    ],
)
def test_token_caches_that_a_sign_out_does_not_reach_are_found(caches, said, server_side, level):
    caches = caches or logout_of(FlaskSession(flask_app())).configuration.caches
    finding = check_token_caches(caches, said, server_side=server_side)
    assert (finding.level, bool(finding.to_do)) == (level, level != "ok")


# The store


def levels(findings):
    return {finding.check: finding.level for finding in findings}


def test_store_that_works_is_fine_and_keeps_nothing_of_the_check(tmp_path):
    written = set()

    class Watched(SQLiteStore):
        def replace(self, key, expected, data):
            written.add(key)
            return super().replace(key, expected, data)

    store = Watched(tmp_path / "logout.db")
    store.open_rows()
    assert levels(run(check_store(store))) == {"store-mount": "ok", "store-access": "ok", "journal": "ok"}
    (key,) = written
    assert store.load(key).data is None
    store.close()


def test_store_without_a_file_is_on_no_mount():
    assert levels(run(check_store(MemoryStore()))) == {"store-access": "ok", "journal": "ok"}


def test_store_on_a_network_mount_is_an_error_and_not_touched(tmp_path):
    class Mounted(SQLiteStore):
        def network_mount(self):
            return "nfs4"

    (finding,) = run(check_store(Mounted(tmp_path / "logout.db")))
    assert (finding.check, finding.level) == ("store-mount", "error")
    assert "(nfs4)" in finding.seen
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreError("the store's database is read-only"), "the store's database is read-only"),
        (OSError("postgresql://user:password@host"), "the store raised OSError"),
    ],
)
def test_store_that_cannot_be_written_is_an_error_that_quotes_nobody_else(error, said):
    class Failing(MemoryStore):
        def replace(self, key, expected, data):
            raise error

    findings = {finding.check: finding for finding in run(check_store(Failing()))}
    assert (findings["store-access"].level, findings["store-access"].seen) == ("error", said)


def test_store_that_does_not_return_what_was_written_is_an_error():
    class Forgetful(MemoryStore):
        def replace(self, key, expected, data):
            return True

    assert levels(run(check_store(Forgetful())))["store-access"] == "error"


def test_sign_out_that_is_not_completed_is_a_warning():
    store = MemoryStore()
    store.end(Ending(handles=("h",), work=b"work", expires_at=2e10))
    findings = {finding.check: finding for finding in run(check_store(store))}
    assert (findings["journal"].level, findings["journal"].seen) == ("warning", "1 sign-out is not completed")


def test_file_that_the_app_never_used_is_not_made(tmp_path):
    store = SQLiteStore(tmp_path / "logout.db")
    assert levels(run(check_store(store))) == {"store-mount": "ok", "store-access": "skipped"}
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_missing_is_an_error_in_the_stores_own_words(tmp_path):
    findings = {f.check: f for f in run(check_store(SQLiteStore(tmp_path / "none" / "logout.db")))}
    assert findings["store-access"].level == "error"
    assert f"{tmp_path / 'none'}, does not exist: make it" in findings["store-access"].seen
    assert list(tmp_path.iterdir()) == []


def test_file_of_another_user_is_not_touched(tmp_path, monkeypatch):
    store = SQLiteStore(tmp_path / "logout.db")
    store.open_rows()
    store.close()
    assert unusable_file(store) is None
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "logout.db").stat().st_uid + 1)
    assert "belongs to another user" in unusable_file(store)


def test_store_without_a_file_may_be_touched():
    assert unusable_file(MemoryStore()) is None


# Layers


def flask_with(*, inside=(), outside=()):
    app = flask_app()
    logout = logout_of(FlaskSession(app))
    for wrap in inside:
        app.wsgi_app = wrap(app.wsgi_app)
    app.wsgi_app = WSGIMiddleware(app.wsgi_app, logout)
    for wrap in outside:
        app.wsgi_app = wrap(app.wsgi_app)
    return app


class BeakerLike:
    """What Beaker's is to us: a WSGI middleware of this name."""

    def __init__(self, app):
        self.wrapped, self.app = None, app

    def __call__(self, environ, start_response):
        return self.app(environ, start_response)


BeakerLike.__name__ = "SessionMiddleware"


def starlette_with(*, session_first=True, times=1):
    app = Starlette()

    def add_session():
        app.add_middleware(SessionMiddleware, secret_key=SECRET)

    if session_first:
        add_session()
    logout = logout_of(ASGISession(app), secret=SECRET)
    for _ in range(times):
        app.add_middleware(ASGIMiddleware, logout=logout)
    if not session_first:
        add_session()
    return app


def litestar_with(around):
    """Litestar as its documentation has it, or with the middleware around the app that calls it."""
    sessions = CookieBackendConfig(secret=SECRET.encode()[:16])
    app = Litestar(middleware=[sessions.middleware], logging_config=None)
    app.asgi_handler = ASGIMiddleware(around(app), logout_of(LitestarSession(app), secret=SECRET))
    return app


@pytest.mark.parametrize(
    "app",
    [
        flask_with(),
        flask_with(outside=[ProxyFix]),
        flask_with(inside=[BeakerLike]),
        starlette_with(),
        ASGIMiddleware(starlette_with(times=0), logout_of(ASGISession(starlette_with(times=0)))),
        litestar_with(lambda app: app.asgi_handler),
    ],
)
def test_middleware_outside_of_the_sessions_is_fine(app):
    assert check_middleware(list(layers(app))).level == "ok"


@pytest.mark.parametrize(
    ("app", "sees"),
    [
        (flask_with(outside=[BeakerLike, ProxyFix]), "SessionMiddleware is outside of it"),
        (starlette_with(session_first=False), "SessionMiddleware is outside of it"),
        (starlette_with(times=2), "more than once"),
        (starlette_with(times=0), "no LogoutMiddleware is around the app"),
        (flask_app(), "no LogoutMiddleware is around the app"),
    ],
)
def test_middleware_inside_or_twice_or_nowhere_is_an_error(app, sees):
    finding = check_middleware(list(layers(app)))
    assert finding.level == "error"
    assert sees in finding.seen
    assert finding.to_do


def test_middleware_around_the_app_that_calls_it_is_an_error():
    app = flask_app()
    app.wsgi_app = ProxyFix(WSGIMiddleware(app, logout_of(FlaskSession(app))))
    finding = check_middleware(list(layers(app)))
    assert (finding.level, "calls it again" in finding.seen) == ("error", True)
    assert finding.to_do == "app.wsgi_app = LogoutMiddleware(app.wsgi_app, logout)"


def test_middleware_around_the_litestar_app_that_calls_it_is_an_error():
    finding = check_middleware(list(layers(litestar_with(lambda app: app))))
    assert (finding.level, "calls it again" in finding.seen) == ("error", True)
    assert finding.to_do == "app.asgi_handler = LogoutMiddleware(app.asgi_handler, logout)"


def test_middleware_of_the_other_kind_is_an_error():
    app = Starlette()
    app.add_middleware(WSGIMiddleware, logout=logout_of(FlaskSession(flask_app())))
    finding = check_middleware(list(layers(app)))
    assert (finding.level, finding.to_do) == ("error", "for an ASGI app use msal_logout_middleware.asgi")


def test_layers_are_not_known_where_the_logout_itself_is_named():
    assert check_middleware(None).level == "skipped"
    assert check_lifetime(None, lifetime_seconds=1.0).level == "skipped"


def test_app_that_leads_back_to_itself_has_an_end():
    app = BeakerLike(None)
    app.app = app
    assert [layer.name for layer in layers(app)] == ["SessionMiddleware"]


def test_app_that_makes_an_app_whenever_it_is_asked_for_what_it_wraps_has_an_end():
    made = []

    class Endless:
        @property
        def app(self):
            assert len(made) < 1000, "it is asked for ever"
            made.append(Endless())
            return made[-1]

    assert {layer.name for layer in layers(Endless())} == {"Endless"}


DAY = 86400


@pytest.mark.parametrize(
    ("app", "lifetime_seconds", "level"),
    [
        (flask_with(), 31 * DAY, "ok"),
        (flask_with(), 30 * DAY, "error"),
        (starlette_with(), 14 * DAY, "ok"),
        (starlette_with(), 13 * DAY, "error"),
    ],
)
def test_ended_marks_must_outlive_sessions(app, lifetime_seconds, level):
    finding = check_lifetime(list(layers(app)), lifetime_seconds=lifetime_seconds)
    assert finding.level == level


@pytest.mark.parametrize(("told_seconds", "level"), [(2 * DAY, "error"), (DAY, "ok"), (None, "skipped")])
def test_ended_marks_must_outlive_sessions_whose_lifetime_their_reader_tells(told_seconds, level):
    assert check_lifetime(None, told_seconds=told_seconds, lifetime_seconds=DAY).level == level


@pytest.mark.parametrize(
    ("middleware", "level"),
    [
        (Middleware(SessionMiddleware, secret_key=SECRET, max_age=None), "error"),
        (Middleware(SessionMiddleware, secret_key=SECRET, max_age=2 * DAY), "error"),
        (Middleware(starsessions.SessionMiddleware, store=starsessions.InMemoryStore()), "skipped"),
        (Middleware(starsessions.SessionMiddleware, store=None, lifetime=timedelta(days=2)), "error"),
        (Middleware(starsessions.SessionMiddleware, store=None, lifetime=3600), "ok"),
    ],
    ids=["until the browser closes", "Starlette", "starsessions by default", "timedelta", "seconds"],
)
def test_lifetime_is_what_the_session_middleware_was_given(middleware, level):
    app = Starlette(middleware=[middleware])
    assert check_lifetime(list(layers(app)), lifetime_seconds=DAY).level == level


# Claims

CLAIMS = claims_of("alice", sid="s", login_hint="h", aud="shop")


def found(claims, *, issued=True, is_microsoft=True, server_side=False, **options):
    config = logout_of(FlaskSession(flask_app()), **options).configuration
    findings = check_claims(claims, config, issued=issued, is_microsoft=is_microsoft, server_side=server_side)
    return {finding.check: finding for finding in findings}


def without(*names):
    return {name: value for name, value in CLAIMS.items() if name not in names}


def test_claims_that_a_sign_out_needs_are_fine():
    assert {finding.level for finding in found(CLAIMS).values()} == {"ok"}
    assert found({**CLAIMS, "aud": ["other", "shop"]})["claims-audience"].level == "ok"


@pytest.mark.parametrize(
    ("check", "level", "claims", "sees"),
    [
        ("claim-sid", "warning", without("sid"), "session_state"),
        ("claim-login-hint", "warning", without("login_hint"), "which account"),
        ("claims-audience", "error", {**CLAIMS, "aud": "another"}, "another client id"),
        ("claims-audience", "error", without("aud"), "another client id"),
        ("claims-unique", "error", without("iat"), "none of iat, nonce, uti"),
        ("cache-key", "error", without("oid", "sub"), "raises ValueError"),
    ],
)
def test_claims_that_are_missing_or_of_somebody_else_are_found(check, level, claims, sees):
    finding = found(claims)[check]
    assert finding.level == level
    assert sees in finding.seen
    assert finding.to_do


@pytest.mark.parametrize(("issued", "level"), [(True, "ok"), (False, "error"), (None, "skipped")])
def test_claims_of_another_provider_are_an_error(issued, level):
    assert found(CLAIMS, issued=issued)["claims-issuer"].level == level


def test_claims_need_no_uniqueness_where_sessions_have_ids():
    assert found(without("iat"), server_side=True)["claims-unique"].level == "ok"


def test_other_providers_are_not_told_how_to_configure_entra():
    assert "Entra" not in "".join(
        f.seen + f.to_do for f in found(without("sid"), is_microsoft=False).values()
    )
    assert found(without("login_hint"), is_microsoft=False)["claim-login-hint"].level == "ok"
    assert found(without("sid"), is_microsoft=False)["claim-sid"].level == "warning"


def test_claims_that_nobody_gave_are_asked_for_and_how_to_configure_them_is_told():
    findings = found(None)
    assert {name: finding.level for name, finding in findings.items()} == {
        "claim-sid": "warning",
        "claim-login-hint": "warning",
    }
    assert "Token configuration > Add optional claim > ID > sid" in findings["claim-sid"].to_do
    assert "--claims FILE" in findings["claim-login-hint"].to_do
    assert {finding.level for finding in found(None, is_microsoft=False).values()} == {"skipped"}


def id_token(claims):
    parts = ({"alg": "RS256"}, claims)
    return ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts
    )


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(CLAIMS),
        json.dumps({"access_token": "a", "id_token_claims": CLAIMS}, indent=2),
        f"\n{id_token(CLAIMS)}.c2lnbmF0dXJl\n",
    ],
    ids=["claims", "MSAL's result", "ID token"],
)
def test_claims_may_be_given_in_three_ways(text):
    assert parsed_claims(text) == CLAIMS


@pytest.mark.parametrize("text", ["", "[]", "eyJ.b.c", "a.b.c", '"text"', "{", "é.é.é", "e30.W10.x"])
def test_what_holds_no_claims_is_refused(text):
    with pytest.raises(ValueError):
        parsed_claims(text)


# URLs


def test_urls_to_register_are_where_browsers_find_the_app():
    config = logout_of(FlaskSession(flask_app())).configuration
    assert to_register(config, "https://shop.example.com/eu/", back_channel=True) == {
        "post_logout_redirect_uri": "https://shop.example.com/",
        "front_channel_logout_url": "https://shop.example.com/eu/logout/front-channel",
        "back_channel_logout_uri": "https://shop.example.com/eu/logout/back-channel",
    }


def test_what_is_turned_off_or_unknown_to_the_provider_is_not_registered():
    config = logout_of(FlaskSession(flask_app()), front_channel_path=None).configuration
    assert list(to_register(config, "https://shop.example.com", back_channel=False)) == [
        "post_logout_redirect_uri"
    ]
    config = logout_of(FlaskSession(flask_app()), back_channel_path=None).configuration
    assert "back_channel_logout_uri" not in to_register(config, "https://shop.example.com", back_channel=True)


@pytest.mark.parametrize(
    ("url", "level"),
    [
        ("https://shop.example.com/", "ok"),
        ("http://localhost:5000/", "warning"),
        ("https://localhost:5000/", "warning"),
        ("http://shop.example.com/", "error"),
    ],
)
def test_urls_that_the_provider_cannot_use_are_found(url, level):
    finding = check_urls({"post_logout_redirect_uri": url})
    assert (finding.level, bool(finding.to_do)) == (level, level != "ok")


class ServersStore(MemoryStore):
    """A store whose server was asked for its settings."""

    def __init__(self, *found, error=None):
        super().__init__()
        self.found, self.error = found, error

    def weaknesses(self):
        if self.error:
            raise self.error
        return self.found


@pytest.mark.parametrize(
    ("store", "level", "seen"),
    [
        (ServersStore(), "ok", "no setting"),
        (ServersStore(Weakness("it evicts", "stop it")), "warning", "it evicts"),
        (ServersStore(error=StoreError("it does not say")), "skipped", "it does not say"),
        (ServersStore(error=OSError("redis://user:password@host")), "skipped", "the store raised OSError"),
    ],
)
def test_settings_by_which_a_server_forgets_sign_outs_are_told(store, level, seen):
    findings = {finding.check: finding for finding in run(check_store(store))}
    assert findings["store-server"].level == level
    assert findings["store-server"].seen.startswith(seen)
    assert "password" not in repr(findings)
