"""What is not ours goes through the WSGI door as if it were not there: object for object, byte for byte."""

from __future__ import annotations

import sys
from io import BytesIO
from wsgiref.util import FileWrapper

import pytest
from flask import Flask
from werkzeug.test import EnvironBuilder

from msal_logout_middleware import Logout, Provider
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.wsgi import LogoutMiddleware

HEADERS = [
    ("X-Twice", "1"),
    ("content-TYPE", "text/plain"),
    ("x-twice", "2"),
    ("Set-Cookie", "session=1"),
    ("Set-Cookie", "session=2; Path=/x"),
    ("X-Latin", "\xe4"),
]


def wrapped(app, **options):
    flask = Flask("sessions")
    flask.secret_key = "a secret of the tests"
    logout = Logout(
        provider=Provider.entra("contoso.example", "client"),
        session=FlaskSession(flask),
        store=MemoryStore(),
        post_logout_redirect_uri="http://localhost/",
        retry_seconds=0.01,
        **options,
    )
    return LogoutMiddleware(app, logout)


class Body:
    """An iterable that notes in the record when each chunk is made, and each close."""

    def __init__(self, record, chunks):
        self.record = record
        self.chunks = iter(chunks)

    def __iter__(self):
        return self

    def __next__(self):
        chunk = next(self.chunks)
        self.record.append(("made", chunk))
        return chunk

    def close(self):
        self.record.append("closed")


def streaming(environ, start_response, record):
    start_response("200 Fine", list(HEADERS))
    return Body(record, [b"one", b"", b"two", b"three"])


def by_write(environ, start_response, record):
    write = start_response("202 As It Was Written", list(HEADERS))
    write(b"one")
    write(b"two")
    return [b"three"]


def generator(environ, start_response, record):
    try:
        start_response("200 OK", list(HEADERS))
        record.append("began")
        yield b"one"
        record.append("went on")
        yield b"two"
    finally:
        record.append("ended")


def with_exc_info(environ, start_response, record):
    start_response("200 OK", [("X-First", "1")])
    try:
        raise LookupError("before anything was sent")
    except LookupError:
        start_response("500 Sorry", list(HEADERS), sys.exc_info())
    return [b"sorry"]


def empty(environ, start_response, record):
    start_response("304 Not Modified", [("ETag", '"1"')])
    return []


def echo(environ, start_response, record):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
    start_response("200 OK", list(HEADERS))
    return Body(record, [environ["REQUEST_METHOD"].encode(), body, environ["QUERY_STRING"].encode()])


def raises_first(environ, start_response, record):
    raise LookupError("first")


def raises_while_streaming(environ, start_response, record):
    start_response("200 OK", list(HEADERS))

    def chunks():
        yield b"one"
        raise LookupError("while streaming")

    return Body(record, chunks())


APPS = [
    streaming,
    by_write,
    generator,
    with_exc_info,
    empty,
    echo,
    raises_first,
    raises_while_streaming,
]


def served(app, environ, record):
    """Do what a server does with an app; the record tells everything that happened, in its order."""

    def start_response(status, headers, exc_info=None):
        record.append(("started", status, list(headers), exc_info and exc_info[0]))
        return lambda data: record.append(("written", data))

    try:
        body = app(environ, start_response)
        try:
            for chunk in body:
                record.append(("sent", chunk))
        finally:
            if hasattr(body, "close"):
                body.close()
    except LookupError as error:
        record.append(repr(error))
    return record


def environ_of(**request):
    return EnvironBuilder(
        **{"path": "/page", "headers": [("Cookie", "session=x; state=y")], **request}
    ).get_environ()


