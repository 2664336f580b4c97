"""`msal-logout end-sessions`: sessions end, and their tokens go, from outside the app."""

import os

import pytest

from msal_logout_middleware import Logout, LogoutError, Provider, SQLiteStore
from tests.cli import ASYNCHRONOUS, FLASK, SECRET, STARLETTE, as_json, msal_logout
from tests.tokens import cache_of, claims_of

ALICE = claims_of("alice", sid="sid-of-alice")
BOB = claims_of("bob", sid="sid-of-bob")
WHO = {
    "sid": ["--sid", ALICE["sid"]],
    "sid and iss": ["--sid", ALICE["sid"], "--iss", ALICE["iss"]],
    "sub and iss": ["--sub", ALICE["sub"], "--iss", ALICE["iss"]],
    "oid and tid": ["--oid", ALICE["oid"], "--tid", ALICE["tid"]],
}


class CookieSession:
    """Sessions of cookies that nobody brings."""

    server_side = False
    cookies = ()
    secret = SECRET

    def read(self, cookie_header):
        return None

    def load(self, session_id):
        return None

    def delete(self, session_id):
        return None


@pytest.fixture
def logout(shop):
    """The same `Logout` as one of the app's workers has it, with Alice and Bob signed in."""
    logout = Logout(
        provider=Provider.from_metadata({}, "shop"),
        session=CookieSession(),
        store=SQLiteStore(shop / "logout.db"),
        post_logout_redirect_uri="https://shop.example.com/",
    )
    for claims in (ALICE, {**ALICE, "iat": 1_700_000_001}, BOB):
        logout.signed_in(claims)
    for claims in (ALICE, BOB):
        key = logout.cache_key(claims)
        assert logout.store.replace(key, logout.store.load(key).version, cache_of(claims).encode())
    yield logout
    logout.store.close()


def tokens_of(logout, claims):
    return logout.store.load(logout.cache_key(claims)).data


@pytest.mark.parametrize("source", [None, STARLETTE], ids=["Flask", "Starlette"])
@pytest.mark.parametrize("who", WHO.values(), ids=WHO)
def test_sessions_end_and_their_tokens_go_and_nobody_elses(shop, logout, who, source):
    if source:
        (shop / "shop.py").write_text(source)
    ran = msal_logout(shop, "end-sessions", "shop:app", *who, "--json")
    assert ran.returncode == 0, ran.stderr
    told = as_json(ran)
    assert (told["sessions"], told["left"], told["complete"], told["dry_run"]) == (2, [], True, False)
    assert told["removed"] == {"Account": 1, "AccessToken": 1, "IdToken": 1, "RefreshToken": 1}
    assert logout.count_sessions(sid=ALICE["sid"]) == 0
    assert logout.count_sessions(sid=BOB["sid"]) == 1
    assert tokens_of(logout, ALICE) is None
    assert tokens_of(logout, BOB) is not None


@pytest.mark.parametrize("mode", [[], ["--dry-run"]], ids=["", "dry run"])
def test_asynchronous_store_is_asked_in_an_event_loop(shop, logout, mode):
    imports, app, rest = STARLETTE.partition("app = Starlette()")
    source = imports + ASYNCHRONOUS + app + rest.replace('SQLiteStore("logout.db")', 'Store("logout.db")')
    (shop / "shop.py").write_text(source)
    ran = msal_logout(shop, "end-sessions", "shop:app", *WHO["sid"], *mode, "--json")
    assert (ran.returncode, as_json(ran)["sessions"]) == (0, 2)
    assert logout.count_sessions(sid=ALICE["sid"]) == (2 if mode else 0)


def test_result_is_told_in_sentences(shop, logout):
    ran = msal_logout(shop, "end-sessions", "shop:app", *WHO["sid"])
    assert ran.stdout == (
        "2 sessions ended.\nRemoved from token caches: 1 AccessToken, 1 Account, 1 IdToken, 1 RefreshToken.\n"
    )


def test_dry_run_counts_and_changes_nothing(shop, logout):
    ran = msal_logout(shop, "end-sessions", "shop:app", *WHO["oid and tid"], "--dry-run")
    assert (ran.returncode, ran.stdout) == (0, "2 sessions would end.\n")
    assert logout.count_sessions(sid=ALICE["sid"]) == 2
    assert tokens_of(logout, ALICE) is not None
    assert as_json(msal_logout(shop, "end-sessions", "shop:app", *WHO["sid"], "--dry-run", "--json")) == {
        "dry_run": True,
        "sessions": 2,
        "removed": {},
        "left": [],
        "complete": True,
    }


