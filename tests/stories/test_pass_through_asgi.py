"""What is not ours goes through the ASGI door as if it were not there: object for object, message for message."""

from __future__ import annotations

import anyio
import pytest
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware

from msal_logout_middleware import Logout, Provider
from msal_logout_middleware.asgi import LogoutMiddleware
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.stores.memory import MemoryStore

HEADERS = [
    (b"x-twice", b"1"),
    (b"content-type", b"text/plain"),
    (b"x-twice", b"2"),
    (b"set-cookie", b"session=1"),
    (b"set-cookie", b"session=2; Path=/x"),
    (b"x-bytes", b"\xff\xe4"),
]
START = {"type": "http.response.start", "status": 299, "headers": HEADERS}


def wrapped(app, **options):
    logout = Logout(
        provider=Provider.entra("contoso.example", "client"),
        session=ASGISession(Middleware(SessionMiddleware, secret_key="a secret of the tests")),
        store=MemoryStore(),
        post_logout_redirect_uri="http://localhost/",
        retry_seconds=0.01,
        **options,
    )
    return LogoutMiddleware(app, logout)


async def streaming(scope, receive, send):
    await send(START)
    for chunk in (b"one", b"", b"two"):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body"})


async def with_trailers(scope, receive, send):
    await send(START | {"trailers": True})
    await send({"type": "http.response.body", "body": b"one"})
    await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": True})
    await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"2")]})


async def by_path(scope, receive, send):
    assert "http.response.pathsend" in scope["extensions"]
    await send(START)
    await send({"type": "http.response.pathsend", "path": "/a/file"})


async def zero_copy_after_push_and_hints(scope, receive, send):
    await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
    await send({"type": "http.response.push", "path": "/a.css", "headers": []})
    await send(START)
    await send({"type": "http.response.zerocopysend", "file": 3, "offset": 0, "count": 4})


async def echo(scope, receive, send):
    await send(START)
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})


async def raises_first(scope, receive, send):
    raise LookupError("first")


async def raises_while_streaming(scope, receive, send):
    await send(START)
    await send({"type": "http.response.body", "body": b"one", "more_body": True})
    raise LookupError("while streaming")


async def never_answers(scope, receive, send):
    await receive()


async def waits_for_the_client_to_leave(scope, receive, send):
    await send(START)
    while (await receive())["type"] != "http.disconnect":
        await send({"type": "http.response.body", "body": b"one", "more_body": True})


APPS = [
    streaming,
    with_trailers,
    by_path,
    zero_copy_after_push_and_hints,
    echo,
    raises_first,
    raises_while_streaming,
    never_answers,
    waits_for_the_client_to_leave,
]


def served(app, scope, received):
    """Do what a server does with an app; return everything that happened, in its order."""
    record = []
    left = list(received)

    async def receive():
        message = left.pop(0) if left else {"type": "http.disconnect"}
        record.append(("received", message))
        return message

    async def send(message):
        record.append(("sent", message))

    try:
        anyio.run(app, scope, receive, send)
    except LookupError as error:
        record.append(repr(error))
    return record


def http_scope(path="/page", method="GET", query=b""):
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "2",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [
            (b"host", b"localhost"),
            (b"cookie", b"theme=x"),
            (b"cookie", b"state=y"),
            (b"x", b"\xff"),
        ],
        "client": None,
        "server": ("localhost", None),
        "state": {"of": "lifespan"},
        "extensions": {
            "http.response.trailers": {},
            "http.response.pathsend": {},
            "http.response.early_hint": {},
            "http.response.push": {},
            "http.response.zerocopysend": {},
        },
    }


REQUESTS = {
    "GET": {},
    "GET with a query": {"query": b"a=1&state=nobody-s&a=2"},
    "home, with a state that is nobody's": {"path": "/", "query": b"state=nobody-s"},
    "POST": {"method": "POST"},
    "HEAD": {"method": "HEAD"},
    "an invented method": {"method": "PROPFIND"},
    "below the logout path": {"path": "/logout/other"},
}
BODY = [
    {"type": "http.request", "body": b"logout_token=", "more_body": True},
    {"type": "http.request", "body": b"", "more_body": True},
    {"type": "http.request", "body": b"x"},
]


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("app", APPS)
def test_all_messages_are_the_same_with_and_without_the_middleware(app, request_):
    bare = served(app, http_scope(**request_), BODY)

    assert served(wrapped(app), http_scope(**request_), BODY) == bare


