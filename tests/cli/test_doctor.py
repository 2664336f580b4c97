"""`msal-logout doctor`: what it says of real apps and a real provider."""

import json

import pytest

from msal_logout_middleware import Encryption, SQLiteStore
from msal_logout_middleware.cli.doctor import _encryption
from msal_logout_middleware.testing import EmbeddedProvider
from tests.cli import FLASK, SECRET, WRAPPED, as_json, msal_logout
from tests.tokens import claims_of

CLAIMS = claims_of("alice", sid="sid-of-alice", login_hint="hint-of-alice", aud="shop")

GOOD_STARLETTE = """
from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware
from msal_logout_middleware import Logout, Provider, SQLiteStore
from msal_logout_middleware.asgi import LogoutMiddleware
from msal_logout_middleware.sessions.asgi import ASGISession

app = Starlette()
app.add_middleware(SessionMiddleware, secret_key={secret!r}, https_only=True)
logout = Logout(
    provider=Provider.discover({url!r}, "shop"),
    session=ASGISession(app),
    store=SQLiteStore("logout.db"),
    post_logout_redirect_uri="https://shop.example.com/",
)
app.add_middleware(LogoutMiddleware, logout=logout)
"""
BAD_STARLETTE = """
import secrets
from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware
from msal_logout_middleware import Logout, MemoryStore, Provider, Shared
from msal_logout_middleware.asgi import LogoutMiddleware
from msal_logout_middleware.sessions.asgi import ASGISession
import msal

app = Starlette()
logout = Logout(
    provider=Provider.discover({url!r}, "shop"),
    session=ASGISession(app),
    secret=secrets.token_hex(),
    store=MemoryStore(),
    caches=Shared(msal.TokenCache()),
    session_lifetime_seconds=3600,
    post_logout_redirect_uri="http://localhost:8000/",
    back_channel_path=None,
)
app.add_middleware(LogoutMiddleware, logout=logout)
app.add_middleware(
    SessionMiddleware, secret_key={secret!r}, session_cookie="__Host-s", same_site="none", domain="com", path="/app"
)
"""


@pytest.fixture
def good(shop, provider):
    """An app without a mistake, that has run, and its provider."""
    url = provider.generic.oidc_authority
    (shop / "shop.py").write_text(GOOD_STARLETTE.format(secret=SECRET, url=url))
    (shop / "claims.json").write_text(json.dumps({**CLAIMS, "iss": url}))
    store = SQLiteStore(shop / "logout.db")
    store.open_rows()
    store.close()
    return shop


@pytest.fixture
def entra():
    """Entra ID with one host, as the real one has."""
    with EmbeddedProvider() as provider, provider.trusted():
        yield provider.entra


def of_entra(authority):
    """The source of an app that knows where Entra ID signs out, as `Provider.entra` does."""
    metadata = {"end_session_endpoint": f"{authority}/oauth2/v2.0/logout"}
    return FLASK.replace("from_metadata({}", f"from_metadata({metadata}") + WRAPPED


def levels(told):
    return {finding["check"]: finding["level"] for finding in told["checks"]}


def test_app_without_a_mistake_is_well(good, provider):
    ran = msal_logout(good, "doctor", "shop:app", "--claims", "claims.json", "--json")
    told = as_json(ran)
    assert [finding for finding in told["checks"] if finding["level"] != "ok"] == []
    assert (ran.returncode, told["errors"], told["warnings"]) == (0, 0, 0)
    assert told["app"] == "shop:app"
    assert told["register"] == {
        "post_logout_redirect_uri": "https://shop.example.com/",
        "front_channel_logout_url": "https://shop.example.com/logout/front-channel",
        "back_channel_logout_uri": "https://shop.example.com/logout/back-channel",
    }
    assert told["found"] == {
        "provider": (f"client id shop, {provider.generic.oidc_authority}/.well-known/openid-configuration"),
        "session": "ASGISession, in the cookie",
        "cookies": "session (Path=/, SameSite=Lax, Secure, HttpOnly)",
        "token_caches": "InStore",
        "store": f"SQLiteStore at {good / 'logout.db'}",
        "encryption": "none: token caches are in clear in the store",
        "logout_path": "/logout",
        "front_channel_path": "/logout/front-channel",
        "back_channel_path": "/logout/back-channel",
        "landing_page": "https://shop.example.com/",
    }


@pytest.mark.parametrize(
    ("clear", "said"),
    [("refused", "token caches"), ("read", "token caches, but those in clear"), ("written", "none yet")],
)
def test_encryption_is_told_as_it_is(clear, said):
    assert _encryption(Encryption("k" * 32, clear=clear)).startswith(said)


