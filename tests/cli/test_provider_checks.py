"""The provider's metadata against the configuration, and its clock against ours."""

import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from msal_logout_middleware import Logout, MemoryStore, Provider
from msal_logout_middleware.cli.checks.provider import check_clock, check_provider, is_microsoft, issued
from msal_logout_middleware.cli.metadata import Answer, Source, ask, sources
from tests.cli import SECRET

TENANT = "11111111-2222-3333-4444-555555555555"
HOST = "https://login.microsoftonline.com"
DISCOVERED = Source(flow="", url="https://op.example/realm/.well-known/openid-configuration")
GENERIC = {
    "issuer": "https://op.example/realm",
    "end_session_endpoint": "https://op.example/realm/logout",
    "frontchannel_logout_supported": True,
    "frontchannel_logout_session_supported": True,
    "backchannel_logout_supported": True,
    "backchannel_logout_session_supported": True,
    "jwks_uri": "https://op.example/realm/keys",
    "id_token_signing_alg_values_supported": ["RS256", "ES256"],
}
ENTRA = {
    "issuer": f"{HOST}/{TENANT}/v2.0",
    "end_session_endpoint": f"{HOST}/{TENANT}/oauth2/v2.0/logout",
    "frontchannel_logout_supported": True,
}


class NoSession:
    cookies = ()
    secret = SECRET

    def read(self, cookie_header):
        return None

    load = delete = read


def config(provider=None, **options):
    return Logout(
        provider=provider or Provider.discover("https://op.example/realm", "shop"),
        session=NoSession(),
        store=MemoryStore(),
        post_logout_redirect_uri="https://shop.example.com/",
        **options,
    ).configuration


def found(metadata, source=DISCOVERED, **options):
    answer = Answer(source=source, metadata=metadata, seconds_ahead=0.0)
    return {finding.check: finding for finding in check_provider([answer], config(**options))}


def without(metadata, *names):
    return {name: value for name, value in metadata.items() if name not in names}


def source_of(provider):
    (source,) = sources(provider)
    return source


@pytest.mark.parametrize(
    ("metadata", "source"),
    [
        (GENERIC, DISCOVERED),
        ({**GENERIC, "issuer": "https://op.example/realm/"}, DISCOVERED),
        (ENTRA, source_of(Provider.entra(TENANT, "shop"))),
        (ENTRA, source_of(Provider.entra("contoso.onmicrosoft.com", "shop"))),
        ({**ENTRA, "issuer": f"{HOST}/{{tenantid}}/v2.0"}, source_of(Provider.entra("common", "shop"))),
        (GENERIC, source_of(Provider.from_metadata(GENERIC, "shop"))),
    ],
    ids=["discovered", "slash", "entra", "entra by domain", "common", "given"],
)
def test_metadata_that_agrees_is_fine(metadata, source):
    assert {finding.level for finding in found(metadata, source).values()} == {"ok"}


@pytest.mark.parametrize(
    ("check", "level", "metadata", "source", "sees"),
    [
        ("provider-issuer", "error", without(GENERIC, "issuer"), DISCOVERED, "names no issuer"),
        ("provider-issuer", "warning", {**GENERIC, "issuer": "https://op.example"}, DISCOVERED, "is that of"),
        (
            "provider-issuer",
            "error",
            {"issuer": "https://sts.windows.net/t/", "end_session_endpoint": f"{HOST}/t/oauth2/logout"},
            Source(flow="", url=f"{HOST}/t/.well-known/openid-configuration"),
            "v1.0 tokens",
        ),
        (
            "provider-issuer",
            "error",
            {**GENERIC, "issuer": "https://other.example"},
            source_of(Provider.from_metadata(GENERIC, "shop")),
            "is configured as https://op.example/realm",
        ),
        (
            "end-session-endpoint",
            "warning",
            without(GENERIC, "end_session_endpoint"),
            DISCOVERED,
            "users stay signed in there",
        ),
        (
            "end-session-endpoint",
            "error",
            {**GENERIC, "end_session_endpoint": "https://op.example/bye"},
            source_of(Provider.from_metadata(GENERIC, "shop")),
            "is configured with https://op.example/realm/logout",
        ),
        (
            "end-session-endpoint",
            "error",
            {
                **ENTRA,
                "end_session_endpoint": f"https://login.microsoftonline.us/{TENANT}/oauth2/v2.0/logout",
            },
            source_of(Provider.entra(TENANT, "shop")),
            "the provider has https://login.microsoftonline.us",
        ),
        (
            "front-channel-logout",
            "warning",
            without(GENERIC, "frontchannel_logout_session_supported"),
            DISCOVERED,
            "does not say that it sends a sid",
        ),
    ],
)
def test_metadata_that_does_not_agree_is_found(check, level, metadata, source, sees):
    finding = found(metadata, source)[check]
    assert finding.level == level
    assert sees in finding.seen
    assert finding.to_do


