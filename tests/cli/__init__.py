"""The command line, run as people run it: as a process of its own, in the folder of an app."""

import json
import os
import subprocess
import sys

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


def msal_logout(folder, *arguments, given=None, **environment):
    """Run the command in a folder; warnings are errors."""
    return subprocess.run(
        [sys.executable, "-m", "msal_logout_middleware.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "error", **environment},
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def as_json(ran):
    """Return what a command with `--json` printed."""
    assert ran.stdout, ran.stderr
    return json.loads(ran.stdout)
