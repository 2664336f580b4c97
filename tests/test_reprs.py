"""Nothing secret shows in a repr, which ends in tracebacks and error reports."""

import pytest

from msal_logout_middleware.caches import Removed
from msal_logout_middleware.ending import Work
from msal_logout_middleware.http import Request, Response
from msal_logout_middleware.memory import Visit
from msal_logout_middleware.records import KnownSession
from msal_logout_middleware.remote import Sought
from msal_logout_middleware.session import Session
from msal_logout_middleware.stores import JournalRow, Loaded, SessionRecord

SECRET = "live-credential"


@pytest.mark.parametrize(
    "value",
    [
        Loaded(SECRET.encode(), "1"),
        JournalRow("1", SECRET.encode()),
        SessionRecord("h", "s", (), 0.0, SECRET.encode(), 0.0),
        Session(SECRET, {"sub": SECRET}, {"x": SECRET}),
        Request("GET", "/", f"code={SECRET}", (("cookie", SECRET),), body=SECRET.encode()),
        Response(200, (("set-cookie", SECRET),), SECRET.encode()),
        Removed({}, id_token=SECRET),
        KnownSession(SECRET, ("h",), {"sub": SECRET}, SECRET),
        Work("admin", (KnownSession(SECRET, ("h",), {"sub": SECRET}, SECRET),), {"sub": SECRET}),
        Visit(dead=(f"session={SECRET}",), cookies=f"session={SECRET}"),
        Sought(sub=SECRET, sid=SECRET, oid=SECRET),
    ],
    ids=lambda value: type(value).__name__,
)
def test_value_shows_no_secret(value):
    assert SECRET not in repr(value)
