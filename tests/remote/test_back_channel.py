"""Back-channel logout: the provider's own call, through both doors, to however sessions are kept."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import anyio
import pytest

from msal_logout_middleware import Provider, back_channel
from msal_logout_middleware._drive import BlockingWorld, run
from msal_logout_middleware.events import LogoutEnded, LogoutFailed, LogoutRefused
from msal_logout_middleware.stores.memory import MemoryStore
from tests.remote.conftest import LONG_SECONDS, signing_in, with_keys
from tests.remote.faults import Faulty
from tests.sites import KINDS, Site
from tests.stories.servers import until

PATH = "/logout/back-channel"
FORM = "application/x-www-form-urlencoded"


@dataclass
class Caller:
    """The provider, which calls one site."""

    provider: Any
    site: Any
    client: Any

    def claims(self, name, sid="a-session", **more):
        return signing_in(name, sid, iss=self.provider.generic.oidc_authority, **more)

    def token(self, **claims):
        return self.provider.logout_token(self.client, **claims)

    def post(self, token, **headers):
        return self.send(urlencode({"logout_token": token}), **headers)

    def send(self, body, *, method="POST", path=PATH, **headers):
        headers = {"content-type": FORM, **{name.replace("_", "-"): v for name, v in headers.items()}}
        body = body if isinstance(body, bytes) else body.encode()
        return self.site.door.call(method, path, headers, body)

    def calls(self, **claims):
        return self.post(self.token(**claims))


def build(provider, site, **options):
    client = provider.generic.register(
        client_id="the app", backchannel_logout_uri="https://app.example/logout/back-channel"
    )
    discovered = Provider.discover(
        provider.generic.oidc_authority, client.client_id, verify=provider.ca_file, timeout_seconds=10
    )
    site.build(provider=with_keys(discovered), **options)
    return Caller(provider, site, client)


@pytest.fixture
def caller(provider, site, sites_store):
    return build(provider, sites_store(site))


@pytest.fixture
def one_caller(provider, either_door):
    return build(provider, either_door)


def is_done(answer):
    """Sections 2.7 and 2.8: 200, with nothing in it, and kept by nobody."""
    assert (answer.status, answer.body) == (200, b"")
    return is_plain(answer)


def is_refused(answer):
    assert answer.status == 400
    assert answer.one("content-type") == "application/json"
    assert json.loads(answer.body)["error"] == "invalid_request"
    return is_plain(answer)


def is_plain(answer):
    assert answer.one("cache-control") == "no-store"
    assert not answer.all("set-cookie")
    assert answer.location is None
    return True


def test_sid_ends_that_session(caller):
    site, claims = caller.site, caller.claims("ann")
    ann, other = site.sign_in(claims), site.sign_in(caller.claims("ann", "another"))
    bob = site.sign_in(caller.claims("bob", "bob's"))

    assert is_done(caller.calls(sid="a-session"))

    assert [site.user(each) for each in (ann, other, bob)] == [None, "sub-of-ann", "sub-of-bob"]
    assert site.cache(claims) is None
    assert site.cache(caller.claims("bob"))
    assert site.store.open_rows() == 0
    if site.is_server_side:
        assert repr(dict(site.records)).count("sub-of-ann") == 1
    (ended,) = [event for event in site.events if isinstance(event, LogoutEnded)]
    assert (ended.channel, ended.sessions) == ("back-channel", 1)


def test_sub_ends_all_sessions_of_the_user(caller):
    site = caller.site
    browsers = [site.sign_in(caller.claims("ann", sid)) for sid in ("one", "two")]
    bob = site.sign_in(caller.claims("bob", "one"))
    assert is_done(caller.calls(sub="sub-of-ann"))
    assert [site.user(each) for each in (*browsers, bob)] == [None, None, "sub-of-bob"]


def test_sid_and_sub_must_both_match(caller):
    site = caller.site
    ann = site.sign_in(caller.claims("ann"))
    assert is_done(caller.calls(sid="a-session", sub="sub-of-bob"))
    assert is_done(caller.calls(sid="another", sub="sub-of-ann"))
    assert site.user(ann) == "sub-of-ann"
    assert site.cache(caller.claims("ann"))
    assert is_done(caller.calls(sid="a-session", sub="sub-of-ann"))
    assert site.user(ann) is None


def test_session_that_is_unknown_or_gone_is_done_all_the_same(one_caller):
    assert is_done(one_caller.calls(sid="no-session"))
    ann = one_caller.site.sign_in(one_caller.claims("ann"))
    assert is_done(one_caller.calls(sid="a-session"))
    assert is_done(one_caller.calls(sid="a-session"))
    assert one_caller.site.user(ann) is None


@pytest.mark.parametrize("ahead_seconds", [-600, -30, 0, 30, 600])
@pytest.mark.parametrize("sought", [{"sid": "a-session"}, {"sub": "sub-of-ann"}], ids=["sid", "sub"])
def test_signing_in_again_works_at_once_whatever_the_providers_clock_says(caller, sought, ahead_seconds):
    """Only by an accepted token; the skew that is allowed is smaller, so the token's `iat` stays ours."""
    site = caller.site
    old = site.sign_in(caller.claims("ann", ahead_seconds=ahead_seconds))
    stolen = site.copy(old)
    assert is_done(caller.calls(**sought))
    new = site.sign_in(caller.claims("ann", ahead_seconds=ahead_seconds))
    assert site.user(new) == "sub-of-ann"
    assert site.user(stolen) is None


