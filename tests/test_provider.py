"""What is known of the provider, how the rest is discovered, and the URL that signs out there."""

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

from msal_logout_middleware._drive import BlockingWorld, run
from msal_logout_middleware.provider import CLOUDS, Provider, end_session_url

TENANT = "11111111-2222-3333-4444-555555555555"


def endpoint(provider, claims=None, world=None):
    return run(provider.end_session_endpoint(claims or {}, world or BlockingWorld()))


class NobodyWaits(BlockingWorld):
    """The world of somebody who has no time."""

    def sleep(self, seconds):
        raise AssertionError("somebody waits")


class MetadataServer:
    """A provider's metadata on loopback; `answer` is what it says."""

    def __init__(self, certificate=None):
        self.requests = 0
        self.asked = threading.Semaphore(0)
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.answer = (200, json.dumps({"issuer": "x", "end_session_endpoint": "https://op.example/logout"}))
        self.headers = {}
        outer = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests += 1
                outer.asked.release()
                outer.may_answer.wait(10)
                status, body = outer.answer
                self.send_response(status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request, address):
                """The client has gone, which some of these tests are about."""

        self._server = Server(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.url = self.url.replace("http:", "https:")
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self):
        self.may_answer.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server():
    server = MetadataServer()
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
        (lambda: Provider.from_metadata({"end_session_endpoint": "http://op.example"}, "app"), "https"),
        (lambda: Provider.from_metadata({"end_session_endpoint": 7}, "app"), "https"),
    ],
)
def test_mistake_is_told_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


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
        (302, "{}"),
        (200, "not json"),
        (200, "[]"),
        (200, "[" * 100_000),
        (200, json.dumps({"end_session_endpoint": "http://evil.example/"})),
        (200, json.dumps({"end_session_endpoint": ["https://evil.example/"]})),
        (200, " " * 300_000 + "{}"),
    ],
)
def test_bad_metadata_is_as_good_as_none_and_not_asked_for_again_at_once(server, answer, caplog):
    server.answer = answer
    server.headers = {"Location": "https://evil.example/"}
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
        "https://op.example/\n",
        "https://öp.example",
    ],
)
def test_endpoint_that_browsers_may_read_otherwise_is_refused(server, url):
    server.answer = (200, json.dumps({"end_session_endpoint": url}))
    assert endpoint(Provider.discover(server.url, "app")) is None
    with pytest.raises(ValueError, match="https"):
        Provider.from_metadata({"end_session_endpoint": url}, "app")


def test_metadata_is_taken_from_nowhere_else(server):
    elsewhere = MetadataServer()
    server.answer = (302, "")
    server.headers = {"Location": elsewhere.url}
    assert endpoint(Provider.discover(server.url, "app")) is None
    elsewhere.close()
    assert elsewhere.requests == 0


def test_metadata_is_taken_from_a_server_with_a_trusted_certificate_only(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = MetadataServer(authority.issue_cert("127.0.0.1"))
    assert endpoint(Provider.discover(server.url, "app")) is None
    assert server.requests == 0
    trusting = Provider.discover(server.url, "app", verify=str(tmp_path / "ca.pem"))
    assert endpoint(trusting) == "https://op.example/logout"
    server.close()


def test_provider_that_does_not_answer_is_not_waited_for_longer_than_asked(server):
    server.may_answer.clear()
    assert endpoint(Provider.discover(server.url, "app", timeout_seconds=0.05)) is None
    assert not server.may_answer.is_set()


def test_while_it_is_fetched_anew_everybody_goes_on_with_what_is_known(server):
    provider = Provider.discover(server.url, "app", timeout_seconds=10)
    assert endpoint(provider)
    assert server.asked.acquire(timeout=30)
    provider.endpoints[""].fetch._clock = lambda: 1e12
    server.may_answer.clear()
    assert endpoint(provider, world=NobodyWaits()) == "https://op.example/logout"
    assert server.asked.acquire(timeout=30)
    assert endpoint(provider, world=NobodyWaits()) == "https://op.example/logout"
    assert server.requests == 2


def test_metadata_without_an_end_session_endpoint_is_said(server):
    server.answer = (200, json.dumps({"issuer": "x"}))
    assert endpoint(Provider.discover(server.url, "app")) is None


def test_stale_metadata_serves_while_the_provider_is_away(server):
    provider = Provider.discover(server.url, "app")
    assert endpoint(provider)
    fetch = provider.endpoints[""].fetch
    fetch._clock = lambda: 1e12
    server.answer = (500, "")
    assert endpoint(provider) == "https://op.example/logout"
    assert server.asked.acquire(timeout=30)
    assert server.asked.acquire(timeout=30)
    assert server.requests == 2


def test_provider_that_never_answers_keeps_nobody_waiting_for_longer_than_the_timeout(server):
    server.may_answer.clear()
    provider = Provider.discover(server.url, "app", timeout_seconds=0.01)
    assert endpoint(provider) is None
    assert endpoint(provider, world=NobodyWaits()) is None
    assert server.requests == 1


def test_of_many_threads_one_fetches(server):
    provider = Provider.discover(server.url, "app")
    barrier = threading.Barrier(8)
    found = []

    def ask():
        barrier.wait()
        found.append(endpoint(provider))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["https://op.example/logout"] * 8
    assert server.requests == 1


def test_url_keeps_a_query_and_encodes_values():
    url = end_session_url(
        "https://op.example/out?p=B2C_1#x", {"a": "1 & 2", "b": None, "c": "https://x/?y=z"}
    )
    assert url == "https://op.example/out?p=B2C_1&a=1%20%26%202&c=https%3A%2F%2Fx%2F%3Fy%3Dz"
    assert parse_qs(urlsplit(url).query) == {"p": ["B2C_1"], "a": ["1 & 2"], "c": ["https://x/?y=z"]}
