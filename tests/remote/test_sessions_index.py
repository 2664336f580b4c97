"""Ending sessions by call, counting them, telling of sign-ins, and what becomes of a user's other sessions."""

from __future__ import annotations

import json
from functools import partial

import anyio
import pytest
from msal import SerializableTokenCache

from msal_logout_middleware._drive import settle
from msal_logout_middleware.caches import InSession, InStore, Shared
from msal_logout_middleware.errors import LogoutError
from msal_logout_middleware.events import LogoutEnded
from msal_logout_middleware.stores.memory import MemoryStore
from tests.remote.conftest import signing_in
from tests.remote.faults import Faulty
from tests.sites import KINDS, Site
from tests.tokens import cache_of, claims_of

ANN = claims_of("ann")
WHO = {
    "iss and sid": {"iss": ANN["iss"], "sid": "a-session"},
    "sid": {"sid": "a-session"},
    "iss and sub": {"iss": ANN["iss"], "sub": ANN["sub"]},
    "iss, sid and sub": {"iss": ANN["iss"], "sub": ANN["sub"], "sid": "a-session"},
    "oid and tid": {"oid": ANN["oid"], "tid": ANN["tid"]},
}
WHO_ELSE = {
    "another sid": {"sid": "A-Session"},
    "another iss with the sid": {"iss": "https://another.example", "sid": "a-session"},
    "another iss with the sub": {"iss": "https://another.example", "sub": ANN["sub"]},
    "another's sub with the sid": {"iss": ANN["iss"], "sub": "sub-of-bob", "sid": "a-session"},
    "another sid with the sub": {"iss": ANN["iss"], "sub": ANN["sub"], "sid": "another"},
    "another tid with the oid": {"oid": ANN["oid"], "tid": "another"},
    "sub as sid": {"sid": ANN["sub"]},
}


async def reads(site, cookie_header):
    return await settle(site.session.read(cookie_header))


def in_turn(site):
    """The calls of both worlds, as functions."""
    logout = site.logout
    return [
        (logout.count_sessions, logout.end_sessions),
        (
            lambda **who: anyio.run(partial(logout.acount_sessions, **who)),
            lambda **who: anyio.run(partial(logout.aend_sessions, **who)),
        ),
    ]


