"""What becomes of sessions and tokens in any history, beside a model that says so in a few lines.

No live session is refused, no ended one is served, and nobody else's tokens are touched: whichever way people sign in
and out, by whichever worker, whenever a worker is killed or the store is away, wherever the provider's clock stands.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from msal_logout_middleware import LogoutTokenRules
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.sqlite import SQLiteStore
from msal_logout_middleware.testing.store_contract import Clock
from tests.doors import Browser, WsgiDoor
from tests.model.conftest import Registration
from tests.model.workers import EVERYTHING, Killed, Loops, OpenDoor, Worker
from tests.races.token_endpoint import part
from tests.sites import KINDS, Site
from tests.tokens import TENANT, claims_of

USERS = ("ann", "bob")
LEASE_OVER_SECONDS = 60.0
SKEW_SECONDS = 600
STEPS = 25
DEATHS = ("before the mark", "after the mark", "in the removal", "before the end")

workers = st.integers(0, 1)
users = st.sampled_from(USERS)
ticks = st.integers(0, 1)  # seconds
choices = st.integers(0, 2**16)
deaths = st.none() | st.sampled_from(DEATHS)


@dataclass(eq=False)
class Login:
    """One session, as the model has it.

    Args:
        user: Whose.
        sids: The provider's sessions that it is of: several, if the user signed in again in it.
        browser: Where.
        is_known: Whether the session index has heard of it.
        is_ended: Whether it has ended.
        cookies: Every cookie that it was ever under.
    """

    user: str
    sids: set[str]
    browser: Browser
    is_known: bool = True
    is_ended: bool = False
    cookies: list[str] = field(default_factory=list)

    def is_meant(self, sub: str | None, sid: str | None) -> bool:
        return sub in (None, self.user) and (sid is None or sid in self.sids)


class Histories(RuleBasedStateMachine):
    """Two workers, two people, and whatever may happen to them."""

    def __init__(self, kind: str, keeps: str, registration: Registration, loops: Loops) -> None:
        super().__init__()
        self.kind, self.keeps = kind, keeps
        self.registration, self.loops = registration, loops
        self.folder: tempfile.TemporaryDirectory[str] | None = None

    @initialize(ahead=st.sampled_from([-SKEW_SECONDS, -30, 0, 30, SKEW_SECONDS - STEPS]), early=st.booleans())
    def start(self, ahead: int, early: bool) -> None:
        self.clock = Clock(time.time())
        self.now = time.time() + ahead  # by the provider's clock
        self.site = Site(self.kind, KINDS[self.kind], store=self._store())
        self.site.build(
            provider=self.registration.known,
            logout_token_rules=LogoutTokenRules(clock_skew_seconds=SKEW_SECONDS),
            **({"marks_in_memory": 0} if self.keeps == "filter" else {}),
        )
        self.workers = [Worker(self.site, self.loops) for _ in range(2)]
        self.logins: list[Login] = []
        self.sids = dict.fromkeys(USERS, "")
        self.tokens: dict[str, bool | None] = dict.fromkeys(USERS, False)  # None: they may still go
        self.unfinished: set[str] = set()  # whose sign-out a worker that died has left
        for user in USERS:
            self.new_sid(user)
            if early:
                self._sign_in_before_the_middleware(user)

    def _store(self) -> Any:
        if self.keeps in ("memory", "filter"):
            return MemoryStore(clock=self.clock)
        self.folder = tempfile.TemporaryDirectory()
        return SQLiteStore(Path(self.folder.name) / "logout.db", clock=self.clock)

    def _sign_in_before_the_middleware(self, user: str) -> None:
        app = self.site.app
        bare = OpenDoor(app, self.loops) if self.site.is_asgi else WsgiDoor(app)
        browser = Browser(bare)
        claims = self._claims(user)
        assert browser.post("/sign-in", {"claims": json.dumps(claims)}).status == 200
        self._keep_tokens(user, claims)
        self._begin(user, browser).is_known = False

    # What the model says

    def _begin(self, user: str, browser: Browser) -> Login:
        login = Login(user, {self.sids[user]}, browser)
        self.logins.append(login)
        self._note(login)
        return login

    def _note(self, login: Login) -> None:
        cookie = self._cookie(login.browser)
        if cookie and cookie not in login.cookies:
            login.cookies.append(cookie)

    def _cookie(self, browser: Browser) -> str | None:
        return browser.cookies.get(self.site.cookie_name)

    def _live(self) -> list[Login]:
        return [login for login in self.logins if not login.is_ended]

    def _in(self, browser: Browser) -> Login | None:
        return next((login for login in self._live() if login.browser is browser), None)

    def _end(self, ended: list[Login], died: str | None = None, *, user: str | None = None) -> None:
        """End sessions; `user` says whose tokens go even if no session does."""
        if died == "before the mark":
            return
        for login in ended:
            login.is_ended = True
            if self.tokens[login.user] and not (login.is_known and died is None):
                self.tokens[login.user] = None
        named = {login.user for login in ended if login.is_known} | ({user} if user else set())
        if died is None:
            self.tokens.update(dict.fromkeys(named, False))
        else:
            self.unfinished |= named

    def _claims(self, user: str) -> dict[str, Any]:
        return claims_of(
            user,
            iss=self.registration.iss,
            aud=self.registration.client.client_id,
            sid=self.sids[user],
            iat=int(self.now),
            nonce=uuid4().hex,
        )

    def _keep_tokens(self, user: str, claims: dict[str, Any]) -> None:
        self.site.keep_tokens(claims)
        self.tokens[user] = None if user in self.unfinished else True

    def _door(self, worker: int) -> Any:
        return self.workers[worker].door

    # What people do

    @rule(user=users)
    def new_sid(self, user: str) -> None:
        """The user's next sign-in is within another session of the provider."""
        self.sids[user] = f"sid-{uuid4().hex}"

    @rule(seconds=ticks)
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(user=users, worker=workers, seconds=ticks, anonymous_first=st.booleans())
    def sign_in(self, user: str, worker: int, seconds: int, anonymous_first: bool) -> None:
        self.now += seconds
        browser = Browser(self._door(worker))
        if anonymous_first:
            self.site.does["note"] = lambda session: session.update(visits=1)
            assert browser.get("/does/note").status == 200
        self._sign_in(user, browser)

    @precondition(lambda self: self._some_browser())
    @rule(choice=choices, user=users, worker=workers, seconds=ticks)
    def sign_in_where_somebody_was(self, choice: int, user: str, worker: int, seconds: int) -> None:
        """Somebody signs in in a browser that has been used: the same user goes on, another takes its place."""
        self.now += seconds
        browser = self._some_browser()[choice % len(self._some_browser())]
        browser.site = self._door(worker)
        self._sign_in(user, browser)

    def _some_browser(self) -> list[Browser]:
        return list({id(login.browser): login.browser for login in self.logins}.values())

    def _sign_in(self, user: str, browser: Browser) -> None:
        there = self._in(browser)
        claims = self._claims(user)
        assert browser.post("/sign-in", {"claims": json.dumps(claims)}).status == 200
        if there is not None:
            there.is_known = True
        if there is not None and there.user == user:
            there.sids.add(self.sids[user])
            self._note(there)
        else:
            if there is not None:
                self._end([there])
                if self.site.is_server_side:
                    there.cookies.clear()  # they are the new session's now
            self._begin(user, browser)
        self._keep_tokens(user, claims)

    @precondition(lambda self: self.logins)
    @rule(choice=choices, worker=workers)
    def visit(self, choice: int, worker: int) -> None:
        login = self.logins[choice % len(self.logins)]
        login.browser.site = self._door(worker)
        here = self._in(login.browser)
        assert self.site.user(login.browser) == (here and f"sub-of-{here.user}")
        if here is None:
            assert self._cookie(login.browser) is None, "who was refused still has the cookie"
        else:
            here.is_known = True
            self._note(here)

    @precondition(lambda self: self.logins)
    @rule(choice=choices, which=choices, worker=workers)
    def copy_is_used(self, choice: int, which: int, worker: int) -> None:
        login = self.logins[choice % len(self.logins)]
        if login.cookies:
            self._use_copy(login, login.cookies[which % len(login.cookies)], worker)

    def _use_copy(self, login: Login, cookie: str, worker: int) -> None:
        thief = self._thief(cookie, worker)
        seen = self.site.user(thief)
        if login.is_ended:
            assert seen is None, f"a session of {login.user}'s that has ended is served"
            assert self._cookie(thief) is None, "who was refused still has the cookie"
            if not login.is_known and self.tokens[login.user]:
                self.tokens[login.user] = None  # what is met of it goes, and with it the user's tokens
        else:
            assert seen == f"sub-of-{login.user}", f"a live session of {login.user}'s is refused"
            login.is_known = True

    # How people are signed out

    @precondition(lambda self: self.logins)
    @rule(choice=choices, worker=workers, dies=deaths)
    def rp_initiated(self, choice: int, worker: int, dies: str | None) -> None:
        browser = self.logins[choice % len(self.logins)].browser
        here = self._in(browser)

        def log_out() -> None:
            browser.site = self._door(worker)
            assert browser.get("/logout").status == 303

        died = self._dying(worker, dies, log_out)
        if here is not None:
            here.is_known = True
            self._end([here], died)
        elif died not in (None, "before the mark"):
            # The worker met a session that had ended, which it did not know, and began to end it once more.
            self.unfinished |= {login.user for login in self.logins if login.browser is browser}

    @rule(user=users, worker=workers, sid=choices, dies=deaths, iss=st.booleans(), with_cookie=choices)
    def front_channel(
        self, user: str, worker: int, sid: int, dies: str | None, iss: bool, with_cookie: int
    ) -> None:
        found = self._sid(user, sid)
        browser = Browser(self._door(worker))
        bearer: Login | None = None
        if self.logins and dies is None and with_cookie % 3 == 0:
            bearer = self.logins[with_cookie % len(self.logins)]
            browser.cookies = dict(bearer.browser.cookies)
            bearer = self._in(bearer.browser)
            if bearer is not None:
                bearer.is_known = True
        query = f"sid={found}" + (f"&iss={self.registration.iss}" if iss else "")

        def log_out() -> None:
            answer = browser.get(f"/logout/front-channel?{query}", site="cross-site")
            assert answer.status == 200
            assert bool(answer.set_cookies) is (bearer is not None and found in bearer.sids)

        died = self._dying(worker, dies, log_out)
        self._end([one for one in self._live() if one.is_known and one.is_meant(None, found)], died)

    @rule(user=users, worker=workers, sid=choices, by=st.sampled_from(["sub", "sid", "both"]), seconds=ticks)
    def back_channel(self, user: str, worker: int, sid: int, by: str, seconds: int) -> None:
        self.now += seconds
        self._back_channel(user, self._sid(user, sid), by, self._door(worker))

    def _back_channel(self, user: str, sid: str, by: str, door: Any) -> None:
        named = {"sub": f"sub-of-{user}", "sid": sid}
        named = {name: value for name, value in named.items() if by in (name, "both")}
        answer = self.registration.log_out(door, **named, iat=int(self.now), exp=int(self.now) + 120)
        assert (answer.status, answer.body) == (200, b"")
        ended = [
            one for one in self._live() if one.is_meant(user if "sub" in named else None, named.get("sid"))
        ]
        self._end(ended)

    @rule(user=users, worker=workers, sid=choices, by=st.sampled_from(["sub", "sid", "oid"]), dies=deaths)
    def administrator(self, user: str, worker: int, sid: int, by: str, dies: str | None) -> None:
        claims, found = self._claims(user), self._sid(user, sid)
        named = {
            "sub": {"iss": claims["iss"], "sub": claims["sub"]},
            "sid": {"sid": found},
            "oid": {"oid": claims["oid"], "tid": TENANT},
        }[by]
        logout = self.workers[worker].logout
        meant = [
            one
            for one in self._live()
            if one.is_meant(None if by == "sid" else user, found if by == "sid" else None)
        ]

        def log_out() -> None:
            assert logout.count_sessions(**named) == sum(one.is_known for one in meant)
            assert self._admin_end(logout, named).complete

        died = self._dying(worker, dies, log_out)
        self._end(meant, died, user=user if by == "oid" else None)
        if died is None:
            assert logout.count_sessions(**named) == 0

    def _admin_end(self, logout: Any, named: dict[str, str]) -> Any:
        return (
            self.loops.run(logout.aend_sessions(**named))
            if self.site.is_asgi
            else logout.end_sessions(**named)
        )

    def _sid(self, user: str, choice: int) -> str:
        known = [
            self.sids[user],
            *(sid for one in self.logins if one.user == user for sid in sorted(one.sids)),
        ]
        return known[choice % len(known)]

    def _dying(self, worker: int, dies: str | None, log_out: Any) -> str | None:
        """Do it, and tell where the worker died, if it came to that."""
        self.workers[worker].store.dies = dies
        try:
            log_out()
        except Killed:
            self.workers[worker] = Worker(self.site, self.loops)
            return dies
        self.workers[worker].store.dies = None
        return None

    # What is under way meanwhile

    @precondition(lambda self: self._live())
    @rule(
        choice=choices,
        worker=workers,
        other=workers,
        by=st.sampled_from(["sub", "sid", "rp", "somebody else"]),
        refreshes=st.booleans(),
    )
    def request_is_running(self, choice: int, worker: int, other: int, by: str, refreshes: bool) -> None:
        """The session ends while a view is running, which then saves the session, and tokens."""
        login = self._live()[choice % len(self._live())]
        browser = login.browser
        browser.site = self._door(worker)
        claims = self._claims(login.user)
        door = self._door(other)
        sid = sorted(login.sids)[0]
        else_ = next(user for user in USERS if user != login.user)
        login.is_known = True

        def view(session: Any) -> None:
            with self.workers[worker].logout.token_cache(claims) as cache:
                if by == "rp":
                    tab = Browser(door, dict(browser.cookies))
                    assert tab.get("/logout").status == 303
                    self._end([login])
                elif by == "somebody else":
                    self._back_channel(else_, self.sids[else_], "both", door)
                else:
                    self._back_channel(login.user, sid, by, door)
                cache.add(refreshed(claims))
            session.update({"user": claims} if refreshes else {"late": True})

        self.site.does["late"] = view
        before = self._cookie(browser)
        answer = browser.get("/does/late")
        assert answer.status == 200, answer.text
        if login.is_ended:
            assert self._cookie(browser) is None, (
                "a session that ended while a request was running was given a cookie"
            )
            assert before is None or before in login.cookies
        else:
            if refreshes:
                login.sids.add(self.sids[login.user])
            self._note(login)

    # What becomes of the store

    @precondition(lambda self: self.logins)
    @rule(choice=choices, which=choices, worker=workers)
    def copy_is_used_while_the_store_is_away(self, choice: int, which: int, worker: int) -> None:
        """Nobody is served on a guess."""
        login = self.logins[choice % len(self.logins)]
        if not login.cookies:
            return
        thief = self._thief(login.cookies[which % len(login.cookies)], worker)
        before = dict(thief.cookies)
        self.workers[worker].store.away = frozenset({EVERYTHING})
        answer = thief.get("/me")
        self.workers[worker].store.away = frozenset()
        if answer.status == 503:
            assert thief.cookies == before
        else:
            user = json.loads(answer.body)["user"]
            assert user is None if login.is_ended else user["sub"] == f"sub-of-{login.user}"

    @rule(
        user=users,
        worker=workers,
        sid=choices,
        by=st.sampled_from(["sub", "sid"]),
        then=st.sampled_from(["it comes back", "somebody signs in again", "the worker dies"]),
    )
    def ending_is_put_off(self, user: str, worker: int, sid: int, by: str, then: str) -> None:
        """No ending can be written: the worker refuses who is meant by itself, and commits it when it can."""
        claims, found = self._claims(user), self._sid(user, sid)
        named = {"sub": {"iss": claims["iss"], "sub": claims["sub"]}, "sid": {"sid": found}}[by]
        meant = [
            one for one in self._live() if one.is_meant(*((user, None) if by == "sub" else (None, found)))
        ]
        here = self.workers[worker]

        here.store.away = frozenset({"end"})
        assert not self._admin_end(here.logout, named).complete
        for login in self._live():
            for cookie in login.cookies[-1:]:
                seen = self.site.user(self._thief(cookie, worker))
                assert seen == (None if login in meant else f"sub-of-{login.user}")
                login.is_known = True
        here.store.away = frozenset()

        if then == "the worker dies":  # with all that it knew; who called was told that it was not done
            self.workers[worker] = Worker(self.site, self.loops)
            return
        if then == "somebody signs in again":
            self._sign_in(user, Browser(self._door(1 - worker)))
        self.site.tidy(here.logout)
        self._end(meant)
        if then == "somebody signs in again":
            self.tokens[user] = None

    def _thief(self, cookie: str, worker: int) -> Browser:
        return Browser(self._door(worker), {self.site.cookie_name: cookie})

    # What becomes of workers

    @rule(worker=workers)
    def restart(self, worker: int) -> None:
        self.workers[worker] = Worker(self.site, self.loops)

    @rule(worker=workers)
    def ending_is_pending(self, worker: int) -> None:
        """From now on, or until now, the generation cannot be told."""
        store = self.workers[worker].store
        store.is_pending = not store.is_pending

    @rule(worker=workers)
    def take_up(self, worker: int) -> None:
        """The leases of those who died run out, and another worker goes on."""
        self.clock.now += LEASE_OVER_SECONDS
        self.site.tidy(self.workers[worker].logout)
        assert self.site.store.open_rows() == 0
        self.unfinished.clear()
        for user, there in self.tokens.items():
            if there is None:
                self.tokens[user] = self.cache(user) is not None

    def cache(self, user: str) -> bytes | None:
        return self.site.cache(claims_of(user))

    def teardown(self) -> None:
        if not hasattr(self, "workers"):
            return
        for login in self.logins:
            for cookie in login.cookies:
                for worker in (0, 1):
                    self._use_copy(login, cookie, worker)
        for user, there in self.tokens.items():
            if there is not None:
                assert (self.cache(user) is not None) is there, f"tokens of {user}: {there}"
        self.take_up(0)
        if self.site.is_server_side:
            kept = repr(dict(self.site.records))
            for user in USERS:
                # What the index has never heard of is refused, and stays where it is.
                if all(login.is_known and login.is_ended for login in self.logins if login.user == user):
                    assert f"sub-of-{user}" not in kept
        self.site.store.close()
        if self.folder is not None:
            self.folder.cleanup()