def test_session_that_the_index_never_saw_ends_if_it_is_older_than_the_token(caller):
    site = caller.site
    older = site.sign_in(caller.claims("ann", ahead_seconds=-60))
    newer = site.sign_in(caller.claims("ann", ahead_seconds=+60))
    site.store.close()
    store = MemoryStore()
    site.logout, site.door = site.worker(store=store)
    older.site = newer.site = site.door
    assert is_done(caller.calls(sub="sub-of-ann"))
    assert site.user(older) is None
    assert site.user(newer) == "sub-of-ann"


@pytest.mark.usefixtures("nobody_else_tidies")
class TestRepeats:
    def test_token_is_good_once(self, one_caller):
        token = one_caller.token(sid="a-session")
        assert is_done(one_caller.post(token))
        ann = one_caller.site.sign_in(one_caller.claims("ann"))
        assert is_refused(one_caller.post(token))
        assert one_caller.site.user(ann) == "sub-of-ann"
        assert one_caller.site.events[-1] == LogoutRefused("back-channel", "the token has been used before")

    def test_token_is_good_once_for_as_long_as_its_age_is_borne(self, provider, either_door, monkeypatch):
        """Though the provider's clock is as far ahead as it may be."""
        now = [float(provider.now())]
        either_door.store = MemoryStore(clock=lambda: now[0])
        caller = build(provider, either_door)
        rules = caller.site.logout.configuration.logout_token_rules
        monkeypatch.setattr(back_channel, "time", SimpleNamespace(time=lambda: now[0]))
        iat = now[0] + rules.clock_skew_seconds
        token = caller.token(sid="a-session", iat=iat, exp=iat + 10_000)
        assert is_done(caller.post(token))
        now[0] = iat + rules.maximum_age_seconds + rules.clock_skew_seconds - 1
        assert is_refused(caller.post(token))
        assert caller.site.events[-1] == LogoutRefused("back-channel", "the token has been used before")

    def test_token_is_good_again_if_the_first_try_failed_on_our_side(self, provider, either_door):
        either_door.store = Faulty(MemoryStore())
        caller = build(provider, either_door)
        site = caller.site
        claims = caller.claims("ann")
        ann, token = site.sign_in(claims), caller.token(sid="a-session")
        site.store.away = {"end"}

        assert is_refused(caller.post(token))
        assert "mark" in [event for event in site.events if isinstance(event, LogoutFailed)][-1].left
        stolen = site.copy(ann)
        assert site.user(stolen) is None  # this worker refuses it until the mark is written

        site.store.away = set()
        assert is_done(caller.post(token))
        assert site.cache(claims) is None
        assert is_refused(caller.post(token))

    def test_what_is_in_the_journal_is_not_done_yet_and_not_asked_for_again(self, provider, either_door):
        either_door.store = Faulty(MemoryStore())
        caller = build(provider, either_door)
        site = caller.site
        ann, token = site.sign_in(caller.claims("ann")), caller.token(sid="a-session")
        site.store.away = {"replace"}
        assert is_refused(caller.post(token))
        assert site.store.open_rows() == 1
        assert site.user(ann) is None
        site.store.away = set()
        assert is_refused(caller.post(token))

    def test_of_two_at_once_with_one_token_one_is_done(self, one_caller):
        token = one_caller.token(sid="a-session")
        one_caller.site.sign_in(one_caller.claims("ann"))
        with ThreadPoolExecutor(2) as pool:
            statuses = sorted(answer.status for answer in pool.map(one_caller.post, [token, token]))
        assert statuses == [200, 400]

    def test_calls_at_once_for_every_session_of_a_user_are_all_done(self, caller):
        """Providers call once per session, and in parallel."""
        site = caller.site
        sids = [f"session {n}" for n in range(6)]
        browsers = [site.sign_in(caller.claims("ann", sid), cache=False) for sid in sids]
        tokens = [caller.token(sid=sid, sub="sub-of-ann") for sid in sids]
        with ThreadPoolExecutor(len(tokens)) as pool:
            assert all(is_done(answer) for answer in pool.map(caller.post, tokens))
        assert {site.user(each) for each in browsers} == {None}