@pytest.mark.parametrize(
    "scope",
    [
        http_scope(),
        http_scope() | {"headers": [(b"cookie", b"session=x; state=y")]},
        {"type": "websocket", "path": "/logout", "headers": [], "query_string": b"", "root_path": ""},
        {"type": "lifespan", "state": {}},
        {"type": "something.else"},
    ],
    ids=lambda scope: scope["type"],
)
def test_app_is_called_with_the_very_objects(scope):
    seen = []
    before = dict(scope)

    async def app(*arguments):
        seen.extend(arguments)

    async def receive(): ...

    async def send(message): ...

    anyio.run(wrapped(app), scope, receive, send)

    unwrapped = [scope, receive] if scope["type"] == "http" else [scope, receive, send]
    assert [id(each) for each in seen][: len(unwrapped)] == [id(each) for each in unwrapped]
    assert scope == before


def test_lifespan_runs_through():
    async def app(scope, receive, send):
        for event in ("startup", "shutdown"):
            assert await receive() == {"type": f"lifespan.{event}"}
            await send({"type": f"lifespan.{event}.complete"})

    events = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}

    record = served(wrapped(app), dict(scope), events)

    assert record == served(app, dict(scope), events)
    assert len(record) == 4


def test_websocket_on_the_logout_path_is_the_app_s():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept", "subprotocol": None, "headers": [(b"x", b"1")]})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"]})
        await send({"type": "websocket.close", "code": 1000})

    events = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}]
    scope = {"type": "websocket", "path": "/logout", "headers": [], "query_string": b"", "root_path": ""}

    assert served(wrapped(app), dict(scope), events) == served(app, dict(scope), events)


def test_chunk_is_sent_before_the_next_one_is_made():
    record = []

    async def app(scope, receive, send):
        await send(START)
        for chunk in (b"one", b"two"):
            record.append(("made", chunk))
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})

    async def send(message):
        if message.get("body"):
            record.append(("sent", message["body"]))

    async def receive(): ...

    anyio.run(wrapped(app), http_scope(), receive, send)

    assert record == [("made", b"one"), ("sent", b"one"), ("made", b"two"), ("sent", b"two")]


def test_server_that_fails_while_sending_is_heard_by_the_app():
    heard = []

    async def app(scope, receive, send):
        try:
            await send(START)
        except OSError as error:
            heard.append(error)
            raise

    async def send(message):
        raise OSError("the client has gone")

    async def receive(): ...

    with pytest.raises(OSError, match="the client has gone"):
        anyio.run(wrapped(app), http_scope(), receive, send)
    assert len(heard) == 1


@pytest.mark.parametrize("app", APPS)
def test_app_s_own_logout_view_that_nobody_is_signed_in_at_answers_as_it_did(app):
    scope = http_scope("/logout")
    scope["headers"] = [(b"sec-fetch-site", b"same-origin")]

    bare = served(app, dict(scope), BODY)

    assert served(wrapped(app, app_view=True), dict(scope), BODY) == bare


def test_app_s_own_logout_view_receives_what_was_sent():
    received = []

    async def app(scope, receive, send):
        more = True
        while more:
            message = await receive()
            received.append(message.get("body"))
            more = message.get("more_body", False)
        received.append((await receive())["type"])
        await send(START)
        await send({"type": "http.response.body"})

    for method in ("GET", "POST"):
        received.clear()
        scope = http_scope("/logout", method)
        scope["headers"] = [(b"sec-fetch-site", b"same-origin")]
        served(wrapped(app, app_view=True), scope, BODY)
        assert b"".join(received[:-1]) == b"logout_token=x", method
        assert received[-1] == "http.disconnect"


def test_headers_may_be_anything_that_can_be_gone_through():
    sent = []

    async def app(scope, receive, send):
        headers = iter([(b"content-type", b"text/plain"), (b"x-one", b"1")])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    async def receive(): ...

    async def send(message):
        sent.append(message)

    anyio.run(wrapped(app), http_scope(), receive, send)

    assert list(sent[0]["headers"]) == [(b"content-type", b"text/plain"), (b"x-one", b"1")]
