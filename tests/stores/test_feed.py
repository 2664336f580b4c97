"""The feed: what a worker knows of a store elsewhere, and for how long; with a store that does as it is told."""

from __future__ import annotations

import asyncio
import os
import queue
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from msal_logout_middleware._drive import MaybeAwaitable, run
from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.stores import Mark, Marks, _feed
from msal_logout_middleware.stores._feed import Answer, Feed, News, Tip

from ..stories.servers import until

BOUND = 1.0
BEAT = 0.25
NOW = 1000.0
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
may_warn = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # there may be threads


class Steady:
    """The clock that the bound goes by: each look at it takes a nanosecond."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1e-9
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Steady:
    clock = Steady()
    monkeypatch.setattr(_feed, "clock", clock)
    return clock


class Broken(Exception):
    """What an engine may raise."""


class Store:
    """A store elsewhere: it keeps what has ended, and answers; each subscription is a queue."""

    def __init__(self, *, is_async: bool = False) -> None:
        self.is_async = is_async
        self.epoch = "epoch"
        self.server = "server"
        self.tips = [Tip(0, secrets.token_hex(8))]
        self.marks: list[Mark] = []
        self.subscriptions: list[Subscription] = []
        self.asked = 0
        self.is_away = False
        self.has_messages = True
        self.tells = True
        self.meanwhile: Callable[[], object] = lambda: None  # what happens while an answer is on its way

    @property
    def tip(self) -> Tip:
        return self.tips[-1]

    def end(self, *handles: str, tells: bool = True, expires_at: float = NOW + 60) -> News:
        after = self.tip
        marks = [
            Mark("handle", handle, 0.0, after.sequence + number, expires_at)
            for number, handle in enumerate(handles, 1)
        ]
        self.tips.append(Tip(after.sequence + len(handles), secrets.token_hex(8)))
        self.marks += marks
        news = News(self.epoch, after, self.tip, marks)
        for subscription in self.subscriptions if self.tells and tells else []:
            subscription.put(news)
        return news

    def lose(self, endings: int) -> None:
        """Forget the last endings, as a replica does that never had them."""
        del self.tips[-endings:]
        self.marks = [mark for mark in self.marks if mark.sequence <= self.tip.sequence]

    def flush(self) -> None:
        self.epoch, self.tips, self.marks = secrets.token_hex(4), [Tip(0, secrets.token_hex(8))], []

    def ask(self, known: Tip | None, cursor: int | None, limit: int) -> MaybeAwaitable[Answer]:
        if self.is_away:
            raise Broken("which quotes a secret")
        self.asked += 1
        after = [] if cursor is None else [mark for mark in self.marks if mark.sequence > cursor]
        marks = after[:limit]
        has_known = known is None or known in self.tips
        answer = Answer(self.epoch, self.tip, has_known, marks, len(marks) < limit, self.server)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return _later(answer) if self.is_async else answer

    def subscribe(self) -> MaybeAwaitable[Any]:
        if self.is_away:
            raise Broken("which quotes a secret")
        if not self.has_messages:
            return _later(None) if self.is_async else None
        subscription = AsyncSubscription() if self.is_async else Subscription()
        self.subscriptions.append(subscription)
        return _later(subscription) if self.is_async else subscription


async def _later(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


class Subscription:
    def __init__(self) -> None:
        self._messages: queue.Queue[Any] = queue.Queue()
        self.is_closed = False

    def put(self, news: News | Exception) -> None:
        self._messages.put(news)

    def next(self, timeout_seconds: float) -> Any:
        try:
            return _raised(self._messages.get(timeout=min(timeout_seconds, 0.01)))
        except queue.Empty:
            return None

    def close(self) -> Any:
        self.is_closed = True


class AsyncSubscription(Subscription):
    async def next(self, timeout_seconds: float) -> Any:
        await asyncio.sleep(0.001)
        return None if self._messages.empty() else _raised(self._messages.get())

    async def close(self) -> None:
        self.is_closed = True


def _raised(news: Any) -> Any:
    if isinstance(news, Exception):
        raise news
    return news


class Worker:
    """Holds marks as the gate does, beside a feed that is asked but that nobody follows."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.feed = Feed(store, bound_seconds=BOUND, wall_clock=lambda: NOW)
        self.feed._stopped.set()
        self.place = ("", 0)
        self.handles: set[str] = set()

    def beat(self) -> None:
        run(self.feed._ask())

    def ask(self, cursor: int = 0, limit: int = 100) -> Marks:
        return run(self.feed.marks_since(cursor, limit))

    def held(self, cursor: int, limit: int = 100, now: float = NOW) -> list[str] | None:
        marks = self.feed.held(cursor, limit, now)
        return None if marks is None else [mark.value for mark in marks.marks]

    def look(self) -> set[str]:
        epoch, cursor = self.place
        found = self.feed.held(cursor, 100, NOW) or self.ask(cursor)
        if epoch not in ("", found.epoch) or found.cursor < cursor:
            self.handles.clear()
            found = self.feed.held(0, 100, NOW) or self.ask(0)
        self.place = (found.epoch, found.cursor)
        self.handles.update(mark.value for mark in found.marks)
        return self.handles


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def worker(store: Store, clock: Steady) -> Worker:
    """A worker that is in step with the store."""
    worker = Worker(store)
    worker.beat()
    assert worker.feed.generation() == store.tip.generation
    return worker


