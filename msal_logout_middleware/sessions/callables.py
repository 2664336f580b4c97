"""Sessions by functions of the app: for Bottle, Falcon, Sanic, Beaker, bare itsdangerous, a table of one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from itsdangerous import BadData

from .._drive import MaybeAwaitable, run, settle
from ..cookies import on_the_wire
from ..errors import StoreError
from ..http import Cookie
from ..session import Secrets, Session
from .presets import ClaimsAt, claims_finder

T = TypeVar("T")
Contents: TypeAlias = Mapping[str, Any]

_TAKES = {
    "read": "the Cookie header, and returns the session's contents or None",
    "session_id": "the Cookie header, and returns the session's id or None",
    "load": "a session's id, and returns its contents or None",
    "delete": "a session's id, and deletes it",
}


class CallableSession:
    """Reads and deletes sessions by functions that the app gives: the very code by which it reads them itself.

    Of a session that is all in its cookie `read` is all that is needed; of one on the server `session_id`, `load` and
    `delete`. They are all plain functions or all coroutine functions. What they raise counts as a storage that cannot
    be asked, but for itsdangerous' `BadData` of `read` and `session_id`, which is a cookie that is not valid.

    Args:
        cookies: The cookies that carry the session, with the attributes that the app sets them with.
        read: Takes the `Cookie` header, and returns the session's contents; `None` if there is none, or it is forged.
        session_id: Takes the `Cookie` header, and returns the id that it bears; `None` if it bears none, or is forged.
        load: Takes an id, and returns what is kept under it; `None` if nothing is. It changes nothing.
        delete: Takes an id, and deletes what is kept under it, if anything is.
        claims: Where the ID token claims are: a key, a callable, or `None` for the known places.
        secret: The app's own secret, from which `Logout(secret=...)` is derived by default; of several the first signs.

    Raises:
        TypeError: An argument is not of the kind that is needed, or they do not go together.
    """

    def __init__(
        self,
        *,
        cookies: Sequence[Cookie | str],
        read: Callable[[str], MaybeAwaitable[Contents | None]] | None = None,
        session_id: Callable[[str], MaybeAwaitable[str | None]] | None = None,
        load: Callable[[str], MaybeAwaitable[Contents | None]] | None = None,
        delete: Callable[[str], MaybeAwaitable[object]] | None = None,
        claims: ClaimsAt = None,
        secret: Secrets = None,
    ) -> None:
        functions = {"read": read, "session_id": session_id, "load": load, "delete": delete}
        given = {name: function for name, function in functions.items() if function is not None}
        if set(given) not in ({"read"}, {"session_id", "load", "delete"}):
            raise TypeError(
                "give CallableSession read=, if a session is all in its cookie; or session_id=, load= and delete=, "
                "if it is kept on the server"
            )
        for name, function in given.items():
            if not callable(function):
                raise TypeError(f"{name}= must be a function: it takes {_TAKES[name]}")
        asynchronous = {_is_async(function) for function in given.values()}
        if len(asynchronous) > 1:
            raise TypeError(
                "session_id=, load= and delete= must be all plain functions or all coroutine functions"
            )
        if isinstance(cookies, (str, Cookie)) or not cookies:
            raise TypeError(
                "cookies= must be a list of the session's cookies, such as cookies=[Cookie('session')]"
            )
        if not all(isinstance(cookie, (str, Cookie)) for cookie in cookies):
            raise TypeError(f"cookies={cookies!r} must be names of cookies, or Cookie(...)")
        self.cookies = tuple(c if isinstance(c, Cookie) else Cookie(c) for c in cookies)
        self.secret = secret
        self.server_side = read is None
        (self.is_async,) = asynchronous
        self._contents_of = read
        self._id_of = session_id
        self._load = load
        self._delete = delete
        self._find_claims = claims_finder(claims)

    def __repr__(self) -> str:
        """Name the cookies."""
        return f"CallableSession({', '.join(cookie.name for cookie in self.cookies)})"

    def read(self, cookie_header: str) -> MaybeAwaitable[Session | None]:
        """Return the session that a `Cookie` header leads to.

        Raises:
            Exception: What the functions raise.
        """
        return self._driven(self._session_of(on_the_wire(cookie_header).decode("latin-1")))

    def load(self, session_id: str) -> MaybeAwaitable[Session | None]:
        """Return a server-side session by its id.

        Raises:
            Exception: What `load` raises.
        """
        return self._driven(self._loaded(session_id))

    def delete(self, session_id: str) -> MaybeAwaitable[None]:
        """Delete a server-side session, and look whether it is gone.

        Raises:
            StoreError: `load` still finds the session.
            Exception: What `load` and `delete` raise.
        """
        return self._driven(self._deleted(session_id))

    async def _session_of(self, cookie_header: str) -> Session | None:
        try:
            if self._contents_of is not None:
                contents = await settle(self._contents_of(cookie_header))
                return self._session(None, contents, "read") if contents else None
            session_id = await settle(self._id_of(cookie_header)) if self._id_of else None
        except BadData:
            return None
        return await self._loaded(session_id) if session_id else None

    async def _loaded(self, session_id: str) -> Session | None:
        contents = await settle(self._load(session_id)) if self._load else None
        return None if contents is None else self._session(session_id, contents, "load")

    async def _deleted(self, session_id: str) -> None:
        if self._delete is None:
            return
        await settle(self._delete(session_id))
        if await self._loaded(session_id) is not None:
            raise StoreError("load= still finds a session that was deleted by delete=")

    def _session(self, session_id: str | None, contents: Contents, name: str) -> Session:
        if not isinstance(contents, Mapping):
            raise TypeError(f"{name}= must return a mapping or None, not {type(contents).__name__}")
        return Session(id=session_id, claims=self._find_claims(contents), contents=contents)

    def _driven(self, flow: Coroutine[Any, Any, T]) -> MaybeAwaitable[T]:
        return flow if self.is_async else run(flow)


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        cast("Any", getattr(function, "__call__", None))  # noqa: B004 - an object's own
    )
