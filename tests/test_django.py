"""The middleware of Django's settings: where it may stand, and that a project answers through it as without it."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlencode

import anyio
import pytest
from asgiref.sync import markcoroutinefunction
from django.core.asgi import get_asgi_application
from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, JsonResponse
from django.test import AsyncClient, Client

from msal_logout_middleware import Cookie, Logout, MemoryStore, Provider, SQLiteStore, asgi, wsgi
from msal_logout_middleware.errors import StoreError
from tests import django_project
from tests.django_project import in_force, settings
from tests.doors import AsgiDoor, Browser, WsgiDoor
from tests.sessions import django_sites
from tests.tokens import CLIENT_ID, TENANT, claims_of

OURS = "msal_logout_middleware.django.LogoutMiddleware"
ALICE = claims_of("alice", sid="s-1", iat=1, nonce="1")


@pytest.fixture
def logout():
    return make_logout()


def make_logout(**options):
    return Logout(
        **{
            "provider": Provider.entra(TENANT, CLIENT_ID),
            "store": MemoryStore(),
            "post_logout_redirect_uri": "http://localhost/",
            **options,
        }
    )


@pytest.fixture(params=["WSGI", "ASGI"])
def serve(request, tmp_path, monkeypatch):
    """What serves the project with the middleware in its settings, and returns a browser in front of it."""
    with django_project.databases(), ExitStack() as exits:

        def serve(logout, before=(), after=(), **more):
            engine = django_sites.in_files(tmp_path / "sessions")[0]
            middleware = [*before, OURS, *after, *settings.MIDDLEWARE]
            exits.enter_context(
                in_force(**{**engine, "MIDDLEWARE": middleware, "MSAL_LOGOUT": logout, **more})
            )
            monkeypatch.setattr(django_project, "SITE", Views())
            if request.param == "ASGI":
                return Browser(AsgiDoor(get_asgi_application(), any_case=True))
            return Browser(WsgiDoor(get_wsgi_application()))

        yield serve


class Views:
    """What the project's views at `/does/NAME` and `/stream/NAME` do."""

    def __init__(self):
        self.does = {}
        self.calls = []


def sign_in(browser):
    assert browser.post("/sign-in", {"claims": json.dumps(ALICE)}).status == 200
    return browser


def form_of(answer):
    return dict(re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', answer.text))


def user(browser):
    return (json.loads(browser.get("/me").body)["user"] or {}).get("sub")


class TestSettings:
    def test_logout_is_found_by_its_import_path(self, serve, logout, monkeypatch):
        monkeypatch.setattr(django_project, "its_logout", logout, raising=False)
        browser = sign_in(serve("tests.django_project:its_logout"))
        assert browser.get("/logout").location.startswith("https://login.microsoftonline.com/")
        assert repr(logout) == (
            "Logout(session=DjangoSession(django.contrib.sessions.backends.file), store=MemoryStore)"
        )

    @pytest.mark.parametrize(
        ("place", "sentence"),
        [
            (None, "must say where the project's Logout is"),
            ("os:sep", "leads to a str, and not to a Logout"),
            ("os:nothing", "MSAL_LOGOUT='os:nothing' cannot be imported, and must be like"),
            ("nowhere:logout", "MSAL_LOGOUT='nowhere:logout' .*: No module named 'nowhere'"),
        ],
    )
    def test_setting_that_leads_to_no_logout_is_told(self, serve, place, sentence):
        with pytest.raises(ImproperlyConfigured, match=sentence):
            serve(place)

    def test_session_middleware_before_it_is_told(self, serve, logout):
        with pytest.raises(ImproperlyConfigured, match="SessionMiddleware before LogoutMiddleware"):
            serve(logout, before=["django.contrib.sessions.middleware.SessionMiddleware"])

    def test_middleware_that_is_listed_twice_is_told(self, serve, logout):
        with pytest.raises(ImproperlyConfigured, match="twice"):
            serve(logout, after=[OURS])

    @pytest.mark.parametrize("before", [[], ["django.middleware.security.SecurityMiddleware"]])
    def test_app_that_is_wrapped_as_well_is_told(self, serve, logout, before):
        browser = serve(logout, before=before)
        door = asgi if isinstance(browser.site, AsgiDoor) else wsgi
        app = get_asgi_application() if door is asgi else get_wsgi_application()
        with pytest.raises(TypeError, match="around this app already"):
            door.LogoutMiddleware(app, make_logout())


def only_sync(get_response):
    return lambda request: get_response(request)


class OnlyAsync:
    sync_capable = False
    async_capable = True

    def __init__(self, get_response):
        self.get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request):
        await asyncio.sleep(0)
        return await self.get_response(request)


