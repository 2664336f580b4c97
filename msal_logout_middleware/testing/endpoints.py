"""The provider's endpoints: discovery, keys, authorize, token, logout, and a small API to call."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlencode

import jwt
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from . import pages
from .flavours import GRAPH_PATH, MICROSOFT_PATHS, PLAIN_PATHS, Flavour
from .records import BackchannelCall, Client, Grant, ProviderSession, User

if TYPE_CHECKING:
    from .provider import EmbeddedProvider

Parameters = Mapping[str, str]
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
OIDC_SCOPES = frozenset({"openid", "profile", "email", "offline_access"})
GRAPH_AUDIENCE = "https://graph.microsoft.com"
BACKCHANNEL_TIMEOUT_SECONDS = 2.5  # what the OpenID provider that was measured allows


class OAuthError(Exception):
    """An error response of the token endpoint (RFC 6749, 5.2)."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error = error
        self.status = status


@dataclass(frozen=True, slots=True)
class _Asked:
    """An authorization request of a client that may be answered."""

    flavour: Flavour
    realm: str
    client: Client
    parameters: Parameters
    path: str

    @property
    def prompt(self) -> set[str]:
        return set(self.parameters.get("prompt", "").split())

    def next_step(self, step: str) -> str:
        """Return where a page of the sign-in posts to, the request in its query."""
        return f"{self.path}/{step}?{urlencode(self.parameters)}"


