"""Front-channel logout: the provider's hidden iframe, nearly always without a cookie."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from msal_logout_middleware import Cookie, LogoutEnded, LogoutRefused
from msal_logout_middleware.stores.memory import MemoryStore
from tests.remote.conftest import signing_in
from tests.stories.conftest import MSAL_RECOMMENDS_FORM_POST
from tests.tokens import TENANT

PATH = "/logout/front-channel"
ORIGIN = "https://login.microsoftonline.com"
ORIGINS = [ORIGIN, *(f"https://login.{host}" for host in ("microsoft.com", "windows.net", "live.com"))]
ISS = f"{ORIGIN}/{TENANT}/v2.0"


def is_inert(answer):
    """The page that does nothing, which is all that any caller is shown."""
    assert answer.status == 200
    assert answer.body == b""
    return True


def is_untouched(site, browser, claims):
    return site.user(browser) == claims["sub"] and site.cache(claims) is not None


def test_session_is_found_and_ended_without_a_cookie(site, sites_store):
    sites_store(site).build()
    claims, bobs = signing_in("ann", "sid of ann"), signing_in("bob", "sid of bob")
    ann, bob = site.sign_in(claims), site.sign_in(bobs)
    stolen = site.copy(ann)

    answer = site.front_channel(sid="sid of ann")

    assert is_inert(answer)
    assert answer.set_cookies == {}
    assert site.cache(claims) is None
    assert site.store.open_rows() == 0
    if site.is_server_side:
        assert "sub-of-ann" not in repr(dict(site.records))
    ended = site.events[-1]
    assert isinstance(ended, LogoutEnded)
    assert (ended.channel, ended.sessions, ended.removed["RefreshToken"]) == ("front-channel", 1, 1)
    assert site.user(ann) is None
    assert site.user(stolen) is None
    assert is_untouched(site, bob, bobs)


def test_session_of_the_cookie_is_ended_and_its_cookie_deleted(site):
    """Where third-party cookies are allowed; a browser heeds the deletion in an iframe only so."""
    site.build(delete_cookies=[Cookie("remember_token", path="/app", domain="example.com")])
    claims = signing_in("ann")
    ann = site.sign_in(claims)

    answer = ann.get(f"{PATH}?sid=a-session", site="cross-site")

    assert is_inert(answer)
    epoch = "Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0"
    assert answer.set_cookies == {
        site.cookie_name: f"{site.cookie_name}=; {epoch}; Path=/; Secure; HttpOnly; SameSite=None",
        "remember_token": (
            f"remember_token=; {epoch}; Path=/app; Domain=example.com; Secure; HttpOnly; SameSite=None"
        ),
    }
    assert site.cache(claims) is None


def test_cookie_of_a_session_whose_sid_was_learnt_is_deleted(either_door):
    """Its claims say none."""
    site = either_door.build()
    claims = signing_in("ann")
    del claims["sid"]
    ann = site.sign_in(claims)
    site.logout.signed_in(claims, sid="told")
    answer = ann.get(f"{PATH}?sid=told", site="cross-site")
    assert "Max-Age=0" in answer.set_cookies[site.cookie_name]
    assert site.cache(claims) is None


def test_session_that_the_index_never_saw_is_found_by_its_cookie(site):
    """Signed in before the middleware was there, and asked about for the first time by the iframe."""
    site.build()
    claims = signing_in("ann")
    ann = site.sign_in(claims)
    site.store = MemoryStore()
    site.keep_tokens(claims)
    _, ann.site = site.worker(store=site.store)
    stolen = site.copy(ann)

    answer = ann.get(f"{PATH}?sid=a-session", site="cross-site")

    assert site.cookie_name in answer.set_cookies
    assert site.cache(claims) is None
    assert site.user(stolen) is None


def test_form_that_b2c_posts_does_the_same(site):
    site.build()
    claims = signing_in("ann")
    ann = site.sign_in(claims)
    answer = site.browser().post(PATH, {"sid": "a-session", "iss": ISS}, site="cross-site")
    assert is_inert(answer)
    assert site.user(ann) is None
    assert site.cache(claims) is None


@pytest.mark.parametrize(
    "parameters", [{"sid": "a-session", "iss": ISS}, {"sid": "a-session"}], ids=["right", "absent"]
)
def test_iss_may_be_right_or_absent(either_door, parameters):
    """The specification says both or none; Entra sends `sid` only, which means the one configured issuer."""
    either_door.build()
    ann = either_door.sign_in(signing_in("ann"))
    assert is_inert(either_door.front_channel(**parameters))
    assert either_door.user(ann) is None


@pytest.mark.parametrize("iss", ["https://another.example", f"{ISS}/", ISS.upper(), "x", "\u00e9", "%00"])
@pytest.mark.parametrize("with_cookie", [False, True], ids=["without cookie", "with cookie"])
def test_wrong_iss_does_nothing(either_door, iss, with_cookie):
    site = either_door.build()
    claims = signing_in("ann")
    ann = site.sign_in(claims)
    browser = site.copy(ann) if with_cookie else site.browser()
    answer = browser.get(f"{PATH}?{urlencode({'sid': 'a-session', 'iss': iss})}", site="cross-site")
    assert is_inert(answer)
    assert answer.set_cookies == {}
    assert is_untouched(site, ann, claims)
    assert site.events[-1] == LogoutRefused("front-channel", "iss is not the provider's")


@pytest.mark.parametrize(
    "query",
    [
        "sid=another-session",
        "sid=A-SESSION",
        "sid=a-session%20",
        "sid=a-session%00",
        "SID=a-session",
        "sid=",
        "sid",
        "",
        "sid=a-session&sid=a-session",
        "sid=a-session&sid=another",
        "sid=&sid=a-session",
        "sid[]=a-session",
        "sub=sub-of-ann",
        f"sid={'x' * 60_000}",
    ],
    ids=lambda query: query[:30] or "nothing",
)
@pytest.mark.parametrize("with_cookie", [False, True], ids=["without cookie", "with cookie"])
def test_sid_that_names_no_session_does_nothing(either_door, query, with_cookie):
    site = either_door.build()
    claims = signing_in("ann")
    ann = site.sign_in(claims)
    browser = site.copy(ann) if with_cookie else site.browser()
    answer = browser.get(f"{PATH}?{query}", site="cross-site")
    assert is_inert(answer)
    assert answer.set_cookies == {}
    assert is_untouched(site, ann, claims)
    assert site.store.open_rows() == 0
    assert site.event_names()[-1] == "LogoutRefused"


def test_sid_in_query_and_form_at_once_does_nothing(either_door):
    site = either_door.build()
    claims = signing_in("ann")
    ann = site.sign_in(claims)
    assert is_inert(site.browser().post(f"{PATH}?sid=a-session", {"sid": "a-session"}, site="cross-site"))
    assert is_untouched(site, ann, claims)


@pytest.mark.parametrize(
    "content_type", ["application/json", "multipart/form-data; boundary=x", "text/plain"]
)
def test_body_of_another_kind_does_nothing(either_door, content_type):
    site = either_door.build()
    claims = signing_in("ann")
    ann = site.sign_in(claims)
    headers = {"content-type": content_type}
    body = json.dumps({"sid": "a-session"}).encode()
    assert is_inert(site.browser().request("POST", PATH, headers=headers, body=body, site="cross-site"))
    assert is_untouched(site, ann, claims)


def test_crafted_request_with_an_attackers_own_sid_leaves_the_victim_alone(site):
    """Any site can have the victim's browser make it, and the attacker knows the `sid` of their own session."""
    site.build()
    claims = signing_in("ann", "the victim's session")
    victim, attacker = site.sign_in(claims), site.sign_in(signing_in("mallory", "the attacker's session"))
    before = dict(victim.cookies)

    answer = victim.get(f"{PATH}?sid=the+attacker%27s+session", site="cross-site")

    assert is_inert(answer)
    assert answer.set_cookies == {}
    assert victim.cookies == before
    assert is_untouched(site, victim, claims)
    assert site.user(attacker) is None


