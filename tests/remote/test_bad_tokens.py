"""Every bad logout token once more, now as a request through either door: refused, logged, and nobody is signed out."""

from __future__ import annotations

import time
from functools import cached_property
from urllib.parse import urlencode

import pytest

from msal_logout_middleware import LogoutTokenRules, Provider, asgi, wsgi
from msal_logout_middleware._drive import BlockingWorld, run
from msal_logout_middleware.events import LogoutRefused
from tests.back_channel.rows import BAD, GOOD, Issuing, by_name
from tests.remote.conftest import LONG_SECONDS, have_nobody_tidy, signing_in, with_keys
from tests.remote.test_back_channel import FORM, PATH, is_done, is_refused
from tests.sites import KINDS, Site

RULES = LogoutTokenRules()


class Target:
    """A site where Ann is signed in, and the provider whose tokens name her.

    Args:
        kind: Of the site.
        provider: Is asked for its keys at most as often as a row says.
        now: The one time at which tokens are made and judged, whatever the machine does in between.
    """

    def __init__(self, kind, provider, now):
        self.provider, self.now = provider, now
        provider.keys.sign(
            {}, algorithm="ES256"
        )  # whose key is published from then on, and so held from the beginning
        self.client = provider.generic.register(client_id="the app")
        self.site = Site(kind, KINDS[kind]).build(provider=self.discovered())
        self.by = Issuing(
            provider.keys,
            now=now,
            iss=provider.generic.oidc_authority,
            client_id=self.client.client_id,
            sub="sub-of-ann",
        )
        self.ann = self.sign_in()
        self._doors = {}

    def discovered(self):
        """The provider as somebody knows it who has its metadata, and has not asked for its keys yet."""
        known = Provider.discover(
            self.provider.generic.oidc_authority,
            self.client.client_id,
            verify=self.provider.ca_file,
            timeout_seconds=10,
        )
        assert run(known.trust(BlockingWorld(), wait_seconds=LONG_SECONDS))
        return known

    def sign_in(self):
        return self.site.sign_in(signing_in("ann", self.by.sid, iss=self.by.iss), cache=False)

    @cached_property
    def known_with_keys(self):
        return with_keys(self.discovered())

    def send(self, row, *, keys_are_held):
        """Send a row's token to a worker that has its rules."""
        if (row.rules, keys_are_held) not in self._doors:
            known = self.known_with_keys if keys_are_held else self.site.options["provider"]
            _, door = self.site.worker(provider=known, logout_token_rules=row.rules)
            self._doors[row.rules, keys_are_held] = door
        body = urlencode({"logout_token": row.build(self.by)}).encode()
        return self._doors[row.rules, keys_are_held].call("POST", PATH, {"content-type": FORM}, body)


@pytest.fixture(scope="module")
def now():
    with pytest.MonkeyPatch.context() as patch:
        now = time.time()
        patch.setattr(time, "time", lambda: now)
        have_nobody_tidy(patch)  # workers have keys ready before any token comes, and here none may
        yield now


@pytest.fixture(scope="module", params=["flask, signed cookie", "starlette, signed cookie"])
def target(request, embedded_provider, now):
    """One site and one signing key for all rows; and nobody who fetches keys by the way."""
    embedded_provider.back()
    embedded_provider.reset()
    with embedded_provider.trusted(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(asgi.LogoutMiddleware, "_start_upkeep", lambda self: None)
        patch.setattr(wsgi._Upkeep, "start", lambda self: None)
        yield Target(request.param, embedded_provider, now)


@pytest.mark.parametrize("name", by_name(BAD))
def test_bad_token_is_refused_with_its_reason_in_the_log_and_the_session_lives(target, name, caplog):
    caplog.set_level("INFO")
    row, site = by_name(BAD)[name], target.site
    asked = len(target.provider.requests_to("keys"))

    answer = target.send(row, keys_are_held=not row.by_text)

    assert is_refused(answer)
    assert site.events[-1] == LogoutRefused("back-channel", row.reason)
    assert row.reason in caplog.text
    assert site.user(target.ann) == "sub-of-ann"
    if row.by_text:  # whoever looked for a key would have to fetch it
        assert len(target.provider.requests_to("keys")) == asked


@pytest.mark.parametrize("name", by_name(GOOD))
def test_good_token_of_the_same_provider_ends_that_very_session(target, name):
    """So no row above is refused for what all of them have in common."""
    assert target.site.user(target.ann) == "sub-of-ann"
    assert is_done(target.send(by_name(GOOD)[name], keys_are_held=True))
    assert target.site.user(target.ann) is None
    target.ann = target.sign_in()
