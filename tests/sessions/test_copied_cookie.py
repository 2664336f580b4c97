"""A cookie that was copied before the logout is refused after it; a later session of the same user is not."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from ..stores.servers import Server
from .kinds import KINDS, Views, get, sign_in, wrapped

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:datetime.datetime.utcnow:DeprecationWarning"
    ),  # Flask-Session's SQLAlchemy
    pytest.mark.filterwarnings("ignore:Call to deprecated setex"),  # quart-session calls it
]


@pytest.mark.parametrize("way", ["in the app", "at the provider"])
@pytest.mark.parametrize("name", KINDS)
def test_cookie_copied_before_the_logout_is_refused(
    name: str, way: str, tmp_path: Path, server: Server
) -> None:
    kind = KINDS[name]
    made = kind.make(Views(), tmp_path, server)
    app = wrapped(made)

    async def who(cookie_header: str) -> str:
        return (await get(made, app, "/who", cookie_header)).text

    async def story() -> None:
        copied = await sign_in(made, app, sid="one", iat=1_700_000_000)
        assert await who(copied) == "sub-of-ann"
        if way == "in the app":
            assert (await get(made, app, "/logout", copied)).status == 303
        else:  # without a cookie
            assert (await get(made, app, "/logout/front-channel", sid="one")).status == 200
        assert await who(copied) == "nobody"
        # The framework alone refuses only what it can delete.
        is_in_cookie = kind.comes_back is None
        assert (await get(made, made.app, "/who", copied)).text == (
            "sub-of-ann" if is_in_cookie else "nobody"
        )

        later = await sign_in(made, app, sid="one", iat=1_700_000_001)
        assert await who(later) == "sub-of-ann"
        assert await who(copied) == "nobody"
        assert await who(later) == "sub-of-ann"

    anyio.run(story)
