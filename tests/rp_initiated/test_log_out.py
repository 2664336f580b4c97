"""Signing out from the app: what goes, where the browser is sent, and what is refused."""

import json
import re
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest

from msal_logout_middleware import Cookie, InSession, LogoutEnded, LogoutFailed, SQLiteStore
from msal_logout_middleware.caches import home_account_id
from msal_logout_middleware.ending import Work
from msal_logout_middleware.provider import Provider
from msal_logout_middleware.records import KnownSession
from msal_logout_middleware.seal import Seal
from tests.sites import HOME, KINDS, SECRET, Site
from tests.tokens import CLIENT_ID, TENANT, cache_of, claims_of

ANN, BOB = claims_of("ann", login_hint="opaque-hint"), claims_of("bob")
PROVIDER = f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/logout"


def sent(answer):
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.location).query).items()}


def sign_tokens_in(site, claims):
    key = home_account_id(claims)
    assert site.store.replace(key, site.store.load(key).version, cache_of(claims).encode())


def signed_in_as(site, claims):
    """Return what the session engine keeps for somebody, by having them sign in."""
    before = set(site.records)
    site.sign_in(claims, cache=False)
    return site.records[(set(site.records) - before).pop()]


def form_of(answer):
    return dict(re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', answer.text))


def test_everything_of_the_user_goes_and_nobody_else_is_touched(site):
    site.build()
    ann, bob = site.sign_in(ANN), site.sign_in(BOB)
    bobs_cache = site.cache(BOB)

    answer = ann.get("/logout")

    assert answer.status == 303
    assert answer.location.startswith(PROVIDER + "?")
    assert ann.get("/me").body == b'{"user":null}\n' or json.loads(ann.get("/me").body) == {"user": None}
    assert not [name for name in ann.cookies if "session" in name]
    assert site.cache(ANN) is None
    assert site.store.open_rows() == 0
    assert json.loads(bob.get("/me").body)["user"]["sub"] == BOB["sub"]
    assert site.cache(BOB) == bobs_cache
    if site.records is not None:
        assert "sub-of-ann" not in repr(dict(site.records))
        assert "sub-of-bob" in repr(dict(site.records))
    ended = site.events[-1]
    assert isinstance(ended, LogoutEnded)
    assert ended.removed["RefreshToken"] == 1


def test_session_is_marked_as_ended_for_good(site):
    site.build()
    ann = site.sign_in(ANN)
    ann.get("/logout")
    marks = site.store.marks_since(0, limit=10).marks
    assert [mark.kind for mark in marks] == ["handle"]


def test_provider_is_told_who_and_where_to(either_door):
    either_door.build()
    answer = either_door.sign_in(ANN).get("/logout?ui_locales=de%20en")
    parameters = sent(answer)
    assert parameters.pop("state")
    assert parameters == {
        "client_id": CLIENT_ID,
        "post_logout_redirect_uri": HOME,
        "logout_hint": "opaque-hint",
        "ui_locales": "de en",
    }


def test_answer_is_a_single_redirect_that_nobody_keeps(either_door):
    either_door.build()
    answer = either_door.sign_in(ANN).get("/logout")
    assert answer.status == 303
    assert answer.one("cache-control") == "no-store"
    assert answer.one("referrer-policy") == "no-referrer"


def test_user_name_is_never_a_hint(either_door):
    either_door.build()
    answer = either_door.sign_in(BOB).get("/logout")
    assert "bob" not in answer.location


def test_nobody_signed_in_is_sent_to_the_provider_without_hints(either_door, caplog):
    caplog.set_level("INFO")
    either_door.build()
    answer = either_door.browser().get("/logout")
    assert answer.location.startswith(PROVIDER)
    assert "logout_hint" not in sent(answer)
    assert "nobody is signed in" in caplog.text


@pytest.mark.parametrize("cookie", ["garbage", "a.b.c", "%00", '"', "x" * 9000])
def test_forged_cookie_is_nobody(site, cookie):
    site.build()
    ann = site.sign_in(ANN)
    name = site.session.cookies[0].name
    answer = site.browser().get("/logout", headers={"cookie": f"{name}={cookie}"})
    assert answer.status == 303
    assert json.loads(ann.get("/me").body)["user"]["sub"] == ANN["sub"]
    assert site.cache(ANN)


def test_malformed_neighbours_do_not_hide_the_session_cookie(site):
    site.build()
    ann = site.sign_in(ANN)
    name = site.session.cookies[0].name
    header = f'foo; ="x; {name}={ann.cookies[name]}; bar=\x80; ;;'
    site.browser().get("/logout", headers={"cookie": header})
    assert site.cache(ANN) is None


def test_cookies_are_deleted_with_every_attribute_and_so_are_those_that_the_user_names(either_door):
    more = Cookie(
        "remember_token", path="/app", domain="example.com", secure=True, same_site="None", partitioned=True
    )
    either_door.build(delete_cookies=[more, "plain"])
    answer = either_door.sign_in(ANN).get("/logout")
    assert "SameSite=Lax" in answer.set_cookies["session"]
    assert answer.set_cookies["remember_token"] == (
        "remember_token=; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; Path=/app; Domain=example.com; Secure; "
        "HttpOnly; SameSite=None; Partitioned"
    )
    assert "plain" in answer.set_cookies


def test_browser_is_asked_to_forget_what_is_configured(either_door):
    either_door.build(clear_site_data=["cache", "storage"])
    answer = either_door.browser().get("/logout")
    assert answer.one("clear-site-data") == '"cache", "storage"'


def test_tokens_in_the_session_go_with_it(server_side_site):
    site = server_side_site.build(caches=InSession("tokens"))
    ann = site.browser()
    ann.post("/sign-in", {"claims": json.dumps(ANN)})
    answer = ann.get("/logout")
    assert answer.status == 303
    assert "sub-of-ann" not in repr(dict(site.records))


def test_what_the_app_has_added_to_the_claims_does_not_matter():
    site = Site("flask", KINDS["flask, signed cookie"]).build()
    claims = {**ANN, "seen": datetime(2026, 1, 1, tzinfo=UTC), "id": uuid4(), "more": [{"a": b"b"}]}
    ann = site.sign_in(ANN)
    value = site.app.session_interface.get_signing_serializer(site.app).dumps({"user": claims})
    ann.cookies["session"] = value
    assert ann.get("/logout").status == 303
    assert site.cache(ANN) is None
    assert site.event_names()[-1] == "LogoutEnded"


def test_form_stays_on_this_host_whatever_the_mount_is_said_to_be():
    site = Site("flask", KINDS["flask, signed cookie"]).build()
    environ = {"SCRIPT_NAME": "//evil.example"}
    answer = site.door.call("GET", "/logout", {}, b"", **environ)
    assert 'action="/evil.example/logout"' in answer.text


class TestMethods:
    @pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "PATCH"])
    def test_other_method_ends_nothing(self, either_door, method):
        either_door.build()
        ann = either_door.sign_in(ANN)
        answer = ann.request(method, "/logout")
        assert answer.status == 405
        assert answer.one("allow") == "GET, POST, OPTIONS"
        assert either_door.cache(ANN)

    def test_options_are_told(self, either_door):
        either_door.build(methods=["POST"])
        answer = either_door.browser().request("OPTIONS", "/logout")
        assert (answer.status, answer.one("allow")) == (204, "POST, OPTIONS")

    def test_get_can_be_switched_off(self, either_door):
        either_door.build(methods=["POST"])
        ann = either_door.sign_in(ANN)
        assert ann.get("/logout").status == 405
        assert either_door.cache(ANN)
        assert ann.post("/logout").status == 303
        assert either_door.cache(ANN) is None

    @pytest.mark.parametrize("header", ["sec-purpose", "purpose", "x-moz"])
    def test_prefetch_ends_nothing(self, either_door, header):
        either_door.build()
        ann = either_door.sign_in(ANN)
        assert ann.get("/logout", headers={header: "prefetch;prerender"}).status == 204
        assert either_door.cache(ANN)

    @pytest.mark.parametrize("path", ["/logout/", "/Logout", "/logoutx", "/x/logout", "/logout%2f", "/log"])
    def test_other_path_is_the_app_s(self, either_door, path):
        either_door.build()
        ann = either_door.sign_in(ANN)
        ann.get(path)
        assert either_door.cache(ANN)
        assert either_door.events == []

    def test_body_that_is_too_large_is_refused_unread(self, either_door):
        either_door.build()
        ann = either_door.sign_in(ANN)
        assert ann.post("/logout", {"x": "y" * 70_000}).status == 413
        assert either_door.cache(ANN)