@pytest.mark.parametrize(
    ("metadata", "sees"),
    [
        (without(GENERIC, "jwks_uri"), "no jwks_uri"),
        (
            {**GENERIC, "id_token_signing_alg_values_supported": ["ES256"]},
            "signs with ES256, and RS256 is allowed",
        ),
    ],
)
def test_logout_token_that_could_not_be_verified_is_an_error(metadata, sees):
    finding = found(metadata)["back-channel-logout"]
    assert (finding.level, sees in finding.seen) == ("error", True)


@pytest.mark.parametrize("given", [{}, {"jwks_uri": GENERIC["jwks_uri"]}, {"issuer": GENERIC["issuer"]}])
def test_back_channel_logout_whose_tokens_nothing_verifies_is_an_error(given):
    source = source_of(Provider.from_metadata(given, "shop"))
    for metadata in (None, GENERIC):
        finding = found(metadata, source)["back-channel-logout"]
        assert (finding.level, "back_channel_path=None" in finding.to_do) == ("error", True)
    assert found(None, source, back_channel_path=None)["back-channel-logout"].level == "ok"


def test_logout_token_for_all_sessions_of_a_user_is_fine():
    finding = found(without(GENERIC, "backchannel_logout_session_supported"))["back-channel-logout"]
    assert (finding.level, "all sessions of a user" in finding.seen) == ("ok", True)


OTHER = TENANT.replace("1", "9")


@pytest.mark.parametrize(
    ("provider", "claims", "metadata", "told"),
    [
        (Provider.entra(TENANT, "shop"), {"iss": f"{HOST}/{TENANT}/v2.0", "tid": TENANT}, None, True),
        (Provider.entra(TENANT, "shop"), {"iss": f"{HOST}/{OTHER}/v2.0", "tid": OTHER}, None, False),
        (Provider.entra("common", "shop"), {"iss": f"{HOST}/{OTHER}/v2.0", "tid": OTHER}, None, True),
        (Provider.from_metadata({}, "shop"), {"iss": GENERIC["issuer"]}, None, None),
        (Provider.from_metadata({}, "shop"), {"iss": GENERIC["issuer"]}, GENERIC, True),
        (Provider.from_metadata({}, "shop"), {"iss": "https://other.example"}, GENERIC, False),
        (Provider.from_metadata({}, "shop"), {}, GENERIC, False),
    ],
)
def test_issuer_of_claims_is_compared_with_what_is_known_or_was_told(provider, claims, metadata, told):
    answer = Answer(source=source_of(provider), metadata=metadata)
    assert issued(claims, [answer], provider) is told


def test_front_channel_without_sid_is_fine_where_the_app_takes_it():
    metadata = without(GENERIC, "frontchannel_logout_session_supported")
    assert found(metadata, front_channel_without_sid=True)["front-channel-logout"].level == "ok"


def test_back_channel_logout_that_is_turned_off_is_told_where_the_provider_has_it():
    assert found(GENERIC, back_channel_path=None)["back-channel-logout"].level == "warning"
    assert found(ENTRA, back_channel_path=None)["back-channel-logout"].level == "ok"


def test_logout_that_the_provider_does_not_have_needs_no_registration():
    nothing = {"issuer": GENERIC["issuer"], "end_session_endpoint": GENERIC["end_session_endpoint"]}
    findings = found(nothing)
    assert "nothing to register" in findings["front-channel-logout"].seen
    assert "nothing to register" in findings["back-channel-logout"].seen
    assert "Entra ID has none" in found(ENTRA)["back-channel-logout"].seen
    assert found(nothing, front_channel_path=None)["front-channel-logout"].seen == "turned off"


def test_metadata_is_where_each_provider_has_it():
    b2c = Provider.b2c("contoso", ["B2C_1_signin", "B2C_1_edit"], "shop")
    base = "https://contoso.b2clogin.com/contoso.onmicrosoft.com"
    well_known = "/v2.0/.well-known/openid-configuration"
    assert [(source.flow, source.url) for source in sources(b2c)] == [
        ("b2c_1_signin", f"{base}/B2C_1_signin{well_known}"),
        ("b2c_1_edit", f"{base}/B2C_1_edit{well_known}"),
    ]
    assert source_of(Provider.entra(TENANT, "shop")).url == f"{HOST}/{TENANT}{well_known}"
    assert source_of(Provider.discover("https://op.example/realm", "shop")).url == DISCOVERED.url
    assert source_of(Provider.from_metadata(GENERIC, "shop")).url == DISCOVERED.url
    assert source_of(Provider.from_metadata({}, "shop")).url is None


