"""The demo without a browser: what a person would do at both apps, said step by step, and checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import unescape
from urllib.parse import urlsplit

from msal_logout_middleware.testing import Browser, User

from .stage import App, Stage
from .view import KINDS, Kept, Standing

# `identity` sends the browser on by a page that spells it so; the scripted browser may know `url=` only.
_REFRESH = re.compile(r"content='0; URL=([^']+)'")

Cookies = tuple[tuple[str, str], ...]


def walk(stage: Stage, say: Callable[[str], None] = print) -> list[str]:
    """Sign two users in at both apps, sign one of them out in every way that there is, and look.

    Args:
        stage: Where all is served.
        say: Is given each line.

    Returns:
        What was wrong; empty if nothing was.
    """
    with stage.provider.browser() as alices, stage.provider.browser() as bobs:
        return _Walk(stage, say, alices, bobs).run()


@dataclass(frozen=True)
class _Before:
    """What there was at an app before a sign-out: Alice's secrets, her cookies, and all of Bob's."""

    tokens: frozenset[bytes]
    copy: Cookies
    his: Kept
    his_cookies: Cookies


class _Walk:
    def __init__(self, stage: Stage, say: Callable[[str], None], alices: Browser, bobs: Browser) -> None:
        self._stage = stage
        self._say = say
        self._alices = alices
        self._bobs = bobs
        self._steps = 0
        self._wrong: list[str] = []

    def run(self) -> list[str]:
        flask, fastapi = self._stage.apps
        try:
            self._tell_who_is_there()
            self._sign_in(self._stage.bob, self._bobs, "signs in")
            self._sign_in(self._stage.alice, self._alices, "signs in")
            self._sign_out(flask, fastapi)
            self._sign_in(self._stage.alice, self._alices, "signs in again")
            self._sign_out(fastapi, flask)
            self._sign_in(self._stage.alice, self._alices, "signs in again")
            self._sign_in_within_the_same_session()
        except (LookupError, OSError) as error:  # a page without what should be on it, a server that is gone
            self._wrong.append(f"the walk could not go on: {error}")
            self._say(f"    [WRONG] {self._wrong[-1]}")
        return self._wrong

    # Steps

    def _tell_who_is_there(self) -> None:
        provider, way = self._stage.provider, self._stage.way
        self._step(f"A provider like {way.provider}, and two apps on two sites")
        self._say(f"    Provider  {provider.url} (for MSAL), {provider.browser_url} (for browsers)")
        self._say(f"              tells apps of a sign-out by {way.how} ({way.name})")
        for app in self._stage.apps:
            self._say(f"    {app.name:<9} {app.url}, built on {app.built_on}")
            self._say(f"              sessions: {_small(app.view.session_store)}")
            self._say(f"              token caches: {_small(app.view.token_cache)}")

    def _sign_in(self, user: User, browser: Browser, signs_in: str) -> None:
        self._step(f"{user.name} {signs_in} at both apps, in one browser, and calls an API")
        for app in self._stage.apps:
            self._sign_in_at(app, user, browser)

    def _sign_out(self, here: App, there: App) -> None:
        """Sign Alice out of one app, and look at both."""
        stage, alice, browser = self._stage, self._stage.alice, self._alices
        self._step(f"{alice.name} signs out of the {here.name} app, and so of the {there.name} app")
        before = {app: self._before(app) for app in (here, there)}
        browser.open(here.home)
        visits, calls = len(browser.history), len(stage.provider.backchannel_calls)
        page = browser.click("Sign out")
        self._tell_visits(browser, visits)
        for call in stage.provider.backchannel_calls[calls:]:
            self._say(
                f"    POST {call.client.backchannel_logout_uri} -> {call.status}, from the provider itself"
            )

        self._say(f"    The {here.name} app, where she signed out")
        self._check(here, page.url == here.home, "the provider has sent the browser back to the app")
        self._check(here, "Nobody is signed in here" in page.text, "the app shows nobody as signed in")
        self._check(here, not stage.provider.sessions(alice), "the session at the provider is over")
        self._check(here, not _cookies(browser, here), "her browser has no cookie of the app")
        self._check_that_nothing_is_left(here, before[here])

        self._say(f"    The {there.name} app, which was told by {stage.way.how}")
        self._check(there, self._was_told(there, visits, calls), "it was told once, and answered 200")
        self._check_that_nothing_is_left(there, before[there])
        self._check(
            there, self._is_refused(there, _cookies(browser, there)), "the next visit finds nobody signed in"
        )

    def _sign_in_within_the_same_session(self) -> None:
        """Have the provider end the apps' sessions but not its own, so that the next ID token has the same `sid`."""
        stage, alice, provider = self._stage, self._stage.alice, self._stage.provider
        self._step(
            f"The provider tells both apps, and {alice.name} signs in at once, within the same session there"
        )
        before = {app: self._before(app) for app in stage.apps}
        for app in stage.apps:
            self._check(app, stage.tell(app) == 200, f"it was told by {stage.way.how}, and answered 200")
            self._check_that_nothing_is_left(app, before[app])
        sid = [session.sid for session in provider.sessions(alice)]
        asked = len(provider.requests_to("signin"))
        for app in stage.apps:
            self._sign_in_at(app, alice, self._alices)
            self._check(
                app, self._is_refused(app, before[app].copy), "the copy of the old cookie is refused, still"
            )
        same = sid == [session.sid for session in provider.sessions(alice)]
        unasked = asked == len(provider.requests_to("signin"))
        self._check(stage.apps[0], same and unasked, "the provider asked nobody: the sid is the same")

    # Parts of them

    def _sign_in_at(self, app: App, user: User, browser: Browser) -> None:
        since = len(browser.history)
        page = browser.sign_in(f"{app.url}/login", user)
        if onward := _REFRESH.search(page.text):
            page = browser.sign_in(unescape(onward[1]), user)
        self._tell_visits(browser, since)
        self._check(app, f"Hello, {user.name}" in page.text, f"{user.name} is signed in")
        self._check(app, self._calls_api(app, user, browser), f"the API answers {user.name}'s token")

    def _before(self, app: App) -> _Before:
        """Look at an app before a sign-out, and copy Alice's cookies, as a thief would."""
        alice, bob = self._stage.alice, self._stage.bob
        self._tell_standing("Before", app)
        before = _Before(
            app.view.kept_for(alice).secrets(),
            _cookies(self._alices, app),
            app.view.kept_for(bob),
            _cookies(self._bobs, app),
        )
        self._check(app, bool(before.tokens), f"there are tokens of {alice.name}")
        self._check(app, not self._is_refused(app, before.copy), "a stolen copy of her cookie works, so far")
        return before

    def _check_that_nothing_is_left(self, app: App, before: _Before) -> None:
        alice, bob = self._stage.alice, self._stage.bob
        self._tell_standing("After", app)
        standing = self._standing(app)
        self._check(app, alice.username not in standing.sessions, "the session store has no session of hers")
        self._check(app, alice.username not in standing.users(), "the token cache has no entry of hers")
        self._check(app, standing.unfinished == 0, "nothing is left to do")
        on_disk = _on_disk(app, [*before.tokens, alice.username.encode(), alice.oid.encode()])
        self._check(app, not on_disk, "the app's files hold no byte of her tokens, username and object id")
        self._check(app, self._is_refused(app, before.copy), "the stolen copy of her cookie is refused")
        his = app.view.kept_for(bob), _cookies(self._bobs, app)
        self._check(
            app, his == (before.his, before.his_cookies), f"{bob.name}'s session and tokens are as before"
        )
        self._check(app, self._calls_api(app, bob, self._bobs), f"the API answers {bob.name}'s token")

    def _was_told(self, app: App, visits: int, calls: int) -> bool:
        """Tell whether the provider called the app once since then, without a cookie of the app, and had a 200."""
        framed = [
            (visit.status, visit.cookie_header)
            for visit in self._alices.history[visits:]
            if visit.framed and visit.url.startswith(app.home)
        ]
        posted = [
            (call.status, "")
            for call in self._stage.provider.backchannel_calls[calls:]
            if call.client == app.client
        ]
        return framed + posted == [(200, "")]

    def _calls_api(self, app: App, user: User, browser: Browser) -> bool:
        page = browser.open(f"{app.url}/call-api")
        return "The API answers" in page.text and user.oid in page.text

    def _is_refused(self, app: App, cookies: Cookies) -> bool:
        """Tell whether whoever sends these cookies is a visitor to the app, and gets nothing from the API."""
        with self._stage.provider.browser() as copy:
            for name, value in cookies:
                copy.cookies.store(app.home, f"{name}={value}; Path=/")
            return not self._calls_api(app, self._stage.alice, copy) and (
                "Nobody is signed in here" in copy.open(app.home).text
            )

    def _standing(self, app: App) -> Standing:
        return app.view.standing(list(self._stage.provider.records.users.values()))

    # Words

    def _step(self, title: str) -> None:
        self._steps += 1
        self._say(f"\n{self._steps}. {title}")

    def _tell_visits(self, browser: Browser, since: int) -> None:
        for visit in browser.history[since:]:
            url = urlsplit(visit.url)
            framed = ", in an iframe" if visit.framed else ""
            cookies = "" if visit.cookie_header or not framed else ", without a cookie"
            where = f"{url.scheme}://{url.netloc}{url.path}"
            self._say(f"    {visit.method:<4} {where} -> {visit.status}{framed}{cookies}")

    def _tell_standing(self, when: str, app: App) -> None:
        standing = self._standing(app)
        sessions = ", ".join(name or "anonymous (nobody signed in)" for name in standing.sessions)
        self._say(f"    {when}, {app.name}, session store: {sessions or 'nothing on the server'}")
        self._say(f"    {f'{when}, {app.name}, token cache':<30}{''.join(f'{kind:>14}' for kind in KINDS)}")
        for tokens in standing.tokens:
            counts = "".join(f"{tokens.counts.get(kind, 0):>14}" for kind in KINDS)
            self._say(f"      {tokens.user:<28}{counts}")
        if not standing.tokens:
            self._say("      (empty)")

    def _check(self, app: App, right: bool, fact: str) -> None:
        self._say(f"      {'[ok]' if right else '[WRONG]'} {fact}")
        if not right:
            self._wrong.append(f"{app.name}: it is not so that {fact}")


def _cookies(browser: Browser, app: App) -> Cookies:
    host = urlsplit(app.url).hostname
    return tuple(sorted((cookie.name, cookie.value) for cookie in browser.cookies if cookie.host == host))


def _on_disk(app: App, words: Iterable[bytes]) -> bool:
    files = [path.read_bytes() for path in app.view.folder.rglob("*") if path.is_file()]
    return any(word in content for word in words for content in files)


def _small(text: str) -> str:
    return text[0].lower() + text[1:]
