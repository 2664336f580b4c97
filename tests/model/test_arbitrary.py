"""Whatever arrives on the three paths of ours, through either door, is answered and changes nothing of anybody's."""

from __future__ import annotations

from urllib.parse import quote, urlencode
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.doors import Browser
from tests.model.workers import Worker
from tests.sites import KINDS, Site
from tests.tokens import claims_of

FRONT, BACK = "/logout/front-channel", "/logout/back-channel"
FORM = "application/x-www-form-urlencoded"
FEW = [150, pytest.param(3000, marks=pytest.mark.soak)]

latin = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\x00"), max_size=40)
paths = st.one_of(
    st.sampled_from(["/logout", FRONT, BACK]),
    st.builds(str.__add__, st.sampled_from(["/logout", FRONT, BACK]), latin.map(quote)),
)
methods = st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"])
media_types = st.one_of(
    st.sampled_from([FORM, f"{FORM}; charset=utf-8", "multipart/form-data", "text/plain"]), latin
)
header_names = st.sampled_from(
    [
        "cookie",
        "origin",
        "referer",
        "sec-fetch-site",
        "sec-fetch-dest",
        "content-type",
        "x-forwarded-host",
        "host",
    ]
)
values = latin | st.sampled_from(
    ["same-origin", "cross-site", "null", "http://[bad", "session=x; session=y; =", "a.b.c"]
)
names = st.sampled_from(["sid", "iss", "logout_token", "confirm", "retry", "state", "return_to", "sub", "x"])
fields = st.lists(st.tuples(names, values), max_size=5)


class Bystander:
    """Somebody who is signed in meanwhile, and who was told to nobody."""

    def __init__(self, kind, registration, loops):
        self.site = Site(kind, KINDS[kind]).build(provider=registration.known)
        self.door = Worker(self.site, loops).door
        self.claims = claims_of("ann", iss=registration.iss, sid=uuid4().hex, nonce=uuid4().hex)
        self.browser = self.site.sign_in(self.claims, browser=Browser(self.door))
        self.tokens = self.site.cache(self.claims)

    def is_untouched(self):
        there = self.site.user(self.browser) == self.claims["sub"]
        return there and self.site.cache(self.claims) == self.tokens and self.site.store.open_rows() == 0


@pytest.mark.parametrize("examples", FEW)
@pytest.mark.parametrize("kind", KINDS)
def test_arbitrary_request_is_answered_and_touches_nobody(kind, examples, registration, loops):
    ann = Bystander(kind, registration, loops)

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples < 1000,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        method=methods,
        path=paths,
        query=fields,
        form=fields | st.binary(max_size=60),
        media_type=media_types,
        headers=st.dictionaries(header_names, values, max_size=5),
    )
    def arrives(method, path, query, form, media_type, headers):
        body = form if isinstance(form, bytes) else urlencode(form).encode()
        headers = {"content-type": media_type} | headers
        url = f"{path}?{urlencode(query)}"
        answer = ann.door.call(method, url, headers, body if method in ("POST", "PUT") else b"")
        assert answer.status < 500
        if path == FRONT:
            assert answer.status == (200 if method in ("GET", "POST") else 405)
            assert (answer.location, answer.all("set-cookie")) == (None, [])
        if path == BACK:
            assert answer.status == (400 if method == "POST" else 405)
            assert (answer.location, answer.all("set-cookie")) == (None, [])
        assert ann.is_untouched()

    arrives()


@pytest.mark.parametrize("kind", ["flask, signed cookie", "starlette, signed cookie"])
def test_logout_token_with_any_byte_changed_touches_nobody(kind, registration, loops):
    ann = Bystander(kind, registration, loops)
    token = registration.provider.logout_token(registration.client, sid=ann.claims["sid"])

    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(at=st.integers(0, len(token) - 2), character=st.characters(max_codepoint=255))
    def arrives(at, character):
        if character == token[at] or (character in "=\r\n" and at > token.rindex(".")):
            return
        changed = token[:at] + character + token[at + 1 :]
        answer = Browser(ann.door).post(BACK, {"logout_token": changed}, site=None)
        assert answer.status == 400
        assert ann.is_untouched()

    arrives()
    assert Browser(ann.door).post(BACK, {"logout_token": token}, site=None).status == 200
    assert not ann.is_untouched()