def test_each_user_flow_is_named():
    answers = [
        Answer(source=Source(flow="b2c_1_edit", url=None), answered=False, why="nothing says where it is")
    ]
    finding = next(check_provider(answers, config()))
    assert finding.seen.startswith("b2c_1_edit: ")


@pytest.mark.parametrize(
    ("provider", "microsoft"),
    [
        (Provider.entra(TENANT, "shop"), True),
        (Provider.b2c("contoso", "B2C_1_signin", "shop"), True),
        (Provider.discover("https://op.example/realm", "shop"), False),
    ],
)
def test_microsofts_providers_are_known_without_network(provider, microsoft):
    answers = [Answer(source=source, answered=False) for source in sources(provider)]
    assert is_microsoft(answers) is microsoft


@pytest.mark.parametrize(
    ("ahead", "level", "sees"),
    [
        (None, "skipped", "did not tell"),
        (0.4, "ok", "agrees"),
        (-59.0, "ok", "59 s ahead of the provider's"),
        (61.0, "warning", "61 s behind the provider's"),
        (-119.0, "warning", "119 s ahead of"),
        (121.0, "error", "121 s behind the provider's, and 120 s are allowed"),
        (-3600.0, "error", "3600 s ahead of"),
    ],
)
def test_clock_is_compared_with_the_providers(ahead, level, sees):
    finding = check_clock([Answer(source=DISCOVERED, seconds_ahead=ahead)], allowed_seconds=120.0)
    assert finding.level == level
    assert sees in finding.seen
    assert bool(finding.to_do) is (level in ("warning", "error"))


class Answering(BaseHTTPRequestHandler):
    """Answers with what the server was given."""

    def do_GET(self):
        status, headers, body = self.server.answer
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """A provider on loopback that tells the time that it is told to."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        server.source = Source(
            flow="", url=f"http://127.0.0.1:{server.server_port}/.well-known/openid-configuration"
        )
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("offset", [-600, 0, 600])
def test_date_of_the_answer_tells_the_providers_clock(server, offset):
    server.answer = 200, {"Date": formatdate(time.time() + offset, usegmt=True)}, b"{}"
    assert ask(server.source).seconds_ahead == pytest.approx(offset, abs=5)


def test_answer_from_a_cache_is_as_old_as_it_says(server):
    server.answer = 200, {"Date": formatdate(time.time() - 3000, usegmt=True), "Age": "3000"}, b"{}"
    assert ask(server.source).seconds_ahead == pytest.approx(0, abs=5)


@pytest.mark.parametrize("headers", [{}, {"Date": "now"}, {"Date": formatdate(usegmt=True), "Age": "old"}])
def test_answer_without_a_time_tells_none(server, headers):
    server.answer = 200, headers, b'{"issuer": "x"}'
    answer = ask(server.source)
    assert (answer.metadata, answer.seconds_ahead) == ({"issuer": "x"}, None)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((404, {}, b"{}"), "answers 404"),
        ((302, {"Location": "https://elsewhere.example/"}, b"{}"), "answers 302"),
        ((200, {}, b"<html>"), "is no JSON object"),
        ((200, {}, b"[]"), "is no JSON object"),
        ((200, {}, b"[" * 100_000), "is no JSON object"),
    ],
)
def test_provider_that_answers_without_metadata_is_an_error(server, answer, why):
    server.answer = answer
    answered = ask(server.source)
    assert answered.why.endswith(why)
    finding = next(check_provider([answered], config()))
    assert (finding.check, finding.level) == ("provider-metadata", "error")


def test_provider_that_is_in_trouble_is_a_warning(server):
    server.answer = 503, {"Date": formatdate(usegmt=True)}, b""
    finding = next(check_provider([ask(server.source)], config()))
    assert (finding.level, finding.seen.endswith("answers 503")) == ("warning", True)


def test_provider_that_is_away_is_a_warning(server):
    server.shutdown()
    server.server_close()
    finding = next(check_provider([ask(server.source)], config()))
    assert (finding.check, finding.level) == ("provider-metadata", "warning")
    assert "cannot be reached" in finding.seen
    assert finding.to_do.startswith("without it nobody is signed out at the provider")
    known = Source(flow="", url=server.source.url, known=GENERIC)
    assert next(check_provider([ask(known)], config())).to_do.startswith("a sign-out works without it")


def test_certificate_of_nobody_that_is_trusted_is_no_answer(provider, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    source = Source(flow="", url=f"{provider.generic.oidc_authority}/.well-known/openid-configuration")
    assert "cannot be reached (SSLError)" in ask(source).why