def test_app_with_every_mistake_has_each_of_them_found(good, provider):
    url = provider.entra.authority  # without /v2.0, as MSAL takes it
    (good / "shop.py").write_text(BAD_STARLETTE.format(secret=SECRET, url=url))
    (good / "claims.json").write_text(json.dumps({"iss": "https://elsewhere.example"}))
    ran = msal_logout(good, "doctor", "shop:app", "--claims", "claims.json", "--json", WEB_CONCURRENCY="4")
    found = levels(as_json(ran))
    assert ran.returncode == 1
    assert {check for check, level in found.items() if level == "error"} >= {
        "middleware",
        "secret",
        "session-lifetime",
        "cookie-same-site",
        "cookie-prefix",
        "cookie-domain",
        "store-shared",
        "token-caches",
        "claims-audience",
        "claims-issuer",
        "claims-unique",
        "provider-issuer",
    }
    assert {check for check, level in found.items() if level == "warning"} >= {
        "cookie-path",
        "claim-sid",
        "urls",
    }


def test_report_for_people_has_everything_and_a_verdict(good, provider):
    ran = msal_logout(good, "doctor", "shop:app", "--claims", "claims.json", COLUMNS="80")
    assert ran.stdout.startswith("msal-logout doctor: shop:app\n\nFound\n")
    assert "\n  front_channel_logout_url  https://shop.example.com/logout/front-channel\n" in ran.stdout
    assert "\n  ok       clock " in ran.stdout
    assert ran.stdout.endswith("\nAll is well.\n")
    table = ran.stdout.partition("\nChecks\n")[2]
    assert max(len(line) for line in table.splitlines() if "http" not in line) <= 80


def test_what_to_do_stands_below_what_was_seen(good):
    ran = msal_logout(good, "doctor", "shop:logout", COLUMNS="100")
    lines = ran.stdout.splitlines()
    place = next(number for number, line in enumerate(lines) if " middleware " in line)
    assert (
        " ".join(lines[place].split())
        == "skipped middleware not looked at, since the Logout itself was named"
    )
    assert lines[place + 1].strip() == "-> name the app that your server runs instead"


def test_warnings_and_errors_are_counted(good):
    app = FLASK.replace("options = dict(", "options = dict(back_channel_path=None,") + WRAPPED
    (good / "shop.py").write_text(app.replace("SESSION_COOKIE_SECURE=True", ""))
    ran = msal_logout(good, "doctor", "shop:app")
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (0, "2 warnings.")
    (good / "shop.py").write_text(app.replace("SECURE=True", "SAMESITE='None'"))
    ran = msal_logout(good, "doctor", "shop:app")
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (1, "1 error, 2 warnings.")


def test_narrow_terminal_is_not_wrapped_to_shreds(good):
    ran = msal_logout(good, "doctor", "shop:app", COLUMNS="30")
    assert "LogoutMiddleware is outside of everything that keeps sessions" in ran.stdout


def test_provider_that_is_away_is_a_warning_and_the_rest_is_told(good, provider):
    provider.gone()
    ran = msal_logout(good, "doctor", "shop:app", "--claims", "claims.json", "--json")
    told = as_json(ran)
    found = levels(told)
    assert (ran.returncode, found["provider-metadata"], found["clock"]) == (0, "warning", "skipped")
    assert found["store-access"] == "ok"
    assert "back_channel_logout_uri" in told["register"]  # nobody knows that there is none


def test_entra_is_told_of_no_back_channel_logout_and_how_to_configure_claims(good, entra):
    (good / "shop.py").write_text(of_entra(entra.authority))
    told = as_json(msal_logout(good, "doctor", "shop:app", "--json"))
    found = {finding["check"]: finding for finding in told["checks"]}
    assert found["end-session-endpoint"]["level"] == found["provider-issuer"]["level"] == "ok"
    assert "Entra ID has none" in found["back-channel-logout"]["seen"]
    assert "back_channel_logout_uri" not in told["register"]
    assert "Add optional claim" in found["claim-sid"]["to_do"]


def test_tenant_that_does_not_exist_is_an_error(good, entra):
    (good / "shop.py").write_text(of_entra(entra.authority_of("no-such-tenant")))
    told = as_json(msal_logout(good, "doctor", "shop:app", "--json"))
    (finding,) = [finding for finding in told["checks"] if finding["check"] == "provider-metadata"]
    assert (finding["level"], "answers 400" in finding["seen"]) == ("error", True)


def test_url_of_a_mounted_app_leads_to_the_urls_to_register(good):
    told = as_json(msal_logout(good, "doctor", "shop:app", "--json", "--url", "https://example.com/shop"))
    assert told["register"]["front_channel_logout_url"] == "https://example.com/shop/logout/front-channel"