def reads_the_body(get_response):
    def middleware(request):
        assert isinstance(request.body, bytes)
        assert request.COOKIES is not None
        assert request.headers is not None
        return get_response(request)

    return middleware


def reads_it_as_a_stream(get_response):
    return lambda request: JsonResponse({"method": request.method, "form": request.read().decode()})


CLOSED: list[str] = []


def has_something_to_close(get_response):
    def middleware(request):
        response = get_response(request)
        response._resource_closers.append(lambda: CLOSED.append(request.path))
        return response

    return middleware


def behind_a_proxy(get_response):
    """Believes one header of a proxy's, and lets another through from nobody."""

    def middleware(request):
        request.META["REMOTE_ADDR"] = request.META["HTTP_X_FORWARDED_FOR"]
        del request.META["HTTP_X_USER"]
        return get_response(request)

    return middleware


def tells_meta(get_response):
    def middleware(request):
        response = get_response(request)
        names = ("REMOTE_ADDR", "HTTP_X_USER", "HTTP_COOKIE")
        response["X-Cookie"] = request.headers.get("Cookie", "none")
        response["X-Meta"] = json.dumps({name: request.META.get(name) for name in names})
        return response

    return middleware


def tells_what_it_was_given(get_response):
    return lambda request: JsonResponse({"names": [*request.META, *getattr(request, "scope", ())]})


