"""Microsoft's `identity` library, on Flask, signs in and out at the provider."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cachelib import SimpleCache
from flask import Flask
from identity.flask import Auth
from werkzeug.serving import make_server


class Site:
    """Serves Flask apps on one origin."""

    def __init__(self) -> None:
        self.app = Flask("not yet")
        self._server = make_server(
            "127.0.0.1", 0, lambda environ, start: self.app(environ, start), threaded=True
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


def flask_app(site: Site, client: Any, **authority: str) -> Flask:
    app = Flask(__name__)
    app.config.update(SESSION_TYPE="cachelib", SESSION_CACHELIB=SimpleCache(), SECRET_KEY="secret")
    auth = Auth(
        app,
        client_id=client.client_id,
        client_credential=client.client_secret,
        redirect_uri=site.url + "/redirect",
        **authority,
    )

    @app.route("/")
    @auth.login_required(scopes=["User.Read"])
    def index(*, context: dict[str, Any]) -> dict[str, Any]:
        return {"user": context["user"], "token": context["access_token"]}

    return app


AUTHORITIES: dict[str, Callable[[Any], dict[str, str]]] = {
    "entra": lambda flavour: {"authority": flavour.authority},
    "b2c": lambda flavour: {"authority": flavour.authority("B2C_1_signin")},
    "generic": lambda flavour: {"oidc_authority": flavour.oidc_authority},
}


@pytest.mark.parametrize("name", AUTHORITIES)
@pytest.mark.filterwarnings("ignore:response_mode='form_post' is recommended:UserWarning")
def test_identity_signs_in_and_out(provider, browser, site, name):
    flavour = getattr(provider, name)
    client = flavour.register(
        redirect_uris=[site.url + "/redirect"], post_logout_redirect_uris=[site.url + "/"]
    )
    site.app = flask_app(site, client, **AUTHORITIES[name](flavour))
    alice = provider.add_user("alice@contoso.example")

    page = browser.sign_in(site.url + "/", alice)

    assert page.url == site.url + "/"
    assert '"token"' in page.text
    assert len(provider.sessions(alice)) == 1

    browser.open(site.url + "/logout")

    assert not provider.sessions(alice)
    assert provider.requests_to("logout")[0].query["post_logout_redirect_uri"] == site.url + "/"
