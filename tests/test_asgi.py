"""The ASGI door, where it is unlike the WSGI door."""

import asyncio
import threading

import anyio
import pytest
import quart
from litestar import Litestar
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.routing import Mount

from msal_logout_middleware import Logout, Provider, upkeep
from msal_logout_middleware.asgi import LogoutMiddleware
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.sqlite import SQLiteStore
from tests.doors import AsgiDoor, Browser
from tests.remote.conftest import signing_in
from tests.rp_initiated.test_log_out import form_of
from tests.sites import KINDS, Site
from tests.tokens import claims_of

SECRET = "a secret of these tests"
SAME = {"sec-fetch-site": "same-origin"}


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def make(app=app, **options):
    defaults = {
        "provider": Provider.entra("common", "client"),
        "session": ASGISession(Middleware(SessionMiddleware, secret_key=SECRET)),
        "store": MemoryStore(),
        "post_logout_redirect_uri": "http://localhost/",
        "retry_seconds": 0.0,
    }
    return LogoutMiddleware(app, Logout(**(defaults | options)))


def session_cookie(claims):
    import base64
    import json

    import itsdangerous

    data = base64.b64encode(json.dumps({"user": claims}).encode())
    return "session=" + itsdangerous.TimestampSigner(SECRET).sign(data).decode()


@pytest.mark.parametrize("path", ["/app/logout", "/logout"])
def test_mount_may_stand_in_the_path_or_not(path):
    door = AsgiDoor(make())
    assert door.call("GET", path, SAME, b"", root_path="/app").status == 303


def test_middleware_inside_the_session_middleware_is_told():
    door = AsgiDoor(SessionMiddleware(make(), secret_key=SECRET))
    with pytest.raises(RuntimeError, match="so that it is outermost"):
        door.call("GET", "/logout", SAME, b"")
    assert door.call("GET", "/?code=of-a-sign-in&state=x", SAME, b"").status == 200
    assert door.call("GET", "/x", SAME, b"").status == 200


def test_app_with_its_own_sessions_may_stand_in_one_that_has_others():
    inner = make(SessionMiddleware(app, SECRET))
    outer = Starlette(
        routes=[Mount("/shop", inner)],
        middleware=[Middleware(SessionMiddleware, secret_key="another secret", session_cookie="outer")],
    )
    assert AsgiDoor(outer).call("GET", "/shop/logout", SAME, b"").status == 303


@pytest.mark.parametrize(
    ("around", "name"),
    [(quart.Quart("x"), "asgi_app"), (Litestar(logging_config=None), "asgi_handler")],
    ids=["Quart", "Litestar"],
)
def test_app_that_calls_the_middleware_around_it_is_told_what_to_wrap(around, name):
    middleware = make(around)
    setattr(around, name, middleware)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=rf"app\.{name} = LogoutMiddleware\(app\.{name}, logout\)"):
            AsgiDoor(middleware).call("GET", "/", {}, b"")


def test_scope_may_lack_what_it_may_lack():
    sent = []

    async def send(message):
        sent.append(message)

    async def story():
        scope = {"type": "http", "method": "GET", "path": "/logout"}
        await make()(scope, None, send)
        await make()({**scope, "path": "/x"}, None, send)

    anyio.run(story)
    assert [message["status"] for message in sent if "status" in message] == [200, 200]


def test_path_that_only_begins_like_the_mount_is_the_app_s():
    door = AsgiDoor(make())
    assert door.call("GET", "/apple/logout", SAME, b"", root_path="/app").body == b"/apple/logout"


def test_client_that_hangs_up_while_it_sends_its_body_changes_nothing():
    async def story():
        sent = []

        async def receive():
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/logout",
            "query_string": b"",
            "headers": [(b"sec-fetch-site", b"same-origin")],
        }
        await make()(scope, receive, send)
        return sent

    assert anyio.run(story) == []


def test_cancelled_request_completes_its_sign_out():
    class Store(MemoryStore):
        def __init__(self):
            super().__init__()
            self.marked = anyio.Event()

        async def end(self, ending):
            ended = super().end(ending)
            self.marked.set()
            await anyio.lowlevel.checkpoint()
            return ended

    async def story():
        store = Store()
        middleware = make(store=store)

        async def receive():
            raise AssertionError

        async def send(message):
            pass

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/logout",
            "query_string": b"",
            "headers": [
                (b"sec-fetch-site", b"same-origin"),
                (b"cookie", session_cookie(claims_of("ann")).encode()),
            ],
        }
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(middleware, scope, receive, send)
            await store.marked.wait()
            tasks.cancel_scope.cancel()
        return store.open_rows()

    assert anyio.run(story) == 0


def test_view_that_raises_leaves_nothing_half_ended():
    async def view(scope, receive, send):
        raise LookupError("the app's mistake")

    events = []
    door = AsgiDoor(make(view, app_view=True, on_event=events.append))
    with pytest.raises(LookupError):
        door.call("GET", "/logout", SAME | {"cookie": session_cookie(claims_of("ann"))}, b"")
    assert [type(event).__name__ for event in events] == ["LogoutStarted", "LogoutEnded"]


