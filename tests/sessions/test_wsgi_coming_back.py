"""Pyramid, Beaker, Bottle, Falcon and Flask-Session: what was running when a session ended, and copied cookies."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import bottle
import falcon
import pyramid_session_redis.util
import pytest
from beaker.middleware import SessionMiddleware
from cachelib import FileSystemCache, SimpleCache
from flask import Flask, request, session
from flask_sqlalchemy import SQLAlchemy
from itsdangerous import URLSafeTimedSerializer
from pyramid.config import Configurator
from pyramid.session import SignedCookieSessionFactory
from pyramid_beaker import BeakerSessionFactoryConfig
from pyramid_session_redis import RedisSessionFactory
from sqlalchemy import text
from sqlalchemy.pool import NullPool

from msal_logout_middleware.http import Cookie
from msal_logout_middleware.sessions.callables import CallableSession
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.sessions.pyramid import PyramidSession
from tests.doors import Browser, WsgiDoor
from tests.remote.conftest import signing_in
from tests.remote.test_back_channel import build
from tests.sites import Site
from tests.stores.servers import Server, serving

from . import engines
from .pyramid_sites import Away
from .sites import Memcached, flask_app
from .test_callables import Table, beaker_session, by_the_apps_function, falcon_session_id

SECRET = "a secret of at least 16 bytes"
ALICE, BOB = signing_in("alice")["sub"], signing_in("bob")["sub"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Call to deprecated setex"),  # pyramid_session_redis calls it
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning"),  # some of Flask-Session
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--databases", "3") as server:
        yield server


# Apps


def answered(site: Any, contents: Any, path: str, form: dict[str, list[str]]) -> Any:
    """What each app answers: its session is a dictionary."""
    if path == "/sign-in":
        contents["user"] = json.loads(form["claims"][0])
        return {}
    if path == "/sign-out":
        contents.pop("user", None)
        return {}
    if path.startswith("/does/"):
        return site.does[path.removeprefix("/does/")](contents) or {}
    return {"user": contents.get("user")}


def in_pyramid(factory: Callable[[Any], Any]) -> Callable[[Site], Any]:
    def app(site: Site) -> Any:
        config = Configurator(session_factory=factory)
        config.add_route("all", "/*path")

        def view(request: Any) -> Any:
            form = {name: request.POST.getall(name) for name in request.POST}
            return answered(site, request.session, request.path_info, form)

        config.add_view(view, route_name="all", renderer="json")
        app = config.make_wsgi_app()
        return app, PyramidSession(app), None

    return app


def in_flask(made: Flask) -> Callable[[Site], Any]:
    def app(site: Site) -> Any:
        @made.route("/does/<name>")
        @made.route("/me")
        @made.route("/sign-out")
        @made.post("/sign-in")
        def view(name: str = "") -> Any:
            return answered(site, session, request.path, request.form.to_dict(flat=False))

        made.view_functions["sign_in"] = view
        return made, FlaskSession(made), None

    return app


def plain_answer(start_response: Any, found: Any, *headers: tuple[str, str]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "application/json"), *headers])
    return [json.dumps(found).encode()]


def form_of(environ: dict[str, Any]) -> dict[str, list[str]]:
    length = int(environ.get("CONTENT_LENGTH") or 0)
    return parse_qs(environ["wsgi.input"].read(length).decode()) if length else {}


def in_beaker(**options: Any) -> Callable[[Site], Any]:
    def app(site: Site) -> Any:
        def inner(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            contents = environ["beaker.session"]
            found = answered(site, contents, environ["PATH_INFO"], form_of(environ))
            if environ["REQUEST_METHOD"] == "POST":
                contents.save()
            return plain_answer(start_response, found)

        app = SessionMiddleware(inner, {f"session.{name}": value for name, value in options.items()})
        return app, beaker_session(app.options), None

    return app


def in_falcon(path: Path) -> Callable[[Site], Any]:
    """With a table of the app's own, to which only a changed session is written."""
    table = Table(path)

    def app(site: Site) -> Any:
        def sink(request: falcon.Request, response: falcon.Response) -> None:
            its_id = falcon_session_id(request.env)
            contents = (table.load(its_id) if its_id else None) or {}
            before = dict(contents)
            response.media = answered(site, contents, request.path, form_of(request.env))
            if contents != before:
                response.set_cookie("sid", table.add(contents), path="/", secure=False)

        app = falcon.App()
        app.add_sink(sink, "/")
        session = CallableSession(
            cookies=[Cookie("sid")],
            session_id=lambda header: falcon_session_id(
                falcon.testing.create_environ(headers={"Cookie": header})
            ),
            load=table.load,
            delete=table.delete,
        )
        return app, session, None

    return app