# An answer vouches for a while


def test_nothing_is_told_before_the_store_was_asked(store: Store, clock: Steady) -> None:
    worker = Worker(store)
    assert worker.feed.generation() is None
    assert worker.held(0) is None


def test_answer_vouches_for_the_bound_from_when_it_was_asked_for(
    worker: Worker, store: Store, clock: Steady
) -> None:
    def is_slow() -> None:
        clock.now += 0.6

    store.meanwhile = is_slow
    worker.beat()
    clock.now += 0.39
    assert worker.feed.generation() == store.tip.generation
    clock.now += 0.02
    assert worker.feed.generation() is None
    assert worker.held(0) is None
    worker.beat()
    assert worker.feed.generation() == store.tip.generation


def test_message_vouches_for_nothing_longer(worker: Worker, store: Store, clock: Steady) -> None:
    clock.now += 0.9
    worker.feed.tell(store.end("h"))
    clock.now += 0.2
    assert worker.feed.generation() is None


# What is learnt


def test_message_that_follows_is_taken_in_without_asking(worker: Worker, store: Store) -> None:
    asked = store.asked
    for number in range(3):
        before = worker.feed.generation()
        worker.feed.tell(store.end(f"h{number}"))
        assert worker.feed.generation() not in (before, None)
    assert worker.held(0) == ["h0", "h1", "h2"]
    assert worker.held(1) == ["h1", "h2"]
    assert store.asked == asked


def test_marks_that_had_expired_when_they_were_asked_for_are_asked_for_again_when_the_clock_is_set_back(
    worker: Worker, store: Store
) -> None:
    worker.feed.tell(store.end("h"))
    assert worker.held(0) == ["h"]
    assert worker.held(0, now=NOW - 1) is None


def test_message_after_a_lost_one_has_the_store_asked(worker: Worker, store: Store) -> None:
    store.end("lost")
    worker.feed.tell(store.end("h"))
    assert worker.feed.generation() is None
    assert worker.held(0) is None
    worker.beat()
    assert worker.held(0) == ["lost", "h"]


def test_message_that_comes_twice_or_late_changes_nothing(worker: Worker, store: Store) -> None:
    news = [store.end("h0"), store.end("h1")]
    for each in (*news, *news):
        worker.feed.tell(each)
    assert worker.feed.generation() == store.tip.generation
    assert worker.held(0) == ["h0", "h1"]


def test_message_without_room_for_its_marks_has_the_store_asked(worker: Worker, store: Store) -> None:
    worker.feed.tell(store.end("h")._replace(marks=None))
    assert worker.feed.generation() is None
    worker.beat()
    assert worker.held(0) == ["h"]


