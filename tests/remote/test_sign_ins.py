"""What the middleware learns of sign-ins by itself, so that their sessions are found later, and only theirs."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from urllib.parse import urlencode, urljoin

import itsdangerous.timed
import pytest

from msal_logout_middleware.events import LogoutEnded, SessionUnknowable
from msal_logout_middleware.exchange import Exchange
from msal_logout_middleware.http import Request
from msal_logout_middleware.provider import Provider
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.testing import CookieJar
from tests.remote.conftest import signing_in
from tests.sites import KINDS, Site
from tests.stories.conftest import MSAL_RECOMMENDS_FORM_POST
from tests.tokens import claims_of

ISS = claims_of("ann")["iss"]


def found(site, **sought):
    """How many sessions the index finds."""
    return site.logout.count_sessions(**sought)


def writes(claims):
    """A view that puts claims into the session, as a refreshed ID token or another sign-in does."""
    return lambda session: session.update(user=claims)


class TestSigningInAgain:
    @pytest.mark.parametrize("ahead_seconds", [-600, -30, 0, 30, 600])
    @pytest.mark.parametrize("ended_by", ["sid", "sub"])
    def test_same_sid_works_at_once_and_the_old_cookie_stays_refused(self, site, ahead_seconds, ended_by):
        """Within the provider's session a new sign-in has the same `sid`; its `iat` is by another clock."""
        site.build()
        old = site.sign_in(signing_in("ann", ahead_seconds=ahead_seconds))
        stolen = site.copy(old)
        site.logout.end_sessions(iss=ISS, **{ended_by: {"sid": "a-session", "sub": "sub-of-ann"}[ended_by]})

        claims = signing_in("ann", ahead_seconds=ahead_seconds)
        new = site.sign_in(claims)

        assert site.user(new) == "sub-of-ann"
        assert site.cache(claims)
        assert site.user(stolen) is None
        site.front_channel(sid="a-session")
        assert site.user(new) is None
        assert site.user(site.sign_in(signing_in("ann", ahead_seconds=ahead_seconds))) == "sub-of-ann"

    def test_browser_that_was_signed_out_signs_in_again_with_its_dead_cookie(self, site):
        site.build()
        ann = site.sign_in(signing_in("ann"))
        stolen = site.copy(ann)
        site.front_channel(sid="a-session")
        site.sign_in(signing_in("ann"), browser=ann)
        assert site.user(ann) == "sub-of-ann"
        assert site.user(stolen) is None
        if site.is_server_side:
            assert ann.cookies[site.cookie_name] != stolen.cookies.get(site.cookie_name)

    def test_sign_in_on_another_worker_that_has_not_heard_yet(self, site):
        site.build()
        ann = site.sign_in(signing_in("ann"))
        _, door = site.worker()
        site.front_channel(sid="a-session")
        new = site.browser()
        new.site = door
        site.sign_in(signing_in("ann"), browser=new)
        assert site.user(new) == "sub-of-ann"
        ann.site = door
        assert site.user(ann) is None