def in_bottle(site: Site) -> Any:
    signer = URLSafeTimedSerializer(SECRET)
    app = bottle.Bottle()

    @app.route("/<path:path>", method=["GET", "POST"])
    def all_of_it(path: str) -> str:
        contents = by_the_apps_function(signer, bottle.request.environ.get("HTTP_COOKIE", "")) or {}
        before = dict(contents)
        form = {name: bottle.request.forms.getall(name) for name in bottle.request.forms}
        found = answered(site, contents, f"/{path}", form)
        if contents != before:
            bottle.response.set_cookie("session", signer.dumps(contents), path="/")
        return json.dumps(found)

    session = CallableSession(
        cookies=[Cookie("session", http_only=False)], read=lambda header: by_the_apps_function(signer, header)
    )
    return app, session, None


@dataclass(frozen=True)
class Kind:
    """A kind of sessions on a server.

    Args:
        app: What `Site` makes its app by.
        comes_back: Whether a request that only reads it saves it again.
    """

    app: Callable[[Site], Any]
    comes_back: bool = True


def flask_engine(name: str) -> Callable[[Server, Path], Kind]:
    return lambda server, _: Kind(in_flask(engines.MAKE[name](server, 1).app()))


def flask_with(**config: Any) -> Callable[[Server, Path], Kind]:
    return lambda *_: Kind(in_flask(flask_app(**config)))


def flask_in_files(_: Server, path: Path) -> Kind:
    return Kind(in_flask(flask_app(SESSION_TYPE="cachelib", SESSION_CACHELIB=FileSystemCache(str(path)))))


def sqlite_at(path: Path) -> dict[str, Any]:
    return {
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{path}",
        "SQLALCHEMY_ENGINE_OPTIONS": {"poolclass": NullPool},
    }


def flask_in_sqlalchemy(_: Server, path: Path) -> Kind:
    return Kind(
        in_flask(
            flask_app(
                SESSION_TYPE="sqlalchemy",
                SESSION_SQLALCHEMY=SQLAlchemy(),
                **sqlite_at(path),
            )
        )
    )


def pyramid_in_redis(server: Server, _: Path) -> Kind:
    away = Away(server, 2)
    away.client.flushdb()
    return Kind(in_pyramid(RedisSessionFactory(secret=SECRET, redis_client_callable=away)))


SERVER_SIDE: dict[str, Callable[[Server, Path], Kind]] = {
    "Pyramid, Redis": pyramid_in_redis,
    "Pyramid, Beaker's files": lambda _, path: Kind(
        in_pyramid(BeakerSessionFactoryConfig(type="file", data_dir=str(path), secret=SECRET))
    ),
    "Beaker, files": lambda _, path: Kind(in_beaker(type="file", data_dir=str(path))),
    "Beaker, signed ids, memory": lambda *_: Kind(in_beaker(type="memory", secret=SECRET)),
    "Falcon, a table": lambda _, path: Kind(in_falcon(path), comes_back=False),
    "Flask-Session, Redis": flask_engine("Redis"),
    "Flask-Session, MongoDB": flask_engine("MongoDB"),
    "Flask-Session, DynamoDB": flask_engine("DynamoDB"),
    "Flask-Session, memcached": lambda *_: Kind(
        in_flask(flask_app(SESSION_TYPE="memcached", SESSION_MEMCACHED=Memcached()))
    ),
    "Flask-Session, cachelib's memory": lambda *_: Kind(
        in_flask(flask_app(SESSION_TYPE="cachelib", SESSION_CACHELIB=SimpleCache()))
    ),
    "Flask-Session, cachelib's files": flask_in_files,
    "Flask-Session, SQLAlchemy": flask_in_sqlalchemy,
}