@pytest.mark.parametrize("with_cookie", [False, True])
def test_sid_of_another_issuer_is_not_the_providers(site, with_cookie):
    """The app takes users of two providers; a bare `sid` is one of the configured provider's."""
    site.build()
    claims = signing_in("ann", iss="https://another.example")
    ann = site.sign_in(claims)
    browser = ann if with_cookie else site.browser()
    answer = browser.get("/logout/front-channel?sid=a-session", site="cross-site")
    assert is_inert(answer)
    assert not answer.set_cookies
    assert is_untouched(site, ann, claims)


PAGE = {"referer": f"{ORIGIN}/common/oauth2/v2.0/logout"}


class TestWithoutSid:
    """Some providers send none; an app may then let the provider's page end the session of the cookie."""

    def test_nothing_happens_by_default(self, either_door):
        site = either_door.build()
        claims = signing_in("ann")
        ann = site.sign_in(claims)
        answer = ann.get(PATH, headers=PAGE, site="cross-site")
        assert is_inert(answer)
        assert answer.set_cookies == {}
        assert is_untouched(site, ann, claims)

    def test_cookies_session_ends_by_option_from_the_providers_page(self, site):
        site.build(front_channel_without_sid=True)
        claims, bobs = signing_in("ann"), signing_in("bob")
        ann, bob = site.sign_in(claims), site.sign_in(bobs)
        stolen = site.copy(ann)
        answer = ann.get(PATH, headers=PAGE, site="cross-site")
        assert is_inert(answer)
        assert site.cookie_name in answer.set_cookies
        assert site.user(stolen) is None
        assert site.cache(claims) is None
        assert is_untouched(site, bob, bobs)

    @pytest.mark.parametrize(
        "referer",
        [
            None,
            "",
            "https://evil.example/",
            "https://evil.example/?https://login.microsoftonline.com/",
            "https://login.microsoftonline.com.evil.example/",
            "https://login.microsoftonline.com@evil.example/",
            "https://login.microsoftonline.com:444/",
            "http://login.microsoftonline.com/",
            "login.microsoftonline.com",
            "https://[/",
        ],
    )
    def test_nothing_happens_from_another_page(self, either_door, referer):
        site = either_door.build(front_channel_without_sid=True)
        claims = signing_in("ann")
        ann = site.sign_in(claims)
        headers = {} if referer is None else {"referer": referer}
        answer = ann.get(PATH, headers=headers, site="cross-site")
        assert is_inert(answer)
        assert answer.set_cookies == {}
        assert is_untouched(site, ann, claims)

    def test_session_of_another_issuer_is_not_the_providers_to_end(self, either_door):
        site = either_door.build(front_channel_without_sid=True)
        claims = signing_in("ann", iss="https://another.example")
        ann = site.sign_in(claims)
        answer = ann.get(PATH, headers=PAGE, site="cross-site")
        assert is_inert(answer)
        assert answer.set_cookies == {}
        assert is_untouched(site, ann, claims)

    def test_nothing_happens_without_a_cookie(self, either_door):
        site = either_door.build(front_channel_without_sid=True)
        claims = signing_in("ann")
        ann = site.sign_in(claims)
        assert is_inert(site.browser().get(PATH, headers=PAGE, site="cross-site"))
        assert is_untouched(site, ann, claims)


