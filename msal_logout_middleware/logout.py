"""`Logout`: the configuration, and which flow answers a request."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import NoneType
from typing import Literal, get_args
from urllib.parse import unquote, urlsplit

from . import back_channel, front_channel, pages, remote, rp_initiated, upkeep
from ._drive import BlockingWorld, World, drive, run
from .arguments import (
    check_lists,
    check_numbers,
    check_parts,
    check_paths,
    check_secret,
    check_switches,
    checked_origin,
    whose,
)
from .caches import InStore, TokenCaches, home_account_id
from .configuration import Configuration, OnEvent, OnStoreError, OtherSessions
from .ending import Steps
from .errors import LogoutError
from .gate import Gate
from .http import Cookie, Request, Response
from .layers import Layer, calls_back, layers
from .logout_token import LogoutTokenRules
from .marks import KEPT
from .memory import WorkerState
from .provider import Provider
from .remote import EndedSessions, Sought
from .rp_initiated import AppView
from .seal import Seal
from .session import Claims, Secrets, Session, SessionReader
from .sessions.discovery import find_session
from .sessions.presets import ClaimsAt, claims_finder
from .stores import Store
from .targets import checked_target, origin_of
from .token_cache import StoredTokenCache

__all__ = ["AppView", "Logout", "check_app", "check_no_circle", "logout_in"]

CacheKey = Callable[[Claims], str]
SiteData = Literal["cache", "cookies", "storage", "executionContexts", "*"]

_METHODS = ("GET", "POST")
_DOORS = tuple(f"{__package__}.{door}.LogoutMiddleware" for door in ("asgi", "wsgi", "django"))
_DAY_SECONDS = 24 * 3600.0


class Logout:
    """How users of one app are signed out. One instance serves all requests of a worker.

    Args:
        provider: The app's registration at its OpenID provider.
        session: How the app's sessions are read and ended; by default what is found in the app that is wrapped.
        claims: Where the ID token claims are in a session that is found: a key, a callable, or `None` for the known
            places.
        store: Keeps ended marks and the journal, and token caches unless `caches` says otherwise.
        caches: Where the app keeps its token caches; in `store` by default.
        cache_key: Maps a session's claims to the key of its token cache in `store`.
        secret: Keys hashes, `state` and sealed work; of a list the first signs, and all verify. By default the
            framework's own secret.
        post_logout_redirect_uri: Where the provider sends the browser back to; registered there, exactly so.
        landing_page: Where the browser goes if the provider cannot be asked; `post_logout_redirect_uri` by
            default.
        return_to: Exact URLs that a request may choose from, by `?return_to=`, to end up at.
        origin: The app's own origins (`https://app.example.com`); that of `post_logout_redirect_uri` by default.
        logout_path: The path that signs out, below where the app is mounted.
        front_channel_path: The path of the provider's front-channel logout; `None`: there is none.
        front_channel_without_sid: End the session of the request's cookie if the provider's page sends no `sid`.
        back_channel_path: The path of the provider's back-channel logout; `None`: there is none.
        logout_token_rules: What a logout token must be beyond what the specification says.
        other_sessions: What becomes of a user's other sessions when they sign out in this app, in one of them.
        close_websockets: Close the open WebSockets of a session that has ended.
        close_streams: Cut off the answers of a session that has ended while they are streamed.
        methods: The methods that sign out: `GET`, `POST` or both.
        app_view: The app has a logout view of its own on `logout_path`, which is called and answers.
        id_token_hint: Send the cached ID token to the provider, which Azure AD B2C may require.
        max_url_length: In characters; above it hints are dropped, or posted by a form.
        delete_cookies: More cookies that sign the user in, such as `remember_token`; they go with the session's.
        clear_site_data: What `Clear-Site-Data` asks the browser to forget.
        on_store_error: What a sign-out that could not be completed is answered with: a page that says so, or
            the redirect all the same.
        retry_seconds: How long one sign-out may retry what fails.
        session_lifetime_seconds: The longest that a session of the app lives; its record and its ended mark are kept
            for as long.
        marks_in_memory: How many ended marks a worker keeps by name, at some 200 bytes each. More take 3 bytes each,
            and the store is asked about what may be one of them.
        on_event: Is called with every event.

    Raises:
        ValueError: An argument has a value that cannot work.
        TypeError: An argument is not of the kind that is needed.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        session: SessionReader | None = None,
        claims: ClaimsAt = None,
        store: Store,
        caches: TokenCaches | None = None,
        cache_key: CacheKey | None = None,
        secret: Secrets = None,
        post_logout_redirect_uri: str,
        landing_page: str | None = None,
        return_to: Sequence[str] = (),
        origin: str | Sequence[str] | None = None,
        logout_path: str = "/logout",
        front_channel_path: str | None = "/logout/front-channel",
        front_channel_without_sid: bool = False,
        back_channel_path: str | None = "/logout/back-channel",
        logout_token_rules: LogoutTokenRules | None = None,
        other_sessions: OtherSessions = "keep",
        close_websockets: bool = True,
        close_streams: bool = False,
        methods: Sequence[str] = _METHODS,
        app_view: bool = False,
        id_token_hint: bool = False,
        max_url_length: int = 2000,
        delete_cookies: Sequence[Cookie | str] = (),
        clear_site_data: Sequence[SiteData] = (),
        on_store_error: OnStoreError = "page",
        retry_seconds: float = 2.0,
        session_lifetime_seconds: float = 31 * _DAY_SECONDS,
        marks_in_memory: int = KEPT,
        on_event: OnEvent | None = None,
    ) -> None:
        check_numbers(retry_seconds=retry_seconds, max_url_length=max_url_length)
        check_numbers(session_lifetime_seconds=session_lifetime_seconds, marks_in_memory=marks_in_memory)
        if session_lifetime_seconds == 0:
            raise ValueError(
                "session_lifetime_seconds=0 must be as long as sessions live: so long what has ended is known"
            )
        check_switches(
            front_channel_without_sid=front_channel_without_sid,
            close_websockets=close_websockets,
            close_streams=close_streams,
            app_view=app_view,
            id_token_hint=id_token_hint,
        )
        check_parts(provider=provider, session=session, store=store, caches=caches)
        if not isinstance(logout_token_rules, (LogoutTokenRules, NoneType)):
            raise TypeError("logout_token_rules must be such as LogoutTokenRules(strict_type=True)")
        if not (on_event is None or callable(on_event)):
            raise TypeError("on_event must be a function that takes an event")
        if session is not None and claims is not None:
            raise ValueError("claims= is for sessions that are found in the app; give it to session= instead")
        claims_finder(claims)  # raises what is wrong with it now
        check_secret(secret)
        check_lists(
            return_to=return_to,
            delete_cookies=delete_cookies,
            clear_site_data=clear_site_data,
            methods=methods,
        )
        if not all(isinstance(cookie, (str, Cookie)) for cookie in delete_cookies):
            raise TypeError(f"delete_cookies={delete_cookies!r} must be names of cookies, or Cookie(...)")
        if max_url_length < 1:
            raise ValueError(f"max_url_length={max_url_length!r} must be in characters, such as 2000")
        if not set(clear_site_data) <= set(get_args(SiteData)):
            raise ValueError(
                f"clear_site_data={clear_site_data!r} must be of {', '.join(get_args(SiteData))}"
            )
        if not methods or not set(methods) <= set(_METHODS):
            raise ValueError(f"methods={tuple(methods)!r} must be 'GET', 'POST' or both")
        paths = {
            "logout_path": logout_path,
            "front_channel_path": front_channel_path,
            "back_channel_path": back_channel_path,
        }
        check_paths(paths)
        if other_sessions not in get_args(OtherSessions):
            raise ValueError(f"other_sessions={other_sessions!r} must be 'keep' or 'end'")
        if on_store_error not in ("page", "redirect"):
            raise ValueError(f"on_store_error={on_store_error!r} must be 'page' or 'redirect'")
        if caches is not None and cache_key is not None:
            raise ValueError("cache_key= names token caches in store=; with caches= give it to that instead")

        home = checked_target(post_logout_redirect_uri, name="post_logout_redirect_uri")
        origins = [origin] if isinstance(origin, str) else origin or [origin_of(home)]
        self.cache_key: CacheKey = cache_key or home_account_id
        self.store = store
        self._configure = partial(
            Configuration,
            provider=provider,
            store=store,
            caches=caches or InStore(store, cache_key=self.cache_key),
            logout_path=logout_path,
            front_channel_path=front_channel_path,
            front_channel_without_sid=front_channel_without_sid,
            back_channel_path=back_channel_path,
            logout_token_rules=logout_token_rules or LogoutTokenRules(),
            other_sessions=other_sessions,
            close_websockets=close_websockets,
            close_streams=close_streams,
            methods=tuple(methods),
            app_view=app_view,
            post_logout_redirect_uri=home,
            landing_page=checked_target(landing_page or home, name="landing_page", relative=True),
            return_to=tuple(checked_target(url, name="return_to", relative=True) for url in return_to),
            origins=frozenset(map(checked_origin, origins)),
            id_token_hint=id_token_hint,
            max_url_length=max_url_length,
            delete_cookies=tuple(c if isinstance(c, Cookie) else Cookie(c) for c in delete_cookies),
            clear_site_data=tuple(clear_site_data),
            on_store_error=on_store_error,
            retry_seconds=retry_seconds,
            session_lifetime_seconds=session_lifetime_seconds,
            marks_in_memory=marks_in_memory,
            on_event=on_event,
        )
        self.logout_path = logout_path
        self.back_channel_path = back_channel_path
        self.paths = frozenset(path for path in paths.values() if path is not None)
        self._return_path = unquote(urlsplit(home).path) or "/"
        self._keeps_token_caches = caches is None
        self._claims = claims
        self._secret = secret
        self._found_in: object = None
        self._gate: Gate | None = None
        if session is not None:
            self._read_by(session)

    def __repr__(self) -> str:
        """Say what reads the sessions, and what keeps what is known of them."""
        session = "to be found in the app" if self._gate is None else repr(self.configuration.session)
        return f"Logout(session={session}, store={type(self.store).__name__})"

    @property
    def is_complete(self) -> bool:
        """Whether it is known what reads the sessions: given as `session=`, or found in the app."""
        return self._gate is not None

    @property
    def configuration(self) -> Configuration:
        """The arguments, checked, with their defaults.

        Raises:
            LogoutError: It is not yet known what reads the sessions.
        """
        return self.gate.configuration

    @property
    def gate(self) -> Gate:
        """What every request passes.

        Raises:
            LogoutError: It is not yet known what reads the sessions.
        """
        if self._gate is None:
            raise LogoutError(
                "no app is wrapped yet, so that it is not known what reads its sessions: LogoutMiddleware(app, logout)"
                " finds it. Where it is needed before, give Logout session="
            )
        return self._gate

    def serve(self, app: object) -> None:
        """Find what reads the sessions of an app that is wrapped, unless it was given as `session=`.

        Args:
            app: The app, as the middleware calls it.

        Raises:
            TypeError: Nothing is found in the app, or this `Logout` serves another one.
            ValueError: What is found has no secret, and `secret=` is missing; or there are several session
                middlewares.
        """
        if self._gate is not None and self._found_in is None:
            return
        session = find_session(app, claims=self._claims)
        if self._gate is None:
            self._read_by(session)
            self._found_in = repr(session)
        # A middleware stack may be built once more, and a factory may make its app again.
        elif unlike := _unlike(self.configuration.session, session):
            raise TypeError(
                f"this Logout serves an app whose sessions are read by {self._found_in}, and this one's are by"
                f" {unlike}: make a Logout for each app"
            )

    def _read_by(self, session: SessionReader) -> None:
        with suppress(ValueError):  # the app may still add its session middleware
            _ = session.cookies  # one that cannot be asked for them says so now, and not at a sign-out
        self._gate = Gate(self._configure(session=session, seal=Seal(_secrets(self._secret, session))))

    def takes(self, method: str, path: str, mount: str, query: str) -> bool:
        """Tell whether a request is one that `respond` may answer; all others are the app's.

        Args:
            method: In capitals.
            path: As the app routes it, percent-decoded.
            mount: `SCRIPT_NAME`/`root_path`.
            query: The raw query string.
        """
        if path in self.paths:
            return True
        return "state=" in query and method == "GET" and mount + path == self._return_path

    async def respond(self, request: Request, world: World) -> Response | AppView | None:
        """Answer a request that `takes` took; `None` if the app is to answer it after all."""
        config = self.configuration
        if request.path == config.back_channel_path:
            return await back_channel.log_out(config, request, world)
        if request.body is None:
            return pages.plain(413, "The request is too large.")
        if request.path == config.front_channel_path:
            return await front_channel.log_out(config, request, world)
        if request.path == config.logout_path:
            return await rp_initiated.log_out(config, request, world)
        return rp_initiated.came_back(config, request)

    def worker_state(self) -> WorkerState:
        """Return what this worker knows of endings at the moment; nothing is asked, so it costs nothing."""
        return self.gate.state()

    async def tidy(self, world: World) -> None:
        """Finish what this worker and others have left; the middlewares call it from time to time."""
        await upkeep.tidy(self.configuration, self.gate, world)

    def end_sessions(
        self,
        *,
        iss: str | None = None,
        sub: str | None = None,
        sid: str | None = None,
        oid: str | None = None,
        tid: str | None = None,
    ) -> EndedSessions:
        """End sessions, and remove their accounts, from the app's own code; `aend_sessions` in an event loop.

        Args:
            iss: The `iss` of their ID tokens; needed with `sub`.
            sub: All sessions of this user; with `sid`, the one that has both.
            sid: The sessions within this session of the provider.
            oid: All sessions of this Entra ID user, in whichever app registration their `sub` is from.
            tid: The tenant; needed with `oid`.

        Raises:
            ValueError: It does not say whose sessions.
            TypeError: One of them is no string, or a part of this `Logout` is asynchronous.
        """
        return run(self._end(whose(iss, sub, sid, oid, tid), BlockingWorld()))

    async def aend_sessions(
        self,
        *,
        iss: str | None = None,
        sub: str | None = None,
        sid: str | None = None,
        oid: str | None = None,
        tid: str | None = None,
    ) -> EndedSessions:
        """End sessions, as `end_sessions` does, in an event loop.

        Raises:
            ValueError: It does not say whose sessions.
            TypeError: One of them is no string.
        """
        sought = whose(iss, sub, sid, oid, tid)
        return await drive(lambda world: self._end(sought, world), blocks=self.configuration.blocks)

    def count_sessions(
        self,
        *,
        iss: str | None = None,
        sub: str | None = None,
        sid: str | None = None,
        oid: str | None = None,
        tid: str | None = None,
    ) -> int:
        """Return how many sessions `end_sessions` would end, as far as the session index knows them.

        Raises:
            ValueError: It does not say whose sessions.
            TypeError: One of them is no string, or a part of this `Logout` is asynchronous.
            StoreError: The store cannot be asked.
        """
        return run(remote.count(self.configuration, whose(iss, sub, sid, oid, tid)))

    async def acount_sessions(
        self,
        *,
        iss: str | None = None,
        sub: str | None = None,
        sid: str | None = None,
        oid: str | None = None,
        tid: str | None = None,
    ) -> int:
        """Return what `count_sessions` does, in an event loop.

        Raises:
            ValueError: It does not say whose sessions.
            TypeError: One of them is no string.
            StoreError: The store cannot be asked.
        """
        sought = whose(iss, sub, sid, oid, tid)
        return await drive(
            lambda _: remote.count(self.configuration, sought), blocks=self.configuration.blocks
        )

    def signed_in(self, claims: Claims, *, session_id: str | None = None, sid: str | None = None) -> None:
        """Record a sign-in that cannot be seen in an answer; `asigned_in` in an event loop.

        Most apps need not call it: an answer that sets the session's cookie shows the sign-in.

        Args:
            claims: All ID token claims, as they stand in the session.
            session_id: The server-side session's id; `None` if the session is in the cookie.
            sid: The provider's session, where the claims do not say it.

        Raises:
            LogoutError: The session has ended already, or nothing in the claims tells this sign-in from another.
            TypeError: A part of this `Logout` is asynchronous.
            StoreError: The store cannot be asked.
        """
        session = Session(session_id, claims, {})
        run(self.gate.signed_in(session, sid, BlockingWorld()))

    async def asigned_in(
        self, claims: Claims, *, session_id: str | None = None, sid: str | None = None
    ) -> None:
        """Record a sign-in, as `signed_in` does, in an event loop.

        Raises:
            LogoutError: The session has ended already, or nothing in the claims tells this sign-in from another.
            StoreError: The store cannot be asked.
        """
        session = Session(session_id, claims, {})
        await drive(lambda world: self.gate.signed_in(session, sid, world), blocks=self.configuration.blocks)

    async def _end(self, sought: Sought, world: World) -> EndedSessions:
        return await remote.end_by_administrator(self.configuration, sought, Steps(self.configuration, world))

    def token_cache(self, claims: Claims | None = None) -> StoredTokenCache:
        """Return the token cache of a user in `store`, for MSAL, as a context manager.

        Args:
            claims: The session's claims; `None` while the user is signing in, since they come with the tokens.

        Raises:
            ValueError: `caches` says that token caches are elsewhere, so a sign-out would not find this one.
            TypeError: `claims` is not a mapping.
        """
        if not isinstance(claims, (Mapping, NoneType)):
            raise TypeError('give token_cache() the claims of the ID token, a mapping: session["user"]')
        if not self._keeps_token_caches:
            raise ValueError(
                "token_cache() is for a Logout without caches=: a sign-out looks for token caches where caches= "
                "says, not in store="
            )
        key = None if claims is None else self.cache_key(claims)
        return StoredTokenCache(self.store, key=key, cache_key=self.cache_key)