class TestRequests:
    @pytest.mark.parametrize("other", ["only_sync", "OnlyAsync"])
    @pytest.mark.parametrize("place", ["before", "after"])
    def test_other_middlewares_may_be_of_either_kind(self, serve, logout, place, other):
        browser = sign_in(serve(logout, **{place: [f"{__name__}.{other}"]}))
        thief = Browser(browser.site, dict(browser.cookies))
        assert user(browser) == ALICE["sub"]
        assert browser.get("/logout").status == 303
        assert "sessionid" not in browser.cookies
        assert user(thief) is None

    @pytest.mark.parametrize("before", [[], [f"{__name__}.reads_the_body"]])
    def test_form_that_the_gate_reads_reaches_the_view(self, serve, logout, before):
        browser = serve(logout, before=before)
        answer = browser.post("/", {"code": "c", "state": "s", "session_state": "s-1"})
        assert json.loads(answer.body)["form"] == "code=c&state=s&session_state=s-1"

    @pytest.mark.parametrize("before", [[], [f"{__name__}.reads_the_body"]])
    def test_form_that_the_gate_reads_is_read_once_more_from_its_beginning(self, serve, logout, before):
        browser = serve(logout, before=before, after=[f"{__name__}.reads_it_as_a_stream"])
        answer = browser.post("/", {"code": "c", "state": "s", "session_state": "s-1"})
        assert json.loads(answer.body)["form"] == "code=c&state=s&session_state=s-1"

    def test_view_of_the_app_s_own_sees_nothing_of_the_form_of_our_page(self, serve):
        browser = serve(make_logout(app_view=True), after=[f"{__name__}.reads_it_as_a_stream"])
        asked = browser.get("/logout", site="cross-site")
        answer = browser.post("/logout", form_of(asked))
        assert json.loads(answer.body) == {"method": "GET", "form": ""}

    def test_body_that_nobody_of_us_reads_reaches_the_view(self, serve, logout):
        body = b"x" * 200_000
        answer = serve(logout).request("POST", "/", body=body, headers={"content-type": "text/plain"})
        assert len(json.loads(answer.body)["form"]) == len(body)

    @pytest.mark.parametrize("before", [[], [f"{__name__}.reads_the_body"]])
    def test_cookie_of_an_ended_session_is_cut_whoever_has_looked_at_it(self, serve, logout, before):
        engine = f"{django_sites.BACKENDS}.signed_cookies"  # where nothing else makes a copy useless
        browser = sign_in(
            serve(logout, before=before, after=[f"{__name__}.tells_meta"], SESSION_ENGINE=engine)
        )
        thief = Browser(browser.site, dict(browser.cookies))
        assert browser.get("/logout").status == 303
        assert thief.get("/me", headers={"accept": "*/*"}).one("x-cookie") == "none"
        assert user(thief) is None

    def test_what_a_middleware_before_it_takes_out_of_a_request_stays_out(self, serve, logout):
        browser = serve(logout, before=[f"{__name__}.behind_a_proxy"], after=[f"{__name__}.tells_meta"])
        headers = {"x-forwarded-for": "192.0.2.1", "x-user": "admin"}
        form = {"content-type": "application/x-www-form-urlencoded", **headers}
        body = urlencode({"claims": json.dumps(ALICE)}).encode()
        assert browser.request("POST", "/sign-in", body=body, headers=form).status == 200
        thief = Browser(browser.site, dict(browser.cookies))
        cookie = f"sessionid={browser.cookies['sessionid']}"
        meta = {"REMOTE_ADDR": "192.0.2.1", "HTTP_X_USER": None}
        assert json.loads(browser.get("/me", headers=headers).one("x-meta")) == {
            **meta,
            "HTTP_COOKIE": cookie,
        }
        assert browser.get("/logout", headers=headers).status == 303
        answer = thief.get("/me", headers=headers)
        assert json.loads(answer.body) == {"user": None}
        assert json.loads(answer.one("x-meta")) == {**meta, "HTTP_COOKIE": None}

    def test_view_of_the_app_s_own_is_called_by_a_form_without_its_body(self, serve):
        logout = make_logout(app_view=True)
        browser = sign_in(serve(logout))
        answer = browser.post("/logout", {"csrf": "x"})
        assert (answer.status, answer.text) == (200, "the app's own")
        assert "sessionid" not in browser.cookies

    def test_path_of_any_alphabet_is_routed_as_without_the_middleware(self, serve, logout):
        browser = serve(logout)
        assert browser.get("/%E6%97%A5%E6%9C%AC").status == 404
        assert browser.get("/does/%E6%97%A5").status == 500  # it is routed to a view that knows no such name

    def test_logout_path_is_below_the_mount_that_the_settings_name(self, serve, logout):
        browser = sign_in(serve(logout, FORCE_SCRIPT_NAME="/app"))
        # Behind WSGI the setting says nothing of the path that the server gives.
        path = "/app/logout" if isinstance(browser.site, AsgiDoor) else "/logout"
        assert b'action="/app/logout"' in browser.get(path, site="cross-site").body
        assert browser.get(path).location.startswith("https://login.microsoftonline.com/")
        assert user(browser) is None

    def test_nobody_is_served_on_a_guess(self, serve, monkeypatch):
        store = MemoryStore()
        browser = serve(make_logout(store=store))
        signed_in_before = django_project.engine()()
        signed_in_before["user"] = ALICE
        signed_in_before.save()
        browser.cookies["sessionid"] = signed_in_before.session_key

        def fail(*_, **__):
            raise StoreError("away")

        for method in ("get", "marks_since", "generation", "add"):
            monkeypatch.setattr(store, method, fail)
        answer = browser.get("/me")
        assert answer.status == 503
        assert answer.one("retry-after") == "5"
        assert b"sub-of" not in answer.body

    def test_sign_in_that_cannot_be_recorded_is_not_answered_by_the_project(self, serve, monkeypatch):
        store = MemoryStore()
        browser = serve(make_logout(store=store), after=[f"{__name__}.has_something_to_close"])

        def fail(*_, **__):
            raise StoreError("away")

        monkeypatch.setattr(store, "add", fail)
        CLOSED.clear()
        django_project.SITE.does["x"] = lambda session: (
            session.update({"user": ALICE}) or {"secret": "of Alice"}
        )
        answer = browser.get("/does/x")
        assert answer.status == 503
        assert answer.set_cookies == {}
        assert b"of Alice" not in answer.body
        assert CLOSED == ["/does/x"]

    def test_project_finds_nothing_of_ours_in_its_request(self, serve, logout):
        browser = serve(logout, after=[f"{__name__}.tells_what_it_was_given"])
        assert "msal_logout" not in browser.get("/").text

    def test_door_that_cannot_answer_is_an_error_that_says_why(self, serve, logout, caplog):
        door = serve(logout).site
        opened = (
            {"session": {}} if isinstance(door, AsgiDoor) else {"beaker.session": {}}
        )  # outside of the project
        assert door.call("GET", "/logout", {}, b"", **opened).status == 500
        (error,) = [each.exc_info[1] for each in caplog.records if each.name == "django.request"]
        assert isinstance(error, RuntimeError)
        assert "LogoutMiddleware stands inside the session middleware" in str(error)