class TestAnswer:
    @pytest.mark.parametrize("sid", ["a-session", "another-session", ""])
    def test_answer_says_the_same_whatever_was_done(self, either_door, sid):
        """So that it tells nobody which sessions there are."""
        site = either_door.build()
        site.sign_in(signing_in("ann"))
        answer = site.front_channel(sid=sid)
        assert is_inert(answer)
        assert sorted((name.lower(), value) for name, value in answer.headers) == [
            ("cache-control", "no-store"),
            ("content-length", "0"),
            ("content-security-policy", f"default-src 'none'; frame-ancestors {' '.join(ORIGINS)}"),
            ("content-type", "text/html; charset=utf-8"),
            ("referrer-policy", "no-referrer"),
        ]

    @pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"])
    def test_other_method_is_refused_and_ends_nothing(self, either_door, method):
        site = either_door.build()
        claims = signing_in("ann")
        ann = site.sign_in(claims)
        answer = site.browser().request(method, f"{PATH}?sid=a-session", site="cross-site")
        assert (answer.status, answer.one("allow"), answer.body) == (405, "GET, POST", b"")
        assert is_untouched(site, ann, claims)

    def test_oversized_form_is_refused(self, either_door):
        site = either_door.build()
        claims = signing_in("ann")
        ann = site.sign_in(claims)
        answer = site.browser().post(PATH, {"x": "x" * 70_000, "sid": "a-session"}, site="cross-site")
        assert answer.status == 413
        assert is_untouched(site, ann, claims)

    def test_path_that_is_switched_off_is_the_apps(self, either_door):
        site = either_door.build(front_channel_path=None)
        ann = site.sign_in(claims := signing_in("ann"))
        assert site.front_channel(sid="a-session").status == 404
        assert is_untouched(site, ann, claims)

    @pytest.mark.parametrize("path", ["/logout/front-channel/", "/Logout/front-channel", "/logout/front"])
    def test_path_is_matched_exactly(self, either_door, path):
        site = either_door.build()
        ann = site.sign_in(claims := signing_in("ann"))
        assert site.browser().get(f"{path}?sid=a-session", site="cross-site").status == 404
        assert is_untouched(site, ann, claims)

    @pytest.mark.parametrize("path", [PATH, f"/app{PATH}"], ids=["path without", "path with"])
    def test_path_is_below_the_mount(self, either_door, path):
        """A server may leave the mount in the path (ASGI allows both), and WSGI never does."""
        site = either_door.build()
        ann = site.sign_in(signing_in("ann"))
        mount = {"root_path": "/app"} if site.is_asgi else {"SCRIPT_NAME": "/app"}
        path = path if site.is_asgi else PATH
        assert is_inert(site.door.call("GET", f"{path}?sid=a-session", {}, b"", **mount))
        assert site.user(ann) is None

    def test_path_can_be_chosen(self, either_door):
        site = either_door.build(front_channel_path="/bye")
        ann = site.sign_in(signing_in("ann"))
        assert is_inert(site.browser().get("/bye?sid=a-session", site="cross-site"))
        assert site.user(ann) is None