REQUESTS = {
    "GET": {},
    "GET with a query": {"query_string": "a=1&state=nobody-s&a=2"},
    "home, with a state that is nobody's": {"path": "/", "query_string": "state=nobody-s"},
    "POST": {"method": "POST", "data": b"a=1&logout_token=x"},
    "POST to home with a state that is nobody's": {
        "method": "POST",
        "path": "/",
        "query_string": "state=nobody-s",
        "data": b"a=1",
    },
    "an invented method": {"method": "PROPFIND"},
    "HEAD": {"method": "HEAD"},
    "below the logout path": {"path": "/logout/other"},
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("app", APPS)
def test_all_that_an_app_does_is_the_same_with_and_without_the_middleware(app, request_):
    bare, with_it = [], []

    served(lambda environ, start: app(environ, start, bare), environ_of(**request_), bare)
    served(wrapped(lambda environ, start: app(environ, start, with_it)), environ_of(**request_), with_it)

    assert with_it == bare
    assert len(bare) > 0


def test_app_is_called_with_the_very_objects_and_its_very_answer_is_returned():
    seen = []
    answer = FileWrapper(BytesIO(b"a file"))

    headers = [("X-One", "1"), ("x-two", "2")]
    write = object()

    def app(environ, start_response):
        seen.append((environ, start_response("200 OK", headers)))
        return answer

    environ = environ_of()
    before = dict(environ)

    def start_response(status, headers, exc_info=None):
        seen.append(headers)
        return write

    assert wrapped(app)(environ, start_response) is answer
    assert seen[0] is headers
    assert seen[1][0] is environ
    assert seen[1][1] is write
    assert environ == before


def test_server_s_file_wrapper_reaches_the_app():
    wrapper = object()

    def app(environ, start_response):
        return [environ["wsgi.file_wrapper"]]

    environ = environ_of() | {"wsgi.file_wrapper": wrapper}
    (got,) = wrapped(app)(environ, lambda *_: None)
    assert got is wrapper


def test_chunk_is_sent_before_the_next_one_is_made():
    record = []
    served(wrapped(lambda e, s: streaming(e, s, record)), environ_of(), record)

    happened = [entry[0] for entry in record if entry[0] in ("made", "sent")]
    assert happened == ["made", "sent"] * 4


def test_client_that_leaves_early_closes_the_app_s_answer_once():
    record = []
    body = wrapped(lambda e, s: streaming(e, s, record))(environ_of(), lambda *_: None)

    next(iter(body))
    body.close()

    assert record == [("made", b"one"), "closed"]


@pytest.mark.parametrize("app", APPS)
def test_app_s_own_logout_view_that_nobody_is_signed_in_at_answers_as_it_did(app):
    bare, with_it = [], []
    environ = environ_of(path="/logout", headers=[("Sec-Fetch-Site", "same-origin")])
    served(lambda e, s: app(e, s, bare), dict(environ), bare)
    served(wrapped(lambda e, s: app(e, s, with_it), app_view=True), dict(environ), with_it)

    def kinds(record, *kinds):
        return [entry for entry in record if entry[0] in kinds]

    def data(record):
        return b"".join(entry[1] for entry in kinds(record, "sent", "written"))

    assert data(with_it) == data(bare)
    assert kinds(with_it, "started")[-1:] == kinds(bare, "started")[-1:]
    assert kinds(with_it, "made") == kinds(bare, "made")
    assert with_it.count("closed") == bare.count("closed")
    assert with_it[-1] == bare[-1]


def test_app_s_own_logout_view_that_fails_after_its_headers_is_heard():
    """PEP 3333: `start_response` with `exc_info` raises it, once the headers are out."""

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"one"
        try:
            raise LookupError("too late")
        except LookupError:
            start_response("500 Sorry", [("Content-Type", "text/plain")], sys.exc_info())
        yield b"sorry"

    def start_response(status, headers, exc_info=None):
        if exc_info:
            raise exc_info[1]
        return lambda data: None

    environ = environ_of(path="/logout", headers=[("Sec-Fetch-Site", "same-origin")])
    body = wrapped(app, app_view=True)(environ, start_response)
    assert next(iter(body)) == b"one"
    with pytest.raises(LookupError, match="too late"):
        next(iter(body))
    body.close()