class TestEndSessions:
    @pytest.mark.parametrize("world", [0, 1], ids=["sync", "async"])
    @pytest.mark.parametrize("who", WHO)
    def test_sessions_are_counted_ended_and_their_accounts_removed(self, site, sites_store, who, world):
        sites_store(site).build()
        count, end = in_turn(site)[world]
        claims = signing_in("ann")
        ann, second, bob = (site.sign_in(c) for c in (claims, signing_in("ann"), signing_in("bob", "b")))

        assert count(**WHO[who]) == 2
        ended = end(**WHO[who])

        assert (ended.sessions, ended.complete, ended.left) == (2, True, ())
        assert ended.removed["RefreshToken"] == 1
        assert count(**WHO[who]) == 0
        assert [site.user(each) for each in (ann, second, bob)] == [None, None, "sub-of-bob"]
        assert site.cache(claims) is None
        assert site.cache(claims_of("bob"))
        assert site.store.open_rows() == 0
        assert [e.channel for e in site.events if isinstance(e, LogoutEnded)] == ["admin"]

    @pytest.mark.parametrize("who", WHO_ELSE)
    def test_nobody_else_is_touched(self, either_door, who):
        site = either_door.build()
        claims = signing_in("ann")
        ann = site.sign_in(claims)
        assert site.logout.count_sessions(**WHO_ELSE[who]) == 0
        ended = site.logout.end_sessions(**WHO_ELSE[who])
        assert (ended.sessions, ended.complete) == (0, True)
        assert site.user(ann) == "sub-of-ann"
        if "oid" not in WHO_ELSE[who]:
            assert site.cache(claims)

    @pytest.mark.parametrize(
        "who",
        [
            {},
            {"iss": ANN["iss"]},
            {"sub": ANN["sub"]},
            {"oid": ANN["oid"]},
            {"tid": ANN["tid"]},
            {"oid": ANN["oid"], "tid": ANN["tid"], "sid": "a-session"},
            {"sid": ""},
            {"iss": ANN["iss"], "sub": ""},
        ],
        ids=repr,
    )
    def test_call_that_does_not_say_whose_is_a_mistake(self, either_door, who):
        site = either_door.build()
        for count, end in in_turn(site):
            for call in (count, end):
                with pytest.raises(ValueError, match=r"=|whose"):
                    call(**who)

    def test_user_without_a_session_loses_their_accounts_all_the_same(self, either_door):
        """An administrator wants the tokens gone, whoever is signed in."""
        site = either_door.build()
        site.keep_tokens(claims := claims_of("ann"))
        ended = site.logout.end_sessions(oid=ANN["oid"], tid=ANN["tid"])
        assert ended.removed["RefreshToken"] == 1
        assert site.cache(claims) is None

    def test_what_could_not_be_done_is_told(self, either_door):
        site = either_door
        site.store = Faulty(MemoryStore())
        site.build()
        site.sign_in(signing_in("ann"))
        site.store.away = {"replace"}
        ended = site.logout.end_sessions(sid="a-session")
        assert (ended.complete, ended.left) == (False, ("accounts",))
        assert site.store.open_rows() == 1

    def test_every_user_within_one_session_of_the_provider_loses_their_accounts(self, either_door):
        """Where all users share one token cache, there is no key that tells them apart."""
        cache = SerializableTokenCache()
        cache.deserialize(cache_of(claims_of("ann"), claims_of("bob")))
        site = either_door.build(caches=Shared(cache))
        for name in ("ann", "bob"):
            site.sign_in(signing_in(name), cache=False)
        site.logout.end_sessions(sid="a-session")
        assert not list(cache.search(cache.CredentialType.ACCOUNT))

    def test_every_session_loses_its_own_token_cache(self, either_door):
        """And an administrator who names the user only does not know under which keys they are."""
        site = either_door
        site.build(caches=InStore(site.store, cache_key=lambda claims: claims["nonce"]))
        everybody = [signing_in("ann", "one"), signing_in("ann", "two")]
        for claims in everybody:
            site.sign_in(claims, cache=False)
            assert site.store.replace(claims["nonce"], "", cache_of(claims).encode())
        ended = site.logout.end_sessions(iss=ANN["iss"], sub=ANN["sub"])
        assert (ended.sessions, ended.left, ended.removed["RefreshToken"]) == (2, (), 2)
        assert [site.store.load(claims["nonce"]).data for claims in everybody] == [None, None]
        again = site.logout.end_sessions(iss=ANN["iss"], sub=ANN["sub"])
        assert (again.sessions, again.left) == (0, ())

    def test_session_whose_cache_key_cannot_be_told_ends_and_its_tokens_are_what_is_left(self, either_door):
        site = either_door
        site.build(caches=InStore(site.store, cache_key=lambda claims: claims["no such claim"]))
        ann = site.sign_in(signing_in("ann"), cache=False)
        assert site.user(ann) == "sub-of-ann"
        ended = site.logout.end_sessions(sid="a-session")
        assert (ended.sessions, ended.left) == (1, ("accounts",))
        assert site.user(ann) is None

    def test_tokens_of_the_users_other_sessions_stay_where_one_is_named_that_is_unknown(self, either_door):
        site = either_door
        site.build(caches=InStore(site.store, cache_key=lambda claims: claims["sub"]))
        ann = site.sign_in(claims := signing_in("ann"), cache=False)
        assert site.store.replace(ANN["sub"], "", cache_of(claims).encode())
        ended = site.logout.end_sessions(iss=ANN["iss"], sub=ANN["sub"], sid="another")
        assert (ended.sessions, ended.left) == (0, ())
        assert site.store.load(ANN["sub"]).data
        assert site.user(ann) == "sub-of-ann"

    def test_tokens_in_each_of_the_sessions_are_counted(self, server_side_site):
        site = server_side_site.build(caches=InSession("tokens"))
        site.does["acquire"] = lambda session: session.update(tokens=cache_of(claims_of("ann")))
        for _ in range(2):
            site.sign_in(signing_in("ann"), cache=False).get("/does/acquire")
        assert site.logout.end_sessions(sid="a-session").removed["RefreshToken"] == 2

    def test_tokens_in_the_sessions_go_with_them(self, server_side_site):
        site = server_side_site.build(caches=InSession("tokens"))
        site.sign_in(signing_in("ann"), cache=False)
        site.logout.end_sessions(sid="a-session")
        assert "sub-of-ann" not in repr(dict(site.records))


