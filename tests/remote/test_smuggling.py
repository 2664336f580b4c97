"""A dead cookie that is written so that the framework reads it and the gate might not."""

from __future__ import annotations

import json
import re
from http.cookies import SimpleCookie
from types import SimpleNamespace

import pytest
from asgiref.wsgi import WsgiToAsgi
from hypothesis import given, settings
from hypothesis import strategies as st

from msal_logout_middleware import Logout, asgi, wsgi
from msal_logout_middleware.cookies import hides_session, is_torn, session_cookies
from msal_logout_middleware.http import Cookie
from msal_logout_middleware.provider import Provider
from msal_logout_middleware.session import Session
from msal_logout_middleware.stores.memory import MemoryStore
from tests.doors import AsgiDoor, Browser, WsgiDoor
from tests.remote.conftest import signing_in
from tests.remote.faults import Faulty
from tests.sites import HOME, KINDS, SECRET, Site
from tests.tokens import CLIENT_ID, TENANT


@pytest.fixture(scope="module", params=KINDS)
def signed_out(request):
    """A site, and the session cookie of somebody who has been signed out."""
    site = Site(request.param, KINDS[request.param]).build()
    ann = site.sign_in(signing_in("ann"))
    dead = ann.cookies[site.cookie_name]
    assert whose(site, f"{site.cookie_name}={dead}") == "sub-of-ann"
    site.front_channel(sid="a-session")
    return site, dead


def whose(site, cookie_header):
    answer = site.door.call("GET", "/me", [("cookie", cookie_header)], b"")
    user = json.loads(answer.body)["user"]
    return user and user["sub"]


@pytest.mark.parametrize(
    "header",
    [
        '{name}="{start};;;;{end}"',
        '{name}="{start}\\;\\;{end}"',
        '{name}="{start}\\";;{end}"',
        '{name} =\t"{start};;;;{end}"',
        '\xa0{name}="{start};;;;{end}"',
        '{name}="{start}; remember_token=x; {end}"; {name}={dead}',
        '{name}="{dead}"',
        " {name} = {dead} ",
        "{name}=x; {name}={dead}; {name}=y",
        'a="b; {name}={dead}',
        '"{name}={dead}',
        "; ".join(["{name}=x"] * 9 + ["{name}={dead}"]),
        "{name}={dead},\xa0",
        "{name}={dead},\x85",
        "{name}={dead},\x1c; a=b",
        "{name}=\x0c{dead},\x0c",
    ],
)
def test_stolen_cookie_is_refused_however_it_is_written(signed_out, header):
    site, dead = signed_out
    site.logout.configuration.unmarked.on_add()  # nothing is remembered of the header before
    assert (
        whose(site, header.format(name=site.cookie_name, dead=dead, start=dead[:-4], end=dead[-4:])) is None
    )


@pytest.mark.parametrize("header", ['a=1; {name}="x; b=2; {name}=y', "a=1; " + "; ".join(["{name}=x"] * 9)])
def test_app_sees_no_cookie_of_a_header_that_no_browser_sends(signed_out, header):
    site, _ = signed_out
    answer = site.door.call("GET", "/echo", [("cookie", header.format(name=site.cookie_name))], b"")
    assert json.loads(answer.body)["cookies"] == []


@pytest.mark.filterwarnings("ignore:async_to_sync was passed a non-async-marked callable")
def test_stolen_cookie_in_pieces_is_refused_where_an_adapter_to_wsgi_would_put_a_comma_between_them():
    site = Site("flask, signed cookie", KINDS["flask, signed cookie"]).build()
    site.door = AsgiDoor(asgi.LogoutMiddleware(WsgiToAsgi(site.app), site.logout))
    ann = site.sign_in(signing_in("ann"))
    dead = ann.cookies["session"]
    site.front_channel(sid="a-session")
    # Characters that base64 has not are skipped when the signature is verified, the comma among them.
    pieces = [("cookie", f"session={dead[:-1]}!!!"), ("cookie", dead[-1:])]
    answer = site.door.call("GET", "/me", pieces, b"")
    assert json.loads(answer.body) == {"user": None}


PIECES = st.sampled_from(
    ['"', "\\", ";", "=", " ", "\t", "NAME", "START", "END", "DEAD", "x", ",", "\xa0", "\x85", "\x1c", "\x0c"]
)


