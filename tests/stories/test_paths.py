"""The logout path matches exactly when the app's own route of that path would have been reached."""

from __future__ import annotations

from itertools import product
from urllib.parse import unquote_to_bytes

import anyio
import pytest
from asgiref.wsgi import WsgiToAsgi
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path as django_path
from fastapi import FastAPI
from flask import Flask
from litestar import Litestar
from litestar import get as litestar_get
from quart import Quart
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import EnvironBuilder

from msal_logout_middleware import Logout, Provider, asgi, wsgi
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.sessions.django import DjangoSession
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.stores.memory import MemoryStore
from tests.django_project import in_force
from tests.stories.rules import AsgiRules, wsgi_rules

SECRET = "a secret of the tests"
PATHS = [
    "/logout",
    "/logout/",
    "/logout//",
    "//logout",
    "///logout",
    "/x//logout",
    "/%6Cogout",
    "/%6cog%6Fut",
    "/%256Cogout",
    "/logout%2F",
    "/%2Flogout",
    "/x%2F..%2Flogout",
    "/./logout",
    "/x/../logout",
    "/logout/.",
    "/LOGOUT",
    "/Logout",
    "/logout%20",
    "/%20logout",
    "/logout%00",
    "/logout%0D%0A",
    "/logout;a=b",
    "/logout%3Fa",
    "/logout%23",
    "/logoutx",
    "/logout/x",
    "/xlogout",
    "/logou",
    "/logout%FF",
    "/log%C3%B6ut",
    "/%EF%BD%8Cogout",
    "/app/logout",
    "/app//logout",
    "/app/app/logout",
    "/app/logout/",
    "/app%2Flogout",
    "/%61pp/logout",
    "/%61pp/%6Cogout",
    "/application/logout",
    "/app",
    "/app/",
    "/",
    "",
]


def logout_of(session, **options):
    return Logout(
        provider=Provider.entra("contoso.example", "client"),
        session=session,
        store=MemoryStore(),
        post_logout_redirect_uri="http://localhost/",
        **options,
    )


def flask_app(route="/logout"):
    app = Flask("paths")
    app.secret_key = SECRET

    @app.route(route)
    def logout():
        return "the app's"

    return app


def plain_flask(wrap):
    app = flask_app()
    return wrap(app, app.wsgi_app)


def mounted_flask(wrap):
    """The middleware is inside of the mount, so it sees what the app sees."""
    return DispatcherMiddleware(Flask("other"), {"/app": plain_flask(wrap)})


def flask_mounted_twice(wrap):
    return DispatcherMiddleware(Flask("other"), {"/app": mounted_flask(wrap)})


def flask_behind_a_proxy(wrap):
    """`X-Forwarded-Prefix` becomes `SCRIPT_NAME`; the proxy has taken it out of the path."""
    return ProxyFix(plain_flask(wrap), x_prefix=1)


def flask_with_a_trailing_slash(wrap):
    app = flask_app("/logout/")
    return wrap(app, app.wsgi_app, logout_path="/logout/")


def flask_that_merges_no_slashes(wrap):
    app = flask_app()
    app.url_map.merge_slashes = False
    return wrap(app, app.wsgi_app)


def flask_with_umlauts(wrap):
    app = flask_app("/logöut")
    return wrap(app, app.wsgi_app, logout_path="/logöut")


WSGI_SITES = [
    plain_flask,
    mounted_flask,
    flask_mounted_twice,
    flask_behind_a_proxy,
    flask_with_a_trailing_slash,
    flask_that_merges_no_slashes,
    flask_with_umlauts,
]


def wsgi_answers(site, raw_path, script_name):
    """What the site answers without and with the middleware, each in one word."""

    def wrap(flask, app, **options):
        return wsgi_rules(wsgi.LogoutMiddleware(wsgi_rules(app), logout_of(FlaskSession(flask), **options)))

    apps = site(lambda _flask, app, **_: app), site(wrap)
    return [wsgi_answer(app, raw_path, script_name) for app in apps]