class TestRequests:
    @pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
    def test_other_method_is_refused(self, one_caller, method):
        ann = one_caller.site.sign_in(one_caller.claims("ann"))
        query = urlencode({"logout_token": one_caller.token(sid="a-session")})
        answer = one_caller.send(b"", method=method, path=f"{PATH}?{query}")
        assert (answer.status, answer.one("allow"), answer.body) == (405, "POST", b"")
        assert is_plain(answer)
        assert one_caller.site.user(ann) == "sub-of-ann"

    @pytest.mark.parametrize(
        "request_of",
        [
            lambda token: {"body": json.dumps({"logout_token": token}), "content_type": "application/json"},
            lambda token: {"body": token, "content_type": "application/jwt"},
            lambda token: {"body": f"logout_token={token}", "content_type": "text/plain"},
            lambda token: {"body": f"logout_token={token}", "content_type": ""},
            lambda token: {
                "body": f'--x\r\nContent-Disposition: form-data; name="logout_token"\r\n\r\n{token}\r\n--x--\r\n',
                "content_type": "multipart/form-data; boundary=x",
            },
            lambda token: {"body": "", "path": f"{PATH}?logout_token={token}"},
            lambda token: {"body": "a=b", "path": f"{PATH}?logout_token={token}"},
            lambda token: {"body": f"logout_token={token}&logout_token={token}"},
            lambda token: {"body": f"logout_token={token}&logout_token="},
            lambda token: {"body": f"LOGOUT_TOKEN={token}"},
            lambda token: {"body": f"logout_token=&x={token}"},
            lambda token: {"body": f"logout_token={token}&x={'x' * 70_000}"},
            lambda token: {"body": b"\xff\xfe" + token.encode()},
        ],
        ids=[
            "JSON", "JWT", "plain text", "no type", "multipart", "query", "query beside a form", "repeated",
            "repeated, one empty", "other case", "empty", "oversized", "no form",
        ],
    )  # fmt: skip
    def test_request_of_another_shape_is_refused(self, one_caller, request_of):
        ann = one_caller.site.sign_in(one_caller.claims("ann"))
        assert is_refused(one_caller.send(**request_of(one_caller.token(sid="a-session"))))
        assert one_caller.site.user(ann) == "sub-of-ann"
        assert isinstance(one_caller.site.events[-1], LogoutRefused)

    @pytest.mark.parametrize(
        "shape",
        [
            {"content_type": f"{FORM}; charset=UTF-8"},
            {"content_type": "Application/X-WWW-Form-Urlencoded"},
            {"cookie": "session=anything; a=b"},
            {"origin": "https://evil.example", "sec_fetch_site": "cross-site"},
        ],
        ids=repr,
    )
    def test_what_does_not_matter_is_ignored(self, one_caller, shape):
        ann = one_caller.site.sign_in(one_caller.claims("ann"))
        body = urlencode({"a": "b", "logout_token": one_caller.token(sid="a-session"), "state": "x"})
        assert is_done(one_caller.send(body, **shape))
        assert one_caller.site.user(ann) is None

    def test_cookie_of_a_session_changes_nothing_about_whose_ends(self, one_caller):
        site = one_caller.site
        ann, bob = site.sign_in(one_caller.claims("ann")), site.sign_in(one_caller.claims("bob", "bob's"))
        cookie = f"{site.cookie_name}={bob.cookies[site.cookie_name]}"
        assert is_done(one_caller.post(one_caller.token(sid="a-session"), cookie=cookie))
        assert (site.user(ann), site.user(bob)) == (None, "sub-of-bob")

    def test_path_that_is_switched_off_is_the_apps(self, provider, either_door):
        caller = build(provider, either_door, back_channel_path=None)
        assert caller.calls(sid="a-session").status == 404

    def test_entra_s_users_are_signed_out_by_nobody_without_a_token(self, either_door):
        """Entra ID has no back-channel logout; the path says so to whoever tries."""
        site = either_door.build()
        answer = site.door.call("POST", PATH, {"content-type": FORM}, b"logout_token=a.b.c")
        assert is_refused(answer)