class TestAnswers:
    def test_headers_and_cookies_of_the_project_stay_as_they_are(self, serve, logout):
        browser = serve(logout)

        def answer(_session):
            return {"a": 1}

        django_project.SITE.does["x"] = answer
        bare = get_asgi_application() if isinstance(browser.site, AsgiDoor) else get_wsgi_application()
        assert bare
        got = browser.get("/does/x")
        assert got.one("content-type") == "application/json"
        assert json.loads(got.body) == {"a": 1}

    def test_cookies_are_deleted_as_they_were_set_whatever_python_knows_of_them(self, serve):
        cookies = [
            Cookie("remember", path="/a"),
            Cookie("remember", path="/b"),
            Cookie("apart", secure=True, partitioned=True),
            Cookie("a[b]"),  # as PHP names them
            Cookie("version"),  # an attribute's name, to Python
        ]
        browser = sign_in(serve(make_logout(delete_cookies=cookies)))
        sent = browser.get("/logout").all("set-cookie")
        assert set(sent) >= {cookie.delete()[1] for cookie in cookies}

    def test_answer_of_ours_without_a_body_has_no_type(self, serve, logout):
        answer = serve(logout).request("OPTIONS", "/logout")
        assert answer.status == 204
        assert answer.one("content-type") is None

    @pytest.mark.parametrize("serve", ["WSGI"], indirect=True)
    def test_asynchronous_stream_behind_wsgi_is_left_to_django(self, serve):
        browser = sign_in(serve(make_logout(close_streams=True)))

        async def chunks():
            yield b"first"
            yield b"second"

        django_project.SITE.does["x"] = lambda _: chunks()
        with pytest.warns(Warning, match="asynchronous iterators"):
            assert browser.get("/stream/x").text == "firstsecond"

    def test_chunk_is_sent_before_the_next_one_is_made(self, serve, logout):
        browser = sign_in(serve(logout))
        made = []

        def chunks():
            for number in range(3):
                made.append(number)
                yield f"{number} of {len(made)};".encode()

        async def achunks():
            for chunk in chunks():
                yield chunk

        is_asgi = isinstance(browser.site, AsgiDoor)
        django_project.SITE.does["x"] = lambda _: achunks() if is_asgi else chunks()
        assert browser.get("/stream/x").text == "0 of 1;1 of 2;2 of 3;"

    def test_record_that_a_stream_saves_late_is_deleted_again(self, serve, logout, tmp_path):
        browser = sign_in(serve(logout))
        its_id = browser.cookies["sessionid"]
        path = tmp_path / "sessions" / f"sessionid{its_id}"
        kept = path.read_bytes()
        desk = Browser(browser.site, dict(browser.cookies))

        def late():
            elsewhere(lambda: desk.get("/logout"))
            assert not path.exists()
            path.write_bytes(kept)

        def chunks():
            yield b"first"
            late()
            yield b"second"

        async def achunks():
            yield b"first"
            await anyio.to_thread.run_sync(late)
            yield b"second"

        is_asgi = isinstance(browser.site, AsgiDoor)
        django_project.SITE.does["x"] = lambda _: achunks() if is_asgi else chunks()
        assert browser.get("/stream/x").text == "firstsecond"
        assert not path.exists()

    def test_stream_of_a_session_that_ends_is_cut_off_if_that_is_asked_for(self, serve):
        browser = sign_in(serve(make_logout(close_streams=True)))
        desk = Browser(browser.site, dict(browser.cookies))

        def chunks():
            yield b"first"
            elsewhere(lambda: desk.get("/logout"))
            for _ in range(100):
                yield b"."

        async def achunks():
            yield b"first"
            await anyio.to_thread.run_sync(lambda: elsewhere(lambda: desk.get("/logout")))
            for _ in range(100):
                await anyio.sleep(0.05)  # as a stream of events does
                yield b"."

        is_asgi = isinstance(browser.site, AsgiDoor)
        django_project.SITE.does["x"] = lambda _: achunks() if is_asgi else chunks()
        text = browser.get("/stream/x").text
        assert text.startswith("first")
        assert len(text) < 100

    @pytest.mark.parametrize("serve", ["ASGI"], indirect=True)
    def test_stream_that_asgi_must_wait_for_is_cut_off_as_well(self, serve):
        browser = sign_in(serve(make_logout(close_streams=True)))
        desk = Browser(browser.site, dict(browser.cookies))

        def chunks():
            yield b"first"
            elsewhere(lambda: desk.get("/logout"))
            for _ in range(100):
                threading.Event().wait(0.05)  # as a stream of events does
                yield b"."

        django_project.SITE.does["x"] = lambda _: chunks()
        with pytest.warns(Warning, match="synchronous iterators"):
            text = browser.get("/stream/x").text
        assert text.startswith("first")
        assert len(text) < 100

    def test_file_stays_a_file_for_the_server(self, serve, logout, monkeypatch, tmp_path):
        file = tmp_path / "file"
        file.write_bytes(b"content")
        browser = sign_in(serve(logout))
        monkeypatch.setattr(
            django_project,
            "StreamingHttpResponse",
            lambda path: FileResponse(Path(path).open("rb")),  # noqa: SIM115 - it closes the file
        )
        django_project.SITE.does["x"] = lambda _: str(file)
        if isinstance(browser.site, WsgiDoor):
            given = []

            class Wrapper:
                def __init__(self, file, block_size):
                    given.append(file)
                    self._file = file

                def __iter__(self):
                    return iter([self._file.read()])

                def close(self):
                    self._file.close()

            cookie = {"cookie": f"sessionid={browser.cookies['sessionid']}"}
            answer = browser.site.call("GET", "/stream/x", cookie, b"", **{"wsgi.file_wrapper": Wrapper})
            assert given
            assert answer.body == b"content"
        else:
            with pytest.warns(Warning, match="synchronous iterators"):
                assert browser.get("/stream/x").body == b"content"