def test_unknown_user_is_no_error_and_what_may_be_wrong_is_told(shop, logout):
    ran = msal_logout(shop, "end-sessions", "shop:app", "--sid", "nobody")
    assert ran.returncode == 0
    assert ran.stdout.startswith(
        "0 sessions ended.\nIf somebody is signed in, see that this command has the same"
    )


def test_no_identifier_and_no_token_is_printed(shop, logout):
    for arguments in ([*WHO["sid"], "--dry-run"], WHO["sub and iss"], [*WHO["oid and tid"], "--json"]):
        ran = msal_logout(shop, "end-sessions", "shop:app", *arguments)
        for secret in (ALICE["sid"], ALICE["sub"], ALICE["oid"], "at-of", "rt-of", SECRET):
            assert secret not in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "who",
    [
        [],
        ["--oid", "o"],
        ["--tid", "t"],
        ["--iss", "i"],
        ["--sid", ""],
        ["--sid", "s", "--oid", "o", "--tid", "t"],
        ["--sub", "s"],
    ],
    ids=" ".join,
)
def test_it_must_be_said_whose_sessions(shop, logout, who):
    ran = msal_logout(shop, "end-sessions", "shop:logout", *who)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("msal-logout: say whose sessions")
    assert logout.count_sessions(sid=ALICE["sid"]) == 2


def failing(method, error):
    """The source of an app with a store that cannot do one thing."""
    return f"""{FLASK}
class Failing(SQLiteStore):
    def {method}(self, *args):
        raise {error}

logout = Logout(store=Failing("logout.db"), retry_seconds=0.0, **options)
"""


def test_what_is_left_undone_is_told_with_exit_code_1(shop, logout):
    (shop / "shop.py").write_text(failing("replace", "OSError('disk')"))
    ran = msal_logout(shop, "end-sessions", "shop:logout", *WHO["sid"])
    assert ran.returncode == 1
    assert "Left to do: accounts. The log says what failed; the app's workers go on with it." in ran.stdout
    told = as_json(msal_logout(shop, "end-sessions", "shop:logout", *WHO["oid and tid"], "--json"))
    assert (told["left"], told["complete"]) == (["accounts"], False)


def test_sign_out_that_no_worker_knows_of_is_to_be_run_again(shop, logout):
    (shop / "shop.py").write_text(failing("end", "OSError('disk')"))
    ran = msal_logout(shop, "end-sessions", "shop:logout", *WHO["sid"])
    assert ran.returncode == 1
    assert "0 sessions ended." in ran.stdout
    assert "run the command again." in ran.stdout
    assert "go on with it" not in ran.stdout


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("__import__('msal_logout_middleware').StoreError('the disk is full')", "the disk is full"),
        ("ConnectionError('//user:password@host')", "the store raised ConnectionError"),
    ],
)
def test_store_that_cannot_be_asked_is_told_with_exit_code_1(shop, logout, error, said):
    (shop / "shop.py").write_text(failing("find", error))
    ran = msal_logout(shop, "end-sessions", "shop:logout", *WHO["sid"], "--dry-run")
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", f"msal-logout: {said}\n")


@pytest.mark.parametrize("mode", [[], ["--dry-run"]], ids=["", "dry run"])
def test_memory_of_another_process_is_out_of_reach_and_that_is_told(shop, mode):
    (shop / "shop.py").write_text(FLASK + "logout = Logout(store=MemoryStore(), **options)")
    ran = msal_logout(shop, "end-sessions", "shop:logout", *WHO["sid"], *mode)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "in the memory of the app's own process, which no command can reach" in ran.stderr


def test_token_caches_in_the_workers_memory_are_left_to_do(shop, logout):
    source = "import msal\nfrom msal_logout_middleware import Shared\n"
    source += "logout = Logout(store=SQLiteStore('logout.db'), caches=Shared(msal.TokenCache()), **options)"
    (shop / "shop.py").write_text(FLASK + source)
    ran = msal_logout(shop, "end-sessions", "shop:logout", *WHO["sid"], "--json")
    assert ran.returncode == 1
    assert as_json(ran)["left"] == ["accounts in the memory of the app's workers"]
    assert logout.count_sessions(sid=ALICE["sid"]) == 0


def test_store_that_the_app_never_used_is_not_made(shop, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    path = os.pathsep.join(filter(None, [str(shop), os.environ.get("PYTHONPATH")]))
    ran = msal_logout(elsewhere, "end-sessions", "shop:app", *WHO["sid"], PYTHONPATH=path)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "logout.db cannot be found: the app has not used it yet, or runs in another folder" in ran.stderr
    assert list(elsewhere.iterdir()) == []


def test_session_that_ended_by_the_command_is_refused_by_the_app(shop, logout):
    msal_logout(shop, "end-sessions", "shop:app", *WHO["sid"])
    with pytest.raises(LogoutError):
        logout.signed_in(ALICE)