def test_message_of_another_life_of_the_store_has_it_asked(worker: Worker, store: Store) -> None:
    store.flush()
    worker.feed.tell(store.end("h"))
    assert worker.feed.generation() is None


def test_message_before_the_first_answer_is_passed_by(store: Store, clock: Steady) -> None:
    worker = Worker(store)
    worker.feed.tell(store.end("h"))
    worker.beat()
    assert worker.feed.generation() == store.tip.generation


def test_own_ending_is_known_at_once_and_its_message_is_no_news(worker: Worker, store: Store) -> None:
    before = worker.feed.generation()
    news = store.end("h")
    worker.feed.ended(news)
    after = worker.feed.generation()
    assert after not in (before, None)
    worker.feed.tell(news)
    assert worker.feed.generation() == after
    assert worker.held(0) == ["h"]


def test_own_ending_before_the_first_answer_is_not_vouched_for_by_it(store: Store, clock: Steady) -> None:
    worker = Worker(store)
    store.meanwhile = lambda: worker.feed.ended(store.end("h"))
    worker.beat()
    assert worker.feed.generation() is None
    worker.beat()
    assert worker.look() == {"h"}
    assert worker.feed.generation() == store.tip.generation


def test_answer_that_was_asked_for_before_an_own_ending_does_not_hide_it(
    worker: Worker, store: Store
) -> None:
    before = worker.feed.generation()

    def end() -> None:
        store.end("lost")
        worker.feed.ended(store.end("h"))

    store.meanwhile = end
    worker.beat()
    assert worker.feed.generation() not in (before, store.tips[-2].generation)
    worker.beat()
    assert worker.held(0) == ["lost", "h"]


def test_own_ending_of_which_the_answer_was_lost_has_the_store_asked(worker: Worker, store: Store) -> None:
    store.meanwhile = worker.feed.doubt
    worker.beat()
    assert worker.feed.generation() is None
    worker.beat()
    assert worker.feed.generation() == store.tip.generation


def test_own_ending_at_a_store_that_has_lost_others_has_it_asked(worker: Worker, store: Store) -> None:
    for number in range(3):
        worker.feed.tell(store.end(f"h{number}"))
    store.lose(2)
    worker.feed.ended(store.end("own"))
    assert worker.feed.generation() is None


def test_worker_that_asks_for_marks_learns_the_tip_by_the_way(worker: Worker, store: Store) -> None:
    store.end("h0", "h1")
    assert [mark.value for mark in worker.ask(0).marks] == ["h0", "h1"]
    assert worker.feed.generation() == store.tip.generation
    assert worker.held(0) == ["h0", "h1"]


def test_page_of_marks_ends_where_it_ends(worker: Worker, store: Store) -> None:
    store.end("h1", "h2", "h3")
    page = worker.ask(0, limit=2)
    assert page.cursor == 2
    assert worker.ask(page.cursor, limit=2).cursor == 3


# What is held


def test_marks_that_have_expired_are_not_told_and_do_not_shorten_a_page(worker: Worker, store: Store) -> None:
    for number in range(6):
        worker.feed.tell(store.end(f"h{number}", expires_at=NOW + 60 * (number % 2)))
    assert worker.held(0, limit=2) == ["h1", "h3"]
    marks = worker.feed.held(0, 2, NOW)
    assert marks is not None
    assert marks.cursor == 4
    assert worker.held(4, limit=2) == ["h5"]


def test_oldest_marks_are_not_held_for_ever_and_then_the_store_is_asked(
    worker: Worker, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_feed, "_HELD", 10)
    for number in range(11):
        worker.feed.tell(store.end(f"h{number}"))
    assert worker.held(0) is None
    assert worker.held(5) is None
    assert worker.held(6) == [f"h{number}" for number in range(6, 11)]


def test_more_marks_than_are_asked_for_at_once_are_left_to_the_store(
    worker: Worker, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_feed, "ASKED_AT_ONCE", 2)
    store.end("h0", "h1", "h2")
    worker.beat()
    assert worker.held(0) is None
    assert worker.held(3) == []
    assert worker.look() == {"h0", "h1", "h2"}


