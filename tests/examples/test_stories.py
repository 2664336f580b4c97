"""Each example signs in, calls an API, and signs out in all three ways, in a server process of its own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import zlib
from base64 import urlsafe_b64decode
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from examples.running import EXAMPLES, ROOT, running
from msal_logout_middleware.testing import EmbeddedProvider
from tests.stories.servers import until


@pytest.fixture(scope="module")
def provider():
    # A host of its own, as in real life: cookies of the app must not be the provider's.
    with EmbeddedProvider(browser_host="idp.localhost") as provider, provider.trusted():
        yield provider


def unpacked(content):
    """What is in a file, and in what Django has compressed there."""
    found = content
    for packed in re.findall(rb"\.([A-Za-z0-9_-]{16,}):", content):
        with suppress(ValueError, zlib.error):
            found += zlib.decompress(urlsafe_b64decode(packed + b"=" * (-len(packed) % 4)))
    return found


class Story:
    """Alice and Bob in front of one example."""

    def __init__(self, provider, app, folder, name, flavour):
        self.provider, self.app, self.folder = provider, app, folder
        self.alice, self.bob = (
            provider.add_user(f"{who}-{name}-{flavour}@contoso.example") for who in ("alice", "bob")
        )
        self.browser, self.bobs = provider.browser(), provider.browser()

    def sign_in(self, user, browser):
        page = browser.sign_in(f"{self.app.url}/api", user)
        if "The API says" not in page.text:  # it has come home
            page = browser.open(f"{self.app.url}/api")
        assert user.username in page.text or user.name in page.text, page.text

    def assert_signed_in(self, user, browser):
        page = browser.open(f"{self.app.url}/api")
        assert "The API says" in page.text
        assert user.username in page.text or user.name in page.text

    def known(self):
        """What Alice's browser, and the app's files, have of her now."""
        cookies = "; ".join(f"{c.name}={c.value}" for c in self.browser.cookies if c.host == "localhost")
        tokens = self.provider.alive_refresh_tokens(self.alice)
        assert self.found(tokens), "her tokens are not where they are looked for"
        assert "The API says" in self.stolen("/api", cookies).text, "a copy of no use"
        return cookies, tokens

    def stolen(self, path, cookies):
        """What a thief gets, who has a copy of her cookies."""
        headers = {"Cookie": cookies}
        return requests.get(f"{self.app.url}{path}", headers=headers, allow_redirects=False, timeout=10)

    def found(self, tokens):
        contents = [unpacked(path.read_bytes()) for path in self.folder.rglob("*") if path.is_file()]
        return {token for token in tokens if any(token.encode() in content for content in contents)}

    def assert_signed_out(self, cookies, tokens):
        """Alice is nobody with these cookies, as a thief has them, her tokens are gone; and Bob is still signed in."""
        for path in ("/", "/api"):
            answer = self.stolen(path, cookies)
            assert "The API says" not in answer.text
            assert self.alice.name not in answer.text
        assert self.found(tokens) == set()
        self.assert_signed_in(self.bob, self.bobs)


def stories():
    """Each example by both kinds of provider, which take turns at being one of the few."""
    for number, name in enumerate(EXAMPLES):
        flavours = ("entra", "generic") if number % 2 else ("generic", "entra")
        yield pytest.param(name, flavours[0])
        yield pytest.param(name, flavours[1], marks=pytest.mark.matrix)


@pytest.mark.parametrize(("name", "flavour"), [*stories()])
def test_example_signs_in_calls_its_api_and_signs_out_in_every_way(provider, tmp_path, name, flavour):
    with running(EXAMPLES[name], provider, tmp_path, flavour=flavour) as app:
        story = Story(provider, app, tmp_path, name, flavour)
        browser, alice = story.browser, story.alice
        until(lambda: browser.open(f"{app.url}/logout/front-channel").status and app.process.poll() is None)
        story.sign_in(story.bob, story.bobs)

        story.sign_in(alice, browser)
        known = story.known()
        browser.open(f"{app.url}/")
        assert browser.click("Sign out").url == f"{app.url}{EXAMPLES[name].home}"
        story.assert_signed_out(*known)
        assert not provider.sessions(alice)
        assert "idp.localhost" in browser.open(f"{app.url}/api").url  # she is asked to sign in

        story.sign_in(alice, browser)
        assert "The API says" not in story.stolen("/api", known[0]).text  # an old copy stays dead
        known = story.known()
        (session,) = provider.sessions(alice)
        if flavour == "entra":
            with provider.browser() as iframe:  # without a cookie
                assert iframe.open(f"{app.url}/logout/front-channel?sid={session.sid}").status == 200
        else:
            token = provider.logout_token(app.client, sid=session.sid, sub=alice.sub)
            assert provider.post_logout_token(app.client, token).status == 200
        story.assert_signed_out(*known)
        story.sign_in(alice, browser)  # within the same session of the provider: at once
        assert "The API says" not in story.stolen("/api", known[0]).text


def test_tenant_of_the_environment_is_not_asked_instead_of_the_embedded_provider(
    provider, tmp_path, monkeypatch
):
    monkeypatch.setenv("TENANT_ID", "contoso.example")
    monkeypatch.setenv("AUTHORITY", "https://elsewhere.example/contoso")
    monkeypatch.setenv("SCOPES", "orders/.default")
    with running(EXAMPLES["flask_msal"], provider, tmp_path, flavour="generic") as app:
        answer = requests.get(f"{app.url}/login", allow_redirects=False, timeout=30)
    assert "idp.localhost" in answer.headers["Location"]
    assert "User.Read" in answer.headers["Location"]


def test_each_example_is_listed():
    modules = {path.stem for path in (ROOT / "examples").glob("[a-z]*_*.py")}
    folders = {path.parent.name for path in (ROOT / "examples").glob("[a-z]*_*/__init__.py")}
    assert modules | folders == set(EXAMPLES)


def test_example_runs_by_one_command_until_it_is_interrupted(tmp_path):
    command = [sys.executable, "-m", "examples", "flask_msal"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline().startswith("http://localhost:")
        finally:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
        assert process.returncode == 0
        assert process.stderr.read() == ""
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.parametrize(
    "command",
    [["examples", "flask_msal"], ["examples.demo"], ["msal_logout_middleware.testing"]],
    ids=["example", "demo", "provider"],
)
def test_port_that_is_taken_is_told_in_a_sentence(command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = subprocess.run(
            [sys.executable, "-m", *command, "--port", str(port)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"port {port} ")
    assert ran.stderr.count("\n") == 1


def test_what_is_missing_in_the_environment_is_told_in_a_sentence(tmp_path):
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", "import examples.flask_msal"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("set CLIENT_ID, CLIENT_SECRET, SECRET_KEY, TENANT_ID in the environment")


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_signs_out_at_a_real_tenant(tmp_path, name):
    """Nothing is asked of the network before: the tenant's endpoints are known."""
    tenant = "11111111-1111-4111-8111-111111111111"
    door = "WsgiDoor" if EXAMPLES[name].server == "gunicorn" else "AsgiDoor"
    module, _, app = EXAMPLES[name].app.partition(":")
    program = (
        f"from tests.doors import {door}, Browser; from {module} import {app} as app; "
        f"print(Browser({door}(app)).get('/logout').location)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={
            **dict(EXAMPLES[name].environment),
            "HOME": str(tmp_path),
            "PATH": "",
            "PYTHONPATH": str(ROOT),
            "TENANT_ID": tenant,
            "CLIENT_ID": "22222222-2222-4222-8222-222222222222",
            "CLIENT_SECRET": "secret",
            "SECRET_KEY": "a secret of the app",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"https://login.microsoftonline.com/{tenant}/oauth2/v2.0/logout?")