class TestCrossSite:
    @pytest.mark.parametrize(
        "headers",
        [
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
            {"sec-fetch-site": "same-origin, cross-site"},
            {"sec-fetch-site": ""},
            {"sec-fetch-site": "same-origin", "sec-fetch-dest": "image"},
            {"sec-fetch-site": "same-origin", "sec-fetch-dest": "iframe"},
            {"referer": "http://[bad"},
            {"sec-fetch-site": "cross-site", "origin": "http://localhost"},
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"origin": "http://localhost.evil.example"},
            {"origin": "null", "referer": "http://localhost/"},
            {"referer": "https://evil.example/http://localhost/"},
            {"referer": "http://localhost@evil.example/"},
            {"referer": "http://localhost:81/"},
            {"referer": "https://localhost/"},
            {},
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_request_that_another_site_may_have_caused_is_only_asked_about(
        self, either_door, method, headers
    ):
        either_door.build()
        ann = either_door.sign_in(ANN)
        answer = ann.request(method, "/logout", headers=headers, site=None)
        assert answer.status == 200
        assert "frame-ancestors 'none'" in answer.one("content-security-policy")
        assert answer.one("cache-control") == "no-store"
        assert "session" in ann.cookies
        assert either_door.cache(ANN)
        assert either_door.event_names() == ["LogoutRefused"]

    @pytest.mark.parametrize(
        "headers",
        [
            {"sec-fetch-site": "same-origin"},
            {"sec-fetch-site": "none"},
            {"origin": "http://localhost"},
            {"referer": "http://localhost/some/page?x"},
        ],
    )
    def test_request_of_the_app_itself_needs_no_question(self, either_door, headers):
        either_door.build()
        ann = either_door.sign_in(ANN)
        assert ann.request("GET", "/logout", headers=headers, site=None).status == 303
        assert either_door.cache(ANN) is None

    def test_configured_origin_counts_not_the_host_header(self, either_door):
        either_door.build(origin="https://app.example.com")
        ann = either_door.sign_in(ANN)
        headers = {"origin": "http://localhost", "host": "localhost"}
        assert ann.request("GET", "/logout", headers=headers, site=None).status == 200
        headers = {"origin": "https://app.example.com", "host": "localhost"}
        assert ann.request("GET", "/logout", headers=headers, site=None).status == 303

    def test_confirming_signs_out(self, either_door):
        either_door.build()
        ann = either_door.sign_in(ANN)
        page = ann.get("/logout", site="cross-site")
        answer = ann.post("/logout", form_of(page), site=None, headers={"origin": "null"})
        assert answer.status == 303
        assert either_door.cache(ANN) is None

    def test_confirmation_keeps_what_was_asked_for(self, either_door):
        either_door.build(return_to=["/bye?a=b&c"])
        ann = either_door.sign_in(ANN)
        page = ann.get("/logout?return_to=/bye%3Fa%3Db%26c&evil=1", site="cross-site")
        action = re.search(r'action="([^"]*)"', page.text)[1]
        assert action == "/logout?return_to=%2Fbye%3Fa%3Db%26c"

    def test_confirmation_of_another_browser_does_nothing(self, either_door):
        either_door.build()
        mallory, ann = either_door.sign_in(BOB), either_door.sign_in(ANN)
        token = form_of(mallory.get("/logout", site="cross-site"))
        assert ann.post("/logout", token, site="cross-site").status == 200
        assert either_door.cache(ANN)

    def test_confirmation_without_its_cookie_does_nothing(self, either_door):
        either_door.build()
        ann = either_door.sign_in(ANN)
        token = form_of(ann.get("/logout", site="cross-site"))
        del ann.cookies["msal_logout_page"]
        assert ann.post("/logout", token, site="cross-site").status == 200
        assert either_door.cache(ANN)

    def test_confirmation_for_another_session_of_the_same_browser_does_nothing(self, either_door):
        either_door.build()
        ann = either_door.sign_in(BOB)
        token = form_of(ann.get("/logout", site="cross-site"))
        ann.post("/sign-in", {"claims": json.dumps(ANN)})
        assert ann.post("/logout", token, site="cross-site").status == 200
        assert json.loads(ann.get("/me").body)["user"] == ANN

    @pytest.mark.parametrize("app_view", [False, True])
    def test_confirmation_works_once(self, either_door, app_view):
        either_door.build(app_view=app_view)
        ann = either_door.sign_in(ANN)
        token = form_of(ann.get("/logout", site="cross-site"))
        assert "msal_logout_page" in ann.cookies
        assert ann.post("/logout", token, site="cross-site").status in (302, 303)
        assert "msal_logout_page" not in ann.cookies

    def test_cookie_of_the_question_is_for_this_site_only(self, either_door):
        either_door.build(post_logout_redirect_uri="https://app.example.com/")
        page = either_door.browser().get("/logout", site="cross-site")
        cookie = page.set_cookies["__Host-msal_logout_page"]
        assert all(part in cookie for part in ("Secure", "HttpOnly", "SameSite=Strict", "Path=/"))


class TestComingBack:
    def test_browser_s_own_state_leads_where_it_was_asked_to_once(self, either_door):
        either_door.build(return_to=["/bye"])
        ann = either_door.sign_in(ANN)
        state = sent(ann.get("/logout?return_to=/bye"))["state"]
        back = ann.get(f"/?state={state}", site="cross-site")
        assert (back.status, back.location) == (303, "/bye")
        assert "msal_logout_state" not in ann.cookies
        assert ann.get(f"/?state={state}", site="cross-site").status == 200

    def test_without_a_choice_it_leads_home(self, either_door):
        either_door.build()
        ann = either_door.sign_in(ANN)
        state = sent(ann.get("/logout"))["state"]
        assert ann.get(f"/?state={state}").location == HOME

    @pytest.mark.parametrize("target", ["https://evil.example", "/other", "//evil.example", "", "/bye/"])
    def test_target_that_is_not_configured_is_ignored(self, either_door, target):
        either_door.build(return_to=["/bye"])
        ann = either_door.sign_in(ANN)
        state = sent(ann.get(f"/logout?return_to={target}"))["state"]
        assert ann.get(f"/?state={state}").location == HOME

    @pytest.mark.parametrize("query", ["", "state=", "state=other", "state=a&state=b"])
    def test_missing_or_other_state_is_the_app_s_and_revives_nothing(self, either_door, query):
        either_door.build()
        ann = either_door.sign_in(ANN)
        ann.get("/logout")
        back = ann.get(f"/?{query}")
        assert back.status == 200
        assert json.loads(back.body)["query"] == query
        assert json.loads(ann.get("/me").body) == {"user": None}

    def test_state_of_another_browser_is_the_app_s(self, either_door):
        either_door.build()
        ann, bob = either_door.sign_in(ANN), either_door.sign_in(BOB)
        ann.get("/logout")
        state = sent(bob.get("/logout"))["state"]
        assert ann.get(f"/?state={state}").status == 200

    def test_posted_body_reaches_the_app_whole(self, either_door):
        either_door.build()
        ann = either_door.sign_in(ANN)
        ann.get("/logout")
        back = ann.post("/?state=other", {"a": "b" * 100})
        assert json.loads(back.body)["form"] == "a=" + "b" * 100


class TestIdTokenHint:
    def test_is_sent_when_configured(self, either_door):
        either_door.build(id_token_hint=True, max_url_length=10_000)
        parameters = sent(either_door.sign_in(ANN).get("/logout"))
        assert parameters["id_token_hint"].count(".") == 2

    def test_gives_way_to_the_logout_hint_where_the_url_grows_too_long(self, either_door):
        either_door.build(id_token_hint=True, max_url_length=400)
        answer = either_door.sign_in(ANN).get("/logout")
        assert answer.status == 303
        assert "id_token_hint" not in sent(answer)
        assert sent(answer)["logout_hint"] == "opaque-hint"

    def test_is_posted_where_there_is_no_logout_hint(self, either_door):
        either_door.build(id_token_hint=True, max_url_length=400)
        bob = either_door.sign_in(BOB)
        answer = bob.get("/logout")
        assert answer.status == 200
        assert f'action="{PROVIDER}"' in answer.text
        assert form_of(answer)["id_token_hint"].count(".") == 2
        assert "session" not in bob.cookies
        assert "script-src 'sha256-" in answer.one("content-security-policy")
        assert "unsafe" not in answer.one("content-security-policy")


def test_provider_that_is_away_does_not_keep_anybody_signed_in(site):
    site.build(provider=Provider.discover("http://127.0.0.1:9", CLIENT_ID), landing_page="/bye")
    ann = site.sign_in(ANN)
    answer = ann.get("/logout")
    assert (answer.status, answer.location) == (303, "/bye")
    assert site.cache(ANN) is None
    assert json.loads(ann.get("/me").body) == {"user": None}


class TestAppView:
    def test_app_sees_the_user_then_the_session_goes(self, site):
        site.build(app_view=True)
        ann = site.sign_in(ANN)
        answer = ann.get("/logout")
        assert site.calls == ["GET sub-of-ann"]
        assert answer.location == "https://provider.example/app-s-own-logout"
        assert site.cache(ANN) is None
        assert json.loads(ann.get("/me").body) == {"user": None}
        assert answer.all("set-cookie") == [site.session.cookies[0].delete()[1]]
        if site.records is not None:
            assert "sub-of-ann" not in repr(dict(site.records))
        assert site.event_names() == ["LogoutStarted", "LogoutEnded"]

    def test_session_is_gone_before_the_answer_goes_out_and_again_after_it(self, server_side_site):
        site = server_side_site.build(app_view=True)
        site.stream = True
        ann = site.sign_in(ANN)
        assert ann.get("/logout").body == b"firstsecond"
        assert "sub-of-ann" not in site.seen[0]
        assert "sub-of-ann" not in repr(dict(site.records))

    def test_tokens_that_the_view_acquired_go_too(self, either_door):
        site = either_door.build(app_view=True)
        ann = site.sign_in(ANN)
        site.acquires = lambda: sign_tokens_in(site, ANN)
        assert ann.get("/logout").status == 302
        assert site.cache(ANN) is None

    def test_tokens_that_come_after_the_view_s_answer_go_too(self, server_side_site):
        site = server_side_site.build(app_view=True)
        site.stream = True
        ann = site.sign_in(ANN)
        site.acquires_late = lambda: sign_tokens_in(site, ANN)
        ann.get("/logout")
        assert site.cache(ANN) is None

    def test_view_that_is_not_there_is_told(self, either_door, caplog):
        site = either_door.build(app_view=True, logout_path="/nowhere")
        assert site.sign_in(ANN).get("/nowhere").status == 404
        assert "has no view" in caplog.text

    def test_cross_site_request_does_not_reach_it(self, either_door):
        either_door.build(app_view=True)
        ann = either_door.sign_in(ANN)
        assert ann.get("/logout", site="cross-site").status == 200
        assert either_door.calls == []

    def test_confirming_calls_it_as_the_link_would_have(self, either_door):
        either_door.build(app_view=True)
        ann = either_door.sign_in(ANN)
        page = ann.get("/logout", site="cross-site")
        ann.post("/logout", form_of(page), site=None)
        assert either_door.calls == ["GET sub-of-ann"]

    def test_nobody_signed_in_reaches_it_too(self, either_door):
        either_door.build(app_view=True)
        answer = either_door.browser().post("/logout")
        assert answer.status == 302
        assert "session" in answer.set_cookies
        assert either_door.calls == ["POST None"]


def test_what_is_logged_and_told_names_nobody(site, caplog):
    caplog.set_level("DEBUG", logger="msal_logout_middleware")
    site.build()
    ann = site.sign_in(ANN)
    cookie = next(iter(ann.cookies.values()))
    ann.get("/logout", site="cross-site")
    ann.get("/logout")
    told = caplog.text + repr(site.events)
    assert "rp-initiated" in told
    for secret in (cookie, ANN["sub"], ANN["oid"], "ann@example.com", "rt-of", "opaque-hint", "eyJ"):
        assert secret not in told


def test_hook_that_raises_harms_nobody(either_door, caplog):
    def hook(event):
        raise RuntimeError("the app's mistake")

    either_door.build(on_event=hook)
    assert either_door.sign_in(ANN).get("/logout").status == 303
    assert either_door.cache(ANN) is None
    assert "on_event raised" in caplog.text


class Faulty:
    """A part whose named methods fail for a number of calls."""

    def __init__(self, part, **failures):
        self._part, self.failures = part, failures

    def __getattr__(self, name):
        method = getattr(self._part, name)
        if name not in self.failures:
            return method

        def call(*args, **kwargs):
            if self.failures[name] > 0:
                self.failures[name] -= 1
                raise OSError("secret detail of the engine")
            return method(*args, **kwargs)

        return call


class TestFaults:
    @pytest.mark.parametrize("step", ["end", "load", "replace", "finish"])
    def test_one_failure_is_retried(self, either_door, step):
        either_door.store = Faulty(either_door.store, **{step: 0})
        either_door.build(retry_seconds=1.0)
        ann = either_door.sign_in(ANN)
        either_door.store.failures[step] = 1
        assert ann.get("/logout").status == 303
        assert either_door.event_names() == ["LogoutStarted", "LogoutEnded"]
        assert either_door.store.open_rows() == 0

    @pytest.mark.parametrize(
        ("step", "left"),
        [("end", "mark"), ("load", "accounts"), ("replace", "accounts"), ("finish", "journal")],
    )
    def test_what_could_not_be_completed_is_said_and_can_be_tried_again(self, site, step, left, caplog):
        site.store = Faulty(site.store, **{step: 0})
        site.build()
        ann = site.sign_in(ANN)
        site.store.failures[step] = 10**9
        page = ann.get("/logout")
        assert page.status == 503
        assert "Try again" in page.text
        assert "Continue to the provider" in page.text
        assert PROVIDER in page.text
        assert not [name for name in ann.cookies if "session" in name]
        assert json.loads(ann.get("/me").body) == {"user": None}
        failed = site.events[-1]
        assert isinstance(failed, LogoutFailed)
        assert failed.left == (left,)
        assert "secret detail" not in caplog.text + page.text

        site.store.failures[step] = 0
        again = ann.post("/logout", form_of(page), site="same-origin")
        assert again.status == 303
        assert sent(again)["logout_hint"] == "opaque-hint"
        assert site.cache(ANN) is None
        assert site.store.open_rows() == 0
        assert isinstance(site.events[-1], LogoutEnded)

    def test_our_own_errors_say_in_the_log_what_to_do(self, either_door, tmp_path, caplog):
        either_door.store = SQLiteStore(tmp_path / "missing" / "logout.db")
        either_door.build()
        assert either_door.browser().post("/sign-in", {"claims": json.dumps(ANN)}).status == 503
        assert "does not exist: make it, writable by the app" in caplog.text

    def test_redirect_in_silence_is_an_option(self, either_door):
        either_door.store = Faulty(either_door.store, end=0)
        either_door.build(on_store_error="redirect")
        ann = either_door.sign_in(ANN)
        either_door.store.failures["end"] = 10**9
        assert ann.get("/logout").status == 303
        assert isinstance(either_door.events[-1], LogoutFailed)

    def test_session_store_that_is_away_is_said_and_can_be_tried_again(self, site, caplog):
        broken = site.build(wrap=Broken).session
        ann = site.sign_in(ANN)
        broken.away = True
        asked = ann.get("/logout", site="cross-site")
        assert asked.status == 200
        assert not any("session" in name for name in asked.set_cookies)
        page = ann.get("/logout")
        assert page.status == 503
        assert "storage is away" not in caplog.text
        assert site.cache(ANN)
        again = ann.post("/logout", form_of(page))
        assert again.status == 503
        broken.away = False
        assert ann.post("/logout", form_of(again)).status == 303
        assert site.cache(ANN) is None

    def test_session_that_is_gone_when_it_can_be_read_again_leaves_nothing_to_end(self, server_side_site):
        site = server_side_site
        broken = site.build(wrap=Broken).session
        ann = site.sign_in(ANN)
        broken.away = True
        page = ann.get("/logout")
        assert page.status == 503
        broken.away = False
        site.records.clear()
        assert ann.post("/logout", form_of(page)).location.startswith(PROVIDER)
        assert site.event_names()[-1] == "LogoutFailed"

    def test_session_store_that_is_away_for_a_moment_is_asked_again(self, either_door):
        broken = either_door.build(wrap=Broken, retry_seconds=5.0).session
        ann = either_door.sign_in(ANN)
        broken.failures = 1
        assert ann.get("/logout").status == 303
        assert either_door.event_names() == ["LogoutStarted", "LogoutEnded"]

    def test_redirect_in_silence_goes_for_a_session_store_that_is_away_too(self, either_door):
        broken = either_door.build(wrap=Broken, on_store_error="redirect").session
        ann = either_door.sign_in(ANN)
        broken.away = True
        assert ann.get("/logout").location.startswith(PROVIDER)
        assert isinstance(either_door.events[-1], LogoutFailed)

    def test_session_that_cannot_be_deleted_is_said(self, server_side_site):
        site = server_side_site
        broken = site.build(wrap=Broken).session
        ann = site.sign_in(ANN)
        broken.keeps = True
        page = ann.get("/logout")
        assert page.status == 503
        assert site.events[-1].left == ("session",)
        assert site.store.open_rows() == 1
        broken.keeps = False
        assert ann.post("/logout", form_of(page)).status == 303
        assert "sub-of-ann" not in repr(dict(site.records))
        assert site.store.open_rows() == 0

    def test_another_try_is_for_the_browser_that_was_shown_the_page(self, either_door):
        site = either_door
        site.store = Faulty(site.store, end=0)
        site.build()
        ann, mallory = site.sign_in(ANN), site.sign_in(BOB)
        site.store.failures["end"] = 10**9
        token = form_of(ann.get("/logout"))
        mallorys_token = form_of(mallory.get("/logout"))
        site.store.failures["end"] = 0

        mallory.cookies.clear()
        assert mallory.post("/logout", token, site="cross-site").status == 200
        ann.post("/sign-in", {"claims": json.dumps(ANN | {"iat": ANN["iat"] + 60})})
        asked = ann.post("/logout", mallorys_token, site="cross-site")
        assert asked.status == 200
        assert "session" in ann.cookies
        assert site.event_names()[-1] == "LogoutRefused"

    def test_another_try_works_once(self, either_door):
        site = either_door
        site.store = Faulty(site.store, end=0)
        site.build()
        ann = site.sign_in(ANN)
        site.store.failures["end"] = 10**9
        token = form_of(ann.get("/logout"))
        site.store.failures["end"] = 0
        assert ann.post("/logout", token, site="cross-site").status == 303
        ann.post("/sign-in", {"claims": json.dumps(ANN | {"iat": ANN["iat"] + 60})})
        assert ann.post("/logout", token, site="cross-site").status == 200
        assert "session" in ann.cookies

    def test_what_the_journal_holds_is_no_retry_token(self, either_door):
        site = either_door.build()
        ann = site.sign_in(ANN)
        work = Work("rp-initiated", (KnownSession(None, ("handle",), ANN),)).as_json() | {"nonce": "n"}
        ann.cookies["msal_logout_page"] = "n"
        sealed = Seal([SECRET]).seal("journal", work).decode()
        assert ann.post("/logout", {"retry": sealed}, site="cross-site").status == 200
        assert site.cache(ANN)

    def test_session_that_somebody_else_has_taken_over_is_left_alone(self, server_side_site):
        site = server_side_site
        broken = site.build(wrap=Broken).session
        ann = site.sign_in(ANN)
        broken.keeps = True
        page = form_of(ann.get("/logout"))
        broken.keeps = False
        bobs = signed_in_as(site, BOB)
        for name in list(site.records):
            site.records[name] = bobs
        bobs_sessions = set(site.records)
        assert ann.post("/logout", page).status == 303
        assert set(site.records) == bobs_sessions

    def test_session_that_cannot_be_read_again_is_left_for_another_try(self, server_side_site):
        site = server_side_site
        broken = site.build(wrap=Broken).session
        ann = site.sign_in(ANN)
        broken.keeps = True
        page = ann.get("/logout")
        broken.keeps, broken.away = False, True
        again = ann.post("/logout", form_of(page))
        assert again.status == 503
        assert "sub-of-ann" in repr(dict(site.records))
        assert set(site.events[-1].left) == {"read", "session"}
        broken.away = False
        assert ann.post("/logout", form_of(again)).status == 303
        assert "sub-of-ann" not in repr(dict(site.records))

    def test_going_on_to_the_provider_still_leads_back(self, either_door):
        site = either_door
        site.store = Faulty(site.store, end=0)
        site.build(return_to=["/bye"])
        ann = site.sign_in(ANN)
        site.store.failures["end"] = 10**9
        page = ann.get("/logout?return_to=/bye")
        state = re.search(r"state=([\w-]+)", page.text)[1]
        assert ann.get(f"/?state={state}").location == "/bye"

    def test_going_on_to_the_provider_posts_what_is_too_long(self, either_door):
        site = either_door
        site.store = Faulty(site.store, end=0)
        site.build(id_token_hint=True, max_url_length=400)
        bob = site.sign_in(BOB)
        site.store.failures["end"] = 10**9
        page = bob.get("/logout")
        assert f'action="{PROVIDER}"' in page.text
        assert form_of(page)["id_token_hint"].count(".") == 2

    def test_app_view_s_answer_gives_way_to_the_truth(self, either_door):
        either_door.store = Faulty(either_door.store, end=0)
        either_door.build(app_view=True)
        ann = either_door.sign_in(ANN)
        either_door.store.failures["end"] = 10**9
        answer = ann.get("/logout")
        assert answer.status == 503
        assert answer.location is None

    @pytest.mark.parametrize("token", ["garbage", ""])
    def test_forged_retry_is_no_way_around_the_question(self, either_door, token):
        either_door.build()
        ann = either_door.sign_in(ANN)
        assert ann.post("/logout", {"retry": token}, site="cross-site").status == 200
        assert either_door.cache(ANN)


class Broken:
    """A session reader whose storage goes away."""

    def __init__(self, reader):
        self._reader = reader
        self.away = self.keeps = False
        self.failures = 0
        self.blocking = getattr(reader, "blocking", True)

    cookies = property(lambda self: self._reader.cookies)
    secret = property(lambda self: self._reader.secret)

    def read(self, header):
        self.failures -= 1
        if self.away or self.failures >= 0:
            raise OSError("storage is away")
        return self._reader.read(header)

    def load(self, session_id):
        if self.away:
            raise OSError("storage is away")
        return self._reader.load(session_id)

    def delete(self, session_id):
        return self._reader.load("") if self.keeps else self._reader.delete(session_id)
