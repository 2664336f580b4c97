"""Two small apps as their authors would write them, neither changed for the middleware; and how each is wrapped."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msal
import requests
from cachelib import FileSystemCache
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from flask import Flask, session
from identity.flask import Auth
from starlette.middleware.sessions import SessionMiddleware

from msal_logout_middleware import InSession, Logout, Provider, asgi, wsgi
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.sqlite import SQLiteStore
from tests.stories.rules import AsgiRules, wsgi_rules

SECRET = "a secret of the stories"
SCOPES = ["User.Read"]
HOME = '<p>home of {}</p><a href="api">API</a> <a href="logout">Sign out</a>'


@dataclass(frozen=True)
class Setting:
    """What an app has from its environment.

    Args:
        url: Where it is, without a slash at the end.
        authority: MSAL's `authority` or `oidc_authority`.
        discovery: The same for `Provider.discover`.
        directory: Where sessions and stores are.
        options: More arguments of `Logout`.
    """

    url: str
    client_id: str
    client_secret: str
    authority: dict[str, str]
    discovery: str
    graph_url: str
    ca_file: str
    directory: str
    response_mode: str = "query"
    discovery_timeout_seconds: float = 3.0
    options: dict[str, Any] = field(default_factory=dict)

    def for_a_process(self) -> dict[str, str]:
        """The environment of a server process."""
        return {
            **os.environ,
            "STORY": json.dumps(asdict(self)),
            "REQUESTS_CA_BUNDLE": self.ca_file,
            "PYTHONWARNINGS": "ignore::UserWarning:msal.oauth2cli.oauth2",  # it recommends form_post
        }

    @classmethod
    def of_this_process(cls) -> "Setting":
        return cls(**json.loads(os.environ["STORY"]))

    def logout(self, session: Any, store: Any = None, **options: Any) -> Logout:
        provider = Provider.discover(
            self.discovery,
            self.client_id,
            verify=self.ca_file,
            timeout_seconds=self.discovery_timeout_seconds,
        )
        return Logout(
            **{
                "provider": provider,
                "session": session,
                "store": store or SQLiteStore(Path(self.directory) / "logout.db"),
                "post_logout_redirect_uri": f"{self.url}/",
                **options,
                **self.options,
            }
        )


def flask_app(setting: Setting) -> Flask:
    """The app of `identity`'s own documentation, with its sessions in files."""
    app = Flask("orders")
    sessions = FileSystemCache(str(Path(setting.directory) / "sessions"), threshold=0)
    app.config.update(SECRET_KEY=SECRET, SESSION_TYPE="cachelib", SESSION_CACHELIB=sessions)
    auth = Auth(
        app,
        client_id=setting.client_id,
        client_credential=setting.client_secret,
        redirect_uri=f"{setting.url}/redirect",
        **setting.authority,
    )

    @app.route("/")
    def home():
        return HOME.format((session.get("_logged_in_user") or {}).get("name", "nobody"))

    @app.route("/api")
    @auth.login_required(scopes=SCOPES)
    def api(*, context):
        return _call(setting, context["access_token"])

    return app


def wrapped_flask(setting: Setting, linter: str = "validate", **options: Any) -> tuple[Any, Logout]:
    app = flask_app(setting)
    logout = setting.logout(FlaskSession(app), caches=InSession("_token_cache"), **options)
    app.wsgi_app = wsgi_rules(app.wsgi_app, linter)
    app.wsgi_app = wsgi.LogoutMiddleware(app.wsgi_app, logout)
    return wsgi_rules(app, linter), logout


def fastapi_app(setting: Setting) -> FastAPI:
    """An app that calls MSAL itself, with its sessions in a signed cookie and its tokens where `logout` keeps them."""
    app = FastAPI()
    form_post = setting.response_mode == "form_post"  # a cross-site POST: the cookie must say so
    app.add_middleware(
        SessionMiddleware, secret_key=SECRET, same_site="none" if form_post else "lax", https_only=form_post
    )
    http_cache: dict[str, Any] = {}

    def client(cache):
        return msal.ConfidentialClientApplication(
            setting.client_id,
            client_credential=setting.client_secret,
            token_cache=cache,
            http_cache=http_cache,
            instance_discovery=False,
            **setting.authority,
        )

    async def auth_response(request: Request) -> dict[str, str]:
        return dict(await request.form() if request.method == "POST" else request.query_params)

    @app.get("/")
    def home(request: Request) -> HTMLResponse:
        return HTMLResponse(HOME.format(request.session.get("user", {}).get("name", "nobody")))

    @app.get("/login")
    def login(request: Request) -> RedirectResponse:
        flow = client(None).initiate_auth_code_flow(
            SCOPES, redirect_uri=f"{setting.url}/redirect", response_mode=setting.response_mode
        )
        request.session["flow"] = flow
        return RedirectResponse(flow["auth_uri"])

    @app.api_route("/redirect", methods=["GET", "POST"])
    def redirect(
        request: Request, response: Annotated[dict[str, str], Depends(auth_response)]
    ) -> RedirectResponse:
        with app.state.logout.token_cache() as cache:
            result = client(cache).acquire_token_by_auth_code_flow(request.session.pop("flow"), response)
        request.session["user"] = result["id_token_claims"]
        return RedirectResponse(f"{setting.url}/api", 303)

    @app.get("/api")
    def api(request: Request):
        claims = request.session.get("user")
        if claims is None:
            return RedirectResponse(f"{setting.url}/login")
        with app.state.logout.token_cache(claims) as cache:
            msal_app = client(cache)
            accounts = msal_app.get_accounts()
            result = msal_app.acquire_token_silent(SCOPES, account=accounts[0]) if accounts else None
        if not result:
            return RedirectResponse(f"{setting.url}/login")
        return _call(setting, result["access_token"])

    @app.get("/logout")
    def logout(request: Request) -> RedirectResponse:
        """The app's own, as in MSAL's documentation; `app_view=True` keeps it."""
        request.session.clear()
        ends_at = requests.get(f"{setting.discovery}/.well-known/openid-configuration", timeout=3).json()
        return RedirectResponse(
            f"{ends_at['end_session_endpoint']}?client_id={setting.client_id}"
            f"&post_logout_redirect_uri={setting.url}/"
        )

    return app


def wrapped_fastapi(setting: Setting, store: Any = None, **options: Any) -> tuple[Any, Logout]:
    app = fastapi_app(setting)
    logout = setting.logout(ASGISession(app), store=store or MemoryStore(), **options)
    app.state.logout = logout
    app.add_middleware(AsgiRules)
    app.add_middleware(asgi.LogoutMiddleware, logout=logout)
    return AsgiRules(app), logout


def _call(setting: Setting, access_token: str) -> dict[str, Any]:
    answer = requests.get(setting.graph_url, headers={"Authorization": f"Bearer {access_token}"}, timeout=10)
    answer.raise_for_status()
    return answer.json()


def flask_of_this_process() -> Any:
    """What gunicorn serves."""
    return wrapped_flask(Setting.of_this_process())[0]


def fastapi_of_this_process() -> Any:
    """What uvicorn serves."""
    setting = Setting.of_this_process()
    return wrapped_fastapi(setting, SQLiteStore(Path(setting.directory) / "logout.db"))[0]
