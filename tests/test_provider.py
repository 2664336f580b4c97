"""What is known of the provider, how the rest is discovered, and the URL that signs out there."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

from msal_logout_middleware._drive import BlockingWorld, run
from msal_logout_middleware.provider import CLOUDS, Provider, end_session_url

from .json_server import JsonServer, NobodyWaits

TENANT = "11111111-2222-3333-4444-555555555555"
OTHER_TENANT = "99999999-aaaa-bbbb-cccc-dddddddddddd"
CONSUMERS = "9188040d-6c67-4c5b-b112-36a304b66dad"
METADATA = {"issuer": "https://op.example", "end_session_endpoint": "https://op.example/logout"}


def endpoint(provider, claims=None, world=None):
    return run(provider.end_session_endpoint(claims or {}, world or BlockingWorld()))


@pytest.fixture
def server():
    server = JsonServer(METADATA)
    yield server
    server.close()


def test_entra_needs_no_network():
    assert (
        endpoint(Provider.entra(TENANT, "app"))
        == f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/logout"
    )
    assert endpoint(Provider.entra("common", "app")).endswith("/common/oauth2/v2.0/logout")


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_cloud_has_its_own_host(cloud):
    assert urlsplit(endpoint(Provider.entra(TENANT, "app", cloud=cloud))).netloc == CLOUDS[cloud]


def test_external_id_is_entra_on_its_own_host():
    provider = Provider.entra(TENANT, "app", cloud="contoso.ciamlogin.com")
    assert endpoint(provider) == f"https://contoso.ciamlogin.com/{TENANT}/oauth2/v2.0/logout"


def test_b2c_user_flow_is_chosen_by_the_claims():
    provider = Provider.b2c("contoso", ["B2C_1_signin", "B2C_1_edit"], "app")
    base = "https://contoso.b2clogin.com/contoso.onmicrosoft.com"
    assert endpoint(provider) == f"{base}/B2C_1_signin/oauth2/v2.0/logout"
    assert endpoint(provider, {"tfp": "b2c_1_EDIT"}) == f"{base}/B2C_1_edit/oauth2/v2.0/logout"
    assert endpoint(provider, {"acr": "b2c_1_edit"}) == f"{base}/B2C_1_edit/oauth2/v2.0/logout"
    assert endpoint(provider, {"tfp": "../evil"}) == f"{base}/B2C_1_signin/oauth2/v2.0/logout"


def test_b2c_on_its_own_domain():
    provider = Provider.b2c("contoso", "B2C_1_signin", "app", host="login.contoso.com")
    assert urlsplit(endpoint(provider)).netloc == "login.contoso.com"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Provider.entra(TENANT, ""), "client_id"),
        (lambda: Provider.entra(TENANT, None), r"client_id=None .*is the environment variable set\?"),
        (lambda: Provider.discover("https://op.example", None), "client_id=None"),
        (lambda: Provider.entra("a/b", "app"), "tenant"),
        (lambda: Provider.entra("", "app"), "tenant"),
        (lambda: Provider.entra("22222222-aaaa", "contoso.onmicrosoft.com"), "the order is"),
        (lambda: Provider.entra(TENANT, "app", cloud="mars"), "cloud"),
        (lambda: Provider.b2c("contoso", [], "app"), "user_flow"),
        (lambda: Provider.b2c("con toso", "x", "app"), "tenant"),
        (lambda: Provider.b2c("contoso", "B2C_1_x", "app", host="a/b"), "host"),
        (lambda: Provider.b2c("contoso.onmicrosoft.com", "B2C_1_x", "app"), "tenant"),
        (lambda: Provider.b2c("contoso", "app", "B2C_1_x"), "user_flow"),
        (lambda: Provider.discover("http://op.example", "app"), "https"),
        (lambda: Provider.discover("https://[bad", "app"), "https"),
        (lambda: Provider.discover(f"https://login.microsoftonline.com/{TENANT}", "app"), r"ends in /v2\.0"),
        (lambda: Provider.discover(f"https://contoso.ciamlogin.com/{TENANT}", "app"), r"ends in /v2\.0"),
        (lambda: Provider.from_metadata({"end_session_endpoint": "http://op.example"}, "app"), "https"),
        (lambda: Provider.from_metadata({"end_session_endpoint": 7}, "app"), "https"),
        (lambda: Provider.from_metadata({"jwks_uri": "http://op.example/keys"}, "app"), "jwks_uri"),
        (lambda: Provider.from_metadata({"issuer": 7}, "app"), "issuer"),
        (lambda: Provider.entra(TENANT, "app", tenants=[OTHER_TENANT]), "only one"),
        (lambda: Provider.entra("consumers", "app", tenants=[OTHER_TENANT]), "only one"),
        (lambda: Provider.entra("common", "app", tenants=OTHER_TENANT), "list of tenant ids"),
        (lambda: Provider.entra("common", "app", tenants=[]), "list of tenant ids"),
        (lambda: Provider.entra("common", "app", tenants=[5]), "list of tenant ids"),
        (lambda: Provider.entra("common", "app", tenants=5), "list of tenant ids"),
        (lambda: Provider.discover("https://op.example", "app", tenants=["contoso"]), "list of tenant ids"),
    ],
)
def test_mistake_is_told_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_url_in_place_of_metadata_is_told_where_it_belongs():
    with pytest.raises(TypeError, match=r"for a URL there is Provider\.discover"):
        Provider.from_metadata("https://op.example", "app")


@pytest.mark.parametrize(
    ("verify", "error", "message"),
    [
        (False, ValueError, "would let anybody on the network sign users out"),
        ("/no/ca.pem", ValueError, "'/no/ca.pem' does not exist; give the path of a CA bundle"),
        (None, TypeError, "must be True or the path of a CA bundle, not None"),
        (1, TypeError, "must be True or the path"),
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda verify: Provider.entra(TENANT, "app", verify=verify),
        lambda verify: Provider.b2c("contoso", "B2C_1_x", "app", verify=verify),
        lambda verify: Provider.discover("https://op.example", "app", verify=verify),
        lambda verify: Provider.from_metadata({}, "app", verify=verify),
    ],
    ids=["entra", "b2c", "discover", "from_metadata"],
)
def test_certificates_are_verified_or_the_mistake_is_told(make, verify, error, message):
    with pytest.raises(error, match=message):
        make(verify)


def test_ca_bundle_may_be_a_path_object(tmp_path):
    (tmp_path / "ca.pem").touch()
    Provider.discover("https://op.example", "app", verify=tmp_path / "ca.pem")


def test_metadata_is_fetched_when_first_needed_and_then_held(server):
    provider = Provider.discover(server.url, "app")
    assert server.requests == 0
    assert endpoint(provider) == endpoint(provider) == "https://op.example/logout"
    assert server.requests == 1


def test_metadata_may_be_named_by_its_own_url(server):
    provider = Provider.discover(f"{server.url}/.well-known/openid-configuration", "app")
    assert endpoint(provider) == "https://op.example/logout"


@pytest.mark.parametrize(
    "answer",
    [
        (500, "{}"),
        (200, json.dumps({"end_session_endpoint": "http://evil.example/"})),
        (200, json.dumps({"end_session_endpoint": ["https://evil.example/"]})),
        (200, json.dumps({"jwks_uri": "http://evil.example/"})),
        (200, json.dumps({"jwks_uri": 7})),
        (200, json.dumps({"issuer": ["https://op.example"]})),
    ],
)
def test_bad_metadata_is_as_good_as_none_and_not_asked_for_again_at_once(server, answer, caplog):
    server.answer = answer
    provider = Provider.discover(server.url, "app")
    assert endpoint(provider) is None
    assert endpoint(provider) is None
    assert server.requests == 1
    assert "provider metadata" in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example\\.op.example",
        "https://op.example/a b",
        "https://op.example/a\\b",
        "https://op.example/\n",
        "https://öp.example",
        "https://me@op.example",
        "https://op.example;script-src",
        "https://op.example,*",
    ],
)
def test_endpoint_that_browsers_may_read_otherwise_is_refused(server, url):
    server.says({"end_session_endpoint": url})
    assert endpoint(Provider.discover(server.url, "app")) is None
    with pytest.raises(ValueError, match="https"):
        Provider.from_metadata({"end_session_endpoint": url}, "app")


def test_metadata_is_taken_from_a_server_with_a_trusted_certificate_only(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = JsonServer(METADATA, authority.issue_cert("127.0.0.1"))
    assert endpoint(Provider.discover(server.url, "app")) is None
    assert server.requests == 0
    trusting = Provider.discover(server.url, "app", verify=str(tmp_path / "ca.pem"))
    assert endpoint(trusting) == "https://op.example/logout"
    server.close()


def test_provider_that_does_not_answer_is_not_waited_for_longer_than_asked(server):
    server.may_answer.clear()
    provider = Provider.discover(server.url, "app", timeout_seconds=0.05)
    assert endpoint(provider) is None
    assert endpoint(provider, world=NobodyWaits()) is None
    assert not server.may_answer.is_set()


def test_metadata_without_an_end_session_endpoint_is_said(server):
    server.says({"issuer": "x"})
    assert endpoint(Provider.discover(server.url, "app")) is None


ISSUED = {
    "tenant": (
        Provider.entra(TENANT, "app"),
        f"https://login.microsoftonline.com/{TENANT}/v2.0",
        TENANT,
        True,
    ),
    "capitals": (
        Provider.entra(OTHER_TENANT.upper(), "app"),
        f"https://login.microsoftonline.com/{OTHER_TENANT}/v2.0",
        None,
        True,
    ),
    "other tenant": (
        Provider.entra(TENANT, "app"),
        f"https://login.microsoftonline.com/{OTHER_TENANT}/v2.0",
        OTHER_TENANT,
        False,
    ),
    "v1": (Provider.entra(TENANT, "app"), f"https://sts.windows.net/{TENANT}/", TENANT, False),
    "slash": (
        Provider.entra(TENANT, "app"),
        f"https://login.microsoftonline.com/{TENANT}/v2.0/",
        TENANT,
        False,
    ),
    "government": (
        Provider.entra(TENANT, "app", cloud="us-government"),
        f"https://login.microsoftonline.us/{TENANT}/v2.0",
        TENANT,
        True,
    ),
    "other cloud": (
        Provider.entra(TENANT, "app", cloud="us-government"),
        f"https://login.microsoftonline.com/{TENANT}/v2.0",
        TENANT,
        False,
    ),
    "common": (
        Provider.entra("common", "app"),
        f"https://login.microsoftonline.com/{TENANT}/v2.0",
        TENANT,
        True,
    ),
    "common, tid in iss": (
        Provider.entra("common", "app"),
        f"https://login.microsoftonline.com/{TENANT}/v2.0",
        None,
        True,
    ),
    "common, another's tid": (
        Provider.entra("common", "app"),
        f"https://login.microsoftonline.com/{TENANT}/v2.0",
        OTHER_TENANT,
        False,
    ),
    "common, tid is no id": (
        Provider.entra("common", "app"),
        "https://login.microsoftonline.com/common/v2.0",
        "common",
        False,
    ),
    "the template itself": (
        Provider.entra("common", "app"),
        "https://login.microsoftonline.com/{tenantid}/v2.0",
        "{tenantid}",
        False,
    ),
    "allowed tenant": (
        Provider.entra("organizations", "app", tenants=[OTHER_TENANT.upper()]),
        f"https://login.microsoftonline.com/{OTHER_TENANT}/v2.0",
        OTHER_TENANT,
        True,
    ),
    "tenant not allowed": (
        Provider.entra("organizations", "app", tenants=[TENANT]),
        f"https://login.microsoftonline.com/{OTHER_TENANT}/v2.0",
        OTHER_TENANT,
        False,
    ),
    "domain": (
        Provider.entra("contoso.onmicrosoft.com", "app"),
        f"https://login.microsoftonline.com/{TENANT}/v2.0",
        TENANT,
        True,
    ),
    "consumers": (
        Provider.entra("consumers", "app"),
        f"https://login.microsoftonline.com/{CONSUMERS}/v2.0",
        CONSUMERS,
        True,
    ),
    "consumers, another tenant": (
        Provider.entra("consumers", "app"),
        f"https://login.microsoftonline.com/{TENANT}/v2.0",
        TENANT,
        False,
    ),
    "External ID": (
        Provider.entra(TENANT, "app", cloud="contoso.ciamlogin.com"),
        f"https://{TENANT}.ciamlogin.com/{TENANT}/v2.0",
        TENANT,
        True,
    ),
    "External ID by its domain": (
        Provider.entra("contoso.onmicrosoft.com", "app", cloud="contoso.ciamlogin.com"),
        f"https://{TENANT}.ciamlogin.com/{TENANT}/v2.0",
        TENANT,
        True,
    ),
    "External ID, two tenants": (
        Provider.entra("contoso.onmicrosoft.com", "app", cloud="contoso.ciamlogin.com"),
        f"https://{OTHER_TENANT}.ciamlogin.com/{TENANT}/v2.0",
        TENANT,
        False,
    ),
    "a domain of its own": (
        Provider.entra(TENANT, "app", cloud="login.contoso.com"),
        "https://evil.example",
        None,
        None,
    ),
    "B2C": (Provider.b2c("contoso", "B2C_1_signin", "app"), "https://evil.example", None, None),
    "not discovered yet": (Provider.discover("https://op.example", "app"), "https://op.example", None, None),
    "known metadata": (Provider.from_metadata(METADATA, "app"), "https://op.example", None, True),
    "known metadata, another": (Provider.from_metadata(METADATA, "app"), "https://op.example/", None, False),
    "metadata without an issuer": (Provider.from_metadata({}, "app"), "https://op.example", None, None),
}


@pytest.mark.parametrize(("provider", "iss", "tid", "issued"), ISSUED.values(), ids=ISSUED)
def test_issuer_is_told_without_network(provider, iss, tid, issued):
    assert provider.issued(iss, tid) is issued


def test_issuer_is_told_once_it_was_discovered(server):
    provider = Provider.discover(server.url, "app")
    assert endpoint(provider)
    assert provider.issued("https://op.example") is True
    assert provider.issued("https://evil.example") is False


def test_allowed_tenants_narrow_a_discovered_template(server):
    server.says({"issuer": "https://op.example/{tenantid}/v2.0"})
    provider = Provider.discover(server.url, "app", tenants=[TENANT])
    assert endpoint(provider) is None
    assert provider.issued(f"https://op.example/{TENANT}/v2.0", TENANT) is True
    assert provider.issued(f"https://op.example/{OTHER_TENANT}/v2.0", OTHER_TENANT) is False


def test_all_hosts_of_the_cloud_may_frame_the_front_channel():
    assert Provider.entra("common", "app").origins() == (
        "https://login.microsoftonline.com",
        "https://login.microsoft.com",
        "https://login.windows.net",
        "https://login.live.com",
    )
    assert Provider.discover("https://login.windows.net/common/v2.0", "app").origins()[0:2] == (
        "https://login.windows.net",
        "https://login.microsoftonline.com",
    )
    government = Provider.entra(TENANT, "app", cloud="us-government").origins()
    assert "https://login.microsoftonline.us" in government
    assert "https://login.microsoftonline.com" not in government


def test_external_id_frames_from_its_two_hosts():
    assert Provider.entra(TENANT, "app", cloud="contoso.ciamlogin.com").origins() == (
        "https://contoso.ciamlogin.com",
        f"https://{TENANT}.ciamlogin.com",
    )


def test_origins_are_those_of_the_providers_pages(server):
    provider = Provider.discover(server.url, "app")
    assert provider.origins() == (server.url,)
    assert server.requests == 0
    server.says(
        {
            "issuer": "https://op.example/realm",
            "authorization_endpoint": "https://LOGIN.op.example:443/authorize",
            "end_session_endpoint": "https://out.op.example/logout",
            "jwks_uri": "https://keys.op.example/",
        }
    )
    assert endpoint(provider)
    assert set(provider.origins()) == {
        "https://op.example",
        "https://login.op.example",
        "https://out.op.example",
        server.url,
    }


def test_b2c_frames_from_its_host():
    assert Provider.b2c("contoso", "B2C_1_signin", "app").origins() == ("https://contoso.b2clogin.com",)


def test_issuer_that_is_no_url_has_no_origin():
    assert Provider.from_metadata({"issuer": "x"}, "app").origins() == ()


@pytest.mark.parametrize(
    ("provider", "is_sid"),
    [
        (Provider.entra(TENANT, "app"), True),
        (Provider.discover(f"https://login.microsoftonline.us/{TENANT}/v2.0", "app"), True),
        (Provider.discover(f"https://contoso.ciamlogin.com/{TENANT}/v2.0", "app"), True),
        (Provider.discover("https://login.microsoftonline.com.evil.example/", "app"), False),
        (Provider.discover("https://op.example", "app"), False),
        (Provider.discover("https://op.example", "app", session_state_is_sid=True), True),
        (Provider.from_metadata({}, "app"), False),
        (Provider.from_metadata({}, "app", session_state_is_sid=True), True),
        (Provider.b2c("contoso", "B2C_1_signin", "app"), False),
    ],
)
def test_session_state_is_the_sid_at_entra_only(provider, is_sid):
    assert provider.session_state_is_sid is is_sid


def test_url_keeps_a_query_and_encodes_values():
    url = end_session_url(
        "https://op.example/out?p=B2C_1#x", {"a": "1 & 2", "b": None, "c": "https://x/?y=z"}
    )
    assert url == "https://op.example/out?p=B2C_1&a=1%20%26%202&c=https%3A%2F%2Fx%2F%3Fy%3Dz"
    assert parse_qs(urlsplit(url).query) == {"p": ["B2C_1"], "a": ["1 & 2"], "c": ["https://x/?y=z"]}
