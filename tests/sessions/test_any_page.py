"""What the page on any other framework shows works: its own code, and then this."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_docs import ROOT, run_page

STORIES = {
    "Bottle": """
CLAIMS = {"iss": "https://provider.example/v2.0", "sub": "ada"}
reader = logout.configuration.session
cookie = signer.dumps({"user": CLAIMS})
assert reader.read(f"a=b; session={cookie}").claims == CLAIMS
assert reader.read(f"session={cookie}x") is None
assert reader.read("") is None
""",
    "Falcon": """
assert falcon_session.read("sid=secret") is None
ask("INSERT INTO sessions VALUES (?, ?)", "secret", '{"theme": "dark"}')
assert falcon_session.read("a=b; sid=secret") == falcon_session.load("secret")
assert falcon_session.read("sid=secret").contents == {"theme": "dark"}
falcon_session.delete("secret")
assert falcon_session.read("sid=secret") is None
assert falcon_session.read("") is None
""",
    "Beaker": """
session = opened("")
session["theme"] = "dark"
session.save()
session.persist()
cookie = session.request["cookie_out"].partition(";")[0].strip()
read = beaker_session.read(cookie)
assert read.id == session.id
assert read == beaker_session.load(session.id)
assert read.contents["theme"] == "dark"
assert beaker_read(cookie) == {"theme": "dark"}
assert beaker_read("") == {}
beaker_session.delete(read.id)
assert beaker_session.read(cookie) is None
(set_by_app,) = [Cookie.set_by(session.request["cookie_out"])]
assert beaker_session.cookies == (set_by_app,)
""",
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_sessions_of_the_page_are_read_and_deleted(story: str, tmp_path: Path) -> None:
    page = (ROOT / "docs/frameworks/any.md").read_text()
    ran = run_page("any.md", f"{page}\n```python\n{story}```\n", tmp_path)
    assert ran.returncode == 0, ran.stderr