class Endpoints:
    """Every endpoint of every flavour, as one ASGI app.

    Args:
        provider: Whose records, keys and switches they use.
    """

    def __init__(self, provider: EmbeddedProvider) -> None:
        self._provider = provider
        self._records = provider.records
        endpoints: dict[str, tuple[Callable[..., Awaitable[Response]], list[str]]] = {
            "authorize": (self._authorize, ["GET", "POST"]),
            "signin": (self._sign_in, ["POST"]),
            "consent": (self._consent, ["POST"]),
            "token": (self._token, ["POST"]),
            "logout": (self._logout, ["GET", "POST"]),
            "keys": (self._keys, ["GET"]),
        }
        document = "/.well-known/openid-configuration"
        microsoft = {**MICROSOFT_PATHS}
        routes = [
            Route(GRAPH_PATH, self._graph, methods=["GET"]),
            self._route(f"/v2.0{document}", self._discovery, ["GET"]),
            self._route(document, self._discovery_v1, ["GET"]),
            *(self._route(microsoft[name], *endpoint) for name, endpoint in endpoints.items()),
            self._route("/oauth2/logout", self._logout, ["GET", "POST"]),
            *(self._route(PLAIN_PATHS[name], *endpoint) for name, endpoint in endpoints.items()),
        ]
        self.app = Starlette(routes=routes)

    def _route(self, path: str, endpoint: Callable[..., Awaitable[Response]], methods: list[str]) -> Route:
        async def with_realm(request: Request) -> Response:
            realm = request.path_params["realm"]
            for flavour in self._provider.flavours:
                if flavour.knows(realm):
                    return await endpoint(request, flavour, realm)
            description = f"AADSTS90002: Tenant '{realm}' not found."
            return JSONResponse({"error": "invalid_tenant", "error_description": description}, 400)

        return Route("/{realm:path}" + path, with_realm, methods=methods)

    # Discovery and keys

    async def _discovery(self, request: Request, flavour: Flavour, realm: str) -> Response:
        return JSONResponse(flavour.metadata(realm))

    async def _discovery_v1(self, request: Request, flavour: Flavour, realm: str) -> Response:
        return JSONResponse(flavour.metadata_v1(realm))

    async def _keys(self, request: Request, flavour: Flavour, realm: str) -> Response:
        return JSONResponse(self._provider.keys.jwks)

    # Sign-in

    async def _authorize(self, request: Request, flavour: Flavour, realm: str) -> Response:
        parameters = await _parameters(request)
        client = self._client_for_redirect(flavour, parameters)
        if isinstance(client, str):
            return HTMLResponse(pages.error("This request cannot be answered", client), 400)
        if parameters.get("response_type") != "code":
            return _answer(parameters, {"error": "unsupported_response_type"})
        asked = _Asked(flavour, realm, client, parameters, request.url.path.rpartition("/")[0])
        session = self._session(request, flavour)
        hint = parameters.get("login_hint")
        if session and (not flavour.admits(session.user, realm) or hint not in (None, session.user.username)):
            session = None
        if session is None and "none" in asked.prompt:
            description = "AADSTS50058: Nobody is signed in."
            return _answer(parameters, {"error": "login_required", "error_description": description})
        if session is None or asked.prompt & {"login", "select_account"}:
            users = [user for user in list(self._records.users.values()) if flavour.admits(user, realm)]
            hinted = [user for user in users if user.username == hint]
            return HTMLResponse(pages.choose_user(client, hinted or users, asked.next_step("signin")))
        return self._consent_or_code(asked, session)

    async def _sign_in(self, request: Request, flavour: Flavour, realm: str) -> Response:
        parameters = dict(request.query_params)
        client = self._client_for_redirect(flavour, parameters)
        user = self._records.users.get((await _form(request)).get("user", ""))
        if isinstance(client, str) or user is None or not flavour.admits(user, realm):
            return HTMLResponse(pages.error("Sign-in failed", "Nobody of that name can sign in here."), 400)
        session = self._session(request, flavour)
        if session is None or session.user != user:
            session = ProviderSession(flavour.name, user, self._provider.now())
            self._records.sessions.append(session)
        asked = _Asked(flavour, realm, client, parameters, request.url.path.rpartition("/")[0])
        response = self._consent_or_code(asked, session)
        # SameSite=None: a logout that the app posts is a cross-site request. Browsers keep Secure on loopback.
        response.set_cookie(_cookie(flavour), session.cookie, httponly=True, secure=True, samesite="none")
        return response

    async def _consent(self, request: Request, flavour: Flavour, realm: str) -> Response:
        parameters = dict(request.query_params)
        client = self._client_for_redirect(flavour, parameters)
        session = self._session(request, flavour)
        if isinstance(client, str) or session is None:
            return HTMLResponse(pages.error("Sign-in failed", "Please start again at the app."), 400)
        if (await _form(request)).get("consent") != "accept":
            return _answer(parameters, {"error": "access_denied", "error_description": "The user cancelled."})
        self._records.consents.add((session.user.username, client.client_id))
        return self._code(_Asked(flavour, realm, client, parameters, request.url.path), session)

    def _consent_or_code(self, asked: _Asked, session: ProviderSession) -> Response:
        given = (session.user.username, asked.client.client_id) in self._records.consents
        if (given or not asked.client.consent) and "consent" not in asked.prompt:
            return self._code(asked, session)
        if "none" in asked.prompt:
            return _answer(asked.parameters, {"error": "consent_required"})
        scopes = _scopes(asked.parameters)
        return HTMLResponse(pages.consent(asked.client, session.user, scopes, asked.next_step("consent")))

    def _code(self, asked: _Asked, session: ProviderSession) -> Response:
        flavour, client, parameters = asked.flavour, asked.client, asked.parameters
        code = secrets.token_urlsafe(32)
        session.clients[client.client_id] = flavour.issuer(asked.realm, session.user)
        self._records.codes[code] = Grant(
            client=client,
            realm=asked.realm,
            scopes=_scopes(parameters),
            user=session.user,
            session=session,
            nonce=parameters.get("nonce"),
            redirect_uri=parameters["redirect_uri"],
            code_challenge=parameters.get("code_challenge"),
        )
        answer = {"code": code}
        if session_state := flavour.session_state(session, client):
            answer["session_state"] = session_state
        client_info = flavour.client_info(asked.realm, session.user)
        if client_info and parameters.get("client_info"):
            answer["client_info"] = client_info
        return _answer(parameters, answer)

    def _client_for_redirect(self, flavour: Flavour, parameters: Parameters) -> Client | str:
        """Return the client, or why the browser must not be sent back to it (RFC 6749, 4.1.2.1)."""
        client = self._records.clients.get((flavour.name, parameters.get("client_id", "")))
        if client is None:
            return "AADSTS700016: No such client is registered here."
        if parameters.get("redirect_uri") not in client.redirect_uris:
            return "AADSTS50011: The redirect URI does not match those registered for the client."
        if parameters.get("response_mode", "query") not in ("query", "form_post"):
            return "The response mode must be query or form_post."
        return client

    # Tokens

    async def _token(self, request: Request, flavour: Flavour, realm: str) -> Response:
        form = await _form(request)
        try:
            client = self._authenticated(request, flavour, form)
            return JSONResponse(
                self._grant(flavour, realm, client, form), headers={"Cache-Control": "no-store"}
            )
        except OAuthError as wrong:
            return JSONResponse({"error": wrong.error, "error_description": str(wrong)}, wrong.status)

    def _authenticated(self, request: Request, flavour: Flavour, form: Parameters) -> Client:
        client_id, secret = form.get("client_id", ""), form.get("client_secret")
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            client_id, _, secret = (
                unquote(part) for part in base64.b64decode(credentials).decode().partition(":")
            )
        client = self._records.clients.get((flavour.name, client_id))
        if client is None:
            raise OAuthError("unauthorized_client", "AADSTS700016: No such client is registered here.")
        if client.client_secret is not None and secret != client.client_secret:
            raise OAuthError("invalid_client", "AADSTS7000215: Invalid client secret provided.", 401)
        return client

    def _grant(self, flavour: Flavour, realm: str, client: Client, form: Parameters) -> dict[str, Any]:
        grant_type = form.get("grant_type")
        if grant_type == "authorization_code":
            return self._issue(flavour, replace(self._redeem_code(client, form), client=client), form)
        if grant_type == "refresh_token":
            return self._refresh(flavour, realm, client, form)
        if grant_type == JWT_BEARER:
            return self._issue(flavour, self._on_behalf_of(realm, client, form), form)
        if grant_type == "client_credentials" and client.client_secret is not None:
            return self._issue(flavour, Grant(client, realm, _scopes(form)), form)
        raise OAuthError("unsupported_grant_type", "AADSTS70003: The grant type is not supported.")

    def _redeem_code(self, client: Client, form: Parameters) -> Grant:
        grant = self._records.codes.pop(form.get("code", ""), None)
        if grant is None or grant.client.client_id != client.client_id:
            raise OAuthError("invalid_grant", "AADSTS54005: The code is unknown, or was used before.")
        if form.get("redirect_uri") != grant.redirect_uri:
            raise OAuthError("invalid_grant", "AADSTS50011: The redirect URI is another one.")
        if grant.code_challenge is None and client.client_secret is not None:
            return grant
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != grant.code_challenge:
            raise OAuthError("invalid_grant", "AADSTS501481: The code verifier does not match.")
        return grant

    def _refresh(self, flavour: Flavour, realm: str, client: Client, form: Parameters) -> dict[str, Any]:
        token = form.get("refresh_token", "")
        grant = self._records.refresh_tokens.get(token)
        if grant is None or (
            grant.client.client_id != client.client_id and not (grant.client.family and client.family)
        ):
            raise OAuthError(
                "invalid_grant", "AADSTS700082: The refresh token is unknown, expired or revoked."
            )
        if grant.user and not flavour.admits(grant.user, realm):
            raise OAuthError("invalid_grant", "AADSTS50020: The user does not exist in this tenant.")
        if self._provider.refresh_tokens == "replaced":
            del self._records.refresh_tokens[token]
        scopes = _scopes(form) or grant.scopes
        again = replace(grant, client=client, realm=realm, scopes=scopes, nonce=None, code_challenge=None)
        response = self._issue(flavour, again, form)
        if self._provider.refresh_tokens == "kept" and "refresh_token" in response:
            del self._records.refresh_tokens[response.pop("refresh_token")]
        return response

    def _on_behalf_of(self, realm: str, client: Client, form: Parameters) -> Grant:
        grant = self._granted(
            form.get("assertion", ""), audience={client.client_id, f"api://{client.client_id}"}
        )
        if grant is None or grant.user is None or form.get("requested_token_use") != "on_behalf_of":
            raise OAuthError("invalid_grant", "AADSTS50013: The assertion is not a token for this client.")
        return Grant(client, realm, _scopes(form), grant.user, grant.session)

    def _granted(self, access_token: str, audience: Iterable[str] | None = None) -> Grant | None:
        """Return what an access token of ours stands for; `None` if it is not one, or is over."""
        try:
            claims = self._provider.keys.verify(access_token)
        except jwt.InvalidTokenError:
            return None
        if claims["exp"] <= self._provider.now() or (audience and claims["aud"] not in audience):
            return None
        return self._records.access_tokens.get(claims.get("uti", ""))

    def _issue(self, flavour: Flavour, grant: Grant, form: Parameters) -> dict[str, Any]:
        lifetime = self._provider.access_token_seconds
        response: dict[str, Any] = {
            "token_type": "Bearer",
            "scope": " ".join(scope for scope in grant.scopes if scope != "offline_access"),
            "expires_in": lifetime,
            "ext_expires_in": lifetime,
            "access_token": self._access_token(flavour, grant, lifetime),
        }
        if grant.user is None:
            return response
        if "openid" in grant.scopes:
            response["id_token"] = self._id_token(flavour, grant, grant.user)
        if "offline_access" in grant.scopes:
            refresh_token = secrets.token_urlsafe(48)
            self._records.refresh_tokens[refresh_token] = grant
            response["refresh_token"] = refresh_token
            if grant.client.family:
                response["foci"] = "1"
        client_info = flavour.client_info(grant.realm, grant.user)
        if client_info and form.get("client_info"):
            response["client_info"] = client_info
        return response

    def _access_token(self, flavour: Flavour, grant: Grant, lifetime_seconds: int) -> str:
        now, uti = self._provider.now(), secrets.token_urlsafe(16)
        self._records.access_tokens[uti] = grant
        who: dict[str, Any] = {"sub": grant.client.client_id, "roles": []}
        if grant.user:
            who = {**flavour.identity(grant, grant.user), "scp": " ".join(set(grant.scopes) - OIDC_SCOPES)}
        claims = {
            **who,
            "iss": flavour.issuer(grant.realm, grant.user),
            "aud": _audience(grant.scopes),
            "azp": grant.client.client_id,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime_seconds,
            "uti": uti,
        }
        return self._provider.keys.sign(claims)

    def _id_token(self, flavour: Flavour, grant: Grant, user: User) -> str:
        now = self._provider.now()
        claims = {
            **flavour.identity(grant, user),
            "iss": flavour.issuer(grant.realm, user),
            "aud": grant.client.client_id,
            "iat": now,
            "nbf": now,
            "exp": now + self._provider.id_token_seconds,
        }
        if grant.session:
            claims["auth_time"] = grant.session.started_at
        if grant.session and "sid" in grant.client.optional_claims:
            claims["sid"] = grant.session.sid
        if "login_hint" in grant.client.optional_claims:
            claims["login_hint"] = login_hint(user)
        if grant.nonce:
            claims["nonce"] = grant.nonce
        return self._provider.keys.sign(claims)

    async def _graph(self, request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        grant = self._granted(token) if scheme.lower() == "bearer" else None
        if grant is None:
            return JSONResponse(
                {"error": {"code": "InvalidAuthenticationToken"}}, 401, {"WWW-Authenticate": "Bearer"}
            )
        if grant.user is None:
            return JSONResponse({"error": {"code": "Authorization_RequestDenied"}}, 403)
        user = grant.user
        return JSONResponse(
            {"id": user.oid, "displayName": user.name, "userPrincipalName": user.username, "sub": user.sub}
        )

    # Logout

    async def _logout(self, request: Request, flavour: Flavour, realm: str) -> Response:
        limit = flavour.max_query_length
        if limit is not None and len(request.url.query) > limit:
            return HTMLResponse(
                pages.error("Bad request", "AADSTS90015: Requested query string is too long."), 414
            )
        parameters = await _parameters(request)
        hint = self._id_token_hint(flavour, parameters)
        if flavour.id_token_hint_required and hint is None:
            return HTMLResponse(
                pages.error("Bad request", "An id_token_hint is required, and must be one of ours."), 400
            )
        session = self._session(request, flavour) or self._hinted_session(flavour, hint)
        initiator = self._records.clients.get(
            (flavour.name, (hint or {}).get("aud") or parameters.get("client_id", ""))
        )
        target, note = _post_logout_target(flavour, parameters, initiator)
        frames = await self.end_session(flavour, session, initiator) if session else []
        response: Response
        if target and not frames:
            response = RedirectResponse(target, 303)
        else:
            response = HTMLResponse(pages.signed_out(frames, target, note))
        response.headers["Cache-Control"] = "no-store"
        response.delete_cookie(_cookie(flavour), httponly=True, secure=True, samesite="none")
        return response

    def _id_token_hint(self, flavour: Flavour, parameters: Parameters) -> dict[str, Any] | None:
        try:
            claims = self._provider.keys.verify(parameters.get("id_token_hint", ""))
        except jwt.InvalidTokenError:
            return None
        return claims if (flavour.name, claims["aud"]) in self._records.clients else None

    def _hinted_session(self, flavour: Flavour, hint: Mapping[str, Any] | None) -> ProviderSession | None:
        for session in self._records.sessions:
            if (
                hint
                and session.flavour == flavour.name
                and session.sid == hint.get("sid")
                and not session.ended
            ):
                return session
        return None

    async def end_session(
        self, flavour: Flavour, session: ProviderSession, initiator: Client | None = None
    ) -> list[pages.Frame]:
        """End a provider session: post the logout tokens, and return what the iframes load."""
        session.ended = True
        if self._provider.revoke_on_logout:
            tokens = self._records.refresh_tokens
            for token in [token for token, grant in tokens.copy().items() if grant.session is session]:
                del tokens[token]
        others = [client for client in flavour.clients_of(session) if client != initiator]
        await asyncio.gather(
            *(self._post_logout_token(client, session) for client in others if client.backchannel_logout_uri)
        )
        return [
            pages.Frame(
                client.frontchannel_logout_uri,
                flavour.frontchannel_parameters(session, session.clients[client.client_id]),
                flavour.frontchannel_method,
            )
            for client in others
            if client.frontchannel_logout_uri
        ]

    async def _post_logout_token(self, client: Client, session: ProviderSession) -> None:
        token = self._provider.logout_token(client, sid=session.sid, sub=session.user.sub)
        call = await asyncio.to_thread(post_logout_token, client, token, self._provider.ca_file)
        self._records.backchannel_calls.append(call)

    def _session(self, request: Request, flavour: Flavour) -> ProviderSession | None:
        return self._records.session(flavour.name, request.cookies.get(_cookie(flavour)))


def post_logout_token(client: Client, token: str, ca_file: str) -> BackchannelCall:
    """Post a logout token to a client (Back-Channel Logout 1.0, 2.5), as the provider does at a logout.

    Raises:
        ValueError: The client has no `backchannel_logout_uri`.
    """
    if client.backchannel_logout_uri is None:
        raise ValueError("the client is registered without a backchannel_logout_uri")
    with requests.Session() as http:
        http.trust_env = False
        http.verify = ca_file
        try:
            answer = http.post(
                client.backchannel_logout_uri,
                {"logout_token": token},
                timeout=BACKCHANNEL_TIMEOUT_SECONDS,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            return BackchannelCall(client, token, None, str(error))
    return BackchannelCall(client, token, answer.status_code, answer.text)


def login_hint(user: User) -> str:
    """Return the opaque `login_hint` claim of a user."""
    return "O." + base64.urlsafe_b64encode(
        uuid.UUID(user.oid).bytes + user.username.encode()
    ).decode().rstrip("=")


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await request.body()).decode("latin-1"), keep_blank_values=True))


