"""A small app on loopback that signs in with real MSAL, for the tests of the embedded provider."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msal

SCOPES = ["User.Read"]


class App:
    """Its routes: /login, /redirect (GET and POST), /front, /back; and what happened there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.msal: Any = None
        self.login: dict[str, Any] = {}
        self.flows: dict[str, dict[str, Any]] = {}
        self.response: dict[str, str] = {}
        self.result: dict[str, Any] = {}
        self.cookies: list[str] = []
        self.front: list[dict[str, str]] = []
        self.back: list[dict[str, str]] = []
        self.back_status = 200

    @property
    def redirect_uri(self) -> str:
        return self.url + "/redirect"

    @property
    def uris(self) -> dict[str, Any]:
        """The arguments to register it with."""
        return {
            "redirect_uris": [self.redirect_uri],
            "post_logout_redirect_uris": [self.url + "/bye"],
            "frontchannel_logout_uri": self.url + "/front",
        }

    @property
    def claims(self) -> dict[str, Any]:
        return self.result["id_token_claims"]

    @property
    def account(self) -> dict[str, Any]:
        (account,) = self.msal.get_accounts()
        return account

    def use(self, client: Any, ca_file: str, **authority: Any) -> App:
        """Sign in as a client from now on, with an empty token cache."""
        self.msal = msal.ConfidentialClientApplication(
            client.client_id,
            client_credential=client.client_secret,
            instance_discovery=False,
            verify=ca_file,
            token_cache=msal.SerializableTokenCache(),
            **authority,
        )
        return self

    def go_to(self, authority: str) -> None:
        """Go on at another authority, with the same token cache."""
        self.msal = msal.ConfidentialClientApplication(
            self.msal.client_id,
            client_credential=self.msal.client_credential,
            authority=authority,
            instance_discovery=False,
            token_cache=self.msal.token_cache,
        )

    def answer(self, method: str, path: str, parameters: dict[str, str], cookie: str) -> tuple[int, str, str]:
        """Return status, `Location` and text."""
        if path == "/login":
            flow = self.msal.initiate_auth_code_flow(
                **{
                    "scopes": SCOPES,
                    "redirect_uri": self.redirect_uri,
                    "response_mode": "form_post",
                    **self.login,
                }
            )
            self.flows[flow["state"]] = flow
            return 302, flow["auth_uri"], ""
        if path == "/redirect":
            self.cookies.append(cookie)
            self.response = parameters
            self.result = self.msal.acquire_token_by_auth_code_flow(
                self.flows.pop(parameters["state"]), parameters
            )
            return 200, "", self.result.get("error", "signed in")
        if path == "/front":
            self.front.append(parameters)
        if path == "/back":
            self.back.append(parameters)
            return self.back_status, "", ""
        return 200, "", path


@contextmanager
def serving() -> Iterator[App]:
    class RequestHandler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(dict(parse_qsl(urlsplit(self.path).query)))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self.reply(dict(parse_qsl(body)))

        def reply(self, parameters: dict[str, str]) -> None:
            path = urlsplit(self.path).path
            status, location, text = app.answer(
                self.command, path, parameters, self.headers.get("cookie", "")
            )
            self.send_response(status)
            if location:
                self.send_header("location", location)
            for same_site in ("Lax", "Strict", "None", ""):
                attribute = f"; SameSite={same_site}" if same_site else ""
                secure = "; Secure" if same_site == "None" else ""
                self.send_header(
                    "set-cookie", f"{same_site or 'unset'}={secrets.token_hex(2)}{attribute}{secure}"
                )
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), RequestHandler) as server:
        server.block_on_close = False  # browsers hold connections open that they may never use
        app = App(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield app
        finally:
            server.shutdown()
            thread.join()
