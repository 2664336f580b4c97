"""`msal-logout reencrypt`: all token caches come under the first key, from outside the app."""

import pytest

from msal_logout_middleware import Encryption, SQLiteStore
from msal_logout_middleware.stores.redis import RedisStore
from tests.cli import FLASK, STARLETTE, as_json, msal_logout
from tests.stores.servers import clustered, serving

OLD, NEW = "the old key of the shop, which has 32 bytes", "the new key of the shop, which has 32 bytes"
TOKENS = b'{"RefreshToken": {"key": {"secret": "rt-of-alice"}}}'


def with_store(store, source=FLASK):
    return f"""{source}
from msal_logout_middleware import Encryption, InStore
logout = Logout({store}, **options)
"""


def encrypted(arguments):
    return with_store(f"store=SQLiteStore('logout.db', encryption=Encryption({arguments}))")


@pytest.fixture
def shop(shop):
    """An app that has the new key before the old, with one token cache under each, and one in clear."""
    (shop / "shop.py").write_text(encrypted(f"[{NEW!r}, {OLD!r}]"))
    for name, encryption in (("clear", None), ("old", Encryption(OLD)), ("new", Encryption(NEW))):
        store = SQLiteStore(shop / "logout.db", encryption=encryption)
        assert store.replace(name, "", TOKENS)
        store.close()
    return shop


@pytest.fixture
def rotated(shop):
    """The store, as an app that has the new key only opens it."""
    store = SQLiteStore(shop / "logout.db", encryption=Encryption(NEW))
    yield store
    store.close()


def test_old_key_is_of_no_use_afterwards(shop, rotated):
    (shop / "shop.py").write_text(encrypted(f"[{NEW!r}, {OLD!r}], clear='read'"))
    ran = msal_logout(shop, "reencrypt", "shop:logout")
    assert (ran.returncode, ran.stdout) == (
        0,
        "2 token caches brought under the first key; 1 there already.\n",
    ), ran.stderr
    assert {rotated.load(name).data for name in ("clear", "old", "new")} == {TOKENS}


def test_dry_run_counts_and_changes_nothing(shop, rotated):
    ran = msal_logout(shop, "reencrypt", "shop:logout", "--dry-run")
    assert ran.stdout.startswith("1 token cache would be brought under the first key; 1 there already.\n")
    assert rotated.load("old").data is None


def test_what_is_decrypted_is_not_said_to_be_under_a_key(shop):
    (shop / "shop.py").write_text(encrypted(f"[{NEW!r}, {OLD!r}], clear='written'"))
    ran = msal_logout(shop, "reencrypt", "shop:logout", "--dry-run")
    assert ran.stdout == '2 token caches would be decrypted, as clear="written" says; 1 in clear already.\n'
    ran = msal_logout(shop, "reencrypt", "shop:logout")
    assert ran.stdout == '2 token caches decrypted, as clear="written" says; 1 in clear already.\n'


def test_what_no_key_opens_is_told_with_exit_code_1(shop, rotated):
    ran = msal_logout(shop, "reencrypt", "shop:logout")
    assert ran.returncode == 1
    assert 'No key opens 1 token cache: add the key that is missing, or clear="read"' in ran.stdout
    assert as_json(msal_logout(shop, "reencrypt", "shop:logout", "--json")) == {
        "dry_run": False,
        "current": 2,
        "reencrypted": 0,
        "unopened": 1,
        "left": 0,
        "complete": False,
    }
    assert rotated.load("old").data == TOKENS


def test_row_that_others_keep_writing_is_told_with_exit_code_1(shop):
    source = encrypted(f"[{NEW!r}, {OLD!r}], clear='read'")
    source = source.replace("logout = ", "SQLiteStore.replace_row = lambda *a: False\nlogout = ")
    (shop / "shop.py").write_text(source)
    ran = msal_logout(shop, "reencrypt", "shop:logout")
    assert ran.returncode == 1
    assert "Others kept writing 2 token caches: run the command again." in ran.stdout


def test_other_store_of_token_caches_is_gone_over(shop):
    store = SQLiteStore(shop / "caches.db", encryption=Encryption(OLD))
    store.replace("alice", "", TOKENS)
    store.close()
    source = with_store(
        "store=SQLiteStore('logout.db'),"
        f"caches=InStore(SQLiteStore('caches.db', encryption=Encryption([{NEW!r}, {OLD!r}])))"
    )
    (shop / "shop.py").write_text(source)
    assert as_json(msal_logout(shop, "reencrypt", "shop:logout", "--json"))["reencrypted"] == 1