def test_store_that_waits_does_so_in_a_thread(tmp_path):
    asked = []

    class Store(SQLiteStore):
        def end(self, ending):
            asked.append(("end", threading.get_ident()))
            return super().end(ending)

        def load(self, key):
            asked.append(("load", threading.get_ident()))
            return super().load(key)

        def replace(self, key, expected, data):
            asked.append(("replace", threading.get_ident()))
            return super().replace(key, expected, data)

    store = Store(tmp_path / "logout.db")
    door = AsgiDoor(make(store=store))
    answer = door.call("GET", "/logout", SAME | {"cookie": session_cookie(claims_of("ann"))}, b"")
    assert answer.status == 303
    assert {method for method, _ in asked} == {"end", "load", "replace"}
    assert threading.get_ident() not in {thread for _, thread in asked}
    assert store.open_rows() == 0
    assert len(store.marks_since(0, limit=10).marks) == 1
    store.close()


def test_provider_is_asked_in_a_thread_of_the_loop():
    door = AsgiDoor(make(provider=Provider.discover("http://127.0.0.1:9", "client")))
    assert door.call("GET", "/logout", SAME, b"").location == "http://localhost/"


def test_retry_waits_on_the_loop():
    class Store(MemoryStore):
        failures = 2

        def end(self, ending):
            if self.failures:
                self.failures -= 1
                raise OSError
            return super().end(ending)

    store = Store()
    door = AsgiDoor(make(store=store, retry_seconds=5.0))
    answer = door.call("GET", "/logout", SAME | {"cookie": session_cookie(claims_of("ann"))}, b"")
    assert answer.status == 303
    assert store.failures == 0


def test_worker_whose_loop_was_closed_looks_after_what_is_left_on_the_next_one(monkeypatch):
    middleware = make()
    rounds = []

    async def tidy(_world):
        rounds.append(asyncio.get_running_loop())

    async def request(name):
        sent = []

        async def send(message):
            sent.append(message)

        headers = [(b"cookie", session_cookie(claims_of(name, iat=1, nonce="1")).encode())]
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": headers}
        await middleware(scope, None, send)
        assert sent[0]["status"] == 200
        await asyncio.sleep(0)  # the task begins

    monkeypatch.setattr(middleware.logout, "tidy", tidy)
    loops = [asyncio.new_event_loop(), asyncio.new_event_loop()]
    for loop, name in zip(loops, ("alice", "bob"), strict=True):
        loop.run_until_complete(request(name))
        middleware._upkeep._log_destroy_pending = False  # its loop does not cancel it, as `asyncio.run` would
        loop.close()
    assert rounds == loops


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_worker_that_serves_no_request_yet_looks_after_what_is_left(monkeypatch, kind):
    middleware = make()
    rounds = []

    async def tidy(_world):
        rounds.append(None)
        raise RuntimeError("whatever it is, the next round comes")

    async def story():
        monkeypatch.setattr(upkeep, "INTERVAL_SECONDS", 0.0)
        monkeypatch.setattr(middleware.logout, "tidy", tidy)
        middleware.app = ignore
        await middleware({"type": kind, "path": "/", "headers": []}, None, None)
        with anyio.fail_after(20):
            while len(rounds) < 3:
                await anyio.lowlevel.checkpoint()

    async def ignore(scope, receive, send):
        """Answer nothing."""

    anyio.run(story)


def test_app_s_own_view_is_told_nothing_of_the_form_of_our_page():
    seen = []

    async def view(scope, receive, send):
        names = {name for name, _ in scope["headers"]}
        seen.append((scope["method"], names & {b"content-type", b"content-length"}, await receive()))
        await app(scope, receive, send)

    cookies = dict([session_cookie(claims_of("ann")).split("=", 1)])
    browser = Browser(AsgiDoor(make(view, app_view=True)), cookies)
    page = browser.get("/logout", site="cross-site")
    assert browser.post("/logout", form_of(page)).status == 200
    assert seen == [("GET", set(), {"type": "http.request", "body": b"", "more_body": False})]


def test_record_that_a_request_saved_of_a_session_that_had_ended_is_deleted_also_if_its_client_has_gone(
    tmp_path,
):
    site = Site("starsessions", KINDS["starsessions"], store=SQLiteStore(tmp_path / "logout.db")).build()
    ann = site.sign_in(signing_in("ann"))
    inside = site.app

    async def story():
        saved = anyio.Event()

        async def save(scope, receive, send):
            before = dict(site.records)
            await anyio.to_thread.run_sync(lambda: site.front_channel(sid="a-session"))
            assert not site.records
            site.records.update(before)
            saved.set()
            await anyio.sleep_forever()

        async def route(scope, receive, send):
            await (save if scope["path"] == "/save" else inside)(scope, receive, send)

        site.app = route
        site.logout, site.door = site.worker()
        cookie = "; ".join(f"{name}={value}" for name, value in ann.cookies.items()).encode()
        scope = {"type": "http", "method": "GET", "path": "/save", "headers": [(b"cookie", cookie)]}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(site.door.app, scope, None, None)
            await saved.wait()
            tasks.cancel_scope.cancel()

    anyio.run(story)
    assert not site.records
    site.store.close()
