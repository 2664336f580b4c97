"""A FastAPI app that signs in with MSAL and out completely: `uvicorn examples.fastapi_minimal:app`.

Install it first, in a clone: `pip install . fastapi uvicorn`.
Set TENANT_ID, CLIENT_ID, CLIENT_SECRET and SECRET_KEY in the environment, and
register http://localhost:8000/redirect and http://localhost:8000/ as its redirect URIs.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msal
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.middleware.sessions import SessionMiddleware

from msal_logout_middleware import Logout, Provider
from msal_logout_middleware.asgi import LogoutMiddleware
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.stores.sqlite import SQLiteStore

if missing := {"TENANT_ID", "CLIENT_ID", "CLIENT_SECRET", "SECRET_KEY"} - os.environ.keys():
    sys.exit(f"set {', '.join(sorted(missing))} in the environment; the head of this file says more")
TENANT_ID, CLIENT_ID = os.environ["TENANT_ID"], os.environ["CLIENT_ID"]

app = FastAPI()
# A name of its own: cookies heed no port, so the other example on localhost would overwrite it.
app.add_middleware(SessionMiddleware, secret_key=os.environ["SECRET_KEY"], session_cookie="fastapi_minimal")
logout = Logout(
    provider=Provider.entra(TENANT_ID, CLIENT_ID),
    session=ASGISession(app),
    store=SQLiteStore("fastapi_minimal.db"),
    post_logout_redirect_uri="http://localhost:8000/",
)
app.add_middleware(LogoutMiddleware, logout=logout)  # added last: outermost


def msal_app(token_cache: msal.TokenCache | None = None) -> Any:
    return msal.ConfidentialClientApplication(
        CLIENT_ID,
        authority=f"https://login.microsoftonline.com/{TENANT_ID}",
        client_credential=os.environ["CLIENT_SECRET"],
        token_cache=token_cache,
    )


@app.get("/")
def home(request: Request) -> HTMLResponse:
    user = request.session.get("user")
    return HTMLResponse(
        f'{user["oid"]} <a href="/logout">Sign out</a>' if user else '<a href="/login">Sign in</a>'
    )


@app.get("/login")
def login(request: Request) -> RedirectResponse:
    flow = msal_app().initiate_auth_code_flow(["User.Read"], redirect_uri="http://localhost:8000/redirect")
    request.session["flow"] = flow
    return RedirectResponse(flow["auth_uri"])


@app.get("/redirect")
def signed_in(request: Request) -> Response:
    flow, answer = request.session.pop("flow", {}), dict(request.query_params)
    with logout.token_cache() as token_cache:
        result = msal_app(token_cache).acquire_token_by_auth_code_flow(flow, answer)
    if "error" in result:  # such as access_denied, where the user cancels
        return PlainTextResponse(f"You are not signed in: {result['error']}.", status_code=400)
    request.session["user"] = result["id_token_claims"]
    return RedirectResponse("/")