MAKES = {
    "a URL": "'{url}'",
    "an asyncio client": "redis.asyncio.Redis.from_url('{url}')",
    "a cluster's asyncio client": "redis.asyncio.cluster.RedisCluster.from_url('{url}')",
}


def with_redis(url, arguments, made_of="a URL"):
    made = MAKES[made_of].format(url=url)
    source = STARLETTE.replace(
        'SQLiteStore("logout.db")', f"RedisStore({made}, prefix='shop', encryption=Encryption({arguments}))"
    )
    return f"""
import redis.asyncio.cluster
from msal_logout_middleware import Encryption
from msal_logout_middleware.stores.redis import RedisStore
{source}
"""


@pytest.mark.parametrize("made_of", MAKES)
def test_token_caches_on_a_redis_server_come_under_the_first_key(shop, made_of):
    pytest.importorskip("redis", reason="no client: install redis")
    with clustered() as (server,):
        (shop / "shop.py").write_text(with_redis(server.url, f"[{NEW!r}, {OLD!r}], clear='read'", made_of))
        for name, encryption in (("clear", None), ("old", Encryption(OLD)), ("new", Encryption(NEW))):
            assert RedisStore(server.url, prefix="shop", encryption=encryption).replace(name, "", TOKENS)
        closes_no_client = {"PYTHONWARNINGS": "error,ignore::ResourceWarning"}  # which the app has made
        ran = msal_logout(shop, "reencrypt", "shop:logout", **closes_no_client)
        assert (ran.returncode, ran.stdout, ran.stderr) == (
            0,
            "2 token caches brought under the first key; 1 there already.\n",
            "",
        )
        rotated = RedisStore(server.url, prefix="shop", encryption=Encryption(NEW))
        assert {rotated.load(name).data for name in ("clear", "old", "new")} == {TOKENS}
        rotated.close()


def test_redis_server_that_is_down_is_told_in_a_sentence(shop):
    pytest.importorskip("redis", reason="no client: install redis")
    with serving() as gone:
        url = gone.url
    (shop / "shop.py").write_text(with_redis(url, repr(NEW)))
    ran = msal_logout(shop, "reencrypt", "shop:logout")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "the store's server cannot be reached" in ran.stderr


@pytest.mark.parametrize(
    ("source", "exit_code", "said"),
    [
        (with_store("store=SQLiteStore('logout.db')"), 2, "the SQLiteStore has no encryption="),
        (with_store("store=MemoryStore()"), 1, "no command can reach"),
        (with_store("store=SQLiteStore('elsewhere.db')"), 1, "elsewhere.db cannot be found"),
        (with_store("store=SQLiteStore('logout.db'), caches=InSession()"), 2, "are kept by InSession"),
        (
            encrypted(repr(NEW)).replace("logout = ", "SQLiteStore.rows = None\nlogout = "),
            2,
            "the SQLiteStore cannot be gone over: it has no rows, load_row, replace_row",
        ),
        (
            encrypted(repr(NEW)).replace("logout = ", "SQLiteStore.rows = lambda *a, **k: 1 / 0\nlogout = "),
            1,
            "the store raised ZeroDivisionError",
        ),
        (STARLETTE.replace("logout.db", "nowhere.db"), 1, "nowhere.db cannot be found"),
    ],
    ids=["no key", "memory", "never used", "in the session", "no rows", "engine", "app"],
)
def test_what_cannot_be_done_is_told_in_a_sentence(shop, source, exit_code, said):
    (shop / "shop.py").write_text(source)
    ran = msal_logout(shop, "reencrypt", "shop:logout")
    assert (ran.returncode, ran.stdout) == (exit_code, "")
    assert said in ran.stderr


def test_damaged_store_is_told_in_its_own_words(shop):
    (shop / "logout.db").write_bytes(b"not a database" * 100)
    for log in shop.glob("logout.db-*"):
        log.unlink()
    ran = msal_logout(shop, "reencrypt", "shop:logout")
    assert ran.returncode == 1
    assert "is not an SQLite database" in ran.stderr


def test_nothing_secret_is_printed(shop):
    for mode in ([], ["--json"], ["--dry-run"]):
        ran = msal_logout(shop, "reencrypt", "shop:logout", *mode)
        for secret in (OLD, NEW, "rt-of-alice"):
            assert secret not in ran.stdout + ran.stderr
