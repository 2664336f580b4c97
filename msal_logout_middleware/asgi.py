"""The ASGI door: scope in, messages out. What is not ours passes through untouched."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import anyio

from . import back_channel, pages, upkeep
from ._drive import BlockingWorld, LoopWorld, World, drive, run_beside_loop
from .exchange import Exchange, may_say
from .http import MAXIMUM_BODY_BYTES, Header, Request, Response
from .layers import layers
from .logout import AppView, Logout, check_app, check_no_circle
from .memory import SAMPLED_FROM, Visit
from .routes import by_starlette, mount_of, route_of

logger = logging.getLogger("msal_logout_middleware")

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]  # each framework has types of its own for the same
Flow = Callable[[World], Coroutine[Any, Any, T]]

_NOT_REMEMBERED = (b"", Visit())
_WATCH_SECONDS = 1.0  # how often an open connection's session is looked at
_POLICY_VIOLATION = 1008  # RFC 6455, 7.4.1
_TRY_AGAIN_LATER = 1013  # IANA's registry of WebSocket close codes


class LogoutMiddleware:
    """Signs users of an ASGI app out, and refuses their ended sessions.

    Args:
        app: The app to wrap, with its sessions inside: this middleware is the outermost.
        logout: How users are signed out.

    Raises:
        TypeError: `app` is not an ASGI app, or `logout` not a `Logout`.
    """

    def __init__(self, app: ASGIApp, logout: Logout) -> None:
        otherwise = "for a WSGI app, such as Flask's app.wsgi_app, use msal_logout_middleware.wsgi"
        check_app(app, logout, parameters=3, otherwise=otherwise)
        logout.serve(app)
        self.app = app
        self.logout = logout
        self._gate = logout.gate
        self._nobody = logout.gate.nobody
        self._visits = logout.gate.visits
        self._generation = logout.gate.generation
        self._learns = logout.gate.learns_exchanges
        self._route, self._mount = route_of(app), mount_of(app)
        self._routes_otherwise = self._route is not by_starlette
        self._paths = logout.paths
        self._routed = {self._route(path, ""): path for path in logout.paths}
        inside = list(layers(app))
        self._has_own_sessions = any(layer.keeps_sessions for layer in inside)  # whatever an outer app has
        adapted = any(layer.is_of("asgiref.wsgi.WsgiToAsgi") for layer in inside)
        self._leave_by = self._leaving_as_coroutine if adapted else self._leaving
        self._upkeep: asyncio.Task[None] | None = None
        self._behind: set[asyncio.Future[Any]] = set()

    # Every request passes here, so nothing is called that can be told in a line.
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is ours; hand everything else to the app, behind the gate.

        Raises:
            RuntimeError: A session middleware is outside of this one, so that it would undo a sign-out; or the app is
                one that calls this middleware, so that no request would have an end.
        """
        if scope["type"] != "http":
            await self._not_http(scope, receive, send)
            return
        if self._upkeep is None:
            self._start_upkeep()
        visit, cookie_header, in_pieces = self._nobody, None, False
        for name, value in scope.get("headers", ()):
            if name == b"cookie":
                in_pieces = cookie_header is not None
                cookie_header = cookie_header + b"; " + value if cookie_header is not None else value
        if cookie_header is not None:
            scope = self._in_one(scope, cookie_header) if in_pieces else scope
            sampled = cookie_header if len(cookie_header) < SAMPLED_FROM else cookie_header[::32]
            remembered, visit = self._visits.get(sampled, _NOT_REMEMBERED)
            if remembered != cookie_header or (
                visit.seen is not None and visit.seen.lives_at != self._generation()
            ):
                visit = await self._admit(cookie_header)

        path, query = scope["path"], scope.get("query_string", b"")
        if (mount := scope.get("root_path", "")) or self._routes_otherwise:
            path, mount = self._place(scope)
        # A sign-out that is not done is not done at the second click either: nobody may be told so.
        if visit.dead and not (visit.is_put_off and path == self.logout.logout_path):
            scope = {**scope, "headers": _without_dead(scope["headers"], visit)}
        if path in self._paths or (query and b"state=" in query and self._comes_back(scope, path, mount)):
            await self._ours(scope, receive, send, visit, path)
        elif visit.plain and not (
            self._learns
            and visit.seen is None
            and (scope["method"] == "POST" or (query and b"session_state=" in query))
        ):
            await self.app(scope, receive, self._leave_by(send, visit))
        elif visit.unsure:
            await _send(pages.unavailable(), send)
        else:
            await self._pass(scope, receive, send, visit)

    async def _not_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._upkeep is None:
            self._start_upkeep()
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        cookies = [value for name, value in scope.get("headers", ()) if name == b"cookie"]
        visit = self._gate.nobody
        if cookies:
            cookie_header = b"; ".join(cookies)
            scope = self._in_one(scope, cookie_header) if len(cookies) > 1 else scope
            visit = await self._admit(cookie_header)
        if visit.unsure or (visit.dead and visit.seen is None):
            await receive()  # the handshake
            code = _TRY_AGAIN_LATER if visit.unsure else _POLICY_VIOLATION
            await send({"type": "websocket.close", "code": code})
            return
        if visit.dead:  # beside one that lives
            scope = {**scope, "headers": _without_dead(scope["headers"], visit)}
        if visit.seen is None or not self.logout.configuration.close_websockets:
            await self.app(scope, receive, send)
        else:
            await self._watched(scope, receive, send, visit, _close)

    def _place(self, scope: Scope) -> tuple[str, str]:
        """Return a request's path below the mount, and the mount; a path of ours as it was given to `Logout`."""
        mount = self._mount(scope.get("root_path", ""))
        path = scope["path"]
        return self._routed.get(self._route(path, mount)) or by_starlette(path, mount), mount

    def _comes_back(self, scope: Scope, path: str, mount: str) -> bool:
        return self.logout.takes(scope["method"], path, mount, scope["query_string"].decode("latin-1"))

    def _in_one(self, scope: Scope, cookie_header: bytes) -> Scope:
        """Return a request whose `Cookie` header was sent in pieces, with the header in one (RFC 9113, 8.2.3).

        An adapter to WSGI would join the pieces by a comma, some frameworks read one of them alone, and the app would
        see another session than was judged.
        """
        if not any(name in cookie_header for name in self._names):
            return scope
        headers = [(name, value) for name, value in scope["headers"] if name != b"cookie"]
        return {**scope, "headers": [*headers, (b"cookie", cookie_header)]}

    # The gate

    async def _admit(self, cookie_header: bytes) -> Visit:
        text = cookie_header.decode("latin-1")
        if self._upkeep is not None and self._upkeep.get_loop().is_closed():
            self._start_upkeep()  # its loop went without a word to its tasks
        return await self._gated(lambda world: self._gate.admit(text, cookie_header, world))

    def _leaving(self, send: Send, visit: Visit) -> Send:
        """Return a `send` that looks at the headers of the app's answer."""
        seen = visit.seen

        # No coroutine function: most messages need none but the server's own.
        def leave(message: Message) -> Awaitable[None]:
            if message["type"] != "http.response.start":
                return send(message)
            looks = seen is not None and seen.lives_at != self._generation()
            headers = message.get("headers", ())
            if type(headers) is not list:  # it may be anything that can be gone through once
                message["headers"] = headers = list(headers)
            for name, value in headers:
                if (
                    len(name) == 10
                    and name.lower() == b"set-cookie"
                    and value.lstrip().startswith(self._names)
                ):
                    looks = True
            if not looks:
                return send(message)

            async def look(message: Message) -> None:
                nonlocal send
                send = await self._leave(message, visit, None, send)

            return look(message)

        return leave

    def _leaving_as_coroutine(self, send: Send, visit: Visit) -> Send:
        """Return the same as a coroutine function, without which asgiref warns."""
        leaving = self._leaving(send, visit)

        async def leave(message: Message) -> None:
            await leaving(message)

        return leave

    async def _pass(self, scope: Scope, receive: Receive, send: Send, visit: Visit) -> None:
        """Call the app, and let nothing of an ended session out; look once more when the app has returned."""
        gate = self._gate
        exchange: Exchange | None = None
        if gate.may_learn(visit, scope["method"], scope.get("query_string", b"").decode("latin-1")):
            exchange, receive = await self._exchange(scope, receive)
        looks = bool(visit.dead) or exchange is not None

        async def leave(message: Message) -> None:
            nonlocal send
            if message["type"] == "http.response.start":
                # They may be anything that can be gone through once.
                message["headers"] = list(message.get("headers", ()))
            if message["type"] == "http.response.start" and (
                looks or gate.is_late(visit) or _sets_cookie(message, self._names)
            ):
                send = await self._leave(message, visit, exchange, send)
            else:
                await send(message)

        try:
            if visit.seen is not None and self.logout.configuration.close_streams:
                await self._watched(scope, receive, leave, visit, _leave_open)
            else:
                await self.app(scope, receive, leave)
        finally:
            if gate.minds_return and gate.is_late(visit):
                await self._gated(lambda world: gate.returned(visit, world))

    async def _leave(self, message: Message, visit: Visit, exchange: Exchange | None, send: Send) -> Send:
        """Send what may leave of an answer's headers; return where its body goes."""
        headers, status = _decoded(message.get("headers", ())), message["status"]
        answer = await self._gated(lambda world: self._gate.answer(visit, status, headers, exchange, world))
        if isinstance(answer, Response):
            await _send(answer, send)
            return _ignore
        await send({**message, "headers": _encoded(answer)})
        return send

    @cached_property
    def _names(self) -> tuple[bytes, ...]:
        return tuple(name.encode("latin-1") for name in self._gate.names)

    async def _exchange(self, scope: Scope, receive: Receive) -> tuple[Exchange | None, Receive]:
        """Return what a request says of the provider's session; a form is read, and given again."""
        headers = _decoded(scope.get("headers", ()))
        request = _request(scope, self._place(scope), headers, b"")
        if not may_say(request):
            return None, receive
        if request.method == "POST" and request.is_small_form:
            messages: list[Message] = []
            with suppress(_DisconnectedError):  # which the app is told as well
                request = replace(request, body=await _read_body(receive, messages))
            receive = _replay(messages, receive)
        return Exchange(self.logout.configuration, request), receive

    # Connections that stay open

    async def _watched(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        visit: Visit,
        close: Callable[[Send], Awaitable[None]],
    ) -> None:
        """Call the app, and break it off when the session has ended."""
        failure: BaseException | None = None

        async def watch() -> None:
            while not await self._is_over(visit):  # noqa: ASYNC110 - the store tells no event
                await anyio.sleep(_WATCH_SECONDS)
            everything.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await close(send)

        async with anyio.create_task_group() as everything:
            everything.start_soon(watch)
            try:
                await self.app(scope, receive, send)
            except Exception as error:  # a group would wrap it
                failure = error
            everything.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _is_over(self, visit: Visit) -> bool:
        if not self._gate.is_late(visit):
            return False
        try:
            return await self._gated(lambda world: self._gate.has_ended(visit, world))
        except Exception:  # the store's; nobody is served on a guess
            return True

    # What is ours

    async def _ours(self, scope: Scope, receive: Receive, send: Send, visit: Visit, path: str) -> None:
        if "session" in scope and path == self.logout.logout_path and not self._has_own_sessions:
            raise RuntimeError(
                "LogoutMiddleware stands inside the session middleware, which would set the cookie again: add it "
                "last, app.add_middleware(LogoutMiddleware, logout=logout), so that it is outermost"
            )
        body: bytes | None = b""
        messages: list[Message] = []
        if scope["method"] == "POST":
            try:
                body = await _read_body(receive, messages)
            except _DisconnectedError:
                return
        request = _request(scope, self._place(scope), _decoded(scope.get("headers", ())), body)
        answer = await self._respond(request)
        if isinstance(answer, Response):
            await _send(answer, send)
        elif answer is None and visit.unsure:
            await _send(pages.unavailable(), send)
        elif answer is None:
            await self._pass(scope, receive, send, visit)
        elif visit.unsure:
            await _send(await self._drive(answer.instead), send)
        else:
            if answer.request is not request:
                kept = [(n, v) for n, v in scope.get("headers", ()) if n.lower() not in _BODY_HEADERS]
                scope = {**scope, "method": answer.request.method, "headers": kept}
                messages = [{"type": "http.request", "body": b"", "more_body": False}]
            # What was read is given again; what was not, such as a GET's body, is still to be received.
            again = _replay(messages, receive) if request.method == "POST" else receive
            await self._app_view(answer, scope, again, send)

    async def _respond(self, request: Request) -> Response | AppView | None:
        def flow(world: World) -> Coroutine[Any, Any, Response | AppView | None]:
            return self.logout.respond(request, world)

        if request.path != self.logout.back_channel_path or not _is_asyncio():
            return await drive(flow, blocks=self.logout.configuration.blocks)
        # The flow goes on behind an answer that must not wait for it.
        task = asyncio.ensure_future(drive(flow, blocks=self.logout.configuration.blocks))
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)
        done, _ = await asyncio.wait({task}, timeout=back_channel.DEADLINE_SECONDS)
        return task.result() if done else back_channel.too_late()

    async def _app_view(self, view: AppView, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = False

        async def look(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start":
                headers = _decoded(message.get("headers", ()))
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

    # Driving

    async def _drive(self, flow: Flow[T]) -> T:
        return await drive(flow, blocks=self.logout.configuration.blocks)

    async def _gated(self, flow: Flow[T]) -> T:
        """Drive a flow of the gate: on the loop but for what asks the store, if the session can be read there."""
        with anyio.CancelScope(shield=True):
            if self.logout.configuration.session_blocks:
                return await run_beside_loop(flow(BlockingWorld()))
            return await flow(LoopWorld(blocks=self.logout.configuration.blocks))
        raise AssertionError  # type checkers cannot know that nothing leaves this scope early

    def _start_upkeep(self) -> None:
        """Have a task of this loop's look after what is left, from time to time."""
        check_no_circle(self.app, self)

        async def keep_tidy() -> None:
            while True:
                try:
                    await self._drive(self.logout.tidy)
                except Exception:  # nothing that goes wrong may be the end of it
                    logger.exception("upkeep failed")
                await asyncio.sleep(upkeep.INTERVAL_SECONDS)

        def stop(_task: object) -> None:
            self._upkeep = None  # its loop has ended; the next one starts another

        if _is_asyncio():
            self._upkeep = asyncio.get_running_loop().create_task(keep_tidy())
            self._upkeep.add_done_callback(stop)


def _is_asyncio() -> bool:
    """Tell whether this is asyncio's loop; others have no tasks that outlive their parents."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _close(send: Send) -> None:
    with suppress(Exception):  # the client was quicker
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION})


async def _leave_open(_send: Send) -> None:
    """Send nothing: the server notices that an answer has no end."""


async def _ignore(_message: Message) -> None:
    """Send nothing: another answer has been sent."""


def _sets_cookie(message: Message, names: tuple[bytes, ...]) -> bool:
    for name, value in message.get("headers", ()):
        if len(name) == 10 and name.lower() == b"set-cookie" and value.lstrip().startswith(names):
            return True
    return False


def _without_dead(headers: Iterable[tuple[bytes, bytes]], visit: Visit) -> list[tuple[bytes, bytes]]:
    """Return headers without the dead session cookies, and all else as it was."""
    left: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        kept = visit.cut(value.decode("latin-1")).encode("latin-1") if name == b"cookie" else value
        if kept or not value:
            left.append((name, kept))
    return left


def _request(
    scope: Scope, place: tuple[str, str], headers: tuple[Header, ...], body: bytes | None
) -> Request:
    query = scope.get("query_string", b"").decode("latin-1")
    path, mount = place
    return Request(scope["method"], path, query, headers, mount, body)


_BODY_HEADERS = (b"content-length", b"content-type", b"transfer-encoding")


class _DisconnectedError(Exception):
    """The client hung up before its request was complete."""


async def _read_body(receive: Receive, messages: list[Message]) -> bytes | None:
    """Return the body, and keep its messages; `None` if it is longer than any that is meant for us."""
    body = b""
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] == "http.disconnect":
            raise _DisconnectedError
        body += bytes(message.get("body", b""))
        if len(body) > MAXIMUM_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return body


def _replay(messages: Sequence[Message], receive: Receive) -> Receive:
    """Return a `receive` that gives again what was read, then what comes."""
    left = deque(messages)

    async def replay() -> Message:
        return left.popleft() if left else await receive()

    return replay


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> tuple[Header, ...]:
    return tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)


def _encoded(headers: Any) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


async def _send(response: Response, send: Send) -> None:
    headers = _encoded(response.headers)
    if response.status != 204:
        headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