def test_second_call_finds_nothing_left_to_do(site):
    site.build()
    site.sign_in(signing_in("ann"))
    site.front_channel(sid="a-session")
    assert is_inert(site.front_channel(sid="a-session"))
    assert site.events[-1] == LogoutRefused("front-channel", "no session has this sid")


def test_all_sessions_of_one_session_of_the_provider_end(site):
    """The same browser, signed in at two of the app's entrances; or two browsers with one `sid`."""
    site.build()
    first, second = site.sign_in(signing_in("ann")), site.sign_in(signing_in("ann"))
    other = site.sign_in(signing_in("ann", "another session of hers"))
    site.front_channel(sid="a-session")
    assert site.events[-1].sessions == 2
    assert (site.user(first), site.user(second)) == (None, None)
    assert site.user(other) == "sub-of-ann"


@MSAL_RECOMMENDS_FORM_POST
def test_no_token_is_revoked_at_the_provider(tell, provider, alice):
    """Nobody signed the request, so the provider is not even called."""
    story = tell("flask", "generic").serve()
    browser = story.sign_in(alice)
    known = story.known_of(browser)
    (session,) = provider.sessions(alice)
    alive, asked = provider.alive_refresh_tokens(alice), len(provider.requests)

    with provider.browser() as another:
        page = another.open(
            f"{story.url}{PATH}?{urlencode({'iss': provider.generic.oidc_authority, 'sid': session.sid})}"
        )

    assert page.status == 200
    story.assert_nothing_left(known)
    assert provider.alive_refresh_tokens(alice) == alive
    assert not [r for r in provider.requests[asked:] if r.endpoint not in ("discovery", "keys")]


@pytest.mark.parametrize("repeated", ["query", "query and form"])
@pytest.mark.parametrize("name", ["iss", "sid"])
def test_parameter_that_is_repeated_is_refused_and_not_taken_for_absent(either_door, name, repeated):
    site = either_door.build()
    ann = site.sign_in(signing_in("ann"))
    values = {"sid": "a-session", "iss": "https://evil.example"} if name == "iss" else {"sid": "a-session"}
    once = urlencode(values)
    again = urlencode({name: values[name]})
    if repeated == "query":
        answer = site.door.call("GET", f"/logout/front-channel?{once}&{again}", [], b"")
    else:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = site.door.call("POST", f"/logout/front-channel?{once}", headers, again.encode())
    assert answer.status == 200
    assert site.user(ann) == "sub-of-ann"
    assert site.events[-1] == LogoutRefused("front-channel", "sid or iss is repeated")
