"""A FastAPI app on MSAL itself, which keeps the session in a signed cookie and token caches in SQLite."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import msal
import requests
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from starlette.middleware.sessions import SessionMiddleware

from msal_logout_middleware import Logout, Provider
from msal_logout_middleware.asgi import LogoutMiddleware
from msal_logout_middleware.configuration import OnEvent
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.stores.sqlite import SQLiteStore

from .registration import Registration

NAME = "FastAPI"
SCOPES = ["User.Read"]
HERE = Path(__file__).parent


def create_app(registration: Registration, store: SQLiteStore, *, on_event: OnEvent | None = None) -> FastAPI:
    """Return the app; its token caches are in the store."""
    app = FastAPI()
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.add_middleware(SessionMiddleware, secret_key=secrets.token_hex(), same_site="lax")
    pages = Jinja2Templates(HERE / "templates")

    def msal_app(token_cache: msal.TokenCache | None = None) -> Any:
        return msal.ConfidentialClientApplication(
            registration.client_id,
            client_credential=registration.client_secret,
            instance_discovery=False,  # Microsoft does not know the embedded provider
            token_cache=token_cache,
            **registration.authority,
        )

    def page(request: Request, **words: Any) -> Response:
        user = request.session.get("user")
        return pages.TemplateResponse(request, "app.html", {"app": NAME, "user": user, "live": True, **words})

    @app.get("/")
    def home(request: Request) -> Response:
        return page(request)

    @app.get("/login")
    def login(request: Request) -> Response:
        flow = msal_app().initiate_auth_code_flow(SCOPES, redirect_uri=registration.redirect_uri)
        request.session["flow"] = flow
        return RedirectResponse(flow["auth_uri"])

    @app.get("/redirect")
    def signed_in(request: Request) -> Response:
        flow, answer = request.session.pop("flow", {}), dict(request.query_params)
        with logout.token_cache() as token_cache:
            result = msal_app(token_cache).acquire_token_by_auth_code_flow(flow, answer)
        if "error" in result:
            return page(request, error=result["error"])
        request.session["user"] = result["id_token_claims"]
        return RedirectResponse("/")

    @app.get("/call-api")
    def call_api(request: Request) -> Response:
        user = request.session.get("user")
        if not user:
            return RedirectResponse("/login")
        with logout.token_cache(user) as token_cache:
            client = msal_app(token_cache)
            account = next(iter(client.get_accounts()), None)
            result = client.acquire_token_silent(SCOPES, account=account) if account else None
        if not result or "access_token" not in result:
            return RedirectResponse("/login")
        bearer = {"Authorization": f"Bearer {result['access_token']}"}
        return page(request, answer=requests.get(registration.api_url, headers=bearer, timeout=10).json())

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        async for _ in socket.iter_text():
            pass

    # All that is new in this app, but for `logout.token_cache`, which MSAL is given above.
    logout = Logout(
        provider=Provider.discover(registration.issuer, registration.client_id, verify=registration.ca_file),
        session=ASGISession(app),
        store=store,
        post_logout_redirect_uri=registration.home,
        on_event=on_event,
    )
    app.add_middleware(LogoutMiddleware, logout=logout)  # added last: outermost
    return app
