"""The demo without a browser: what a person would do at both apps, said step by step, and checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from html import unescape
from urllib.parse import urlsplit

from msal_logout_middleware.testing import Browser, User

from .stage import App, Stage
from .view import KINDS, Standing

# `identity` sends the browser on by a page that spells it so; the scripted browser may know `url=` only.
_REFRESH = re.compile(r"content='0; URL=([^']+)'")


def walk(stage: Stage, say: Callable[[str], None] = print) -> list[str]:
    """Sign two users in at both apps, sign one of them out of each, and look.

    Args:
        stage: Where all is served.
        say: Is given each line.

    Returns:
        What was wrong; empty if nothing was.
    """
    with stage.provider.browser() as alices, stage.provider.browser() as bobs:
        return _Walk(stage, say, alices, bobs).run()


class _Walk:
    def __init__(self, stage: Stage, say: Callable[[str], None], alices: Browser, bobs: Browser) -> None:
        self._stage = stage
        self._say = say
        self._alices = alices
        self._bobs = bobs
        self._steps = 0
        self._wrong: list[str] = []

    def run(self) -> list[str]:
        try:
            self._tell_who_is_there()
            self._sign_in(self._stage.alice, self._alices)
            self._sign_in(self._stage.bob, self._bobs)
            for app in self._stage.apps:
                self._sign_out(app)
        except (LookupError, OSError) as error:  # a page without what should be on it, a server that is gone
            self._wrong.append(f"the walk could not go on: {error}")
            self._say(f"    [WRONG] {self._wrong[-1]}")
        return self._wrong

    def _tell_who_is_there(self) -> None:
        provider = self._stage.provider
        self._step("A provider, and two apps on two sites")
        self._say(f"    Provider  {provider.url} (for MSAL), {provider.browser_url} (for browsers)")
        for app in self._stage.apps:
            self._say(f"    {app.name:<9} {app.url}, built on {app.built_on}")
            self._say(f"              sessions: {_small(app.view.session_store)}")
            self._say(f"              token caches: {_small(app.view.token_cache)}")

    def _sign_in(self, user: User, browser: Browser) -> None:
        self._step(f"{user.name} signs in at both apps, in one browser, and calls an API")
        for app in self._stage.apps:
            since = len(browser.history)
            page = browser.sign_in(f"{app.url}/login", user)
            if onward := _REFRESH.search(page.text):
                page = browser.sign_in(unescape(onward[1]), user)
            self._tell_visits(browser, since)
            self._check(app, f"Hello, {user.name}" in page.text, f"{user.name} is signed in")
            self._check(app, self._calls_api(app, user, browser), f"the API answers {user.name}'s token")

    def _sign_out(self, app: App) -> None:
        stage, alice, bob = self._stage, self._stage.alice, self._stage.bob
        hers, his, his_cookies = app.view.kept_for(alice), app.view.kept_for(bob), _cookies(self._bobs, app)
        tokens = hers.secrets()
        copy = self._copy_of_cookies(self._alices, app)

        self._step(f"{alice.name} signs out of the {app.name} app")
        self._tell_standing("Before", app)
        self._check(app, bool(tokens), f"there are tokens of {alice.name}")
        since = len(self._alices.history)
        self._alices.open(app.home)
        page = self._alices.click("Sign out")
        self._tell_visits(self._alices, since)
        self._tell_standing("After", app)

        standing = self._standing(app)
        self._say(f"    {alice.name}")
        self._check(app, page.url == app.home, "the provider has sent the browser back to the app")
        self._check(app, "Nobody is signed in here" in page.text, "the app shows nobody as signed in")
        self._check(app, not stage.provider.sessions(alice), "the session at the provider is over")
        self._check(app, alice.username not in standing.sessions, "the session store has no session of hers")
        self._check(app, alice.username not in standing.users(), "the token cache has no entry of hers")
        self._check(app, not _cookies(self._alices, app), "her browser has no cookie of the app")
        self._check(app, standing.unfinished == 0, "nothing is left to do")
        on_disk = _on_disk(app, [*tokens, alice.username.encode(), alice.oid.encode()])
        self._check(app, not on_disk, "the app's files hold no byte of her tokens, username and object id")
        self._check(
            app, not self._calls_api(app, alice, copy), "a copy of her cookie gets nothing from the API"
        )

        self._say(f"    {bob.name}, in another browser")
        self._check(
            app, bool(his.secrets()) and app.view.kept_for(bob) == his, "session and tokens are as before"
        )
        self._check(app, _cookies(self._bobs, app) == his_cookies, "his cookies are as before")
        self._check(app, self._calls_api(app, bob, self._bobs), "the API answers his token")
        for other in stage.apps:
            if alice.username in self._standing(other).users():
                self._say(
                    f"    Not there yet: the {other.name} app is not told, and still has {alice.name}'s tokens.\n"
                    "    Front- and back-channel logout, which come next, will sign out everywhere."
                )

    def _calls_api(self, app: App, user: User, browser: Browser) -> bool:
        page = browser.open(f"{app.url}/call-api")
        return "The API answers" in page.text and user.oid in page.text

    def _copy_of_cookies(self, browser: Browser, app: App) -> Browser:
        copy = self._stage.provider.browser()
        for name, value in _cookies(browser, app):
            copy.cookies.store(app.home, f"{name}={value}; Path=/")
        return copy

    def _standing(self, app: App) -> Standing:
        return app.view.standing(list(self._stage.provider.records.users.values()))

    def _step(self, title: str) -> None:
        self._steps += 1
        self._say(f"\n{self._steps}. {title}")

    def _tell_visits(self, browser: Browser, since: int) -> None:
        for visit in browser.history[since:]:
            url = urlsplit(visit.url)
            self._say(f"    {visit.method:<4} {url.scheme}://{url.netloc}{url.path} -> {visit.status}")

    def _tell_standing(self, when: str, app: App) -> None:
        standing = self._standing(app)
        sessions = ", ".join(name or "nobody yet" for name in standing.sessions)
        self._say(f"    {when}, session store: {sessions or 'nothing on the server'}")
        self._say(f"    {f'{when}, token cache':<26}{''.join(f'{kind:>14}' for kind in KINDS)}")
        for tokens in standing.tokens:
            counts = "".join(f"{tokens.counts.get(kind, 0):>14}" for kind in KINDS)
            self._say(f"      {tokens.user:<24}{counts}")
        if not standing.tokens:
            self._say("      (empty)")

    def _check(self, app: App, right: bool, fact: str) -> None:
        self._say(f"      {'[ok]' if right else '[WRONG]'} {fact}")
        if not right:
            self._wrong.append(f"{app.name}: it is not so that {fact}")


def _cookies(browser: Browser, app: App) -> list[tuple[str, str]]:
    host = urlsplit(app.url).hostname
    return sorted((cookie.name, cookie.value) for cookie in browser.cookies if cookie.host == host)


def _on_disk(app: App, words: Iterable[bytes]) -> bool:
    files = [path.read_bytes() for path in app.view.folder.rglob("*") if path.is_file()]
    return any(word in content for word in words for content in files)


def _small(text: str) -> str:
    return text[0].lower() + text[1:]
