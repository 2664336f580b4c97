"""A Pyramid app that signs in with MSAL, and out completely: `python -m examples pyramid_msal`."""

from __future__ import annotations

from typing import Any

import msal
import requests
from markupsafe import Markup
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPBadRequest, HTTPFound
from pyramid.request import Request
from pyramid.response import Response
from pyramid.session import SignedCookieSessionFactory

from examples.environment import API_URL, BASE_URL, SCOPES, SECRET_KEY, msal_arguments, provider
from msal_logout_middleware import Logout, SQLiteStore
from msal_logout_middleware.wsgi import LogoutMiddleware


def client(token_cache: msal.TokenCache | None = None) -> Any:
    return msal.ConfidentialClientApplication(token_cache=token_cache, **msal_arguments())


def home(request: Request) -> Response:
    user = request.session.get("user")
    if user is None:
        return Response('<a href="/login">Sign in</a>')
    page = '{} <a href="/api">API</a> <a href="/logout">Sign out</a>'
    return Response(Markup(page).format(user["name"]))


def login(request: Request) -> Response:
    flow = client().initiate_auth_code_flow(SCOPES, redirect_uri=f"{BASE_URL}/redirect")
    request.session["flow"] = flow
    return HTTPFound(flow["auth_uri"])


def signed_in(request: Request) -> Response:
    with logout.token_cache() as token_cache:
        flow = request.session.pop("flow", {})
        result = client(token_cache).acquire_token_by_auth_code_flow(flow, dict(request.GET))
    if "error" in result:  # such as access_denied, where the user cancels
        return HTTPBadRequest(f"You are not signed in: {result['error']}.")
    request.session["user"] = result["id_token_claims"]
    return HTTPFound("/")


def api(request: Request) -> Response:
    user = request.session.get("user")
    token = token_for(user) if user else None
    if token is None:  # nobody is signed in, or the tokens went with a sign-out elsewhere
        return HTTPFound("/login")
    answer = requests.get(API_URL, headers={"Authorization": f"Bearer {token}"}, timeout=10)
    return Response(Markup('The API says: {} <a href="/">Home</a>').format(answer.text))


def token_for(user: dict[str, Any]) -> str | None:
    with logout.token_cache(user) as token_cache:
        accounts = client(token_cache).get_accounts()
        found = client(token_cache).acquire_token_silent(SCOPES, account=accounts[0]) if accounts else None
    return found["access_token"] if found and "access_token" in found else None


logout = Logout(
    provider=provider(),
    store=SQLiteStore("pyramid_msal.db"),
    post_logout_redirect_uri=f"{BASE_URL}/",
)

sessions = SignedCookieSessionFactory(SECRET_KEY, cookie_name="pyramid_msal", httponly=True, timeout=3600)
with Configurator(session_factory=sessions) as config:
    for path, view in {"/": home, "/login": login, "/redirect": signed_in, "/api": api}.items():
        config.add_route(path, path)
        config.add_view(view, route_name=path)
app = LogoutMiddleware(config.make_wsgi_app(), logout)
