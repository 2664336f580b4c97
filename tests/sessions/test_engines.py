"""Flask-Session with a server behind it passes the contract, with each option that changes what is kept or sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from msal_logout_middleware.testing.session_contract import (
    CookieSessionContract,
    ServerSideSessionContract,
    SessionSite,
)

from ..stores.servers import Server, serving
from .engines import site
from .sites import flask_app, flask_site

HOST: dict[str, Any] = {
    "SESSION_COOKIE_NAME": "__Host-shop",
    "SESSION_COOKIE_SECURE": True,
    "SESSION_COOKIE_PATH": "/",
    "APPLICATION_ROOT": "/shop",
}
ROOT: dict[str, Any] = {"APPLICATION_ROOT": "/shop"}
ROTATED: dict[str, Any] = {"SECRET_KEY_FALLBACKS": ["an old secret", "an older one"]}

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "Redis, msgpack": ("Redis", {}),
    "Redis, JSON, prefix": (
        "Redis",
        {"SESSION_SERIALIZATION_FORMAT": "json", "SESSION_KEY_PREFIX": "shop:"},
    ),
    "Redis, signed ids": ("Redis", {"SESSION_USE_SIGNER": True, **ROTATED}),
    "Redis, __Host-": ("Redis", HOST),
    "MongoDB, msgpack": ("MongoDB", {}),
    "MongoDB, JSON, signed ids": (
        "MongoDB",
        {"SESSION_SERIALIZATION_FORMAT": "json", "SESSION_USE_SIGNER": True},
    ),
    "DynamoDB, msgpack": ("DynamoDB", {}),
    "DynamoDB, JSON, under a path": ("DynamoDB", {"SESSION_SERIALIZATION_FORMAT": "json", **ROOT}),
}

COOKIES: dict[str, dict[str, Any]] = {
    "__Host-, an app under a path": HOST,
    "fallbacks, an app under a path": ROOT | ROTATED,
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--databases", "3") as server:
        yield server


@pytest.fixture(params=KINDS.values(), ids=KINDS, scope="module")
def on_server(request: pytest.FixtureRequest, server: Server) -> SessionSite:
    engine, config = request.param
    return site(engine, server, **config)


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # its MongoDB and DynamoDB
class TestFlaskSessionOnServers(ServerSideSessionContract):
    @pytest.fixture
    def site(self, on_server: SessionSite) -> SessionSite:
        return on_server


class TestFlask(CookieSessionContract):
    @pytest.fixture(params=COOKIES.values(), ids=COOKIES)
    def site(self, request: pytest.FixtureRequest) -> SessionSite:
        return flask_site(
            flask_app(**request.param), flask_app(**{**request.param, "SECRET_KEY": "another secret"})
        )
