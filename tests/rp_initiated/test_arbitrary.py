"""Whatever arrives on our paths is answered, and changes nothing of anybody else."""

import json
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sites import KINDS, Site
from tests.tokens import claims_of

ANN = claims_of("ann")

LATIN = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\x00"), max_size=40)
VALUES = st.one_of(
    LATIN,
    st.sampled_from(
        [
            "same-origin",
            "none",
            "cross-site",
            "http://localhost",
            "null",
            "http://[bad",
            "prefetch",
            "session=x",
        ]
    ),
)
NAMES = st.sampled_from(
    [
        "cookie",
        "origin",
        "referer",
        "sec-fetch-site",
        "sec-fetch-dest",
        "sec-purpose",
        "content-type",
        "x-forwarded-host",
        "host",
    ]
)
PAIRS = st.dictionaries(
    st.sampled_from(["confirm", "retry", "return_to", "state", "ui_locales", "sid", "x"]), LATIN, max_size=4
)
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module", params=["flask, signed cookie", "starlette, signed cookie", "starsessions"])
def site(request):
    return Site(request.param, KINDS[request.param]).build(return_to=["/bye"])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    method=st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"]),
    path=st.sampled_from(["/logout", "/"]),
    query=PAIRS,
    form=st.one_of(PAIRS, st.binary(max_size=60)),
    headers=st.dictionaries(NAMES, VALUES, max_size=6),
)
def test_arbitrary_request_is_answered_and_ends_nobody_s_session(site, method, path, query, form, headers):
    ann = site.sign_in(ANN)
    body = form if isinstance(form, bytes) else urlencode(form).encode()
    headers = {"content-type": FORM} | headers if method == "POST" else headers
    answer = site.door.call(method, f"{path}?{urlencode(query)}", headers, body if method == "POST" else b"")
    assert answer.status < 500
    if answer.location is not None:
        assert answer.location.startswith(("https://login.microsoftonline.com/", "http://localhost/"))
    assert json.loads(ann.get("/me").body)["user"]["sub"] == ANN["sub"]
    assert site.cache(ANN)
