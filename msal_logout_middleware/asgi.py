"""The ASGI door: scope in, messages out. What is not ours passes through untouched."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeVar

import anyio

from ._drive import BlockingWorld, LoopWorld, World, run_beside_loop
from .http import MAXIMUM_BODY_BYTES, Header, Request, Response
from .logout import AppView, Logout, check_app
from .pages import plain

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Flow = Callable[[World], Coroutine[Any, Any, T]]


class LogoutMiddleware:
    """Signs users of an ASGI app out.

    Args:
        app: The app to wrap, with its sessions inside: this middleware is the outermost.
        logout: How users are signed out.

    Raises:
        TypeError: `app` is not an ASGI app, or `logout` not a `Logout`.
    """

    def __init__(self, app: ASGIApp, logout: Logout) -> None:
        otherwise = "for a WSGI app, such as Flask's app.wsgi_app, use msal_logout_middleware.wsgi"
        check_app(app, logout, parameters=3, otherwise=otherwise)
        self.app = app
        self.logout = logout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is ours; hand everything else to the app.

        Raises:
            RuntimeError: A session middleware is outside of this one, so that it would undo a sign-out.
        """
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        mount = scope.get("root_path", "")
        path = _route(scope["path"], mount)
        query = scope.get("query_string", b"").decode("latin-1")
        if not self.logout.takes(scope["method"], path, mount, query):
            await self.app(scope, receive, send)
            return

        if "session" in scope and path == self.logout.logout_path:
            raise RuntimeError(
                "LogoutMiddleware stands inside the session middleware, which would set the cookie again: add it "
                "last, app.add_middleware(LogoutMiddleware, logout=logout), so that it is outermost"
            )
        body: bytes | None = b""
        if scope["method"] == "POST":
            try:
                body = await _read_body(receive)
            except _DisconnectedError:
                return
        if body is None:
            await _send(plain(413, "The request is too large."), send)
            return
        headers = tuple(
            (n.decode("latin-1").lower(), v.decode("latin-1")) for n, v in scope.get("headers", ())
        )
        request = Request(scope["method"], path, query, headers, mount, body)
        answer = await self._drive(lambda world: self.logout.respond(request, world))
        if isinstance(answer, Response):
            await _send(answer, send)
        elif answer is None:
            await self.app(scope, receive, send)
        else:
            if answer.request is not request:
                kept = [(n, v) for n, v in scope.get("headers", ()) if n.lower() not in _BODY_HEADERS]
                scope = {**scope, "method": answer.request.method, "headers": kept}
                body = b""
            # What was read is given again; what was not, such as a GET's body, is still to be received.
            again = _replay(body, receive) if request.method == "POST" else receive
            await self._app_view(answer, scope, again, send)

    async def _app_view(self, view: AppView, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = False

        async def look(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start":
                headers: list[Header] = [
                    (n.decode("latin-1"), v.decode("latin-1")) for n, v in message.get("headers", ())
                ]
                result = await self._drive(lambda world: view.headers(headers, world))
                if isinstance(result, Response):
                    replaced = True
                    await _send(result, send)
                    return
                message = {**message, "status": view.status(message["status"]), "headers": _encoded(result)}
            if not replaced:
                await send(message)

        try:
            await self.app(scope, receive, look)
        finally:
            await self._drive(view.returned)

    async def _drive(self, flow: Flow[T]) -> T:
        blocks = self.logout.blocks
        # A client that hangs up must not leave a session half ended.
        with anyio.CancelScope(shield=True):
            return await (run_beside_loop(flow(BlockingWorld())) if blocks else flow(LoopWorld()))
        raise AssertionError  # type checkers cannot know that nothing leaves this scope early


_BODY_HEADERS = (b"content-length", b"content-type", b"transfer-encoding")


class _DisconnectedError(Exception):
    """The client hung up before its request was complete."""


def _route(path: str, mount: str) -> str:
    """Return the path below the mount, whether or not the server leaves the mount in it (ASGI allows both)."""
    if mount and (path == mount or path.startswith(f"{mount}/")):
        return path[len(mount) :]
    return path


async def _read_body(receive: Receive) -> bytes | None:
    """Return the body; `None` if it is longer than any that is meant for us."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _DisconnectedError
        body += bytes(message.get("body", b""))
        if len(body) > MAXIMUM_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read, then what comes."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _encoded(headers: Any) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def _send(response: Response, send: Send) -> None:
    headers = _encoded(response.headers)
    if response.status != 204:
        headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
