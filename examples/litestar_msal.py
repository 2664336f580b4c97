"""A Litestar app that signs in with MSAL, and out completely: `python -m examples litestar_msal`."""

from __future__ import annotations

import hashlib
from html import escape
from typing import Any

import msal
import requests
from litestar import Litestar, MediaType, Request, Response, get
from litestar.middleware.session.client_side import CookieBackendConfig
from litestar.response import Redirect

from examples.environment import API_URL, BASE_URL, SCOPES, SECRET_KEY, msal_arguments, provider
from msal_logout_middleware import Logout, SQLiteStore
from msal_logout_middleware.asgi import LogoutMiddleware

logout = Logout(
    provider=provider(),
    store=SQLiteStore("litestar_msal.db"),
    post_logout_redirect_uri=f"{BASE_URL}/",
)


def client(token_cache: msal.TokenCache | None = None) -> Any:
    return msal.ConfidentialClientApplication(token_cache=token_cache, **msal_arguments())


# MSAL waits for the network, so these are `def` handlers, which Litestar calls in threads.


@get("/", sync_to_thread=True)
def home(request: Request[Any, Any, Any]) -> Response[str]:
    user = request.session.get("user")
    if user is None:
        return html('<a href="/login">Sign in</a>')
    return html(f'{escape(user["name"])} <a href="/api">API</a> <a href="/logout">Sign out</a>')


@get("/login", sync_to_thread=True)
def login(request: Request[Any, Any, Any]) -> Redirect:
    flow = client().initiate_auth_code_flow(SCOPES, redirect_uri=f"{BASE_URL}/redirect")
    request.session["flow"] = flow
    return Redirect(flow["auth_uri"])


@get("/redirect", sync_to_thread=True)
def signed_in(request: Request[Any, Any, Any]) -> Response[Any]:
    flow, answer = request.session.pop("flow", {}), dict(request.query_params)
    with logout.token_cache() as token_cache:
        result = client(token_cache).acquire_token_by_auth_code_flow(flow, answer)
    if "error" in result:  # such as access_denied, where the user cancels
        return html(f"You are not signed in: {escape(result['error'])}.", status_code=400)
    request.session["user"] = result["id_token_claims"]
    return Redirect("/")


@get("/api", sync_to_thread=True)
def api(request: Request[Any, Any, Any]) -> Response[Any]:
    user = request.session.get("user")
    token = token_for(user) if user else None
    if token is None:  # nobody is signed in, or the tokens went with a sign-out elsewhere
        return Redirect("/login")
    answer = requests.get(API_URL, headers={"Authorization": f"Bearer {token}"}, timeout=10)
    return html(f'The API says: {escape(answer.text)} <a href="/">Home</a>')


def token_for(user: dict[str, Any]) -> str | None:
    with logout.token_cache(user) as token_cache:
        accounts = client(token_cache).get_accounts()
        found = client(token_cache).acquire_token_silent(SCOPES, account=accounts[0]) if accounts else None
    return found["access_token"] if found and "access_token" in found else None


def html(text: str, status_code: int = 200) -> Response[str]:
    return Response(text, media_type=MediaType.HTML, status_code=status_code)


sessions = CookieBackendConfig(
    secret=hashlib.sha256(SECRET_KEY.encode()).digest(),  # 16, 24 or 32 bytes
    key="litestar_msal",
)
app = Litestar([home, login, signed_in, api], middleware=[sessions.middleware])
app.asgi_handler = LogoutMiddleware(app.asgi_handler, logout)