class TestOtherSessions:
    """Signed out here; what of the same user's sessions in other browsers?"""

    @pytest.mark.parametrize(("option", "user"), [("keep", "sub-of-ann"), ("end", None)])
    def test_they_stay_or_end_by_option(self, site, option, user):
        site.build(other_sessions=option)
        claims = signing_in("ann")
        here, elsewhere = site.sign_in(claims), site.sign_in(signing_in("ann", "another"))
        bob = site.sign_in(signing_in("bob", "b"))
        here.get("/logout")
        assert site.user(elsewhere) == user
        assert site.user(bob) == "sub-of-bob"
        # The token cache is kept per user: it is empty for both, and the other must ask for tokens anew.
        assert site.cache(claims) is None

    def test_one_that_is_somebody_elses_by_now_goes_on(self, server_side_site):
        site = server_side_site.build(other_sessions="end")
        here, taken_over = site.sign_in(signing_in("ann")), site.sign_in(signing_in("ann", "another"))
        bob = site.sign_in(signing_in("bob", "b"))

        def record_of(browser):
            return next(name for name in site.records if browser.cookies[site.cookie_name] in name)

        # Bob signs in under the id of Ann's second session, at a place where no answer shows it.
        site.records[record_of(taken_over)] = site.records[record_of(bob)]
        assert here.get("/logout").status == 303
        assert site.user(taken_over) == "sub-of-bob"

    def test_those_that_cannot_be_looked_at_end_when_they_can(self, server_side_site):
        site = server_side_site.build(other_sessions="end", wrap=Faulty)
        here, elsewhere = site.sign_in(signing_in("ann")), site.sign_in(signing_in("ann", "another"))
        site.session.away.add("load")
        assert here.get("/logout").status == 503
        site.session.away.clear()
        site.tidy()
        assert site.user(elsewhere) is None


class TestSignedIn:
    """For an app whose sign-in cannot be seen in an answer."""

    @pytest.fixture(params=["sync", "async"])
    def tells(self, request):
        def tell(site, *args, **more):
            if request.param == "sync":
                return site.logout.signed_in(*args, **more)
            return anyio.run(partial(site.logout.asigned_in, *args, **more))

        return tell

    def test_session_is_found_by_what_the_app_tells(self, site, tells):
        site.build()
        claims = {name: value for name, value in signing_in("ann").items() if name != "sid"}
        ann = site.sign_in(claims)
        session = anyio.run(reads, site, f"{site.cookie_name}={ann.cookies[site.cookie_name]}")
        assert site.logout.count_sessions(sid="told") == 0
        tells(site, claims, session_id=session.id, sid="told")
        site.front_channel(sid="told")
        assert site.user(ann) is None

    def test_claims_that_any_sign_in_may_have_are_a_mistake(self, either_door, tells):
        site = either_door.build()
        with pytest.raises(LogoutError, match="iat"):
            tells(site, {"iss": ANN["iss"], "sub": ANN["sub"]})

    def test_session_that_has_ended_is_not_revived(self, either_door, tells):
        site = either_door.build()
        claims = signing_in("ann")
        ann = site.sign_in(claims)
        site.front_channel(sid="a-session")
        with pytest.raises(LogoutError, match="ended"):
            tells(site, claims)
        assert site.user(ann) is None


class TestRecords:
    @pytest.mark.parametrize("kind", KINDS)
    def test_record_is_gone_with_the_session(self, kind):
        site = Site(kind, KINDS[kind]).build()
        site.sign_in(signing_in("ann"))
        site.front_channel(sid="a-session")
        assert site.logout.count_sessions(sid="a-session") == 0

    def test_store_sees_no_identifier(self, site):
        """Its keys are keyed hashes, and what it keeps is sealed."""
        written = []

        class Watched(Faulty):
            def __getattr__(self, name):
                found = super().__getattr__(name)

                def call(*args, **kwargs):
                    written.append(repr((args, kwargs, [getattr(arg, "data", b"") for arg in args])))
                    return found(*args, **kwargs)

                return call if callable(found) else found

        site.store = Watched(MemoryStore())
        site.build()
        claims = signing_in("ann", "sid-of-ann-s-session")
        ann = site.sign_in(claims, cache=False)
        site.user(ann)
        site.front_channel(sid=claims["sid"])
        said = "".join(
            line for line in written if claims["oid"] + "." not in line
        )  # the cache key is the app's
        assert "handle" in said
        for secret in (
            claims["sid"],
            claims["sub"],
            claims["nonce"],
            ann.cookies.get(site.cookie_name, "a cookie"),
        ):
            assert secret not in said

    def test_record_expires_with_the_sessions_lifetime(self, either_door):
        now = [1_000_000_000.0]
        site = either_door
        site.store = MemoryStore(clock=lambda: now[0])
        site.build(session_lifetime_seconds=60.0)
        site.sign_in(signing_in("ann"))
        assert site.logout.count_sessions(sid="a-session") == 1
        now[0] += 10**10
        assert site.logout.count_sessions(sid="a-session") == 0


def test_rotated_secret_loses_no_session(site):
    """The first secret writes, all of them find."""
    site.build(secret=["the first secret of them"])
    ann = site.sign_in(signing_in("ann"))
    copy = site.copy(ann)
    site.logout, site.door = site.worker(secret=["the next secret of them", "the first secret of them"])
    copy.site = site.door
    assert site.user(copy) == "sub-of-ann"
    site.front_channel(sid="a-session")
    copy.cookies = dict(ann.cookies)
    assert site.user(copy) is None
    assert json.loads(site.browser().get("/me").body) == {"user": None}