async def _parameters(request: Request) -> dict[str, str]:
    return dict(request.query_params) if request.method == "GET" else await _form(request)


def _answer(parameters: Parameters, answer: dict[str, str]) -> Response:
    """Return the authorization response in the mode that was asked for, `state` unchanged."""
    fields = {**answer, "state": parameters["state"]} if "state" in parameters else answer
    if parameters.get("response_mode") == "form_post":
        return HTMLResponse(pages.form_post(parameters["redirect_uri"], fields))
    return RedirectResponse(pages.with_query(parameters["redirect_uri"], fields), 302)


def _post_logout_target(
    flavour: Flavour, parameters: Parameters, initiator: Client | None
) -> tuple[str | None, str]:
    """Return where the browser goes on to, and if nowhere, why (RP-Initiated Logout 1.0, 3)."""
    uri = parameters.get("post_logout_redirect_uri")
    if uri is None:
        return None, ""
    if uri not in flavour.post_logout_targets(initiator):
        return None, "The app's post_logout_redirect_uri is not registered for it."
    return pages.with_query(uri, {"state": parameters["state"]} if "state" in parameters else {}), ""


def _scopes(parameters: Parameters) -> tuple[str, ...]:
    return tuple(parameters.get("scope", "").split())


def _audience(scopes: tuple[str, ...]) -> str:
    """Return the resource of the first scope that names one, such as `api://orders/read`."""
    for scope in scopes:
        resource, slash, _ = scope.rpartition("/")
        if slash and "://" in resource:
            return resource
    return GRAPH_AUDIENCE


def _cookie(flavour: Flavour) -> str:
    return f"provider_{flavour.name}"