def elsewhere(work):
    """Do something in another thread, as another worker does, before this one goes on."""
    from tests.remote.test_django import elsewhere as do

    do(work)


class TestClients:
    """Django's own, which tests of a project use: they know of the middleware if the settings list it."""

    @pytest.fixture(autouse=True)
    def project(self, serve, tmp_path):
        store = SQLiteStore(tmp_path / "logout.db")
        serve(make_logout(store=store), after=["django.middleware.csrf.CsrfViewMiddleware"])
        yield
        store.close()

    def test_client_signs_in_and_out(self):
        client = Client()
        assert (
            client.post("/sign-in", {"claims": json.dumps(ALICE)}).status_code == 200
        )  # without a CSRF token
        thief = Client()
        thief.cookies.load(f"sessionid={client.cookies['sessionid'].value}")
        assert thief.get("/me").json()["user"]["sub"] == ALICE["sub"]
        answer = client.get("/logout", headers={"sec-fetch-site": "same-origin"})
        assert answer.status_code == 303
        assert answer.cookies["sessionid"].value == ""
        assert client.get("/me").json()["user"] is None
        assert thief.get("/me").json()["user"] is None

    def test_form_of_the_asynchronous_client_that_the_gate_reads_reaches_the_view(self):
        form = "code=c&state=s&session_state=s-1"

        async def post():
            return await AsyncClient().post("/", form, content_type="application/x-www-form-urlencoded")

        assert asyncio.run(post()).json()["form"] == form

    def test_asynchronous_client_signs_in_and_out(self):
        async def story():
            client, from_here = AsyncClient(), {"sec-fetch-site": "same-origin"}
            assert (await client.post("/sign-in", {"claims": json.dumps(ALICE)})).status_code == 200
            assert (await client.get("/me")).json()["user"]["sub"] == ALICE["sub"]
            assert (await client.get("/logout", **from_here)).status_code == 303
            assert (await client.get("/me")).json()["user"] is None

        asyncio.run(story())


class Waits:
    """A view, in effect, that waits for ever; it says what has become of it."""

    sync_capable = False
    async_capable = True
    story: list[str] = []  # noqa: RUF012 - the test's

    def __init__(self, get_response):
        markcoroutinefunction(self)

    async def __call__(self, _request):
        self.story.append("begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.story.append("cancelled")
            raise


@pytest.mark.parametrize("serve", ["ASGI"], indirect=True)
def test_view_hears_that_its_client_has_gone(serve, logout):
    Waits.story.clear()
    app = serve(logout, after=[f"{__name__}.Waits"]).site.app

    async def story():
        begun = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive():
            if begun:
                return begun.pop()
            while not Waits.story:
                await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        async def send(_message):
            raise AssertionError("an answer to nobody")

        scope = {"type": "http", "method": "GET", "path": "/me", "headers": [], "query_string": b""}
        before = asyncio.all_tasks()
        await app(scope, receive, send)
        left = asyncio.all_tasks() - before
        return [task for task in left if "keep_tidy" not in repr(task)]

    assert asyncio.run(story()) == []
    assert Waits.story == ["begun", "cancelled"]
