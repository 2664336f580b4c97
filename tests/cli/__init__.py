"""The command line, run as people run it: as a process of its own, in the folder of an app.

Each is forked from a process that has imported what they all import, which takes longer than most of them.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from msal_logout_middleware.cli import main

_PROCESSES = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
if sys.platform != "win32":
    _PROCESSES.set_forkserver_preload(["tests.cli", "msal", "flask", "starlette.applications", "sqlite3"])

SECRET = "a secret of the shop, which stays the same"

FLASK = f"""
from flask import Flask
from msal_logout_middleware import InSession, Logout, MemoryStore, Provider, SQLiteStore
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.wsgi import LogoutMiddleware

app = Flask("shop")
app.config.update(SECRET_KEY={SECRET!r}, SESSION_COOKIE_SECURE=True)
options = dict(
    provider=Provider.from_metadata({{}}, "shop"),
    session=FlaskSession(app),
    post_logout_redirect_uri="https://shop.example.com/",
)
"""
WRAPPED = """
logout = Logout(store=SQLiteStore("logout.db"), **options)
app.wsgi_app = LogoutMiddleware(app.wsgi_app, logout)
print("the app is starting")
"""
STARLETTE = f"""
from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware
from msal_logout_middleware import Logout, Provider, SQLiteStore
from msal_logout_middleware.asgi import LogoutMiddleware
from msal_logout_middleware.sessions.asgi import ASGISession

app = Starlette()
app.add_middleware(SessionMiddleware, secret_key={SECRET!r}, https_only=True)
logout = Logout(
    provider=Provider.from_metadata({{}}, "shop"),
    session=ASGISession(app),
    store=SQLiteStore("logout.db"),
    post_logout_redirect_uri="https://shop.example.com/",
)
app.add_middleware(LogoutMiddleware, logout=logout)
"""
ASYNCHRONOUS = """
def asynchronous(name):
    async def method(self, *args, **kwargs):
        return getattr(self.store, name)(*args, **kwargs)

    return method

class Store:
    def __init__(self, path):
        self.store = SQLiteStore(path)
        self.path, self.generation = self.store.path, self.store.generation

for name in "load replace add join get find end take finish marks_since open_rows close".split():
    setattr(Store, name, asynchronous(name))
"""


def msal_logout(folder, *arguments, given="", **environment):
    """Run the command in a folder; warnings are errors."""
    with tempfile.TemporaryDirectory() as kept:
        streams = [Path(kept, name) for name in ("stdin", "stdout", "stderr")]
        streams[0].write_text(given)
        given_to_it = folder, arguments, os.environ | environment, streams
        process = _PROCESSES.Process(target=_run, args=given_to_it)
        process.start()
        process.join(timeout=60)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError
        said, complained = (stream.read_text() for stream in streams[1:])
        return subprocess.CompletedProcess(arguments, process.exitcode, said, complained)


def _run(folder, arguments, environment, streams):
    for number, (stream, mode) in enumerate(zip(streams, ("r", "w", "w"), strict=True)):
        with stream.open(mode) as opened:
            os.dup2(opened.fileno(), number)
    sys.stdin = open(0)  # noqa: SIM115 - multiprocessing has closed it
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder or ".")
    sys.path[:0] = [str(Path.cwd()), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    warnings.simplefilter("error")
    sys.exit(main(arguments))


def as_json(ran):
    """Return what a command with `--json` printed."""
    assert ran.stdout, ran.stderr
    return json.loads(ran.stdout)
