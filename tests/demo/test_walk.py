"""`python -m examples.demo --walk` shows sign-outs of all kinds, and fails where one is not complete."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import takewhile
from pathlib import Path

import pytest

from examples.demo.__main__ import main
from msal_logout_middleware.caches import InStore, Removed
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.testing import Browser

ROOT = Path(__file__).parents[2]
QUIET = pytest.mark.filterwarnings("ignore:response_mode='form_post' is recommended:UserWarning")


ALICE, BOB = (f"{name}@contoso.example" for name in ("alice", "bob"))


def users_of_token_caches(lines: list[str], when: str) -> list[list[str]]:
    """Of each table of a token cache the users, each of whom has one token of each kind, and an account."""
    tables = []
    for index, line in enumerate(lines):
        if line.startswith(f"    {when}") and ", token cache" in line:
            rows = [line.split() for line in takewhile(lambda line: "@" in line, lines[index + 1 :])]
            assert all(row[1:] == ["1"] * 4 for row in rows)
            tables.append([row[0] for row in rows])
    return tables


def test_walk_in_a_fresh_home_leaves_nothing_and_says_each_step(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--walk"],
        cwd=ROOT,
        env={"HOME": str(tmp_path), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    lines = ran.stdout.splitlines()
    assert [line for line in lines if line[:1].isalpha()] == [
        "Front-channel logout",
        "Back-channel logout",
        "Each time, no session and no token of Alice was left at either app. Bob is untouched.",
    ]
    assert [line[:2] for line in lines if line[:1].isdigit()] == [f"{step}." for step in range(1, 9)] * 2
    at_both_apps, of_three_sign_outs, at_both_providers = 2, 3, 2
    times = at_both_apps * of_three_sign_outs * at_both_providers
    assert users_of_token_caches(lines, "Before") == [[ALICE, BOB]] * times
    assert users_of_token_caches(lines, "After") == [[BOB]] * times
    facts = Counter(line.removeprefix("      [ok] ") for line in lines if line.startswith("      "))
    assert facts["the stolen copy of her cookie is refused"] == times
    assert facts["it was told once, and answered 200"] == 4
    assert facts["the next visit finds nobody signed in"] == 4
    assert facts["the provider asked nobody: the sid is the same"] == 2
    framed = [line.split() for line in lines if line.endswith(", in an iframe, without a cookie")]
    assert [words[2:4] for words in framed] == [["->", "200,"]] * 2
    assert sum(line.endswith("/logout/back-channel -> 200, from the provider itself") for line in lines) == 2
    assert "[WRONG]" not in ran.stdout
    assert list(tmp_path.iterdir()) == []


@QUIET
def test_walk_fails_if_accounts_stay_in_the_token_cache(monkeypatch, capsys):
    async def remove_nothing(self, claims, session, *, key=None):
        return Removed({})

    monkeypatch.setattr(InStore, "remove_accounts", remove_nothing)

    assert main(["--walk"]) == 1

    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("FAILED: FastAPI: it is not so that the token cache has no entry of hers")


@QUIET
def test_walk_fails_if_the_session_stays(monkeypatch, capsys):
    monkeypatch.setattr(FlaskSession, "delete", lambda self, session_id: None)
    monkeypatch.setattr("msal_logout_middleware.ending._FIRST_WAIT_SECONDS", 60.0)  # too long to try again

    assert main(["--walk"]) == 1

    assert capsys.readouterr().out.splitlines()[-1].startswith("FAILED: Flask: it is not so that")


@QUIET
def test_walk_that_cannot_go_on_fails_with_a_sentence(monkeypatch, capsys):
    def click(self, text):
        return self.open("http://127.0.0.1:1/")  # where nobody listens

    monkeypatch.setattr(Browser, "click", click)

    assert main(["--walk"]) == 1

    assert "could not go on" in capsys.readouterr().out.splitlines()[-1]
