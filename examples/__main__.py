"""`python -m examples NAME`: an example and a provider to sign in at, until interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from msal_logout_middleware.testing import EmbeddedProvider

from .running import EXAMPLES, free_or_exit, running


def main() -> None:
    """Serve, say where, and wait; or list the examples."""
    parser = argparse.ArgumentParser(prog="python -m examples", description=__doc__)
    parser.add_argument("name", nargs="?", choices=EXAMPLES, help="which; without it they are listed")
    parser.add_argument("--provider", choices=("entra", "generic"), default="entra")
    parser.add_argument("--port", type=int, default=0, help="the app's; any that is free by default")
    arguments = parser.parse_args()
    if arguments.name is None:
        for example in EXAMPLES.values():
            print(f"{example.name:16} {example.about}")
        return
    free_or_exit(arguments.port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="logout-example-") as folder,
        EmbeddedProvider(browser_host="idp.localhost") as provider,
    ):
        user = provider.add_user("alice@contoso.example")
        provider.add_user("bob@contoso.example")
        example, port = EXAMPLES[arguments.name], arguments.port
        with running(example, provider, Path(folder), flavour=arguments.provider, port=port) as app:
            print(f"{app.url}/ is {example.name}; sign in as {user.username}. Ctrl+C stops it.", flush=True)
            stopped = threading.Event()
            while not stopped.wait(0.2):
                if app.process.poll() is not None:
                    sys.exit("the server has ended; what it said stands above")


if __name__ == "__main__":
    main()