# A store that has lost something


@pytest.mark.parametrize("grows_on", [0, 1, 2, 3])
def test_store_that_lost_endings_is_read_anew_whatever_has_ended_since(
    worker: Worker, store: Store, grows_on: int
) -> None:
    for number in range(3):
        worker.feed.tell(store.end(f"h{number}"))
    assert worker.look() == {"h0", "h1", "h2"}
    store.lose(2)
    for number in range(grows_on):
        store.end(f"new {number}")
    worker.beat()
    assert worker.look() == {"h0", *(f"new {number}" for number in range(grows_on))}
    assert worker.feed.generation() is not None


def test_store_that_was_emptied_is_read_anew(worker: Worker, store: Store) -> None:
    worker.feed.tell(store.end("h0"))
    assert worker.look() == {"h0"}
    store.flush()
    store.end("new")
    found = worker.ask(worker.place[1])
    assert found.epoch != worker.place[0]
    assert [mark.value for mark in found.lost] == ["h0"]
    assert worker.look() == {"new"}


def test_store_whose_last_ending_is_one_that_was_the_last_before_has_another_generation(
    worker: Worker, store: Store
) -> None:
    before = worker.feed.generation()
    worker.feed.tell(store.end("lost"))
    store.lose(1)
    worker.beat()
    assert worker.feed.generation() not in (before, None)