@settings(max_examples=150, deadline=None)
@given(pieces=st.lists(PIECES, max_size=14))
def test_no_header_made_of_a_stolen_cookie_is_served(signed_out, pieces):
    site, dead = signed_out
    named = {"NAME": site.cookie_name, "START": dead[:-4], "END": dead[-4:], "DEAD": dead}
    header = "".join(named.get(piece, piece) for piece in ["NAME", "=", *pieces])
    assert whose(site, header) is None


def test_name_with_many_blanks_in_it_costs_no_time():
    header = f"a{' ' * 1_000_000}b=session"
    assert session_cookies(header, ["session"]) == ()
    assert not is_torn(f'{header}; session="{"x" * 1_000_000}"', ["session"])
    assert not hides_session(f"{header}; a=session{' ' * 1_000_000}", ["session"])


def test_many_chunks_of_sessions_are_not_put_together_in_every_way():
    header = "; ".join(f"{name}={number}" for name in ("a", "b", "c") for number in range(50))
    assert len(session_cookies(header, ["a", "b", "c"])) == 150


@pytest.mark.parametrize(
    ("value", "torn"),
    [
        *[('"x"', False), ('"x\\"y"', False), ('"x', True), ('"x"y', True), ('"x\\"', True)],
        *[('"x\\\\"', True), ('\x0b"x', True), ("x\\", True), ("x\\y", False), ('x"', False)],
    ],
)
def test_value_that_may_go_on_behind_its_end_is_torn(value, torn):
    assert is_torn(f"a=1; session={value}; b=2", ["session"]) is torn


@pytest.mark.parametrize("kind", KINDS)
def test_many_session_cookies_in_one_request_are_read_by_nobody(kind):
    site = Site(kind, KINDS[kind]).build(wrap=Faulty)
    name = site.cookie_name
    site.session.asked.clear()
    header = "; ".join([f"{name}={number}" for number in range(1000)] + ["a=1"])
    assert whose(site, header) is None
    assert not site.session.asked["read"]


class InChunks:
    """Reads sessions in chunks; each cookie of a name is one, so that what is led to depends on all that there are."""

    server_side = False
    secret = None
    cookies = (Cookie("chunk0"), Cookie("chunk1"))

    def __init__(self, **claims_of):
        self.claims_of = claims_of

    def value(self, cookie_header):
        pairs = sorted(pair.strip().split("=") for pair in cookie_header.split(";") if pair.strip())
        return "_".join(value for _, value in pairs if value)

    def read(self, cookie_header):
        claims = self.claims_of.get(self.value(cookie_header))
        return claims and Session(None, claims, {"user": claims})

    def load(self, session_id): ...

    def delete(self, session_id): ...


class ByHttpCookies(InChunks):
    """Reads a session as frameworks do that have `http.cookies` read the header, such as Bottle and CherryPy."""

    cookies = (Cookie("session"),)

    def value(self, cookie_header):
        cookie = SimpleCookie(cookie_header).get("session")
        return cookie and cookie.value


class ByWebOb(InChunks):
    """Reads a session as WebOb does, and so Pyramid: cookies are looked for anywhere."""

    cookies = (Cookie("session"),)

    def value(self, cookie_header):
        legal = r"[\w~!@#$%^&*()+=\-`.?|:/{}<>']"
        found = re.findall(rf'({legal}+?)\s*=\s*("(?:\\"|.)*?"|{legal}*)', cookie_header, re.ASCII)
        return dict(found).get("session", "").strip('"')


def site_that_reads(reader):
    logout = Logout(
        provider=Provider.entra(TENANT, CLIENT_ID),
        session=reader,
        store=MemoryStore(),
        secret=SECRET,
        post_logout_redirect_uri=HOME,
    )

    def me(environ, start_response):
        session = reader.read(environ.get("HTTP_COOKIE", ""))
        set_cookies = [("Set-Cookie", value) for value in environ["QUERY_STRING"].split("&") if value]
        start_response("200 OK", [("Content-Type", "application/json"), *set_cookies])
        return [json.dumps({"user": session and session.claims}).encode()]

    return SimpleNamespace(logout=logout, door=WsgiDoor(wsgi.LogoutMiddleware(me, logout)))


