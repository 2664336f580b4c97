"""What a whole store must do: token caches, the session index, ended marks, the journal."""

# ruff: noqa: S101, D102 - these are tests: they assert, and their names are their documentation.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ..._drive import MaybeAwaitable, settle
from ...stores import Ended, Ending, Jti, KeyMark, Mark, SessionIndex, SessionRecord, Store
from .calls import CALLERS, Clock, at_once, bound, write
from .token_caches import TokenCacheStoreContract

_HOUR = 3_600.0


class StoreContract(TokenCacheStoreContract):
    """What a whole store must do: token caches, the session index, ended marks, the journal, `jti`s.

    Subclass it with a `store` fixture that gives an empty store whose times come from the `clock` fixture:

        class TestMyStore(StoreContract):
            @pytest.fixture
            def store(self, clock):
                return MyStore(clock=clock)
    """

    @pytest.fixture
    def clock(self) -> Clock:
        """Return the clock that the store is to be given."""
        return Clock()

    def record(self, handle: str, session: str = "session", **changes: Any) -> SessionRecord:
        """Return a record of a session that lives for an hour."""
        values: dict[str, Any] = {
            "handle": handle,
            "session": session,
            "keys": ("sid", "sub"),
            "issued_at": Clock().now,
            "data": b"\0sealed\xff",
            "expires_at": Clock().now + _HOUR,
        }
        return SessionRecord(**{**values, **changes})

    def ending(self, **changes: Any) -> Ending:
        """Return an ending whose marks last for an hour."""
        return Ending(**{"expires_at": Clock().now + _HOUR, **changes})

    # Recording

    async def test_recorded_session_is_found_by_handle_and_by_every_key(self, store: Store) -> None:
        record = self.record("h")
        assert await settle(store.add(record, sign_in=True))
        assert await settle(store.get("h")) == record
        assert list(await settle(store.find("sid"))) == [record]
        assert list(await settle(store.find("sub"))) == [record]

    async def test_what_was_never_recorded_is_not_found(self, store: Store) -> None:
        await settle(store.add(self.record("h"), sign_in=True))
        assert await settle(store.get("sid")) is None
        assert list(await settle(store.find("h"))) == []

    async def test_handle_that_is_known_stays_as_it_is_when_it_is_seen_for_the_first_time(
        self, store: Store
    ) -> None:
        record = self.record("h")
        await settle(store.add(record, sign_in=True))
        assert await settle(store.add(self.record("h", "other", keys=("new",)), sign_in=False))
        assert await settle(store.get("h")) == record
        assert list(await settle(store.find("new"))) == []

    async def test_sign_in_takes_the_place_of_what_its_handle_was(self, store: Store) -> None:
        await settle(store.add(self.record("h", "a", keys=("old", "sub")), sign_in=True))
        await settle(store.join(self.record("h2", "a", keys=("sub",))))
        new = self.record(
            "h", "b", keys=("new", "sub"), issued_at=5.0, data=b"new", expires_at=Clock().now + 9
        )
        assert await settle(store.add(new, sign_in=True))
        assert await settle(store.get("h")) == new
        assert list(await settle(store.find("old"))) == []
        assert list(await settle(store.find("new"))) == [new]
        assert {found.handle for found in await settle(store.find("sub"))} == {"h", "h2"}
        await settle(store.end(self.ending(sessions=("a",))))
        assert await settle(store.get("h")) == new
        assert await settle(store.get("h2")) is None

    async def test_joining_adds_keys_to_those_of_the_handle_and_renews_the_rest(self, store: Store) -> None:
        await settle(store.add(self.record("h", keys=("sub", "sid")), sign_in=True))
        new = self.record("h", keys=("sid", "oid"), issued_at=5.0, data=b"new", expires_at=Clock().now + 9)
        assert await settle(store.join(new))
        joined = await settle(store.get("h"))
        assert joined == replace(new, keys=("sub", "sid", "oid"))
        for key in ("sub", "sid", "oid"):
            assert list(await settle(store.find(key))) == [joined]
        assert await settle(store.join(replace(new, keys=())))
        assert await settle(store.get("h")) == joined

    async def test_joining_with_the_handle_of_another_session_takes_its_place(self, store: Store) -> None:
        await settle(store.add(self.record("h", "a", keys=("old",)), sign_in=True))
        new = self.record("h", "b", keys=("new",))
        assert await settle(store.join(new))
        assert await settle(store.get("h")) == new
        assert list(await settle(store.find("old"))) == []
        await settle(store.end(self.ending(sessions=("a",))))
        assert await settle(store.get("h")) == new

    async def test_joining_what_has_expired_is_recorded_without_its_old_keys(
        self, store: Store, clock: Clock
    ) -> None:
        await settle(store.add(self.record("h", keys=("old",)), sign_in=True))
        clock.advance(_HOUR)
        new = self.record("h", keys=("new",), expires_at=clock.now + _HOUR)
        assert await settle(store.join(new))
        assert await settle(store.get("h")) == new
        assert list(await settle(store.find("old"))) == []

    async def test_key_finds_every_handle_of_every_session(self, store: Store) -> None:
        records = [self.record("h1", "a"), self.record("h2", "a"), self.record("h3", "b", keys=("sub",))]
        assert await settle(store.add(records[0], sign_in=True))
        assert await settle(store.join(records[1]))
        assert await settle(store.add(records[2], sign_in=False))
        assert {found.handle for found in await settle(store.find("sub"))} == {"h1", "h2", "h3"}
        assert {found.handle for found in await settle(store.find("sid"))} == {"h1", "h2"}

    async def test_session_without_keys_or_with_one_twice_is_recorded(self, store: Store) -> None:
        assert await settle(store.add(self.record("h1", keys=()), sign_in=True))
        assert await settle(store.add(self.record("h2", keys=("k", "k")), sign_in=True))
        assert len(await settle(store.find("k"))) == 1

    async def test_record_is_gone_when_its_session_expires(self, store: Store, clock: Clock) -> None:
        await settle(store.add(self.record("h"), sign_in=True))
        clock.advance(_HOUR - 1)
        assert await settle(store.get("h"))
        clock.advance(1)
        assert await settle(store.get("h")) is None
        assert list(await settle(store.find("sub"))) == []

    async def test_handle_whose_record_expired_can_be_recorded_anew(self, store: Store, clock: Clock) -> None:
        await settle(store.add(self.record("h", keys=("old",)), sign_in=True))
        clock.advance(_HOUR)
        again = self.record("h", "again", keys=("new",), expires_at=clock.now + _HOUR)
        assert await settle(store.add(again, sign_in=False))
        assert await settle(store.get("h")) == again
        assert list(await settle(store.find("old"))) == []

    # Ending

    async def test_ended_handle_is_dead_for_good(self, store: Store) -> None:
        await settle(store.add(self.record("h"), sign_in=True))
        await settle(store.end(self.ending(handles=("h",))))
        await self._assert_dead(store, "h")

    async def test_handle_that_was_never_seen_can_be_ended(self, store: Store) -> None:
        await settle(store.end(self.ending(handles=("h",))))
        await self._assert_dead(store, "h")

    async def _assert_dead(self, store: SessionIndex, handle: str, session: str = "another") -> None:
        assert await settle(store.get(handle)) is None
        assert handle not in {found.handle for found in await settle(store.find("sub"))}
        for sign_in in (True, False):
            assert not await settle(store.add(self.record(handle, session), sign_in=sign_in))
        assert not await settle(store.join(self.record(handle, session)))
        assert await settle(store.get(handle)) is None
        assert handle not in {found.handle for found in await settle(store.find("sub"))}

    async def test_ending_a_handle_that_is_known_ends_its_whole_session(self, store: Store) -> None:
        await settle(store.add(self.record("h1", "a"), sign_in=True))
        await settle(store.join(self.record("h2", "a")))
        await settle(store.add(self.record("other", "b"), sign_in=True))
        await settle(store.end(self.ending(handles=("h1",))))
        await self._assert_dead(store, "h1", "a")
        await self._assert_dead(store, "h2", "a")
        await self._assert_dead(store, "later", "a")
        assert [found.handle for found in await settle(store.find("sub"))] == ["other"]

    async def test_ending_a_handle_that_is_not_known_ends_it_alone(self, store: Store) -> None:
        await settle(store.add(self.record("h"), sign_in=True))
        ended = await settle(store.end(self.ending(handles=("x",))))
        assert ended.records == ()
        await self._assert_dead(store, "x")
        assert await settle(store.get("h"))

    async def test_ending_by_a_key_ends_the_sessions_that_it_finds_whatever_their_age(
        self, store: Store, clock: Clock
    ) -> None:
        future = self.record("h1", "a", keys=("sub", "sid"), issued_at=clock.now + 10 * _HOUR)
        await settle(store.add(future, sign_in=True))
        await settle(store.join(self.record("h2", "a", keys=())))
        await settle(store.add(self.record("h3", "b", keys=("sub",)), sign_in=False))
        await settle(store.add(self.record("other", "c", keys=("other",)), sign_in=True))
        await settle(store.end(self.ending(found_by=("sub",))))
        for handle, session in (("h1", "a"), ("h2", "a"), ("h3", "b"), ("later", "a"), ("later too", "b")):
            await self._assert_dead(store, handle, session)
        assert await settle(store.get("other"))

    async def test_ending_by_a_key_does_not_end_what_comes_later(self, store: Store) -> None:
        await settle(store.add(self.record("h", "a"), sign_in=True))
        await settle(store.end(self.ending(found_by=("sub", "sid"))))
        assert await settle(store.add(self.record("h2", "b"), sign_in=False))
        assert await settle(store.get("h2"))

    async def test_spared_session_lives_with_all_its_handles_though_a_key_finds_it(
        self, store: Store
    ) -> None:
        for handle, session in (("h1", "a"), ("h2", "a"), ("h3", "b"), ("h4", "c")):
            await settle(store.join(self.record(handle, session)))
        ended = await settle(store.end(self.ending(found_by=("sub", "sid"), spared=("a", "x"))))
        assert {record.handle for record in ended.records} == {"h3", "h4"}
        assert {found.handle for found in await settle(store.find("sub"))} == {"h1", "h2"}
        assert await settle(store.join(self.record("h5", "a")))
        await self._assert_dead(store, "h3", "b")

    async def test_session_that_is_named_or_whose_handle_is_ends_though_it_is_spared(
        self, store: Store
    ) -> None:
        await settle(store.add(self.record("h1", "a"), sign_in=True))
        await settle(store.add(self.record("h2", "b"), sign_in=True))
        ending = self.ending(handles=("h1",), sessions=("b",), found_by=("sub",), spared=("a", "b"))
        await settle(store.end(ending))
        await self._assert_dead(store, "h1", "a")
        await self._assert_dead(store, "h2", "b")

    async def test_ending_tells_the_records_of_all_that_ended_as_they_were(self, store: Store) -> None:
        records = [
            self.record("h1", "a", keys=("k", "sub"), data=b"1", issued_at=1.5),
            self.record("h2", "a", keys=(), data=b"2"),
            self.record("h3", "b", keys=("sid", "k")),
            self.record("h4", "c", keys=()),
            self.record("h5", "d", keys=("other",)),
        ]
        for record in records:
            await settle(store.join(record))
        ending = self.ending(handles=("h1", "x", "h1"), sessions=("c", "y"), found_by=("k", "k", "nothing"))
        ended = await settle(store.end(ending))
        assert sorted(ended.records, key=lambda record: record.handle) == records[:4]
        again = await settle(store.end(ending))
        assert again.records == ()

    async def test_sessions_of_a_user_end_however_many_they_are(self, store: Store) -> None:
        for number in range(300):
            keys = (f"sid {number}", "sub")
            await settle(store.add(self.record(f"h{number}", f"s{number}", keys=keys), sign_in=True))
        ended = await settle(store.end(self.ending(found_by=("sub",), spared=("s7",))))
        assert {record.session for record in ended.records} == {f"s{n}" for n in range(300)} - {"s7"}
        assert [found.handle for found in await settle(store.find("sub"))] == ["h7"]
        feed = await settle(store.marks_since(0, limit=1000))
        assert {mark.value for mark in feed.marks} == {f"h{n}" for n in range(300)} - {"h7"}
        assert feed.cursor == ended.sequence

    async def test_ending_that_ends_nothing_writes_nothing(self, store: Store, clock: Clock) -> None:
        await settle(store.add(self.record("h", "a"), sign_in=True))
        before = await settle(store.end(self.ending(handles=("x",))))
        feed = await settle(store.marks_since(0, limit=9))
        for nothing in (
            self.ending(work=b"work"),
            self.ending(found_by=("nobody's",), work=b"work"),
            self.ending(found_by=("sub",), spared=("a",), work=b"work"),
        ):
            assert await settle(store.end(nothing)) == Ended(True, None, before.sequence)
        assert await settle(store.marks_since(0, limit=9)) == feed
        assert await settle(store.open_rows()) == 0
        assert await settle(store.get("h"))

    async def test_jti_is_claimed_by_an_ending_that_ends_nothing(self, store: Store, clock: Clock) -> None:
        nothing = self.ending(found_by=("nobody's",), work=b"work", jti=Jti("jti", clock.now + _HOUR))
        ended = await settle(store.end(nothing))
        assert (ended.claimed, ended.row) == (True, None)
        assert await settle(store.open_rows()) == 0
        assert not (await settle(store.end(nothing))).claimed

    async def test_ending_a_session_ends_all_its_handles_and_no_others(self, store: Store) -> None:
        await settle(store.add(self.record("h1", "a"), sign_in=True))
        await settle(store.join(self.record("h2", "a")))
        await settle(store.add(self.record("other", "b"), sign_in=True))
        await settle(store.end(self.ending(sessions=("a",))))
        await self._assert_dead(store, "h1")
        await self._assert_dead(store, "h2")
        assert [found.handle for found in await settle(store.find("sub"))] == ["other"]

    @pytest.mark.parametrize("known", [True, False])
    async def test_handle_cannot_join_an_ended_session(self, store: Store, known: bool) -> None:
        if known:
            await settle(store.add(self.record("h", "a"), sign_in=True))
        await settle(store.end(self.ending(sessions=("a",))))
        await self._assert_dead(store, "later", session="a")

    async def test_ending_what_is_unknown_expired_or_ended_is_no_error(
        self, store: Store, clock: Clock
    ) -> None:
        await settle(store.add(self.record("h", "a"), sign_in=True))
        clock.advance(_HOUR)
        ending = Ending(handles=("h", "x"), sessions=("a", "y"), expires_at=clock.now + _HOUR)
        first, second = await settle(store.end(ending)), await settle(store.end(ending))
        assert first.claimed
        assert second.claimed
        assert second.sequence > first.sequence
        await self._assert_dead(store, "h")

    async def test_marks_end_what_they_mark_until_they_expire(self, store: Store, clock: Clock) -> None:
        await settle(
            store.end(self.ending(handles=("h",), sessions=("a",), keys=(KeyMark("sub", clock.now),)))
        )
        clock.advance(_HOUR - 1)
        await self._assert_dead(store, "h")
        await self._assert_dead(store, "x", session="a")
        assert not await settle(store.add(self.record("y", "b"), sign_in=False))
        clock.advance(1)
        for handle, session in (("h", "new"), ("x", "a"), ("y", "b")):
            record = self.record(handle, session, expires_at=clock.now + _HOUR)
            assert await settle(store.add(record, sign_in=False))

    async def test_ending_again_never_shortens_a_mark(self, store: Store, clock: Clock) -> None:
        await settle(
            store.end(self.ending(handles=("h",), sessions=("a",), keys=(KeyMark("sub", clock.now),)))
        )
        sooner = clock.now + 10
        marks = {"handles": ("h",), "sessions": ("a",), "keys": (KeyMark("sub", clock.now),)}
        await settle(store.end(self.ending(**marks, expires_at=sooner)))
        clock.now = sooner
        await self._assert_dead(store, "h")
        await self._assert_dead(store, "x", session="a")
        assert not await settle(store.add(self.record("y", "b"), sign_in=False))

    async def test_clock_that_is_set_ahead_and_back_revives_nothing(self, store: Store, clock: Clock) -> None:
        await settle(store.add(self.record("h", "a"), sign_in=True))
        jti = Jti("jti", clock.now + _HOUR)
        await settle(store.end(self.ending(sessions=("a",), keys=(KeyMark("sub", clock.now),), jti=jti)))
        clock.advance(1.5 * _HOUR)
        for number in range(50):  # writes, by which a store may forget what has expired
            await settle(store.add(self.record(f"other {number}", keys=()), sign_in=True))
        clock.advance(-1.4 * _HOUR)
        await self._assert_dead(store, "h")
        await self._assert_dead(store, "x", session="a")
        assert not await settle(store.add(self.record("y", "b"), sign_in=False))
        assert not (await settle(store.end(self.ending(jti=jti)))).claimed

    async def test_clock_that_is_set_back_revives_nothing(self, store: Store, clock: Clock) -> None:
        await settle(store.add(self.record("h"), sign_in=True))
        await settle(store.end(self.ending(handles=("h",))))
        clock.advance(-365 * 24 * _HOUR)
        await self._assert_dead(store, "h")

    # Key marks

    async def test_key_mark_ends_what_is_first_seen_later_and_was_issued_up_to_its_time(
        self, store: Store, clock: Clock
    ) -> None:
        await settle(store.end(self.ending(keys=(KeyMark("sid", clock.now),))))
        for number, (issued_at, lives) in enumerate(
            [(clock.now - _HOUR, False), (clock.now, False), (clock.now + 0.5, True), (clock.now + 1, True)]
        ):
            record = self.record(f"h{number}", f"s{number}", issued_at=issued_at)
            assert await settle(store.add(record, sign_in=False)) is lives
            assert (await settle(store.get(record.handle)) is not None) is lives

    async def test_key_mark_does_not_refuse_a_later_sign_in(self, store: Store, clock: Clock) -> None:
        await settle(store.end(self.ending(keys=(KeyMark("sid", clock.now + _HOUR),))))
        assert await settle(store.add(self.record("h"), sign_in=True))
        assert await settle(store.get("h"))
        assert await settle(store.add(self.record("h"), sign_in=False))
        assert await settle(store.join(self.record("h2")))

    async def test_key_mark_does_not_end_what_is_recorded(self, store: Store, clock: Clock) -> None:
        await settle(store.add(self.record("h"), sign_in=False))
        await settle(store.end(self.ending(keys=(KeyMark("sid", clock.now + _HOUR),))))
        assert await settle(store.get("h"))
        assert await settle(store.add(self.record("h"), sign_in=False))

    async def test_key_mark_of_another_key_ends_nothing(self, store: Store, clock: Clock) -> None:
        await settle(store.end(self.ending(keys=(KeyMark("other", clock.now + _HOUR),))))
        assert await settle(store.add(self.record("h"), sign_in=False))

    async def test_time_of_a_key_mark_only_grows(self, store: Store, clock: Clock) -> None:
        for before in (clock.now, clock.now - 100):
            await settle(store.end(self.ending(keys=(KeyMark("sub", before),))))
        assert not await settle(store.add(self.record("h"), sign_in=False))
        marks = (await settle(store.marks_since(0, limit=10))).marks
        assert [(mark.value, mark.before) for mark in marks] == [("sub", clock.now)]

    async def test_time_of_a_key_mark_starts_anew_once_it_expired(self, store: Store, clock: Clock) -> None:
        await settle(store.end(self.ending(keys=(KeyMark("sub", clock.now + 10 * _HOUR),))))
        clock.advance(_HOUR)
        await settle(store.end(self.ending(keys=(KeyMark("sub", 5.0),), expires_at=clock.now + _HOUR)))
        assert await settle(store.add(self.record("h", expires_at=clock.now + 1), sign_in=False))

    # `jti`s

    async def test_jti_is_granted_once_and_a_refused_ending_changes_nothing(
        self, store: Store, clock: Clock
    ) -> None:
        await settle(store.add(self.record("h"), sign_in=True))
        jti = Jti("jti", clock.now + _HOUR)
        granted = await settle(store.end(self.ending(jti=jti)))
        assert granted.claimed
        marks = {
            "handles": ("h",),
            "sessions": ("session",),
            "found_by": ("sub",),
            "keys": (KeyMark("sub", clock.now),),
        }
        refused = await settle(store.end(self.ending(**marks, work=b"work", jti=jti)))
        assert refused == Ended(False, None, granted.sequence)
        assert await settle(store.get("h"))
        assert await settle(store.join(self.record("h2")))
        assert await settle(store.add(self.record("h3", "b"), sign_in=False))
        assert await settle(store.open_rows()) == 0
        assert list((await settle(store.marks_since(0, limit=10))).marks) == []
        assert (await settle(store.end(self.ending(handles=("x",))))).sequence > granted.sequence

    async def test_jtis_do_not_stand_in_each_others_way(self, store: Store, clock: Clock) -> None:
        for name in ("jti 1", "jti 2", "JTI 1"):
            assert (await settle(store.end(self.ending(jti=Jti(name, clock.now + _HOUR))))).claimed

    async def test_jti_can_be_claimed_again_once_it_expired(self, store: Store, clock: Clock) -> None:
        assert (await settle(store.end(self.ending(jti=Jti("jti", clock.now + 10))))).claimed
        clock.advance(9)
        assert not (await settle(store.end(self.ending(jti=Jti("jti", clock.now + 10))))).claimed
        clock.advance(1)
        assert (await settle(store.end(self.ending(jti=Jti("jti", clock.now + 10))))).claimed
        assert not (await settle(store.end(self.ending(jti=Jti("jti", clock.now + 10))))).claimed

    # The journal

    async def test_work_belongs_to_its_writer_until_the_lease_runs_out(
        self, store: Store, clock: Clock
    ) -> None:
        ended = await settle(store.end(self.ending(handles=("h",), work=b"\0work\xff", lease_seconds=30)))
        assert ended.row is not None
        assert await settle(store.open_rows()) == 1
        clock.advance(29.5)
        assert list(await settle(store.take(limit=10, lease_seconds=5))) == []
        clock.advance(0.5)
        assert list(await settle(store.take(limit=10, lease_seconds=5))) == [(ended.row, b"\0work\xff", ())]
        clock.advance(4.5)
        assert list(await settle(store.take(limit=10, lease_seconds=5))) == []
        clock.advance(0.5)
        assert list(await settle(store.take(limit=10, lease_seconds=5))) == [(ended.row, b"\0work\xff", ())]

    async def test_journal_keeps_the_data_of_what_ended_each_once_for_as_often_as_it_is_taken(
        self, store: Store, clock: Clock
    ) -> None:
        for handle, session, data in (("h1", "a", b"1"), ("h2", "a", b"\0\xff"), ("h3", "b", b"1")):
            await settle(store.join(self.record(handle, session, data=data)))
        await settle(store.add(self.record("h4", "c", keys=(), data=b"another's"), sign_in=True))
        found = self.ending(found_by=("sub",), work=b"found", lease_seconds=0)
        named = self.ending(handles=("h4",), work=b"named", lease_seconds=0)
        for ending in (found, named):
            await settle(store.end(ending))
        for _ in range(2):
            rows = await settle(store.take(limit=9, lease_seconds=0))
            assert [(row.work, sorted(row.data)) for row in rows] == [
                (b"found", [b"\0\xff", b"1"]),
                (b"named", [b"another's"]),
            ]

    async def test_data_is_not_in_the_work_that_comes_after_it_is_finished(self, store: Store) -> None:
        for number in range(3):
            await settle(store.add(self.record(f"h{number}", f"s{number}", keys=()), sign_in=True))
            ended = await settle(store.end(self.ending(handles=(f"h{number}",), work=b"1")))
            assert ended.row is not None
            await settle(store.finish(ended.row))
        await settle(store.end(self.ending(handles=("x",), work=b"2", lease_seconds=0)))
        assert [row.data for row in await settle(store.take(limit=9, lease_seconds=1))] == [()]

    async def test_ending_without_work_leaves_none(self, store: Store) -> None:
        assert (await settle(store.end(self.ending(handles=("h",))))).row is None
        assert await settle(store.open_rows()) == 0

    async def test_work_is_taken_oldest_first_and_up_to_the_limit(self, store: Store, clock: Clock) -> None:
        for lease, work in ((3, b"1"), (1, b"2"), (2, b"3")):
            await settle(store.end(self.ending(handles=("h",), work=work, lease_seconds=lease)))
        clock.advance(3)
        assert [row.work for row in await settle(store.take(limit=2, lease_seconds=9))] == [b"1", b"2"]
        assert [row.work for row in await settle(store.take(limit=2, lease_seconds=9))] == [b"3"]
        assert await settle(store.open_rows()) == 3

    async def test_finished_work_is_gone_and_finishing_again_is_no_error(
        self, store: Store, clock: Clock
    ) -> None:
        first = await settle(store.end(self.ending(handles=("h",), work=b"1")))
        second = await settle(store.end(self.ending(handles=("h",), work=b"2")))
        assert first.row is not None
        assert first.row != second.row
        for row in (first.row, first.row, "no such row"):
            await settle(store.finish(row))
        assert await settle(store.open_rows()) == 1
        clock.advance(_HOUR)
        assert [row.row for row in await settle(store.take(limit=9, lease_seconds=1))] == [second.row]

    async def test_unfinished_work_does_not_expire(self, store: Store, clock: Clock) -> None:
        await settle(store.end(self.ending(handles=("h",), work=b"1", expires_at=clock.now)))
        clock.advance(365 * 24 * _HOUR)
        for number in range(50):
            await settle(store.add(self.record(f"h{number}"), sign_in=True))
        assert [row.work for row in await settle(store.take(limit=9, lease_seconds=1))] == [b"1"]

    async def test_clock_that_is_set_far_back_does_not_hold_work_up(self, store: Store, clock: Clock) -> None:
        await settle(store.end(self.ending(handles=("h",), work=b"1")))
        clock.advance(-24 * _HOUR)
        assert [row.work for row in await settle(store.take(limit=9, lease_seconds=1))] == [b"1"]

    async def test_clock_that_is_set_back_a_little_gives_no_work_away(
        self, store: Store, clock: Clock
    ) -> None:
        await settle(store.end(self.ending(handles=("h",), work=b"1")))
        clock.advance(-1)
        assert list(await settle(store.take(limit=9, lease_seconds=1))) == []

    # The feed of marks

    async def test_marks_come_in_the_order_of_their_endings_with_all_that_they_say(
        self, store: Store, clock: Clock
    ) -> None:
        assert list((await settle(store.marks_since(0, limit=10))).marks) == []
        await settle(store.add(self.record("joined", "a"), sign_in=True))
        first = await settle(store.end(self.ending(keys=(KeyMark("sub", 5.5),))))
        second = await settle(
            store.end(self.ending(handles=("h",), sessions=("a",), expires_at=clock.now + 9))
        )
        feed = await settle(store.marks_since(0, limit=10))
        assert feed.cursor == second.sequence
        key, *handles = feed.marks
        assert key == Mark("key", "sub", 5.5, key.sequence, clock.now + _HOUR)
        assert {(mark.kind, mark.value, mark.expires_at) for mark in handles} == {
            ("handle", "h", clock.now + 9),
            ("handle", "joined", clock.now + 9),
        }
        assert key.sequence <= first.sequence < min(mark.sequence for mark in handles)

    async def test_marks_are_read_in_pages_without_gap_or_repetition(self, store: Store) -> None:
        for number in range(5):
            handles = tuple(f"h{number}.{part}" for part in range(number))
            await settle(store.end(self.ending(handles=handles)))
        whole = await settle(store.marks_since(0, limit=100))
        for limit in (1, 2, 3, 10):
            cursor, seen, pages = 0, list[Mark](), 0
            while cursor < whole.cursor:
                page = await settle(store.marks_since(cursor, limit=limit))
                assert len(page.marks) <= limit
                assert page.epoch == whole.epoch
                cursor, pages = page.cursor, pages + 1
                seen += page.marks
                assert pages <= 20
            assert seen == list(whole.marks)
        assert len(whole.marks) == 10

    async def test_cursor_that_is_up_to_date_brings_only_what_is_new(self, store: Store) -> None:
        await settle(store.end(self.ending(handles=("h1",))))
        cursor = (await settle(store.marks_since(0, limit=10))).cursor
        again = await settle(store.marks_since(cursor, limit=10))
        assert (again.cursor, list(again.marks)) == (cursor, [])
        ended = await settle(store.end(self.ending(handles=("h2",))))
        new = await settle(store.marks_since(cursor, limit=10))
        assert [mark.value for mark in new.marks] == ["h2"]
        assert new.cursor == ended.sequence

    async def test_what_is_ended_again_comes_again_and_once(self, store: Store) -> None:
        await settle(store.end(self.ending(handles=("h1",))))
        cursor = (await settle(store.marks_since(0, limit=10))).cursor
        await settle(store.end(self.ending(handles=("h1",))))
        assert [mark.value for mark in (await settle(store.marks_since(cursor, limit=10))).marks] == ["h1"]
        assert [mark.value for mark in (await settle(store.marks_since(0, limit=10))).marks] == ["h1"]

    async def test_expired_marks_are_not_told(self, store: Store, clock: Clock) -> None:
        await settle(store.end(self.ending(handles=("soon",), expires_at=clock.now + 1)))
        await settle(store.end(self.ending(handles=("later",), expires_at=clock.now + 2)))
        clock.advance(1)
        feed = await settle(store.marks_since(0, limit=1))
        assert [mark.value for mark in feed.marks] == ["later"]

    async def test_limit_below_one_is_a_mistake(self, store: Store) -> None:
        with pytest.raises(ValueError, match="limit"):
            await settle(store.marks_since(0, limit=0))
        with pytest.raises(ValueError, match="limit"):
            await settle(store.take(limit=0, lease_seconds=1))

    # The generation

    async def test_generation_is_another_one_after_each_ending(self, store: Store, clock: Clock) -> None:
        seen: list[int | None] = []
        for number in range(5):
            await settle(store.add(self.record(f"h{number}", f"s{number}", keys=("sub",)), sign_in=True))
            for ending in (
                self.ending(handles=(f"h{number}",)),
                self.ending(handles=(f"x{number}",)),
                self.ending(handles=("again and again",)),
                self.ending(sessions=("nobody's",)),
                self.ending(keys=(KeyMark("sub", clock.now),)),
            ):
                await settle(store.end(ending))
                seen.append(store.generation())
        told = [each for each in seen if each is not None]
        assert len(set(told)) == len(told)

    async def test_generation_stays_while_nothing_ends(self, store: Store, clock: Clock) -> None:
        await settle(store.end(self.ending(handles=("x",), work=b"work", lease_seconds=0)))
        await settle(store.marks_since(0, limit=9))
        before = store.generation()
        await write(store, "alice", b"1")
        await settle(store.add(self.record("h", "a"), sign_in=True))
        await settle(store.join(self.record("h2", "a")))
        await settle(store.end(self.ending(found_by=("nobody's",), jti=Jti("jti", clock.now + _HOUR))))
        await settle(store.end(self.ending(handles=("h",), jti=Jti("jti", clock.now + _HOUR))))
        for row in await settle(store.take(limit=9, lease_seconds=9)):
            await settle(store.finish(row.row))
        await settle(store.marks_since(0, limit=9))
        assert store.generation() in (before, None)

    # Many at once

    async def test_of_endings_at_once_only_one_gets_the_jti(self, store: Store, clock: Clock) -> None:
        for round_number in range(5):
            jti = Jti(f"jti {round_number}", clock.now + _HOUR)
            endings = [self.ending(handles=("h",), jti=jti, work=b"work") for _ in range(CALLERS)]
            ended = await at_once([bound(store.end, ending) for ending in endings])
            assert sum(each.claimed for each in ended) == 1
            assert await settle(store.open_rows()) == round_number + 1

    async def test_of_takers_at_once_each_gets_work_of_its_own(self, store: Store, clock: Clock) -> None:
        for number in range(2 * CALLERS):
            await settle(store.end(self.ending(handles=("h",), work=str(number).encode())))
        clock.advance(_HOUR)
        calls = [bound(store.take, limit=3, lease_seconds=_HOUR) for _ in range(CALLERS)]
        taken = [row.row for rows in await at_once(calls) for row in rows]
        assert len(taken) == len(set(taken)) == 2 * CALLERS

    async def test_session_that_ends_while_handles_join_it_is_dead_with_all_of_them(
        self, store: Store
    ) -> None:
        for round_number in range(5):
            session = f"s{round_number}"
            records = [self.record(f"{session} h{number}", session) for number in range(CALLERS)]
            await settle(store.add(records[0], sign_in=True))
            calls: list[Callable[[], MaybeAwaitable[Any]]] = [
                bound(store.join, record) for record in records[1:]
            ]
            calls.insert(CALLERS // 2, bound(store.end, self.ending(sessions=(session,))))
            await at_once(calls)
            assert list(await settle(store.find("sub"))) == []
            for record in records:
                await self._assert_dead(store, record.handle, session)

    async def test_session_that_is_recorded_while_its_user_is_signed_out_ends_or_was_not_found(
        self, store: Store
    ) -> None:
        for round_number in range(5):
            key = f"sub {round_number}"
            records = [
                self.record(f"{key} h{number}", f"{key} s{number}", keys=(key,)) for number in range(CALLERS)
            ]
            calls: list[Callable[[], MaybeAwaitable[Any]]] = [
                bound(store.add, record, sign_in=True) for record in records
            ]
            calls.insert(CALLERS // 2, bound(store.end, self.ending(found_by=(key,))))
            ended = {record.handle for record in (await at_once(calls))[CALLERS // 2].records}
            live = {record.handle for record in await settle(store.find(key))}
            assert ended | live == {record.handle for record in records}
            assert not ended & live

    async def test_sequence_numbers_of_endings_at_once_are_their_own(self, store: Store) -> None:
        endings = [self.ending(handles=(f"h{number}",)) for number in range(CALLERS)]
        ended = await at_once([bound(store.end, ending) for ending in endings])
        assert len({each.sequence for each in ended}) == CALLERS
        feed = await settle(store.marks_since(0, limit=2 * CALLERS))
        numbers = [mark.sequence for mark in feed.marks]
        assert numbers == sorted(set(numbers))
        assert {mark.value for mark in feed.marks} == {f"h{number}" for number in range(CALLERS)}

    # Upkeep

    async def test_closed_store_opens_anew_with_all_that_it_held(self, store: Store, clock: Clock) -> None:
        await write(store, "alice", b"cache")
        await settle(store.add(self.record("h"), sign_in=True))
        ended = await settle(store.end(self.ending(handles=("dead",), work=b"work")))
        epoch = (await settle(store.marks_since(0, limit=9))).epoch
        for _ in range(2):
            await settle(store.close())
        assert (await settle(store.load("alice"))).data == b"cache"
        assert await settle(store.get("h"))
        await self._assert_dead(store, "dead")
        assert await settle(store.open_rows()) == 1
        feed = await settle(store.marks_since(0, limit=9))
        assert (feed.epoch, feed.cursor) == (epoch, ended.sequence)
        await settle(store.close())
