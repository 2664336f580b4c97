"""The checkers notice: an app that breaks a rule is told of."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest
from werkzeug.test import EnvironBuilder

from tests.stories import rules
from tests.stories.rules import AsgiRules, wsgi_rules

START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"x"}


@pytest.fixture(autouse=True)
def forget():
    yield
    rules.broken.clear()


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "no answer"),
        ([BODY], "before the start"),
        ([START], "does not end"),
        ([START, BODY | {"more_body": True}], "does not end"),
        ([START, START], "started twice"),
        ([START, BODY, BODY], "after the end"),
        ([START | {"status": "200"}], "status"),
        ([START | {"status": 100}], "status"),
        ([START | {"headers": [(b"X-Name", b"1")]}], "header name"),
        ([START | {"headers": [("x-name", b"1")]}], "header name"),
        ([START | {"headers": [(b"x-name", b"1\r\n")]}], "the value of"),
        ([START | {"headers": [(b"content-length", b"1")] * 2}], "two lengths"),
        ([START | {"status": 204, "headers": [(b"content-length", b"0")]}], "a length with 204"),
        ([START, {"type": "http.response.trailers"}], "does not offer"),
    ],
)
def test_asgi_app_that_breaks_a_rule_is_told_of_even_if_it_swallows_that(messages, complaint):
    async def app(scope, receive, send):
        for message in messages:
            try:
                await send(message)
            except AssertionError:
                return

    async def nothing(*_): ...

    with suppress(AssertionError):
        anyio.run(AsgiRules(app), {"type": "http"}, nothing, nothing)
    assert complaint in rules.broken[0]


def unclosed(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"1"]


def bad_status(environ, start_response):
    start_response("2000", [("Content-Type", "text/plain")])
    return [b"1"]


def text(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["text"]


@pytest.mark.parametrize(
    ("linter", "app"),
    [("validate", bad_status), ("validate", text), ("lint", bad_status), ("lint", text), ("lint", unclosed)],
)
def test_wsgi_app_that_breaks_a_rule_is_told_of(linter, app):
    with pytest.raises((AssertionError, Warning)):
        body = wsgi_rules(app, linter)(EnvironBuilder().get_environ(), lambda *_: None)
        try:
            list(body)
        finally:
            body.close()
    assert rules.broken