def test_other_server_that_has_every_ending_is_another_life_since_it_may_lack_sessions(
    worker: Worker, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    worker.feed.tell(store.end("h"))
    assert worker.look() == {"h"}
    life, before = worker.place[0], worker.feed.generation()
    store.server = "another"
    worker.beat()
    assert worker.feed.generation() not in (before, None)
    assert worker.look() == {"h"}
    assert worker.place[0] != life
    assert {told.levelname for told in caplog.records} <= {"INFO"}  # nothing is lost, as far as can be told
    life = worker.place[0]
    worker.beat()
    assert worker.ask().epoch == life


def test_other_server_is_not_taken_for_the_one_before_since_others_have_heard_of_an_ending_meanwhile(
    worker: Worker, store: Store, clock: Steady
) -> None:
    life = worker.ask().epoch
    clock.now += 2 * BOUND
    store.server = "another"
    store.meanwhile = lambda: worker.feed.tell(store.end("h"))
    worker.beat()
    assert worker.feed.generation() is None
    store.server = "a third"
    store.meanwhile = lambda: worker.feed.tell(store.end("h2"))
    assert worker.ask().epoch != life
    assert worker.feed.generation() is not None


def test_ending_that_two_losses_took_before_anybody_asked_for_it_is_told(
    worker: Worker, store: Store
) -> None:
    worker.look()
    worker.feed.tell(store.end("h0"))
    for _ in range(2):
        store.flush()
        worker.beat()
    assert [mark.value for mark in worker.ask(worker.place[1]).lost] == ["h0"]


def test_of_what_was_lost_no_more_is_held_than_of_what_is_there(
    worker: Worker, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_feed, "_HELD", 3)
    for names in (("h0", "h1"), ("h2", "h1"), ("h3",)):
        worker.feed.tell(store.end(*names))
        store.flush()
        worker.beat()
    assert [mark.value for mark in worker.ask().lost] == ["h1", "h2", "h3"]


def test_loss_is_said_once(worker: Worker, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.flush()
    worker.beat()
    worker.beat()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "lost endings" in caplog.text


def test_answer_of_a_store_that_lost_an_own_ending_meanwhile_hides_no_other(
    worker: Worker, store: Store
) -> None:
    worker.feed.tell(store.end("h0"))
    worker.look()
    ask = store.ask

    def fail_over(known: Tip | None, cursor: int | None, limit: int) -> Any:
        """The old primary took an ending of this worker; the new one has two others in its place."""
        store.ask = ask  # type: ignore[method-assign]
        worker.feed.ended(store.end("own"))
        worker.look()
        store.lose(1)
        store.end("other")
        store.end("another")
        return ask(known, cursor, limit)

    store.ask = fail_over  # type: ignore[method-assign]
    worker.beat()
    worker.beat()
    assert worker.look() >= {"h0", "other", "another"}


def test_marks_of_a_store_that_is_gone_are_not_taken_for_those_of_the_new_one(
    worker: Worker, store: Store
) -> None:
    for number in range(5):
        worker.feed.tell(store.end(f"h{number}"))
    worker.look()

    def flush() -> None:
        store.flush()
        store.end("new")
        worker.beat()  # another thread

    store.meanwhile = flush
    old = worker.ask(worker.place[1])
    assert (old.epoch, old.cursor) == worker.place  # what was asked of the old one says so
    assert worker.look() == {"new"}


def test_first_answers_of_two_threads_agree(store: Store, clock: Steady) -> None:
    worker = Worker(store)
    store.end("h0")

    def other_thread() -> None:
        store.flush()
        store.end("new")
        worker.beat()

    store.meanwhile = other_thread
    assert [mark.value for mark in worker.ask(0).marks] == ["new"]


# Following


class Following:
    """A feed that is followed, with the real clock, in either world."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.feed = Feed(store, bound_seconds=BOUND, beat_seconds=0.05, wall_clock=lambda: NOW)

    def in_step(self) -> bool:
        generation = self.feed.generation()  # which says in which life as well
        return generation is not None and generation % (1 << 64) == self.store.tip.generation

    def is_followed(self, times: int = 1) -> bool:
        return self.in_step() and len(self.store.subscriptions) == times


@pytest.fixture
def following(store: Store) -> Iterator[Following]:
    following = Following(store)
    until(following.is_followed)
    yield following
    following.feed.stop()


def test_follower_starts_with_the_first_request(store: Store) -> None:
    following = Following(store)
    assert store.asked == 0
    assert following.feed.generation() is None
    until(following.is_followed)
    following.feed.stop()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks are never eager before Python 3.12")
def test_follower_that_begins_at_once_does_not_stop_the_event_loop() -> None:
    class Away:
        is_async = True

        async def subscribe(self) -> Any:
            raise StoreError("away")

        async def ask(self, *_: Any) -> Any:
            raise AssertionError

    async def story() -> None:
        factory: Any = asyncio.eager_task_factory  # type: ignore[attr-defined,unused-ignore]  # 3.12's
        asyncio.get_running_loop().set_task_factory(factory)
        feed = Feed(Away(), bound_seconds=BOUND)
        assert feed.generation() is None
        await asyncio.sleep(0)
        feed.stop()

    thread = threading.Thread(target=lambda: asyncio.run(story()), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_follower_hears_of_an_ending(following: Following) -> None:
    for number in range(3):
        following.store.end(f"h{number}")
        until(following.in_step)


def test_lost_message_is_made_good_by_the_next_beat(following: Following) -> None:
    following.store.end("lost", tells=False)
    until(following.in_step)


def test_messages_that_do_not_come_any_more_are_subscribed_to_anew(
    following: Following, caplog: pytest.LogCaptureFixture
) -> None:
    store = following.store
    store.tells = False
    while len(store.subscriptions) == 1:
        store.end("h")
        until(following.in_step)
    assert store.subscriptions[0].is_closed
    assert "no message has told" in caplog.text
    store.tells = True
    store.end("h")
    until(following.in_step)


def test_store_without_messages_is_asked_at_every_beat(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.has_messages = False
    following = Following(store)
    for number in range(6):
        store.end(f"h{number}")
        until(following.in_step)
    assert caplog.records == []
    following.feed.stop()


def test_broken_subscription_is_taken_up_again(
    following: Following, caplog: pytest.LogCaptureFixture
) -> None:
    following.store.subscriptions[0].put(Broken("which quotes a secret"))
    until(lambda: len(following.store.subscriptions) == 2)
    until(following.in_step)
    assert "Broken" in caplog.text
    assert "secret" not in caplog.text


def test_store_that_is_away_is_not_vouched_for_and_comes_back_by_itself(
    following: Following, caplog: pytest.LogCaptureFixture
) -> None:
    following.store.is_away = True
    until(lambda: following.feed.generation() is None)
    following.store.is_away = False
    until(following.in_step)
    assert "secret" not in caplog.text


def test_error_of_ours_is_said_in_its_own_words(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> Any:
        raise StoreError("it is asleep")

    store.subscribe = refuse  # type: ignore[method-assign]
    following = Following(store)
    following.feed.generation()
    until(lambda: "it is asleep" in caplog.text)
    following.feed.stop()


def test_stopped_follower_ends_and_another_one_starts_with_the_next_request(following: Following) -> None:
    life = run(following.feed.marks_since(0, 9)).epoch
    following.feed.stop()
    assert following.store.subscriptions[0].is_closed
    assert following.feed.held(0, 9, NOW) is None
    following.store.end("meanwhile")
    until(lambda: following.is_followed(2))
    assert run(following.feed.marks_since(0, 9)).epoch == life


def test_endings_that_were_lost_while_nobody_followed_are_noticed(following: Following) -> None:
    store = following.store
    store.end("h0")
    store.end("h1")
    until(following.in_step)
    before = run(following.feed.marks_since(0, 9))
    following.feed.stop()
    store.lose(1)
    store.end("new")
    assert run(following.feed.marks_since(before.cursor, 9)).epoch != before.epoch


def test_threads_start_one_follower(store: Store) -> None:
    following = Following(store)
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        following.feed.generation()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(following.in_step)
    assert len(store.subscriptions) == 1
    following.feed.stop()


def test_process_that_is_about_to_end_starts_no_thread_and_fails_in_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(_thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", cannot)
    assert Following(store).feed.generation() is None


@forks
@may_warn
def test_forked_process_vouches_for_nothing_and_follows_by_itself(following: Following) -> None:
    child = os.fork()
    if not child:
        status = 1
        try:
            assert following.feed.held(0, 9, NOW) is None
            assert following.feed.generation() is None  # which starts a follower
            until(lambda: following.is_followed(2))
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert following.in_step()


# On an event loop


async def until_on_loop(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_asynchronous_store_is_followed_by_a_task_of_the_loop() -> None:
    async def story() -> None:
        store = Store(is_async=True)
        following = Following(store)
        await until_on_loop(following.is_followed)
        store.end("h")
        await until_on_loop(following.in_step)
        store.end("lost", tells=False)
        await until_on_loop(following.in_step)
        store.subscriptions[0].put(Broken())
        await until_on_loop(lambda: following.is_followed(2))
        task = following.feed.stop()
        assert task is not None
        await asyncio.wait([task])
        assert task.cancelled()
        assert all(subscription.is_closed for subscription in store.subscriptions)

    asyncio.run(story())


def test_task_of_the_feed_does_not_keep_the_request_that_started_it() -> None:
    of_request: ContextVar[str] = ContextVar("of_request")
    seen: list[str | None] = []

    async def story() -> None:
        of_request.set("large")
        store = Store(is_async=True)
        following = Following(store)
        store.meanwhile = lambda: seen.append(of_request.get(None))
        await until_on_loop(following.in_step)
        following.feed.stop()

    asyncio.run(story())
    assert seen == [None]


def test_asynchronous_store_without_messages_is_asked_at_every_beat() -> None:
    async def story() -> None:
        store = Store(is_async=True)
        store.has_messages = False
        following = Following(store)
        for number in range(3):
            store.end(f"h{number}")
            await until_on_loop(following.in_step)
        following.feed.stop()

    asyncio.run(story())


def test_thread_beside_the_loop_starts_no_task() -> None:
    store = Store(is_async=True)
    assert Following(store).feed.generation() is None
    assert store.subscriptions == []


def test_next_loop_is_followed_on_when_the_first_one_is_closed() -> None:
    store = Store(is_async=True)
    following = Following(store)

    async def story() -> None:
        count = len(store.subscriptions)
        await until_on_loop(lambda: following.is_followed(count + 1))

    asyncio.run(story())
    following.feed.doubt()
    asyncio.run(story())
    assert following.feed.stop() is not None