class TestSlowStores:
    def test_answer_comes_in_time_and_the_logout_goes_on(self, provider, either_door, monkeypatch):
        """Providers give up after two seconds or so, and do not ask again."""
        monkeypatch.setattr(back_channel, "DEADLINE_SECONDS", 0.05)
        site = either_door
        may_go_on, done = threading.Event(), threading.Event()

        class Slow(MemoryStore):
            blocking = True

            def end(self, ending):
                may_go_on.wait(LONG_SECONDS)
                return super().end(ending)

            def finish(self, row):
                super().finish(row)
                done.set()

        site.store = Slow()
        caller = build(provider, site)
        ann = site.sign_in(claims := caller.claims("ann"))
        if site.is_asgi:

            async def story():
                with anyio.fail_after(LONG_SECONDS):
                    answer = await site.door._call(
                        "POST", PATH, {"content-type": FORM},
                        urlencode({"logout_token": caller.token(sid="a-session")}).encode(), {},
                    )  # fmt: skip
                    may_go_on.set()
                    await anyio.to_thread.run_sync(done.wait, LONG_SECONDS)
                    return answer

            answer = anyio.run(story)
        else:
            answer = caller.calls(sid="a-session")
            may_go_on.set()
            done.wait(LONG_SECONDS)
        assert is_refused(answer)
        assert site.user(ann) is None
        assert site.cache(claims) is None

    @pytest.mark.parametrize("kind", ["starlette, signed cookie", "starsessions"])
    def test_caller_that_hangs_up_does_not_leave_it_half_done(self, provider, kind):
        """A WSGI server calls to the end in any case."""
        site = Site(kind, KINDS[kind])

        class Store(MemoryStore):
            async def end(self, ending):
                ended = super().end(ending)
                marked.set()
                await anyio.lowlevel.checkpoint()
                return ended

        marked = threading.Event()  # until there is a loop
        site.store = Store()
        caller = build(provider, site)
        ann = site.sign_in(claims := caller.claims("ann"))

        async def story():
            nonlocal marked
            marked = anyio.Event()
            body = urlencode({"logout_token": caller.token(sid="a-session")}).encode()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(site.door._call, "POST", PATH, {"content-type": FORM}, body, {})
                await marked.wait()
                tasks.cancel_scope.cancel()

        anyio.run(story)
        assert site.store.open_rows() == 0
        assert site.user(ann) is None
        assert site.cache(claims) is None


