"""`python -m msal_logout_middleware.testing`: the embedded provider stand-alone, until interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from contextlib import suppress

try:
    from . import EmbeddedProvider
except ModuleNotFoundError as error:
    sys.exit(str(error))


def main() -> None:
    """Serve, print the URLs, and wait."""
    parser = argparse.ArgumentParser(prog="python -m msal_logout_middleware.testing", description=__doc__)
    parser.add_argument("--browser-host", default="idp.localhost", help="host of the pages, on plain http")
    parser.add_argument("--port", type=int, default=0, help="port for apps and MSAL, https; any by default")
    parser.add_argument("--browser-port", type=int, default=0, help="port of the pages; any by default")
    parser.add_argument("--client-id", default="demo", help="a client that is registered at every flavour")
    parser.add_argument("--client-secret", default="secret")
    parser.add_argument("--redirect-uri", action="append", default=[])
    parser.add_argument("--post-logout-redirect-uri", action="append", default=[])
    parser.add_argument("--frontchannel-logout-uri")
    parser.add_argument("--backchannel-logout-uri")
    arguments = parser.parse_args()
    try:
        embedded = EmbeddedProvider(
            browser_host=arguments.browser_host, port=arguments.port, browser_port=arguments.browser_port
        )
    except OSError as error:
        sys.exit(
            f"port {arguments.port} or {arguments.browser_port} of this machine cannot be had ({error.strerror}): "
            "give another --port or --browser-port, or none"
        )
    # Also where it was started in the background, with Ctrl+C ignored, and by `docker stop`.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt), embedded as provider:
        provider.add_user("alice@contoso.example")
        provider.add_user("bob@contoso.example")
        provider.add_guest("gail@fabrikam.example")
        for flavour in provider.flavours:
            flavour.register(
                arguments.client_id,
                client_secret=arguments.client_secret,
                redirect_uris=arguments.redirect_uri,
                post_logout_redirect_uris=arguments.post_logout_redirect_uri,
                frontchannel_logout_uri=arguments.frontchannel_logout_uri,
                backchannel_logout_uri=arguments.backchannel_logout_uri if flavour.backchannel else None,
                optional_claims=["sid", "login_hint"],
            )
        print(
            f"entra    authority={provider.entra.authority}",
            f"         authority={provider.entra.common_authority}",
            f"b2c      authority={provider.b2c.authority('B2C_1_signin')}",
            f"generic  oidc_authority={provider.generic.oidc_authority}",
            f"client   {arguments.client_id}, secret {arguments.client_secret}",
            f"API      {provider.graph_url}",
            f"export   REQUESTS_CA_BUNDLE={provider.ca_file}",
            sep="\n",
            flush=True,
        )
        threading.Event().wait()


if __name__ == "__main__":
    main()