def refreshed(claims: dict[str, Any]) -> dict[str, Any]:
    """What MSAL hands to a cache when a silent call has refreshed the user's tokens."""
    return {
        "client_id": claims["aud"],
        "scope": ["User.Read"],
        "token_endpoint": f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token",
        "grant_type": "refresh_token",
        "skip_account_creation": True,
        "data": {"refresh_token": f"rt-of-{claims['sub']}"},
        "response": {
            "access_token": "late",
            "refresh_token": "late",
            "expires_in": 3600,
            "client_info": part({"uid": claims["oid"], "utid": claims["tid"]}),
        },
    }


FEW = [("memory", 40), ("filter", 20), ("sqlite", 15)]
MANY = [
    pytest.param("memory", 2000, marks=pytest.mark.soak),
    pytest.param("filter", 500, marks=pytest.mark.soak),
    pytest.param("sqlite", 500, marks=pytest.mark.soak),
]


@pytest.mark.parametrize(("keeps", "histories"), [*FEW, *MANY])
@pytest.mark.parametrize("kind", KINDS)
def test_no_live_session_is_refused_and_no_ended_one_is_served(kind, keeps, histories, registration, loops):
    run_state_machine_as_test(
        lambda: Histories(kind, keeps, registration, loops),
        settings=settings(
            max_examples=histories,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            # What everybody runs says the same each time, and at once; the long runs look for new histories.
            derandomize=histories < 100,
            phases=[Phase.generate] if histories < 100 else [Phase.generate, Phase.shrink],
        ),
    )
