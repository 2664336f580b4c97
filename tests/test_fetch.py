"""A document of the provider: who waits for it, who does not, and how often the provider is asked."""

from __future__ import annotations

import json
import os
import threading
from types import SimpleNamespace

import pytest
import trustme

from msal_logout_middleware._drive import BlockingWorld, run
from msal_logout_middleware.errors import ProviderError
from msal_logout_middleware.fetch import BACK_OFF_SECONDS, THROTTLE_SECONDS, Document

from .json_server import Clock, JsonServer, NobodyWaits, TimePasses

FRESH = 1000.0


@pytest.fixture
def server():
    server = JsonServer({"name": "first"})
    yield server
    server.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def document(server, clock):
    return at(server, clock)


def at(server, clock, **more):
    return Document(
        server.url, lambda json: json["name"], name="document", fresh_seconds=FRESH, clock=clock, **more
    )


def get(document, world=None, wait_seconds=30.0):
    return run(document.get(world or BlockingWorld(), wait_seconds=wait_seconds))


def find(document, name, world=None, wait_seconds=30.0):
    look = {name: name}.get
    return run(document.find(look, world or BlockingWorld(), wait_seconds=wait_seconds))


@pytest.fixture
def fetches(monkeypatch):
    """Wait until every fetch of this test that has begun has ended."""
    begun = []

    class Noted(threading.Thread):
        def start(self):
            begun.append(self)
            super().start()

    monkeypatch.setattr(
        "msal_logout_middleware.fetch.threading", SimpleNamespace(Thread=Noted, Lock=threading.Lock)
    )

    def end():
        assert begun
        for thread in begun:
            thread.join(60)
            assert not thread.is_alive()

    return end


def test_document_is_fetched_when_first_needed_and_then_held(server, document):
    assert document.held is None
    assert server.requests == 0
    assert get(document) == get(document, NobodyWaits()) == document.held == "first"
    assert server.requests == 1


@pytest.mark.parametrize(
    "answer",
    [
        (500, '{"name": "x"}'),
        (302, '{"name": "x"}'),
        (204, ""),
        (200, ""),
        (200, "not json"),
        (200, '["name"]'),
        (200, "{}"),
        (200, "[" * 100_000),
        (200, " " * 300_000 + '{"name": "x"}'),
        None,
    ],
    ids=lambda answer: str(answer)[:40],
)
def test_bad_answer_is_as_good_as_none_and_not_asked_for_again_at_once(
    server, fetches, document, clock, answer, caplog
):
    server.answer = answer
    for _ in range(3):
        with pytest.raises(ProviderError, match="next try"):
            get(document)
    assert server.requests == 1
    fetches()
    assert "document: fetch failed" in caplog.text
    server.says({"name": "second"})
    clock.now += BACK_OFF_SECONDS
    assert get(document) == "second"


def test_redirect_is_not_followed(server, document):
    elsewhere = JsonServer({"name": "elsewhere"})
    server.answer = (302, "")
    server.headers = {"Location": elsewhere.url}
    with pytest.raises(ProviderError):
        get(document)
    elsewhere.close()
    assert elsewhere.requests == 0


def test_only_a_server_with_a_trusted_certificate_is_believed(tmp_path, clock):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = JsonServer({"name": "first"}, authority.issue_cert("127.0.0.1"))
    with pytest.raises(ProviderError):
        get(at(server, clock))
    assert server.requests == 0
    assert get(at(server, clock, verify=str(tmp_path / "ca.pem"))) == "first"
    server.close()


def test_ca_bundle_that_is_not_there_is_a_failed_fetch(server, fetches, clock, tmp_path, caplog):
    server.url = server.url.replace("http:", "https:")
    document = at(server, clock, verify=str(tmp_path / "none.pem"))
    with pytest.raises(ProviderError):
        get(document)
    fetches()
    assert "fetch failed (OSError: Could not find a suitable TLS CA certificate bundle" in caplog.text
    assert "none.pem" in caplog.text


def test_provider_that_hangs_keeps_nobody_waiting_twice(server, document, clock):
    server.may_answer.clear()
    with pytest.raises(ProviderError):
        get(document, TimePasses(clock), wait_seconds=1.5)
    assert 1.5 <= clock.now < 1.6
    for _ in range(100):
        with pytest.raises(ProviderError):
            get(document, NobodyWaits(), wait_seconds=1.5)
    assert server.asked.acquire(timeout=30)
    assert server.requests == 1


