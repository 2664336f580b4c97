"""The relying-party modules of the OpenID Foundation's conformance suite for logout, through both doors.

Each test has the name of the suite's module (https://gitlab.com/openid/conformance-suite, package
`net.openid.conformance.openid.client.logout`). The provider does what the suite's does: at a logout it calls the
app that asked for it as well, as wrongly as the module says, and checks the answer. The session management module is
not here: it is about an iframe of the provider's, and not about logout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import requests

from msal_logout_middleware.testing import Browser, Client, User, endpoints
from tests.stories.conftest import MSAL_RECOMMENDS_FORM_POST

pytestmark = MSAL_RECOMMENDS_FORM_POST

CLIENT_ID = "the relying party"
BACK, FRONT = "back", "front"


@dataclass
class RelyingParty:
    """A wrapped app, somebody who has signed in there, and what a logout must leave behind.

    `told` are the app's answers to all logout tokens.
    """

    story: Any
    client: Client
    user: User
    browser: Browser
    known: Any
    told: list[requests.Response]

    def signs_out(self):
        """Sign out as the person in front of the browser does; return the page that it shows at the end."""
        return self.browser.click("Sign out")

    def end_session_request(self):
        """What the provider was asked for; it holds what the suite asks of it in every module."""
        (request,) = self.story.provider.requests_to("logout")
        assert request.query["id_token_hint"] in self.known.tokens
        assert request.query["post_logout_redirect_uri"] in self.client.post_logout_redirect_uris
        return request

    def is_back_and_signed_out(self, page):
        assert (page.url.partition("?")[0], page.status) == (f"{self.story.url}/", 200)
        assert "home of nobody" in page.text
        assert self.story.provider.sessions(self.user) == []
        assert self.browser.cookies.value("session", page.url) is None
        self.story.assert_nothing_left(self.known)

    def back_channel_answer(self):
        """What the provider was answered on the back channel; it holds what the suite asks of it in every module."""
        (call,) = self.story.provider.backchannel_calls
        assert self.told[-1].headers["cache-control"] == "no-store"
        return call

    def frames(self):
        """What the browser has loaded in iframes."""
        return [visit for visit in self.browser.history if visit.framed]


@pytest.fixture(params=["flask", "fastapi"], ids=["wsgi", "asgi"])
def relying_party(request, tell, provider, alice, monkeypatch):
    """Return what registers, serves and signs in."""
    end_session = endpoints.Endpoints.end_session
    monkeypatch.setattr(
        endpoints.Endpoints,
        "end_session",
        lambda self, flavour, session, initiator=None: end_session(self, flavour, session),
    )

    told, post = [], requests.Session.post

    def posts(session, url, *args, **kwargs):
        answer = post(session, url, *args, **kwargs)
        if url.endswith("/logout/back-channel"):
            told.append(answer)
        return answer

    monkeypatch.setattr(requests.Session, "post", posts)

    def make(*channels):
        story = tell(request.param, "generic").serve(
            registration={"client_id": CLIENT_ID}, id_token_hint=True, timeout_seconds=10
        )
        uris = {
            "backchannel_logout_uri": f"{story.url}/logout/back-channel" if BACK in channels else None,
            "frontchannel_logout_uri": f"{story.url}/logout/front-channel" if FRONT in channels else None,
        }
        client = provider.generic.register(
            CLIENT_ID,
            redirect_uris=[f"{story.url}/redirect"],
            post_logout_redirect_uris=[f"{story.url}/"],
            **uris,
        )
        browser = story.sign_in(alice)
        return RelyingParty(story, client, alice, browser, story.known_of(browser), told)

    return make


RP_INITIATED = {
    "oidcc-client-test-rp-init-logout": lambda state: {"state": state},
    "oidcc-client-test-rp-init-logout-other-state": lambda state: {"state": f"{state}, or another one"},
    "oidcc-client-test-rp-init-logout-no-state": lambda state: {},
}


@pytest.mark.parametrize("channels", [(BACK,), (FRONT,), (BACK, FRONT)], ids="-and-".join)
@pytest.mark.parametrize("module", RP_INITIATED)
def test_rp_initiated_logout(relying_party, monkeypatch, module, channels):
    """The app asks for a logout with a `state`; is called by each channel that it has registered; handles the return.

    `...-other-state`, `...-no-state`: the provider sends the browser back with another `state`, or none, and the
    app handles the return all the same.
    """
    target = endpoints._post_logout_target
    monkeypatch.setattr(
        endpoints,
        "_post_logout_target",
        lambda flavour, asked, client: target(
            flavour,
            {name: value for name, value in asked.items() if name != "state"}
            | RP_INITIATED[module](asked["state"]),
            client,
        ),
    )
    rp = relying_party(*channels)

    page = rp.signs_out()

    assert rp.end_session_request().query["state"]
    rp.is_back_and_signed_out(page)
    assert bool(rp.frames()) is (FRONT in channels)
    if BACK in channels:
        assert (rp.back_channel_answer().status, rp.back_channel_answer().body) == (200, "")


@pytest.mark.parametrize("module", ["oidcc-client-test-rp-frontchannel-rpinitlogout"])
def test_front_channel_logout_that_the_app_initiates(relying_party, module):
    """The app asks for a logout; the provider's page loads its front-channel URI, and sends the browser back."""
    rp = relying_party(FRONT)

    page = rp.signs_out()

    rp.end_session_request()
    (frame,) = rp.frames()
    assert frame.status == 200
    rp.is_back_and_signed_out(page)