class TestGoingOn:
    def test_refreshed_id_token_joins_and_ends_with_the_session(self, site):
        """New `iat` and `nonce`, the same session; refreshed ID tokens often lack the `sid`."""
        site.build()
        refreshed = {name: value for name, value in signing_in("ann").items() if name != "sid"}
        site.does["refresh"] = writes(refreshed)
        ann = site.sign_in(signing_in("ann"))
        before = site.copy(ann)
        ann.get("/does/refresh")
        after = site.copy(ann)
        assert site.user(after) == "sub-of-ann"
        assert found(site, iss=ISS, sid="a-session") == found(site, iss=ISS, sub="sub-of-ann") == 1

        site.front_channel(sid="a-session")

        assert [site.user(each) for each in (ann, before, after)] == [None, None, None]

    def test_anonymous_visitor_signs_in_under_the_same_id(self, site):
        site.build()
        site.does["cart"] = lambda session: session.update(cart=1)
        browser = site.browser()
        browser.get("/does/cart")
        anonymous = site.copy(browser)
        assert site.user(browser) is None
        site.sign_in(claims := signing_in("ann"), browser=browser)
        if site.kind == "flask-session":
            assert browser.cookies == anonymous.cookies  # the framework does not rotate it
        stolen = site.copy(browser)

        site.front_channel(sid="a-session")

        assert site.user(stolen) is None
        assert site.cache(claims) is None

    def test_signed_out_and_in_again_as_somebody_else_under_the_same_id(self, site):
        """The app clears the user and keeps the session, as `session.pop("user")` does."""
        site.build()
        site.does["forget"] = lambda session: session.update(user=None, cart=1)
        browser = site.sign_in(signing_in("ann"))
        browser.get("/does/forget")
        assert site.user(browser) is None
        site.sign_in(bobs := signing_in("bob", "another"), browser=browser)
        assert site.user(browser) == "sub-of-bob"
        site.front_channel(sid="a-session")
        assert site.user(browser) == "sub-of-bob"
        assert site.cache(bobs)
        site.front_channel(sid="another")
        assert site.user(browser) is None

    def test_another_user_signs_in_where_one_was_signed_in(self, site):
        site.build()
        claims, bobs = signing_in("ann"), signing_in("bob", "another")
        browser = site.sign_in(claims)
        anns = site.copy(browser)

        site.sign_in(bobs, browser=browser)

        assert site.cache(claims) is None
        assert [e.channel for e in site.events if isinstance(e, LogoutEnded)] == ["sign-in"]
        assert site.user(browser) == "sub-of-bob"
        if not site.is_server_side or anns.cookies != browser.cookies:
            assert site.user(anns) is None
        site.front_channel(sid="a-session")
        site.logout.end_sessions(iss=ISS, sub="sub-of-ann")
        assert site.user(browser) == "sub-of-bob"
        assert site.cache(bobs)

    def test_third_user_signs_in_where_another_worker_saw_the_second(self, server_side_site):
        """Under one session id; this worker remembers the first, who went long ago."""
        site = server_side_site.build()
        _, other = site.worker()
        here = site.sign_in(signing_in("ann"))
        assert site.user(here) == "sub-of-ann"
        here.site = other
        site.sign_in(bobs := signing_in("bob", "bob's"), browser=here)
        here.site = site.door
        site.sign_in(carols := signing_in("carol", "carol's"), browser=here)
        assert site.user(here) == "sub-of-carol"
        assert site.cache(bobs) is None
        site.front_channel(sid="bob's")
        assert site.user(here) == "sub-of-carol"
        assert site.cache(carols)
        site.front_channel(sid="carol's")
        assert site.user(here) is None

    def test_user_who_took_the_session_over_unseen_is_left_alone(self, server_side_site):
        """The record was changed without an answer that shows it; ending reads it once more."""
        site = server_side_site.build()
        browser = site.sign_in(signing_in("ann"))
        bob = site.sign_in(bobs := signing_in("bob", "another"), cache=False)
        site.keep_tokens(bobs)
        records = site.records
        ann_s, bob_s = (
            next(name for name in records if each.cookies[site.cookie_name] in str(name))
            for each in (browser, bob)
        )
        records[ann_s] = records[bob_s]

        site.front_channel(sid="a-session")

        assert "sub-of-bob" in repr(records[ann_s])
        assert site.user(browser) == "sub-of-bob"
        assert site.cache(bobs)


class TestFirstSight:
    """Sessions from before the middleware was there, or before its store was lost."""

    @pytest.fixture
    def from_before(self, site):
        site.build()
        ann = site.sign_in(signing_in("ann"))
        site.store = MemoryStore()
        site.logout, ann.site = site.worker(store=site.store)
        site.door = ann.site
        return site, ann

    def test_session_is_recorded_at_first_sight(self, from_before):
        site, ann = from_before
        assert found(site, iss=ISS, sid="a-session") == 0
        assert site.user(ann) == "sub-of-ann"
        assert found(site, iss=ISS, sid="a-session") == 1
        site.front_channel(sid="a-session")
        assert site.user(ann) is None

    @pytest.mark.parametrize("sought", [{"sid": "a-session"}, {"sub": "sub-of-ann"}], ids=repr)
    def test_session_that_was_ended_before_it_was_seen_is_refused(self, from_before, sought):
        site, ann = from_before
        site.logout.end_sessions(iss=ISS, **sought)
        assert site.user(ann) is None
        assert site.user(site.sign_in(signing_in("ann"))) == "sub-of-ann"

    def test_session_that_was_ended_before_it_was_seen_is_refused_though_the_providers_clock_is_ahead(
        self, site
    ):
        site.build()
        ann = site.sign_in(signing_in("ann", ahead_seconds=600))
        logout, ann.site = site.worker(store=MemoryStore())
        logout.end_sessions(iss=ISS, sid="a-session")
        assert site.user(ann) is None

    def test_what_is_met_of_a_session_that_ended_before_it_was_seen_is_cleared(self, from_before):
        """Nobody knew of its record or its tokens when it was ended by its `sid`."""
        site, ann = from_before
        site.logout.end_sessions(iss=ISS, sid="a-session")
        site.keep_tokens(claims := claims_of("ann"))
        assert site.user(ann) is None
        assert site.cache(claims) is None
        if site.is_server_side:
            assert "sub-of-ann" not in repr(dict(site.records))

    def test_session_of_somebody_else_is_not(self, from_before):
        site, ann = from_before
        site.logout.end_sessions(iss=ISS, sub="sub-of-bob")
        site.logout.end_sessions(iss="https://another.example", sub="sub-of-ann")
        site.logout.end_sessions(iss=ISS, sid="a-session", sub="sub-of-bob")
        assert site.user(ann) == "sub-of-ann"