def _secrets(secret: Secrets, session: SessionReader) -> list[str | bytes]:
    given = session.secret if secret is None else secret
    secrets = [given] if isinstance(given, (str, bytes, NoneType)) else given
    return [one for one in secrets if one]


def _unlike(known: SessionReader, other: SessionReader) -> str:
    """Say in what the sessions of another app are others than those that are known; empty if in nothing."""
    if repr(known) != repr(other):
        return repr(other)
    with suppress(ValueError):  # the app may still add its session middleware
        if known.secret != other.secret:
            return "the same with another secret"
        if known.cookies != other.cookies:
            return "the same with another cookie"
    return ""


def check_app(app: object, logout: object, *, parameters: int, otherwise: str) -> None:
    """Check what a middleware is given.

    Args:
        app: The app.
        logout: The `Logout`.
        parameters: How many an app of this door's kind is called with.
        otherwise: What to do if it is of the other kind.

    Raises:
        TypeError: One of the two is not what it must be.
    """
    if isinstance(app, Logout):
        raise TypeError("the app comes first: LogoutMiddleware(app, logout)")
    if not isinstance(logout, Logout):
        raise TypeError(f"logout must be a Logout, not {type(logout).__name__}")
    try:
        signature = inspect.signature(app)  # type: ignore[arg-type]  # what is no callable is told below
        signature.bind(*range(parameters))
    except TypeError:
        raise TypeError(f"{app!r} is not an app that this middleware can call; {otherwise}") from None
    except ValueError:
        pass  # a callable without a signature, such as one written in C
    if any(logout_in(layer) is not None for layer in layers(app)):
        raise TypeError(
            "a LogoutMiddleware is around this app already, and the two would answer each other's requests: leave one"
            " of them"
        )


def check_no_circle(app: object, middleware: object) -> None:
    """Check a middleware that is about to serve: when it was made, nothing called it yet.

    Args:
        app: What it is around.
        middleware: The middleware.

    Raises:
        RuntimeError: The app calls it, so that no request would have an end.
    """
    name = calls_back(app, middleware)
    if name is not None:
        raise RuntimeError(
            "LogoutMiddleware wraps the app itself, which calls it again: "
            f"app.{name} = LogoutMiddleware(app.{name}, logout)"
        )


def logout_in(layer: Layer) -> Logout | None:
    """Return the `Logout` that a layer was given, if it is one of our middlewares, or will be one."""
    if not layer.is_of(*_DOORS):
        return None
    options = layer.source  # Starlette's, or the middleware itself
    given = (
        *(getattr(options, "logout", None), getattr(options, "kwargs", {}).get("logout")),
        *getattr(options, "args", ()),
    )
    return next((value for value in given if isinstance(value, Logout)), None)