def wsgi_answer(app, raw_path, script_name):
    headers = [("Sec-Fetch-Site", "same-origin"), ("X-Forwarded-Prefix", "/prefix")]
    environ = EnvironBuilder(headers=headers).get_environ() | {
        "SCRIPT_NAME": script_name,
        "PATH_INFO": unquote_to_bytes(raw_path).decode("latin-1"),
    }
    started = []

    def start_response(*arguments):
        started.append(arguments)
        return lambda data: None

    body = app(environ, start_response)
    data = b"".join(body)
    if hasattr(body, "close"):
        body.close()
    status, headers = started[-1][:2]
    location = next((value for name, value in headers if name.lower() == "location"), "")
    return _word(int(status[:3]), location, data)


def _word(status, location, data):
    """`ours`, `the app's` where its logout view was called, or the status of anything else."""
    if status == 303 and location.startswith("https://login.microsoftonline.com/"):
        return "ours"
    return "the app's" if data == b"the app's" else status


def assert_ours_where_the_app_s(answers):
    """Ours exactly where the app's view was; everything else as it was."""
    assert [(path, "ours" if bare == "the app's" else bare) for path, bare, _ in answers] == [
        (path, with_it) for path, _, with_it in answers
    ]


@pytest.mark.parametrize("script_name", ["", "/app", "/m%C3%B6unt", "/logout"])
@pytest.mark.parametrize("site", WSGI_SITES)
def test_wsgi_path_is_ours_exactly_where_the_app_s_view_is(site, script_name):
    script_name = unquote_to_bytes(script_name).decode("latin-1")
    paths = [*PATHS, "/app/app/logout", "/log%C3%B6ut"]

    answers = [(path, *wsgi_answers(site, path, script_name)) for path in paths]

    assert_ours_where_the_app_s(answers)


async def _view(request):
    return PlainTextResponse("the app's")


def starlette_app(wrap, route="/logout", **options):
    app = Starlette(routes=[Route(route, _view)])
    return wrap(app, **options)


def mounted_starlette(wrap):
    return Starlette(routes=[Mount("/app", starlette_app(wrap))])


def starlette_mounted_twice(wrap):
    return Starlette(routes=[Mount("/app", mounted_starlette(wrap))])


def starlette_with_a_trailing_slash(wrap):
    return starlette_app(wrap, "/logout/", logout_path="/logout/")


def fastapi_by_add_middleware(wrap):
    return _fastapi(wrap, "")


def fastapi_with_a_root_path(wrap):
    """The app itself says where it is mounted, to the middleware that it is given as well."""
    return _fastapi(wrap, "/app")


def _fastapi(wrap, root_path):
    app = FastAPI()
    app.root_path = root_path
    app.add_api_route("/logout", _plain_view)
    app.add_middleware(_Wrapped, wrap=wrap)
    return app


async def _plain_view():
    return PlainTextResponse("the app's")


class _Wrapped:
    def __init__(self, app, wrap):
        self.app = wrap(app)

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


def litestar(wrap, **options):
    """Litestar routes a path without slashes behind it, and with one for several."""
    return wrap(Litestar([litestar_get("/logout", media_type="text/plain")(_plain_text)]), **options)


def litestar_with_a_trailing_slash(wrap):
    return litestar(wrap, logout_path="/logout/")


async def _plain_text() -> str:
    return "the app's"


def quart(wrap):
    app = Quart("paths")
    app.add_url_rule("/logout", view_func=_plain_text)
    return wrap(app)


def flask_behind_an_adapter(wrap):
    return wrap(WsgiToAsgi(flask_app().wsgi_app))


def django(wrap):
    return wrap(get_asgi_application())


ASGI_SITES = [
    starlette_app,
    mounted_starlette,
    starlette_mounted_twice,
    starlette_with_a_trailing_slash,
    fastapi_by_add_middleware,
    fastapi_with_a_root_path,
    litestar,
    litestar_with_a_trailing_slash,
    quart,
    flask_behind_an_adapter,
    django,
]
SESSION = ASGISession(Middleware(SessionMiddleware, secret_key=SECRET))
ROOT_PATHS = ["", "/app", "/app/", "/logout", "/möunt"]


class Urls:
    """A Django project's."""

    urlpatterns = (django_path("logout", lambda _: HttpResponse("the app's")),)


DJANGO = {"ROOT_URLCONF": Urls, "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies"}