def test_what_comes_late_is_held_all_the_same(server, fetches, document, clock):
    server.may_answer.clear()
    with pytest.raises(ProviderError):
        get(document, TimePasses(clock), wait_seconds=1.5)
    server.may_answer.set()
    fetches()
    assert get(document, NobodyWaits()) == "first"
    assert server.requests == 1


def test_provider_that_does_not_answer_is_given_up_after_the_timeout(server, fetches, clock, caplog):
    server.may_answer.clear()
    with pytest.raises(ProviderError):
        get(at(server, clock, timeout_seconds=0.05))
    assert not server.may_answer.is_set()
    fetches()
    assert "ReadTimeout" in caplog.text


def test_stale_document_serves_while_it_is_fetched_anew(server, fetches, document, clock):
    assert get(document) == "first"
    clock.now += FRESH
    server.may_answer.clear()
    server.says({"name": "second"})
    assert get(document, NobodyWaits()) == "first"
    assert server.asked.acquire(timeout=30)
    assert get(document, NobodyWaits()) == "first"
    server.may_answer.set()
    fetches()
    assert get(document, NobodyWaits()) == "second"
    assert server.requests == 2


def test_document_is_not_fetched_anew_while_it_is_fresh(server, document, clock):
    assert get(document) == "first"
    clock.now += FRESH - 1
    assert get(document, NobodyWaits()) == "first"
    assert server.requests == 1


def test_stale_document_serves_while_the_provider_is_away(server, fetches, document, clock, caplog):
    assert get(document) == "first"
    clock.now += FRESH
    server.answer = (500, "")
    assert get(document, NobodyWaits()) == "first"
    fetches()
    assert "the last known one is used" in caplog.text
    assert get(document, NobodyWaits()) == "first"
    assert server.requests == 2


def test_who_misses_something_gets_what_a_refresh_brings(server, document, clock):
    assert get(document) == "first"
    clock.now += 1
    server.says({"name": "second"})
    assert find(document, "second") == "second"
    assert server.requests == 2
    clock.now += 1
    server.says({"name": "third"})
    assert find(document, "third") == "third"  # at once, since the last refresh was not in vain


def test_what_was_fetched_since_somebody_asked_is_not_fetched_again_for_them(server, document):
    assert find(document, "nothing") is None
    assert server.requests == 1


def test_refresh_in_vain_is_not_repeated_for_some_seconds(server, document, clock):
    assert get(document) == "first"
    clock.now += 1
    for _ in range(100):
        assert find(document, "nothing") is None
    assert server.requests == 2
    clock.now += THROTTLE_SECONDS - 1
    assert find(document, "nothing", NobodyWaits()) is None
    assert server.requests == 2
    clock.now += 1
    assert find(document, "nothing") is None
    assert server.requests == 3


def test_refresh_in_vain_does_not_keep_a_stale_document_from_being_fetched(server, fetches, document, clock):
    assert get(document) == "first"
    clock.now += FRESH - 1
    assert find(document, "nothing") is None
    server.says({"name": "second"})
    clock.now += FRESH
    assert get(document, NobodyWaits()) == "first"
    fetches()
    assert document.held == "second"


def test_of_many_threads_one_fetches(server, document):
    barrier = threading.Barrier(8)
    found = []

    def ask():
        barrier.wait()
        found.append(get(document))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["first"] * 8
    assert server.requests == 1


def test_machine_without_threads_is_a_failed_fetch(document, monkeypatch, caplog):
    def start(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(ProviderError):
        get(document, NobodyWaits())
    assert "fetch failed (RuntimeError)" in caplog.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_process_waits_for_no_thread_of_its_parent(server, document, clock):
    server.may_answer.clear()
    with pytest.raises(ProviderError):
        get(document, TimePasses(clock), wait_seconds=1.0)
    assert server.asked.acquire(timeout=30)
    with document._lock:  # whoever forks may hold it
        child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if get(document) == "first" else 2
        finally:
            os._exit(status)
    assert server.asked.acquire(timeout=30)
    server.may_answer.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_log_shows_where_and_with_which_status_a_fetch_failed(server, fetches, document, caplog):
    server.answer = (404, "")
    with pytest.raises(ProviderError):
        get(document)
    fetches()
    assert f"document: fetch failed (ProviderError: status 404) at {server.url}" in caplog.text


def test_log_does_not_show_what_the_provider_said(server, fetches, document, caplog):
    server.answer = (200, json.dumps({"secret": "s3cret"}))
    with pytest.raises(ProviderError):
        get(document)
    fetches()
    assert "s3cret" not in caplog.text
    assert "fetch failed (KeyError)" in caplog.text