def test_claims_may_come_by_standard_input_and_are_not_printed(good):
    ran = msal_logout(good, "doctor", "shop:app", "--claims", "-", given=json.dumps(CLAIMS))
    assert "another provider" in ran.stdout
    for claim in ("sid", "sub", "oid", "login_hint"):
        assert CLAIMS[claim] not in ran.stdout + ran.stderr
    assert SECRET not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--claims", "none.json"], "none.json cannot be read: No such file or directory"),
        (["--claims", "token.txt"], "token.txt holds neither claims, as a JSON object, nor an ID token"),
        (["--url", "example.com"], "--url=example.com must be an absolute URL"),
    ],
)
def test_wrong_argument_is_told_in_one_sentence_without_the_token(good, arguments, sentence):
    (good / "token.txt").write_text("eyJzZWNyZXQ.secret")
    ran = msal_logout(good, "doctor", "shop:app", *arguments)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert sentence in ran.stderr
    assert "eyJ" not in ran.stderr


def test_session_engine_that_is_away_is_an_error_and_is_not_quoted(good):
    away = """
class Away(FlaskSession):
    def load(self, session_id):
        raise ConnectionError("redis://:password@localhost")

options["session"] = Away(app)
"""
    (good / "shop.py").write_text(FLASK + away + WRAPPED)
    ran = msal_logout(good, "doctor", "shop:app", "--json")
    (finding,) = [finding for finding in as_json(ran)["checks"] if finding["check"] == "session"]
    assert (finding["level"], finding["seen"]) == ("error", "the session engine raised ConnectionError")
    assert "password" not in ran.stdout + ran.stderr


def test_app_without_a_session_middleware_is_an_error(good):
    source = (good / "shop.py").read_text()
    (good / "shop.py").write_text(
        f"{source}\napp.user_middleware.pop()\n".replace("session=", "secret='s' * 32, session=")
    )
    told = as_json(msal_logout(good, "doctor", "shop:app", "--json"))
    found = {finding["check"]: finding for finding in told["checks"]}
    assert found["session"]["level"] == "error"
    assert "no session middlewares" in found["session"]["seen"]
    assert found["cookie-secure"]["level"] == "skipped"


def test_app_that_starts_only_once_has_its_secret_not_compared(good):
    once = "from pathlib import Path\nPath('started').mkdir()\n"
    (good / "shop.py").write_text(once + (good / "shop.py").read_text())
    assert levels(as_json(msal_logout(good, "doctor", "shop:app", "--json")))["secret"] == "skipped"


def test_what_a_hook_of_the_app_prints_is_not_in_the_answer(good):
    noisy = """
class Noisy(SQLiteStore):
    def load(self, key):
        print("loading")
        return super().load(key)

SQLiteStore = Noisy
"""
    (good / "shop.py").write_text(FLASK + noisy + WRAPPED)
    ran = msal_logout(good, "doctor", "shop:app", "--json")
    assert json.loads(ran.stdout)
    assert "loading" in ran.stderr


DJANGO = """
import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from msal_logout_middleware import Logout, Provider, SQLiteStore

settings.configure(
    DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3"}}}},
    INSTALLED_APPS=["django.contrib.sessions"],
    MIDDLEWARE=[
        "msal_logout_middleware.django.LogoutMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
    ],
    MSAL_LOGOUT="shop:logout",
    ROOT_URLCONF="shop",
    SECRET_KEY={secret!r},
)
django.setup()
if {migrated}:
    call_command("migrate", verbosity=0)
logout = Logout(
    provider=Provider.discover({url!r}, "shop"),
    store=SQLiteStore("logout.db"),
    post_logout_redirect_uri="https://shop.example.com/",
)
app = get_wsgi_application()
"""


@pytest.mark.parametrize(("migrated", "level"), [(True, "ok"), (False, "error")])
def test_django_project_is_seen_through_its_settings(shop, provider, migrated, level):
    source = DJANGO.format(secret=SECRET, url=provider.generic.oidc_authority, migrated=migrated)
    (shop / "shop.py").write_text(source)
    told = as_json(msal_logout(shop, "doctor", "shop:app", "--json"))
    assert (levels(told)["middleware"], levels(told)["session"]) == ("ok", level)
    assert told["found"]["session"] == "DjangoSession, on the server"
    (lifetime,) = [finding for finding in told["checks"] if finding["check"] == "session-lifetime"]
    assert (lifetime["level"], "sessions live for 14 days" in lifetime["seen"]) == ("ok", True)