class TestSessionsThatCannotBeToldApart:
    """Claims without `iat`, `nonce` and `uti` are the same at each sign-in: ending one must not lock out the next."""

    CLAIMS = tuple(
        (name, value) for name, value in claims_of("ann", sid="a-session").items() if name != "iat"
    )

    @pytest.mark.parametrize("kind", ["flask, signed cookie", "starlette, signed cookie"])
    def test_it_is_said_once_and_the_next_sign_in_works(self, kind):
        site = Site(kind, KINDS[kind]).build()
        claims = dict(self.CLAIMS)
        for _ in range(2):
            ann = site.sign_in(claims)
            assert site.user(ann) == "sub-of-ann"
            assert ann.get("/logout").status == 303
            assert site.cookie_name not in ann.cookies
            assert site.cache(claims) is None
        site.front_channel(sid="a-session")
        assert site.user(site.sign_in(claims)) == "sub-of-ann"
        assert site.user(site.sign_in(claims | {"sub": "sub-of-bob"})) == "sub-of-bob"
        assert len([event for event in site.events if isinstance(event, SessionUnknowable)]) == 1

    def test_server_side_sessions_are_told_apart_by_their_id(self, server_side_site):
        site = server_side_site.build()
        ann = site.sign_in(dict(self.CLAIMS))
        site.front_channel(sid="a-session")
        assert site.user(ann) is None
        assert not [event for event in site.events if isinstance(event, SessionUnknowable)]

    @pytest.mark.parametrize("name", ["iat", "nonce", "uti"])
    def test_one_of_the_three_is_enough(self, either_door, name):
        site = either_door.build()
        ann = site.sign_in(dict(self.CLAIMS) | {name: 1_700_000_000 if name == "iat" else "one"})
        site.front_channel(sid="a-session")
        assert site.user(ann) is None
        assert site.user(site.sign_in(dict(self.CLAIMS) | {name: 1_700_000_001})) == "sub-of-ann"


class RealBrowser:
    """Sends the cookies that a browser sends, to a site at `http://localhost`, and follows its redirects."""

    def __init__(self, site):
        self.site = site
        self.jar = CookieJar(third_party_cookies=False)
        self.requests = []

    def request(self, method, path, *, form=None, initiator=None, hops=5):
        for hop in range(6):
            url = f"http://localhost{path}"
            headers = {"cookie": self.jar.header(url, method=method, initiator=initiator)}
            self.requests.append((method, path, headers["cookie"]))
            body = urlencode(form or {}).encode() if method == "POST" else b""
            if body:
                headers["content-type"] = "application/x-www-form-urlencoded"
            answer = self.site.door.call(method, path, {n: v for n, v in headers.items() if v}, body)
            for value in answer.all("set-cookie"):
                self.jar.store(url, value)
            if not 300 <= answer.status < 400 or hop == hops:
                return answer
            method, form, path = "GET", None, urljoin(url, answer.location).removeprefix("http://localhost")
        raise AssertionError("redirected too often")

    def user(self):
        return (json.loads(self.request("GET", "/me").body)["user"] or {}).get("sub")


ENTRA = "https://login.microsoftonline.com/"