@pytest.mark.parametrize("module", ["oidcc-client-test-rp-frontchannel-opinitlogout"])
def test_front_channel_logout_that_the_provider_initiates(relying_party, module):
    """The provider's page loads the app's front-channel URI, without the app having asked for anything."""
    rp = relying_party(FRONT)

    page = rp.browser.open(rp.story.provider.generic.metadata("oidc")["end_session_endpoint"])

    (frame,) = page.frames
    assert (frame.status, "x-frame-options" in frame.headers) == (200, False)
    assert [visit.cookie_header for visit in rp.frames()] == [""]  # third-party cookies are blocked
    rp.story.assert_nothing_left(rp.known)
    assert "home of nobody" in rp.browser.open(f"{rp.story.url}/").text


@pytest.mark.parametrize("module", ["oidcc-client-test-rp-backchannel-rpinitlogout"])
def test_back_channel_logout(relying_party, module):
    """The app asks for a logout, is sent a logout token meanwhile, and answers 200 with the headers of no cache."""
    rp = relying_party(BACK)

    page = rp.signs_out()

    rp.end_session_request()
    assert rp.back_channel_answer().status == 200
    rp.is_back_and_signed_out(page)


WRONG = {
    "oidcc-client-test-rp-backchannel-rpinitlogout-alg-none": {"algorithm": "none"},
    "oidcc-client-test-rp-backchannel-rpinitlogout-no-event": {"omit": ["events"]},
    "oidcc-client-test-rp-backchannel-rpinitlogout-with-nonce": {"nonce": "a-nonce"},
    # Signed with a key that is among those that the provider publishes.
    "oidcc-client-test-rp-backchannel-rpinitlogout-wrong-alg": {"algorithm": "ES256"},
    "oidcc-client-test-rp-backchannel-rpinitlogout-wrong-aud": {"aud": f"{CLIENT_ID}1"},
    "oidcc-client-test-rp-backchannel-rpinitlogout-wrong-event": {
        "events": {"http://schemas.openid.net/event/foobar": {}}
    },
    "oidcc-client-test-rp-backchannel-rpinitlogout-wrong-iss": {"iss": "https://another.example/oidc"},
}


@pytest.mark.parametrize("module", WRONG)
def test_back_channel_logout_with_a_wrong_token(relying_party, provider, alice, monkeypatch, module):
    """The app asks for a logout, is sent a logout token that is wrong as the name says, and answers 400.

    Beyond the module: the same token ends nothing of a user who is signed in.
    """
    logout_token = provider.logout_token
    monkeypatch.setattr(
        provider, "logout_token", lambda client, **right: logout_token(client, **(right | WRONG[module]))
    )
    rp = relying_party(BACK)
    (session,) = provider.sessions(alice)

    call = provider.post_logout_token(
        rp.client, provider.logout_token(rp.client, sid=session.sid, sub=alice.sub)
    )
    assert (call.status, '"invalid_request"' in call.body) == (400, True)
    rp.story.calls_api(rp.browser, alice)
    rp.browser.open(f"{rp.story.url}/")
    page = rp.signs_out()

    rp.end_session_request()
    assert rp.back_channel_answer().status == 400
    rp.is_back_and_signed_out(page)