async def asgi_answer(app, raw_path, root_path, leaves_the_mount):
    path = unquote_to_bytes(raw_path).decode("utf-8", "replace")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": root_path + path if leaves_the_mount else path,
        "raw_path": raw_path.encode(),
        "query_string": b"",
        "root_path": root_path,
        "headers": [(b"sec-fetch-site", b"same-origin")],
        "client": None,
        "server": ("localhost", 80),
    }
    sent = []
    received = []
    answered = anyio.Event()

    async def receive():
        if received:
            await answered.wait()
            return {"type": "http.disconnect"}
        received.append(1)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            answered.set()

    await app(scope, receive, send)
    headers = {name.lower(): value for name, value in sent[0]["headers"]}
    location = headers.get(b"location", b"").decode("latin-1")
    return _word(sent[0]["status"], location, b"".join(message.get("body", b"") for message in sent))


@pytest.mark.parametrize(
    ("site", "root_path", "leaves_the_mount"),
    [
        pytest.param(*each, id=f"{each[0].__name__}, {each[1]}, path {'with' if each[2] else 'without'} it")
        for each in product(ASGI_SITES, ROOT_PATHS, [True, False])
        if each[0] is not quart or each[2]  # Quart is not found behind a server that takes the mount out
    ],
)
@pytest.mark.filterwarnings("ignore:async_to_sync was passed a non-async-marked callable")
def test_asgi_path_is_ours_exactly_where_the_app_s_route_is(site, root_path, leaves_the_mount):
    rules = AsgiRules if site is not django else lambda app: app  # its headers have capitals

    def wrap(app, **options):
        return rules(asgi.LogoutMiddleware(rules(app), logout_of(SESSION, **options)))

    async def all_answers():
        apps = site(lambda app, **_: app), site(wrap)
        return [
            (path, *[await asgi_answer(app, path, root_path, leaves_the_mount) for app in apps])
            for path in PATHS
            if path or site is not quart  # which fails without any
        ]

    with in_force(**DJANGO):
        assert_ours_where_the_app_s(anyio.run(all_answers))


@pytest.mark.parametrize("root_path", ["", "/app", "/other"])
def test_path_is_ours_below_the_mount_that_django_s_settings_name(root_path):
    async def all_answers():
        bare = get_asgi_application()
        wrapped = asgi.LogoutMiddleware(bare, logout_of(DjangoSession()))
        return [
            (path, *[await asgi_answer(app, path, root_path, False) for app in (bare, wrapped)])
            for path in PATHS
        ]

    with in_force(**DJANGO, FORCE_SCRIPT_NAME="/app"):
        answers = anyio.run(all_answers)
    assert ("/app/logout", "the app's", "ours") in answers
    assert_ours_where_the_app_s(answers)


def test_middleware_outside_of_a_mount_is_told_the_whole_path():
    flask = flask_app()
    dispatcher = DispatcherMiddleware(Flask("other"), {"/app": flask.wsgi_app})
    starlette = Starlette(routes=[Mount("/app", Starlette(routes=[Route("/logout", _view)]))])
    options = {"logout_path": "/app/logout"}

    answers = [
        wsgi_answers(lambda wrap: wrap(flask, dispatcher, **options), path, "")
        for path in ("/app/logout", "/logout")
    ]
    wrapped = asgi.LogoutMiddleware(starlette, logout_of(SESSION, **options))
    asgi_answers = [
        anyio.run(asgi_answer, wrapped, path, root_path, True)
        for path in ("/app/logout", "/logout")
        for root_path in ("", "/root")
    ]

    assert answers == [["the app's", "ours"], [404, 404]]
    assert asgi_answers == ["ours", "ours", 404, 404]


def test_page_that_asks_posts_to_where_the_app_is_mounted():
    flask = flask_app()
    wrapped = wsgi.LogoutMiddleware(flask.wsgi_app, logout_of(FlaskSession(flask)))
    environ = EnvironBuilder("/app/logout", headers=[("Sec-Fetch-Site", "cross-site")]).get_environ()
    page = b"".join(DispatcherMiddleware(Flask("other"), {"/app": wrapped})(environ, lambda *_: None))

    assert b'action="/app/logout"' in page
