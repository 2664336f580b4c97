"""Stories: an app, a provider, browsers with people in front of them, and all that could still be found afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from html import unescape
from pathlib import Path
from typing import Any

import anyio
import pytest

from msal_logout_middleware.caches import home_account_id
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.sqlite import SQLiteStore
from tests.stories import rules
from tests.stories.apps import Setting, wrapped_fastapi, wrapped_flask
from tests.stories.servers import bound, serving_asgi, serving_wsgi

# `identity` signs in by `query`, as many apps do.
MSAL_RECOMMENDS_FORM_POST = pytest.mark.filterwarnings(
    "ignore:response_mode='form_post' is recommended:UserWarning"
)
# Werkzeug's linter does not know yet that they may (RFC 9110, 10.2.2).
LOCATIONS_MAY_BE_RELATIVE = pytest.mark.filterwarnings(
    "ignore:Absolute URLs required:werkzeug.middleware.lint.HTTPWarning"
)

# Which flavour of the embedded provider, and where there, by the name that a story calls it.
FLAVOURS = {
    "entra": ("entra", lambda flavour: {"authority": flavour.authority}),
    "common": ("entra", lambda flavour: {"authority": flavour.common_authority}),
    "b2c": ("b2c", lambda flavour: {"authority": flavour.authority("B2C_1_signin")}),
    "generic": ("generic", lambda flavour: {"oidc_authority": flavour.oidc_authority}),
}


@dataclass
class Story:
    """One app at one provider.

    Args:
        kind: `flask`, on `identity` with its tokens in the session; or `fastapi`, on MSAL with its tokens in a store.
        flavour: A name from `FLAVOURS`.
        mount: The path that the app is mounted at.
    """

    provider: Any
    directory: Path
    exits: ExitStack
    kind: str
    flavour: str
    mount: str = ""
    linter: str = "validate"
    response_mode: str = "query"
    events: list[Any] = field(default_factory=list)

    def register(self, **registration: Any) -> Setting:
        """Register the app, and return what it needs to know of that."""
        self.socket = self.exits.enter_context(bound())
        self.url = f"http://localhost:{self.socket.getsockname()[1]}{self.mount}"
        name, authority_of = FLAVOURS[self.flavour]
        flavour = getattr(self.provider, name)
        client = flavour.register(
            **{
                "redirect_uris": [f"{self.url}/redirect"],
                "post_logout_redirect_uris": [f"{self.url}/"],
                **registration,
            }
        )
        authority = authority_of(flavour)
        (base,) = authority.values()
        return Setting(
            url=self.url,
            client_id=client.client_id,
            client_secret=client.client_secret,
            authority=authority,
            discovery=base if self.flavour == "generic" else f"{base}/v2.0",
            graph_url=self.provider.graph_url,
            ca_file=self.provider.ca_file,
            directory=str(self.directory),
            response_mode=self.response_mode,
        )

    def serve(
        self, *, registration: dict[str, Any] | None = None, around=None, timeout_seconds=3.0, **options
    ):
        """Serve the wrapped app in a thread of this process."""
        setting = replace(self.register(**(registration or {})), discovery_timeout_seconds=timeout_seconds)
        options = {"on_event": self.events.append, **options}
        if self.kind == "flask":
            app, self.logout = wrapped_flask(setting, self.linter, **options)
            serving = serving_wsgi
        else:
            options = {"store": MemoryStore(), **options}
            app, self.logout = wrapped_fastapi(setting, **options)
            serving = serving_asgi
        self.exits.callback(self.logout.store.close)
        self.exits.enter_context(serving(around(app) if around else app, self.socket))
        return self

    @property
    def keeps_files(self):
        """Whether its token caches are in files, where they can be searched for."""
        return self.kind == "flask" or isinstance(self.logout.store, SQLiteStore)

    # What people do

    def browser(self):
        return self.exits.enter_context(self.provider.browser())

    def sign_in(self, user, browser=None):
        """Sign in by calling the API, which needs it; return the browser, on the app's home page."""
        browser = browser or self.browser()
        page = self.asked_who(browser)
        form = page.forms[0]
        page = browser.submit(form, ("user", user.username))
        assert page.url == f"{self.url}/api", page.text
        assert json.loads(page.text)["userPrincipalName"] == user.username
        page = browser.open(f"{self.url}/")
        assert f"home of {user.name}" in page.text
        return browser

    def asked_who(self, browser):
        """Call the API; return the provider's page that asks who signs in."""
        page = self.starts_sign_in(browser)
        assert any(name == "user" for form in page.forms for name, _ in form.buttons), page.text
        assert page.url.startswith(self.provider.browser_url)
        return page

    def starts_sign_in(self, browser):
        """Call the API without being signed in; return where the browser ends."""
        page = browser.open(f"{self.url}/api")
        # `identity` leads on by a page that refreshes itself.
        refresh = re.search("(?i)http-equiv='refresh' content='0; url=(.*)'", page.text)
        return browser.follow(unescape(refresh[1])) if refresh else page

    def calls_api(self, browser, user):
        """Call the API, and see that no sign-in was needed."""
        before = len(self.provider.requests_to("authorize"))
        page = browser.open(f"{self.url}/api")
        assert page.url == f"{self.url}/api"
        assert json.loads(page.text)["userPrincipalName"] == user.username
        assert len(self.provider.requests_to("authorize")) == before

    # What is found

    def session(self, browser):
        """The session that a browser's cookie leads to."""
        cookie = browser.cookies.value("session", self.url + "/")
        reader = self.logout.configuration.session
        header = f"session={cookie}"
        return reader.read(header) if self.kind == "flask" else anyio.run(reader.read, header)

    def token_cache(self, session):
        """The user's serialized token cache, where the app keeps it; `None` if there is none."""
        if self.kind == "flask":
            return session.contents["_token_cache"].encode()
        return self.logout.store.load(home_account_id(session.claims)).data

    def known_of(self, browser):
        """Everything that stands in the session and the token cache of one user: names, claims, tokens."""
        session = self.session(browser)
        tokens = tokens_in(self.token_cache(session))
        assert len(tokens) >= 3
        return Known(session, tokens, self._identifiers(session))

    def _identifiers(self, session):
        return {
            session.claims[name] for name in ("sub", "oid", "sid", "uti", "name") if name in session.claims
        }

    def found(self, texts):
        """Which of some texts stand, at least in part, anywhere in the files below the directory."""
        contents = [path.read_bytes() for path in self.directory.rglob("*") if path.is_file()]
        return {
            text for text in texts if any(part in content for part in parts_of(text) for content in contents)
        }

    def assert_signed_out(self, browser, user, known):
        """Nothing of the user is anywhere any more."""
        assert not self.provider.sessions(user)
        assert [cookie.name for cookie in browser.cookies if cookie.host == "localhost"] == []
        self.assert_nothing_left(known)

    def assert_nothing_left(self, known):
        assert self.found(known.tokens) == set()
        if self.kind == "flask":
            assert self.found(known.identifiers) == set()
            assert self.logout.configuration.session.load(known.session.id) is None
        else:
            assert self.logout.store.load(home_account_id(known.session.claims)).data is None
        assert not [name for name in self.event_names() if name == "LogoutFailed"]

    def event_names(self):
        return [type(event).__name__ for event in self.events]