class TestSessionState:
    """Entra's `sid` is not in the ID token by default; `session_state` of the sign-in's exchange is taken for it."""

    ANSWER = (("code", "the code"), ("state", "the state"), ("session_state", "a-session"))

    @pytest.fixture
    def browser(self, site):
        site.build()
        self.claims = signing_in("ann", sid=None)
        del self.claims["sid"]
        site.codes["the code"] = self.claims
        return RealBrowser(site)

    def comes_back(self, browser, mode, **changed):
        """The browser comes from the provider with the authorization response."""
        answer = dict(self.ANSWER) | changed
        answer = {name: value for name, value in answer.items() if value is not None}
        if mode == "form_post":
            return browser.request("POST", "/callback", form=answer, initiator=ENTRA)
        return browser.request("GET", f"/callback?{urlencode(answer)}", initiator=ENTRA)

    @pytest.mark.parametrize("redirects_forms", [False, True])
    @pytest.mark.parametrize("mode", ["query", "form_post"])
    def test_session_state_of_the_sign_ins_own_exchange_is_learnt(self, site, browser, mode, redirects_forms):
        """A form is posted without the app's cookies, so some apps come back by GET; the exchange goes along."""
        site.redirects_forms = redirects_forms
        site.does["cart"] = lambda session: session.update(cart=1)
        browser.request("GET", "/does/cart")  # the app's cookie is there, and is not sent with the form

        self.comes_back(browser, mode)

        assert browser.user() == "sub-of-ann"
        assert browser.jar.value("msal_logout_exchange", "http://localhost/") is None
        site.front_channel(sid="a-session")
        assert browser.user() is None

    @pytest.mark.parametrize("missing", ["code", "state"])
    def test_session_state_that_is_not_part_of_an_exchange_is_not_learnt(self, site, browser, missing):
        site.does["sign in"] = writes(self.claims)
        answer = {name: value for name, value in self.ANSWER if name != missing}
        browser.request("GET", f"/does/sign in?{urlencode(answer)}", initiator="https://evil.example/")
        assert browser.user() == "sub-of-ann"
        site.front_channel(sid="a-session")
        assert browser.user() == "sub-of-ann"

    @pytest.mark.parametrize("mode", ["query", "form_post"])
    def test_crafted_link_changes_nothing_of_a_victim_who_is_signed_in(self, site, browser, mode):
        """Else the attacker could end the victim's session by their own `sid`."""
        site.does["noop"] = lambda session: session.update(n=1)
        self.comes_back(browser, "query", session_state="the victim's session")
        assert browser.user() == "sub-of-ann"

        self.comes_back(browser, mode, code="no code", session_state="the attacker's session")
        browser.request("GET", "/does/noop")

        site.front_channel(sid="the attacker's session")
        assert browser.user() == "sub-of-ann"
        site.front_channel(sid="the victim's session")
        assert browser.user() is None

    @pytest.mark.parametrize("mode", ["query", "form_post"])
    def test_crafted_link_changes_nothing_of_a_victim_who_signs_in_later(self, site, browser, mode):
        site.redirects_forms = True
        self.comes_back(browser, mode, code="no code", session_state="the attacker's session")

        self.comes_back(browser, "query", session_state=None)

        assert browser.user() == "sub-of-ann"
        site.front_channel(sid="the attacker's session")
        assert browser.user() == "sub-of-ann"

    def test_crafted_link_adds_nothing_to_what_is_learnt_of_a_victim_whose_id_token_is_refreshed(
        self, site, browser
    ):
        self.comes_back(browser, "query", session_state="the victim's session")
        assert browser.user() == "sub-of-ann"
        refreshed = signing_in("ann")
        del refreshed["sid"]
        site.does["refresh"] = writes(refreshed)

        link = urlencode({**dict(self.ANSWER), "session_state": "the attacker's session"})
        browser.request("GET", f"/does/refresh?{link}", initiator="https://evil.example/")

        site.front_channel(sid="the attacker's session")
        assert browser.user() == "sub-of-ann"
        site.front_channel(sid="the victim's session")
        assert browser.user() is None

    def test_exchange_is_carried_for_a_minute_only(self, site, browser, monkeypatch):
        site.redirects_forms = True
        answer = browser.request("POST", "/callback", form=dict(self.ANSWER), initiator=ENTRA, hops=0)
        assert browser.jar.value("msal_logout_exchange", "http://localhost/callback")  # its clock goes wrong
        monkeypatch.setattr(itsdangerous.timed, "time", SimpleNamespace(time=lambda: time.time() + 120))
        browser.request("GET", answer.location)
        assert browser.user() == "sub-of-ann"
        site.front_channel(sid="a-session")
        assert browser.user() == "sub-of-ann"

    @pytest.mark.parametrize(
        ("status", "location", "carries"),
        [
            (303, "/me", True),
            (303, "http://localhost/me", True),
            (303, "https://localhost/me", False),
            (303, "https://elsewhere.example/me", False),
            (303, "//elsewhere.example/me", False),
            (303, "http://[", False),
            (201, "/me", False),
            (200, "/me", False),
        ],
    )
    def test_exchange_is_carried_by_a_redirect_within_the_app_only(
        self, either_door, status, location, carries
    ):
        site = either_door.build()
        exchange = Exchange(site.logout.configuration, Request("GET", "/callback", urlencode(self.ANSWER)))
        assert exchange.sid == "a-session"
        assert bool(exchange.headers(status, location)) is carries

    def test_exchange_that_was_led_elsewhere_is_not_carried_into_a_sign_in(self, site, browser):
        """The attacker's page closes the window before the redirect's target is loaded."""
        answer = dict(self.ANSWER) | {"code": "no code", "session_state": "the attacker's session"}
        browser.request("GET", f"/callback?{urlencode(answer)}", initiator="https://evil.example/", hops=0)
        assert browser.jar.value("msal_logout_exchange", "http://localhost/")

        self.comes_back(browser, "query", session_state=None)

        assert browser.user() == "sub-of-ann"
        site.front_channel(sid="the attacker's session")
        assert browser.user() == "sub-of-ann"

    def test_sid_in_the_claims_is_never_replaced(self, site, browser):
        site.codes["the code"] = signing_in("ann", "the true one")
        self.comes_back(browser, "query", session_state="another")
        site.front_channel(sid="another")
        assert browser.user() == "sub-of-ann"
        site.front_channel(sid="the true one")
        assert browser.user() is None

    @MSAL_RECOMMENDS_FORM_POST
    def test_session_state_of_another_provider_is_no_sid(self, tell, provider, alice):
        """Elsewhere it is a salted hash (Session Management 1.0, 3)."""
        story = tell("fastapi", "generic").serve(registration={"optional_claims": []})
        browser = story.sign_in(alice)
        callback = next(v.url for v in browser.history if "session_state=" in v.url)
        value = callback.partition("session_state=")[2].partition("&")[0]
        assert story.logout.count_sessions(sid=value) == 0
        assert story.logout.count_sessions(iss=provider.generic.oidc_authority, sub=alice.sub) == 1

    def test_form_reaches_the_app_byte_for_byte(self, either_door):
        site = either_door.build()
        body = b"session_state=a%2Bb&code=1&state=2&x=%ff&y=\xff&&=;z"
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = site.door.call("POST", "/", headers, body)
        assert json.loads(answer.body)["form"] == body.decode("latin-1")

    def test_large_form_and_other_kinds_are_not_read(self, either_door):
        site = either_door.build()
        site.codes["c"] = claims = signing_in("ann")
        del claims["sid"]
        form = {"code": "c", "state": "s", "session_state": "a-session", "x": "x" * 70_000}
        browser = site.browser()
        assert browser.post("/callback", form, site="cross-site").status == 303
        assert site.user(browser) == "sub-of-ann"
        assert found(site, sid="a-session") == 0


def test_real_sign_in_by_form_post_is_found_by_its_session_state(tell, provider, alice):
    """The optional claim is not configured, as in an app registration in Entra at first."""
    story = tell("fastapi", "entra", response_mode="form_post")
    setting = {"session_state_is_sid": True, "verify": provider.ca_file}
    tenant = f"{provider.entra.authority}/v2.0"
    story.serve(provider=Provider.discover(tenant, "an app", **setting), registration={"client_id": "an app"})
    browser = story.sign_in(alice)
    known = story.known_of(browser)
    (session,) = provider.sessions(alice)
    assert "sid" not in known.session.claims
    with provider.browser() as another:
        assert another.open(f"{story.url}/logout/front-channel?sid={session.sid}").status == 200
    assert "home of nobody" in browser.open(f"{story.url}/").text
    story.assert_nothing_left(known)