COOKIES: dict[str, Callable[[Site], Any]] = {
    "Pyramid, signed cookie": in_pyramid(SignedCookieSessionFactory(SECRET)),
    "Pyramid, Beaker's cookie": in_pyramid(
        BeakerSessionFactoryConfig(type="cookie", validate_key=SECRET, data_serializer="json")
    ),
    "Bottle, itsdangerous": in_bottle,
}


@pytest.fixture(params=SERVER_SIDE.values(), ids=SERVER_SIDE)
def kind(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Kind:
    found: Kind = request.param(server, tmp_path / "sessions")
    return found


@pytest.fixture(params=[*SERVER_SIDE.values(), *COOKIES.values()], ids=[*SERVER_SIDE, *COOKIES])
def any_app(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Callable[[Site], Any]:
    if request.param in COOKIES.values():
        return request.param
    return request.param(server, tmp_path / "sessions").app


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """`pyramid_session_redis` saves a session that is only read when its time has changed, in seconds."""

    def pass_on() -> None:
        monkeypatch.setattr(pyramid_session_redis.util, "time_time", lambda: time.time() + 2)

    return pass_on


def built(app: Callable[[Site], Any]) -> Any:
    return Site("WSGI", app).build()


def without_the_middleware(site: Any) -> Browser:
    return Browser(WsgiDoor(site.app))


def id_in(site: Any, browser: Browser) -> str:
    session = site.session.read("; ".join(f"{name}={value}" for name, value in browser.cookies.items()))
    return session.id


def test_session_that_is_only_deleted_comes_back_where_a_request_that_reads_it_saves_it(
    kind: Kind, time_passes: Callable[[], None]
) -> None:
    site = built(kind.app)
    browser = site.sign_in(signing_in("alice"), browser=without_the_middleware(site), cache=False)
    its_id, thief = id_in(site, browser), site.copy(browser)

    def look(contents: Any) -> Any:
        user = contents.get("user")  # some load a session when it is asked for
        time_passes()
        site.session.delete(its_id)
        return {"user": user}

    site.does["look"] = look
    assert json.loads(browser.get("/does/look").body)["user"]["sub"] == ALICE
    assert (site.session.load(its_id) is not None) is kind.comes_back
    assert (site.user(thief) == ALICE) is kind.comes_back


def test_read_only_request_in_flight_during_a_logout_does_not_bring_the_session_back(
    kind: Kind, time_passes: Callable[[], None]
) -> None:
    site = built(kind.app)
    browser = site.sign_in(signing_in("alice"))
    its_id, desk, thief = id_in(site, browser), site.copy(browser), site.copy(browser)

    def look(contents: Any) -> Any:
        user = contents.get("user")
        time_passes()
        assert desk.get("/logout").status == 303
        return {"user": user}

    site.does["look"] = look
    answer = browser.get("/does/look")
    assert json.loads(answer.body)["user"]["sub"] == ALICE  # it was authorized before
    assert its_id not in "".join(answer.all("set-cookie"))
    assert site.session.load(its_id) is None
    assert site.user(thief) is None


def flask_in_a_table_that_cannot_tell_capitals(path: Path) -> Flask:
    """As with MySQL, by its usual collations."""
    app = flask_app(SESSION_TYPE="sqlalchemy", SESSION_SQLALCHEMY=SQLAlchemy(), **sqlite_at(path))
    database = app.session_interface.client
    with app.app_context():
        database.session.execute(text("DROP TABLE sessions"))
        columns = "session_id VARCHAR(255) COLLATE NOCASE UNIQUE, data BLOB, expiry DATETIME"
        database.session.execute(text(f"CREATE TABLE sessions (id INTEGER PRIMARY KEY, {columns})"))
        database.session.commit()
    return app


ALIKE: dict[str, tuple[Callable[[Path], Callable[[Site], Any]], Callable[[str], str]]] = {
    "Flask-Session, SQLAlchemy": (
        lambda path: in_flask(flask_in_a_table_that_cannot_tell_capitals(path)),
        str.swapcase,
    ),
    "Pyramid, Beaker's files, ids that are not signed": (
        lambda path: in_pyramid(BeakerSessionFactoryConfig(type="file", data_dir=str(path))),
        lambda session_id: f"x/{session_id[:4]}.{session_id[4:]}",
    ),
}


@pytest.mark.parametrize(("app", "spelt"), ALIKE.values(), ids=ALIKE)
def test_session_does_not_come_back_by_another_spelling_of_its_id(
    app: Callable[[Path], Callable[[Site], Any]], spelt: Callable[[str], str], tmp_path: Path
) -> None:
    site = built(app(tmp_path / "sessions"))
    desk = site.sign_in(signing_in("alice"))
    copied = spelt(desk.cookies[site.cookie_name])
    thief = Browser(site.door, {site.cookie_name: copied})
    site.does["look"] = lambda contents: {"user": contents.get("user"), "status": desk.get("/logout").status}
    read = json.loads(thief.get("/does/look").body)
    if read["user"] is None:
        pytest.skip("this version of the framework tells the spellings apart")
    assert (read["user"]["sub"], read["status"]) == (ALICE, 303)
    assert site.user(Browser(site.door, {site.cookie_name: copied})) is None


def test_cookie_copied_before_the_logout_is_refused_and_a_later_session_is_not(
    any_app: Callable[[Site], Any],
) -> None:
    site = built(any_app)
    browser = site.sign_in(signing_in("alice"))
    thief = site.copy(browser)
    assert site.user(thief) == ALICE
    assert browser.get("/logout").status == 303
    assert site.cookie_name not in browser.cookies
    assert site.user(thief) is None
    assert site.user(site.sign_in(signing_in("alice"), browser=browser)) == ALICE
    assert site.user(browser) == ALICE
    assert site.user(site.copy(thief)) is None


@pytest.mark.parametrize(
    "header",
    [
        'session="{start}\\\\"; {end}=="',
        'session=\x0b"{start};; {end}=="',
        "session={start}\\;{end}==",
        'session=x,session="{start};; {end}=="',
        'session=x session="{start};; {end}=="',
        "a=Thu, 01-Jan-1970 00:00:00 GMTsession={start}{end}",
    ],
)
def test_copied_cookie_is_refused_wherever_webob_begins_and_ends_it(header: str) -> None:
    site = built(COOKIES["Pyramid, signed cookie"])
    browser = site.sign_in(signing_in("alice"))
    copied = browser.cookies["session"]
    cookie_header = header.format(start=copied[:-4], end=copied[-4:])

    def user(door: WsgiDoor) -> Any:
        return json.loads(door.call("GET", "/me", [("cookie", cookie_header)], b"").body)["user"]

    assert user(WsgiDoor(site.app))["sub"] == ALICE
    assert browser.get("/logout").status == 303
    assert user(WsgiDoor(site.app))["sub"] == ALICE
    assert user(site.door) is None


@pytest.mark.parametrize("app", COOKIES.values(), ids=COOKIES)
def test_signed_cookie_that_the_app_alone_signs_out_stays_good(app: Callable[[Site], Any]) -> None:
    site = built(app)
    browser = site.sign_in(signing_in("alice"), browser=without_the_middleware(site), cache=False)
    thief = site.copy(browser)
    assert browser.get("/sign-out").status == 200
    assert site.user(browser) is None
    assert site.user(thief) == ALICE


def test_front_channel_logout_without_a_cookie_ends_the_session_and_no_other(
    any_app: Callable[[Site], Any],
) -> None:
    site = built(any_app)
    browser = site.sign_in(signing_in("alice", sid="s-1"))
    other = site.sign_in(signing_in("bob", sid="s-2"))
    assert site.front_channel(sid="s-1").status == 200
    assert (site.user(browser), site.user(other)) == (None, BOB)


def test_logout_token_ends_the_session_and_no_other(any_app: Callable[[Site], Any], provider: Any) -> None:
    caller = build(provider, Site("WSGI", any_app))
    site = caller.site
    browser, other = site.sign_in(caller.claims("alice", "s-1")), site.sign_in(caller.claims("bob", "s-2"))
    thief = site.copy(browser)
    assert caller.calls(sid="s-1").status == 200
    assert (site.user(browser), site.user(thief), site.user(other)) == (None, None, BOB)