@dataclass
class Known:
    """What an app knew of a user before the sign-out.

    Args:
        session: The session.
        tokens: The tokens in the token cache.
        identifiers: What the claims call the user, and this sign-in.
    """

    session: Any
    tokens: set[str]
    identifiers: set[str]


def tokens_in(cache):
    """Every token in a serialized token cache."""
    kinds = ("AccessToken", "RefreshToken", "IdToken")
    return {entry["secret"] for kind in kinds for entry in json.loads(cache)[kind].values()}


def parts_of(text):
    """Pieces of a text: SQLite spreads a long one over pages. Of a JWT the signature, which no other has."""
    whole = text.rpartition(".")[2].encode()
    return [whole[i : i + 32] for i in range(0, len(whole), 32) if i == 0 or len(whole) >= i + 32]


@pytest.fixture
def tell(provider, tmp_path) -> Iterator[Any]:
    """Make stories; at their end no rule of WSGI or ASGI has been broken."""
    rules.broken.clear()
    with ExitStack() as exits:

        def make(kind, flavour, **options):
            directory = tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}"
            directory.mkdir()
            return Story(provider, directory, exits, kind, flavour, **options)

        yield make
    assert rules.broken == []


@pytest.fixture
def alice(provider):
    return provider.add_user("alice@contoso.example")


@pytest.fixture
def bob(provider):
    return provider.add_user("bob@contoso.example")