def test_what_is_left_of_chunks_does_not_lead_to_another_session_that_has_ended():
    site = site_that_reads(InChunks(a_b=signing_in("ann", "a"), c=signing_in("ann", "b")))
    for sid, header in {"a": "chunk0=a; chunk1=b", "b": "chunk0=c"}.items():
        assert whose(site, header) == "sub-of-ann"
        site.logout.end_sessions(sid=sid)
        assert whose(site, header) is None
    assert whose(site, "chunk0=a; chunk1=b; chunk0=c") is None


@pytest.mark.parametrize("alone", [{}, {"a": "bob"}, {"a": "bob", "b": "carol"}], ids=len)
def test_session_that_has_ended_is_refused_where_only_several_cookies_together_lead_to_it(alone):
    others = {chunk: signing_in(user, user) for chunk, user in alone.items()}
    site = site_that_reads(InChunks(a_b=signing_in("ann"), dead=signing_in("ann"), **others))
    together = "chunk0=a;chunk0=b"
    assert whose(site, together) == "sub-of-ann"
    assert whose(site, "chunk0=dead") == "sub-of-ann"
    site.logout.end_sessions(sid="a-session")
    assert whose(site, together) is None
    assert whose(site, f"chunk0=dead; {together}") is None
    for chunk, user in alone.items():
        assert whose(site, f"chunk0={chunk}") == f"sub-of-{user}"


@pytest.mark.parametrize(
    ("reader", "header"),
    [
        (ByHttpCookies, "a=1 session=dead"),
        (ByHttpCookies, 'a="x"\tsession=dead'),
        (ByHttpCookies, "a=1\x0bsession=dead"),
        (ByHttpCookies, "session=of-nobody; a=1 session=dead"),
        (ByHttpCookies, "session=dead; a=1 session=again"),
        (ByWebOb, "x session=dead"),
        (ByWebOb, "a=1,session=dead"),
        (ByWebOb, "[session=dead"),
        (ByWebOb, 'a="x"session = "dead"'),
    ],
)
def test_stolen_cookie_within_another_is_refused_where_the_framework_reads_it(reader, header):
    site = site_that_reads(
        reader(dead=signing_in("ann"), again=signing_in("ann"), live=signing_in("bob", "b"))
    )
    assert whose(site, header) == "sub-of-ann"
    site.logout.end_sessions(sid="a-session")
    assert whose(site, "session=again") is None
    assert whose(site, header) is None
    assert whose(site, header.replace("dead", "live").replace("again", "live")) == "sub-of-bob"


@pytest.mark.parametrize("name", ["session/", "(session)"])
def test_stolen_cookie_is_refused_whose_name_is_one_that_no_cookie_should_have(name):
    site = Site("flask, signed cookie", KINDS["flask, signed cookie"]).build()
    site.app.config["SESSION_COOKIE_NAME"] = name
    ann = site.sign_in(signing_in("ann"))
    stolen = site.copy(ann)
    assert site.user(stolen) == "sub-of-ann"
    site.front_channel(sid="a-session")
    assert site.user(stolen) is None


def test_session_that_another_cookie_only_speaks_of_is_none():
    header = "theme=session; next=/?session=x; a=session=x; xsession=y; session_=z"
    assert not hides_session(header, ["session"])
    assert not hides_session("session=x; session=y", ["session"])  # which are found as they stand


@pytest.mark.parametrize("header", ["session=x session=y", "a=1; session=x,session=y"])
def test_session_cookie_that_stands_within_itself_is_looked_at_each_time(header):
    assert hides_session(header, ["session"])


@pytest.mark.parametrize("set_anew", ["chunk1=c", "chunk0=a&chunk1=c", "chunk0=d&chunk1="])
def test_id_token_that_is_refreshed_in_some_of_the_chunks_is_of_the_session(set_anew):
    claims = signing_in("ann")
    refreshed = {name: value for name, value in claims.items() if name != "sid"} | {"nonce": "refreshed"}
    site = site_that_reads(InChunks(a_b=claims, a_c=refreshed, d=refreshed))
    browser = Browser(site.door, {"chunk0": "a", "chunk1": "b"})
    browser.get(f"/me?{set_anew}")
    assert json.loads(browser.get("/me").body)["user"] == refreshed
    site.logout.end_sessions(sid="a-session")
    assert json.loads(browser.get("/me").body)["user"] is None
