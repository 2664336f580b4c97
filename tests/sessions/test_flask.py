"""What is Flask's own: its configuration, `identity`, the samples, damaged records, a client that keeps silent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cachelib.file
import flask
import flask_session
import identity.web
import itsdangerous
import msal
import pytest
from cachelib import FileSystemCache
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.http import Cookie
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.testing.session_contract import CLAIMS, cookie_header

from .sites import Memcached, files, flask_app, flask_contents, flask_sign_in


def sign_in(app: flask.Flask, **contents: Any) -> str:
    return cookie_header(flask_sign_in(app, contents))


def test_user_of_identity_is_signed_in_until_identity_logs_out(tmp_path: Path) -> None:
    app = flask_app(SESSION_TYPE="cachelib", SESSION_CACHELIB=FileSystemCache(str(tmp_path)))
    auth = identity.web.Auth(
        session=flask.session, client_id="client", oidc_authority="https://127.0.0.1:1/x"
    )

    @app.get("/identity/log-in")
    def log_in() -> str:
        cache = msal.SerializableTokenCache()
        cache.has_state_changed = True
        auth._save_user_into_session(dict(CLAIMS))
        auth._save_cache(cache)
        return ""

    @app.get("/identity/log-out")
    def log_out() -> str:
        auth.log_out("https://app.example/")
        return ""

    client = app.test_client()
    header = cookie_header(client.get("/identity/log-in").headers.getlist("Set-Cookie"))
    session = FlaskSession(app).read(header)
    assert session is not None
    assert session.claims == CLAIMS
    assert session.contents["_token_cache"] == "{}"
    client.get("/identity/log-out")
    after = FlaskSession(app).read(header)
    assert after is None or after.claims is None


def test_user_of_the_samples_is_signed_in() -> None:
    app = flask_app()
    session = FlaskSession(app).read(sign_in(app, user=dict(CLAIMS), token_cache="{}"))
    assert session is not None
    assert session.claims == CLAIMS
    assert session.contents["token_cache"] == "{}"


def test_cookie_signed_with_a_fallback_secret_is_read_while_the_fallback_stands() -> None:
    app = flask_app(SECRET_KEY="the old secret")
    header = sign_in(app, user=dict(CLAIMS))
    session = FlaskSession(app)
    app.config.update(SECRET_KEY="the new secret", SECRET_KEY_FALLBACKS=["the old secret"])
    read = session.read(header)
    assert (read is not None) == ("SECRET_KEY_FALLBACKS" in flask.Flask.default_config)  # since Flask 3.1
    assert session.secret == ["the new secret", "the old secret"]
    app.config.update(SECRET_KEY_FALLBACKS=None)
    assert session.read(header) is None


def test_expired_cookie_is_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    app = flask_app(PERMANENT_SESSION_LIFETIME=3600)
    signed_at = itsdangerous.TimestampSigner("x").get_timestamp() - 3700
    with monkeypatch.context() as patch:
        patch.setattr(itsdangerous.TimestampSigner, "get_timestamp", lambda self: signed_at)
        header = sign_in(app, user=dict(CLAIMS))
        assert FlaskSession(app).read(header) is not None
    assert FlaskSession(app).read(header) is None


def test_expired_record_is_no_session_and_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = flask_app(SESSION_TYPE="cachelib", SESSION_CACHELIB=FileSystemCache(str(tmp_path)))
    session, before = FlaskSession(app), files(tmp_path)
    header = sign_in(app, user=dict(CLAIMS))
    read = session.read(header)
    assert read is not None
    assert read.id
    later = cachelib.file.time() + 32 * 24 * 3600
    monkeypatch.setattr(cachelib.file, "time", lambda: later)
    assert session.read(header) is None
    assert session.load(read.id) is None
    assert len(files(tmp_path)) == len(before) + 1
    session.delete(read.id)
    assert set(files(tmp_path)) == set(before)


@pytest.mark.parametrize("secret", ["text", b"bytes"])
def test_secret_is_the_apps_as_it_is_now(secret: str | bytes) -> None:
    app = flask_app(SECRET_KEY=None)
    session = FlaskSession(app)
    assert session.secret is None
    app.secret_key = secret
    assert session.secret == secret


def test_app_without_secret_has_no_sessions() -> None:
    header = sign_in(flask_app(), user=dict(CLAIMS))
    session = FlaskSession(flask_app(SECRET_KEY=None))
    assert session.read(header) is None
    assert session.load("id") is None
    session.delete("id")


def test_configuration_counts_that_comes_after_construction() -> None:
    app = flask.Flask(__name__)
    session = FlaskSession(app)
    assert session.cookies == (Cookie("session", http_only=True),)
    app.config.update(
        SESSION_COOKIE_NAME="__Host-shop",
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_SAMESITE="strict",
        SESSION_COOKIE_PATH="/shop",
        SESSION_COOKIE_DOMAIN="app.example",
        SESSION_COOKIE_HTTPONLY=False,
        SERVER_NAME="www.app.example",
    )
    assert session.cookies == (Cookie("__Host-shop", "/shop", "app.example", True, False, "Strict"),)


def test_session_interface_counts_that_comes_after_construction() -> None:
    app = flask_app()
    session = FlaskSession(app)
    client = Memcached()
    app.config.update(SESSION_TYPE="memcached", SESSION_MEMCACHED=client)
    flask_session.Session(app)
    with app.test_request_context():
        pass
    fresh = flask_app(SESSION_TYPE="memcached", SESSION_MEMCACHED=client)
    read = session.read(sign_in(fresh, user=dict(CLAIMS)))
    assert read is not None
    assert read.id


def test_cookie_of_an_interface_that_ignores_partitioning_is_deleted_in_both_jars(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(  # as since Flask 3.1
        flask.sessions.SessionInterface, "get_cookie_partitioned", lambda self, app: True, raising=False
    )
    app = flask_app(SESSION_TYPE="memcached", SESSION_MEMCACHED=Memcached())
    assert FlaskSession(app).cookies == (
        Cookie("session"),
        Cookie("session", secure=True, partitioned=True),
    )


def test_flask_without_partitioned_cookies_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(flask.sessions.SessionInterface, "get_cookie_partitioned", raising=False)
    assert FlaskSession(flask_app()).cookies == (Cookie("session"),)


def test_no_hook_of_a_request_runs() -> None:
    app = flask_app(SESSION_TYPE="memcached", SESSION_MEMCACHED=Memcached())
    ran: list[str] = []
    app.before_request(lambda: ran.append("before_request"))
    app.after_request(lambda response: ran.append("after_request") or response)
    app.teardown_request(lambda error: ran.append("teardown_request"))
    header = sign_in(app, user=dict(CLAIMS))
    assert ran == ["before_request", "after_request", "teardown_request"]
    ran.clear()
    session = FlaskSession(app)
    read = session.read(header)
    assert read is not None
    assert read.id
    session.delete(read.id)
    assert not ran


def test_engine_may_use_the_current_app() -> None:
    class Client(Memcached):  # as SQL engines do
        def _ask(self) -> dict[str, bytes]:
            assert flask.current_app.name
            return super()._ask()

    app = flask_app(SESSION_TYPE="memcached", SESSION_MEMCACHED=Client())
    session = FlaskSession(app)
    read = session.read(sign_in(app, user=dict(CLAIMS)))
    assert read is not None
    assert read.id
    assert session.load(read.id) == read
    session.delete(read.id)
    assert session.load(read.id) is None


def test_reading_inside_a_view_leaves_its_session_and_context_alone() -> None:
    app = flask_app()
    session = FlaskSession(app)

    @app.get("/who")
    def who() -> dict[str, Any]:
        flask.g.mine = "mine"
        read = session.read(flask.request.headers["Cookie"])
        assert flask.g.mine == "mine"
        return dict(read.claims or {}) if read else {}

    client = app.test_client()
    client.post("/sign-in", json={"user": dict(CLAIMS)})
    response = client.get("/who")
    assert response.json == CLAIMS
    assert "Set-Cookie" not in response.headers


def test_damaged_record_is_an_error_to_read_and_can_be_deleted() -> None:
    client = Memcached()
    app = flask_app(SESSION_TYPE="memcached", SESSION_MEMCACHED=client)
    session = FlaskSession(app)
    header = sign_in(app, user=dict(CLAIMS))
    read = session.read(header)
    assert read is not None
    assert read.id
    (key,) = client.records
    client.records[key] = b"\xff damaged"
    with pytest.raises(Exception, match="Failed to deserialize session data"):
        session.read(header)
    session.delete(read.id)
    assert not client.records
    assert session.read(header) is None


def test_signed_cookie_that_does_not_decode_is_no_session() -> None:
    app = flask_app()
    serializer = flask.sessions.SecureCookieSessionInterface().get_signing_serializer(app)
    assert serializer is not None
    signer = serializer.make_signer(serializer.salt)
    assert FlaskSession(app).read(f"session={signer.sign(b'.notzlib').decode()}") is None


def test_session_that_is_still_there_after_its_deletion_is_an_error() -> None:
    class Deaf(Memcached):
        def delete(self, key: str) -> bool:
            return False  # as clients of memcached answer when the server does not

    app = flask_app(SESSION_TYPE="memcached", SESSION_MEMCACHED=Deaf())
    session = FlaskSession(app)
    read = session.read(sign_in(app, user=dict(CLAIMS)))
    assert read is not None
    assert read.id
    with pytest.raises(StoreError, match="still has a session that was deleted"):
        session.delete(read.id)


def test_directory_that_is_not_one_is_an_error(tmp_path: Path) -> None:
    directory = tmp_path / "sessions"
    app = flask_app(SESSION_TYPE="cachelib", SESSION_CACHELIB=FileSystemCache(str(directory)))
    header = sign_in(app, user=dict(CLAIMS))
    directory.rename(tmp_path / "elsewhere")
    directory.write_bytes(b"")
    with pytest.raises(StoreError, match="the directory of the session files cannot be reached"):
        FlaskSession(app).read(header)


SITES = {
    "signed cookie": flask_app(),
    "server-side": flask_app(SESSION_TYPE="memcached", SESSION_MEMCACHED=Memcached()),
}


@pytest.mark.parametrize("app", SITES.values(), ids=SITES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_the_header_is_the_reader_sees_what_the_app_sees(
    app: flask.Flask, data: st.DataObject
) -> None:
    own = sign_in(app, user=dict(CLAIMS))
    latin = st.text(st.characters(max_codepoint=255, blacklist_characters="\r\n"), max_size=12)
    part = st.sampled_from([own, "session=", "session", "session=x", '="', ";", "; ", "=", '"', "\\073", ","])
    header = "".join(data.draw(st.lists(st.one_of(part, latin), max_size=6)))
    read = FlaskSession(app).read(header)
    seen = flask_contents(app, header)
    assert dict(read.contents if read else {}).get("user") == seen.get("user")


def test_nothing_is_imported_from_a_framework_by_its_neighbours() -> None:
    code = (
        "import sys, msal_logout_middleware, msal_logout_middleware.sessions.asgi, "
        "msal_logout_middleware.sessions.presets; "
        "assert not {'flask', 'flask_session', 'starlette', 'starsessions'} & set(sys.modules); "
        "import msal_logout_middleware.sessions.flask; "
        "assert not {'flask_session', 'starlette', 'starsessions'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