def test_tampered_token_is_refused_and_the_session_lives(caller):
    site = caller.site
    ann = site.sign_in(caller.claims("ann"))
    header, payload, signature = caller.token(sid="a-session").split(".")
    other = caller.token(sid="another").split(".")
    for token in (
        f"{header}.{other[1]}.{signature}",
        f"{header}.{payload}.{other[2]}",
        f"{header}.{payload}.",
        f"{header}.{payload}",
        f"{header}.{payload}.{signature}A.",
    ):
        assert is_refused(caller.post(token))
    assert site.user(ann) == "sub-of-ann"
    assert site.cache(caller.claims("ann"))


@pytest.mark.parametrize("sid", ["a-session", "no-session"])
def test_token_that_comes_while_the_browser_is_in_our_redirect_is_judged_like_any_other(caller, sid):
    """The session has gone by then: what is good is done all the same, and what is not is refused all the same."""
    site = caller.site
    ann, bob = site.sign_in(caller.claims("ann")), site.sign_in(caller.claims("bob", "bob's"))
    stolen = site.copy(ann)
    token = caller.token(sid=sid, sub="sub-of-ann")
    header, payload, _ = token.split(".")
    tampered = f"{header}.{payload}.{caller.token(sid=sid).rpartition('.')[2]}"

    assert ann.get("/logout").status == 303

    assert is_refused(caller.post(tampered))
    assert is_done(caller.post(token))
    assert is_refused(caller.post(tampered))
    assert [site.user(each) for each in (stolen, bob)] == [None, "sub-of-bob"]


def test_in_flight_request_brings_nothing_back(caller):
    site = caller.site
    claims = caller.claims("ann")
    token = caller.token(sid="a-session")

    def view(session):
        assert is_done(caller.post(token))
        session["changed"] = "meanwhile"

    site.does["change"] = view
    ann = site.sign_in(claims)
    stolen = site.copy(ann)
    answer = ann.get("/does/change")
    assert [value for value in answer.all("set-cookie") if "Max-Age=0" not in value] == []
    assert site.user(stolen) is None
    if site.is_server_side:
        assert "sub-of-ann" not in repr(dict(site.records))


class TestKeysThatAreMissing:
    """A token that cannot be verified here may be good: that is no refusal, and a provider does not call again."""

    def test_is_told_as_a_failure_of_ours(self, one_caller, caplog):
        site = one_caller.site
        metadata = {
            "issuer": one_caller.provider.generic.oidc_authority,
            "jwks_uri": "https://127.0.0.1:1/keys",  # where nobody listens
            "end_session_endpoint": "https://127.0.0.1:1/logout",
        }
        _, site.door = site.worker(provider=Provider.from_metadata(metadata, one_caller.client.client_id))
        ann = site.sign_in(one_caller.claims("ann"))
        site.events.clear()
        assert is_refused(one_caller.calls(sid="a-session"))
        assert site.events == [LogoutFailed("back-channel", "", ("keys",))]
        assert "signing keys could not be had" in caplog.text
        assert site.user(ann) == "sub-of-ann"

    def test_are_fetched_before_the_first_token_comes(self, one_caller):
        site, generic = one_caller.site, one_caller.provider.generic
        discovered = Provider.discover(generic.oidc_authority, "the app", verify=one_caller.provider.ca_file)
        logout, _ = site.worker(provider=discovered)

        def keys_are_held():
            site.tidy(logout)
            trust = run(discovered.trust(BlockingWorld(), wait_seconds=0.0))
            return trust is not None and all(keys.are_held for _, keys in trust.sources)

        until(keys_are_held)

    def test_are_not_fetched_of_entra_which_calls_nobody(self):
        provider = Provider.entra("11111111-1111-1111-1111-111111111111", "the app")
        run(provider.prepare(BlockingWorld()))
        (endpoints,) = provider.endpoints.values()
        assert not endpoints._keys
