"""The app's `Logout`, found by its import path; and what is said where there is none."""

import pytest

from msal_logout_middleware import SQLiteStore
from tests.cli import FLASK, SECRET, STARLETTE, WRAPPED, msal_logout

END = ("--sid", "s", "--dry-run")
LAYERED = """
from werkzeug.middleware.proxy_fix import ProxyFix

class Site:
    pass

site = Site()
site.logout, site.app = logout, ProxyFix(app.wsgi_app)
def create_app(): return app
def create_app_of(name): return app
other = Flask("other")
"""


@pytest.fixture(autouse=True)
def store(shop):
    """The app has run, so that its store is there."""
    store = SQLiteStore(shop / "logout.db")
    store.open_rows()
    store.close()


@pytest.mark.parametrize(
    "name",
    ["logout", "app", "app.wsgi_app", "site.logout", "site.app", "create_app()"],
    ids=["the Logout", "Flask app", "middleware", "attribute", "wrapped middleware", "factory"],
)
def test_what_leads_to_the_logout_may_be_named(shop, name):
    (shop / "shop.py").write_text(FLASK + WRAPPED + LAYERED)
    ran = msal_logout(shop, "end-sessions", f"shop:{name}", *END)
    assert (ran.returncode, ran.stdout.splitlines()[0]) == (0, "0 sessions would end.")


@pytest.mark.parametrize(
    "more",
    ["", "app = app.build_middleware_stack()", "app.user_middleware.pop(0); app.state.logout = logout"],
)
def test_starlette_app_leads_to_the_logout(shop, more):
    (shop / "shop.py").write_text(f"{STARLETTE}\n{more}")
    assert msal_logout(shop, "end-sessions", "shop:app", *END).returncode == 0


def test_what_the_app_prints_is_not_in_the_answer(shop):
    ran = msal_logout(shop, "end-sessions", "shop:app", *END)
    assert "the app is starting" not in ran.stdout
    assert "the app is starting" in ran.stderr


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("shop", "'shop' must be module:name, such as shop.web:app"),
        (":app", "':app' must be module:name"),
        ("shop.py:app", "shop.py is a file; name the module: shop:app"),
        ("./web/shop.py:app", "name the module: web.shop:app"),
        ("shopp:app", "there is no module shopp in "),
        ("shop.web:app", "there is no module shop.web in "),
        ("shop:ap", "shop has no ap; shop has logout"),
        ("shop:site.door", "Site has no door"),
        ("shop:other", "shop:other is of type Flask and leads to no Logout"),
        ("shop:create_app", "is of type function and leads to no Logout"),
        ("shop:site()", "a Site cannot be called; leave out the ()"),
        ("shop:create_app_of()", "calling create_app_of() failed with TypeError"),
    ],
)
def test_wrong_import_path_is_told_in_one_sentence(shop, name, sentence):
    (shop / "shop.py").write_text(FLASK + WRAPPED + LAYERED)
    ran = msal_logout(shop, "doctor", name)
    said = ran.stderr.replace("the app is starting\n", "")
    assert (ran.returncode, ran.stdout, said.count("\n")) == (2, "", 1)
    assert said.startswith("msal-logout: ")
    assert sentence in said


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import os\nos.environ['NO_SUCH_NAME']", "failed with KeyError: 'NO_SUCH_NAME' (shop.py, line 2)"),
        ("import no_such_module", "failed with ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit", "importing shop failed with SystemExit (shop.py, line 1)"),
        ("def", "failed with SyntaxError"),
    ],
)
def test_app_that_cannot_be_imported_is_told_in_one_sentence(shop, source, sentence):
    (shop / "shop.py").write_text(source)
    ran = msal_logout(shop, "doctor", "shop:app")
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert sentence in ran.stderr


def test_commands_are_told():
    ran = msal_logout(None, "--help")
    assert ran.returncode == 0
    assert "end-sessions" in ran.stdout
    assert "doctor" in ran.stdout


def test_no_command_is_an_error():
    assert msal_logout(None).returncode == 2


SESSIONLESS = STARLETTE.replace("    session=ASGISession(app),\n", "")


def test_logout_without_a_session_finds_it_in_the_app_of_its_module(shop):
    (shop / "shop.py").write_text(SESSIONLESS)
    ran = msal_logout(shop, "end-sessions", "shop:logout", *END)
    assert (ran.returncode, ran.stdout.splitlines()[0]) == (0, "0 sessions would end.")


@pytest.mark.parametrize(
    ("taken_out", "sentence"),
    [
        (
            "app.add_middleware(LogoutMiddleware, logout=logout)",
            "shop:logout has no session=, and shop has no app to find it in; name the app instead",
        ),
        (
            f"app.add_middleware(SessionMiddleware, secret_key={SECRET!r}, https_only=True)",
            "shop:logout: the app has no session middlewares",
        ),
    ],
)
def test_logout_whose_session_cannot_be_found_is_told_in_one_sentence(shop, taken_out, sentence):
    assert taken_out in SESSIONLESS
    (shop / "shop.py").write_text(SESSIONLESS.replace(taken_out, ""))
    ran = msal_logout(shop, "end-sessions", "shop:logout", *END)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert sentence in ran.stderr
