"""A request that only reads its session, and is still running when the user signs out, does not bring it back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from msal_logout_middleware._drive import settle

from ..stores.servers import Server
from .kinds import KINDS, PATIENCE_SECONDS, Answer, Made, Views, get, sign_in, wrapped

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:datetime.datetime.utcnow:DeprecationWarning"
    ),  # Flask-Session's SQLAlchemy
    pytest.mark.filterwarnings("ignore:Call to deprecated setex"),  # quart-session calls it
]
SERVER_SIDE = {name: kind for name, kind in KINDS.items() if kind.comes_back is not None}


async def during_a_read(
    made: Made, app: Any, views: Views, cookie_header: str, sign_out: Callable[[], Awaitable[object]]
) -> Answer:
    """Sign out while a request is running that has read the session; return its answer."""
    answers: list[Answer] = []

    async def read() -> None:
        answers.append(await get(made, app, "/hold", cookie_header))

    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            try:
                assert await anyio.to_thread.run_sync(views.entered.wait, PATIENCE_SECONDS)
                await sign_out()
            finally:
                views.go.set()
    return answers[0]


@pytest.mark.parametrize("name", SERVER_SIDE)
def test_read_in_flight_does_not_bring_a_session_back(name: str, tmp_path: Path, server: Server) -> None:
    views = Views()
    made = SERVER_SIDE[name].make(views, tmp_path, server)
    app = wrapped(made)

    async def story() -> None:
        header = await sign_in(made, app)
        assert (await get(made, app, "/who", header)).text == "sub-of-ann"

        async def sign_out() -> None:
            assert (await get(made, app, "/logout", header)).status == 303

        answer = await during_a_read(made, app, views, header, sign_out)
        for cookies in (header, answer.cookie_header):
            assert (await get(made, made.app, "/who", cookies)).text == "nobody"  # nothing is left of it
            assert (await get(made, app, "/who", cookies)).text == "nobody"

    anyio.run(story)


@pytest.mark.parametrize("name", SERVER_SIDE)
def test_read_in_flight_brings_back_what_is_only_deleted_where_it_does(
    name: str, tmp_path: Path, server: Server
) -> None:
    """What the test above is worth: the same requests, without the middleware."""
    views = Views()
    made = SERVER_SIDE[name].make(views, tmp_path, server)

    async def story() -> None:
        header = await sign_in(made, made.app)
        session = await settle(made.session.read(header))
        assert session.id

        async def sign_out() -> None:
            await settle(made.session.delete(session.id))
            assert await settle(made.session.read(header)) is None

        answer = await during_a_read(made, made.app, views, header, sign_out)
        who = {(await get(made, made.app, "/who", each)).text for each in (header, answer.cookie_header)}
        assert ("sub-of-ann" in who) == SERVER_SIDE[name].comes_back

    anyio.run(story)
