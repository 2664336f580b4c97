"""The examples, and one of them in a server process, registered at the embedded provider."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msal_logout_middleware.testing import Client, EmbeddedProvider

Flavour = Literal["entra", "generic"]

ROOT = Path(__file__).parents[1]

# What `examples/environment.py` reads and `running` does not set: of a tenant, not of the embedded provider.
OF_A_TENANT = {"TENANT_ID", "AUTHORITY", "OIDC_AUTHORITY", "SCOPES"}


@dataclass(frozen=True)
class Example:
    """One example.

    Args:
        name: Of its module, or of its folder.
        app: What its server serves.
        server: Which that is.
        about: What it shows, in a line.
        home: Where the browser is after a sign-out in the app.
        environment: What its server needs besides.
    """

    name: str
    app: str
    server: Literal["gunicorn", "uvicorn"]
    about: str
    home: str = "/"
    environment: tuple[tuple[str, str], ...] = ()

    def command(self, listening: socket.socket) -> list[str]:
        """Return what serves it on a socket that listens."""
        if self.server == "uvicorn":
            return ["-m", "uvicorn", "--fd", str(listening.fileno()), "--log-level", "warning", self.app]
        address, threads = f"fd://{listening.fileno()}", "4"
        return ["-m", "gunicorn", "--bind", address, "--threads", threads, "--log-level", "warning", self.app]


EXAMPLES = {
    example.name: example
    for example in (
        Example("flask_msal", "examples.flask_msal:app", "gunicorn", "Flask, its signed cookie, MSAL"),
        Example(
            "flask_identity",
            "examples.flask_identity:app",
            "gunicorn",
            "Flask, Flask-Session in files, Microsoft's identity",
            home="/bye",
        ),
        Example(
            "fastapi_msal", "examples.fastapi_msal:app", "uvicorn", "FastAPI, Starlette's signed cookie, MSAL"
        ),
        Example("pyramid_msal", "examples.pyramid_msal:app", "gunicorn", "Pyramid, its signed cookie, MSAL"),
        Example(
            "django_msal", "examples.django_msal:app", "gunicorn", "Django, sessions in its database, MSAL"
        ),
        Example(
            "django_identity",
            "examples.django_identity:app",
            "uvicorn",
            "Django behind ASGI, sessions in files, Microsoft's identity",
            home="/bye",
        ),
        Example(
            "quart_msal", "examples.quart_msal:app", "uvicorn", "Quart, its signed cookie, MSAL in threads"
        ),
        Example(
            "litestar_msal", "examples.litestar_msal:app", "uvicorn", "Litestar, its encrypted cookie, MSAL"
        ),
    )
}


def free_or_exit(port: int) -> None:
    """End the program in a sentence if a port of loopback is taken.

    Args:
        port: Which; 0 for any that is free.
    """
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        sys.exit(
            f"port {port} of this machine cannot be had ({error.strerror}): give another --port, or none"
        )


@dataclass(frozen=True)
class Running:
    """An example that is served.

    Args:
        url: Where it is.
        client: Its registration.
        process: Its server.
    """

    url: str
    client: Client
    process: subprocess.Popen[bytes]


@contextmanager
def running(
    example: Example, provider: EmbeddedProvider, folder: Path, *, flavour: Flavour = "entra", port: int = 0
) -> Iterator[Running]:
    """Register an example at the embedded provider, and serve it in a process of its own.

    Args:
        example: Which.
        provider: Where to; it runs already.
        folder: Where it writes its files.
        flavour: Entra ID, which has front-channel logout, or a provider that has back-channel logout.
        port: The app's; 0 for any that is free.
    """
    at = provider.entra if flavour == "entra" else provider.generic
    with socket.create_server(("127.0.0.1", port)) as listening:
        url = f"http://localhost:{listening.getsockname()[1]}"
        client = at.register(
            redirect_uris=[f"{url}/redirect"],
            post_logout_redirect_uris=[f"{url}{example.home}"],
            frontchannel_logout_uri=f"{url}/logout/front-channel",
            backchannel_logout_uri=f"{url}/logout/back-channel" if at.backchannel else None,
            optional_claims=["sid", "login_hint"],
        )
        authority = {"OIDC_AUTHORITY": provider.generic.oidc_authority}
        if flavour == "entra":
            authority = {"AUTHORITY": provider.entra.authority}
        environment = {
            **{name: value for name, value in os.environ.items() if name not in OF_A_TENANT},
            **authority,
            **dict(example.environment),
            "CLIENT_ID": client.client_id,
            "CLIENT_SECRET": client.client_secret,
            "SECRET_KEY": "a secret of the examples, for this machine only",
            "BASE_URL": url,
            "API_URL": provider.graph_url,
            "REQUESTS_CA_BUNDLE": str(provider.ca_file),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            # It recommends form_post, which cookies of plain http cannot be sent with.
            "PYTHONWARNINGS": "ignore::UserWarning:msal.oauth2cli.oauth2",
        }
        command = [sys.executable, *example.command(listening)]
        with subprocess.Popen(command, cwd=folder, env=environment, pass_fds=[listening.fileno()]) as process:
            try:
                yield Running(url, client, process)
            finally:
                process.terminate()
