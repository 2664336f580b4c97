"""`_drive.py`: one coroutine, run to its end by a thread, or awaited by an event loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from msal_logout_middleware._drive import (
    BlockingWorld,
    LoopWorld,
    World,
    is_async,
    run,
    run_beside_loop,
    settle,
)

Flow = Coroutine[Any, Any, Any]


def plain() -> str:
    return "value"


async def suspends() -> str:
    await asyncio.sleep(0)
    return "value"


async def fails() -> str:
    await asyncio.sleep(0)
    raise LookupError("from the loop")


class Ready:
    """An awaitable that is no coroutine, as a database driver's future is."""

    def __await__(self) -> Any:
        return suspends().__await__()


async def flow(*parts: Callable[[], str | Awaitable[str]]) -> list[str]:
    return [await settle(part()) for part in parts]


def test_settle_returns_a_plain_value_as_it_is() -> None:
    value = object()

    async def returns() -> object:
        return await settle(value)

    assert run(returns()) is value


@pytest.mark.parametrize("part", [suspends, Ready])
def test_settle_awaits_what_is_awaitable(part: Callable[[], Awaitable[str]]) -> None:
    assert anyio.run(flow, plain, part) == ["value", "value"]


def test_flow_of_plain_parts_is_run_without_an_event_loop() -> None:
    assert run(flow(plain, plain)) == ["value", "value"]


def test_error_of_a_part_leaves_run_as_it_is() -> None:
    async def raises() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run(raises())


@pytest.mark.parametrize("part", [suspends, Ready])
def test_part_that_suspends_is_told_to_whoever_runs_it(part: Callable[[], Awaitable[str]]) -> None:
    with pytest.raises(TypeError, match="use the ASGI middleware"):
        run(flow(part))


def test_flow_that_suspended_is_closed_so_that_its_cleanup_runs() -> None:
    cleaned: list[bool] = []

    async def cleans() -> None:
        try:
            await suspends()
        finally:
            cleaned.append(True)

    with pytest.raises(TypeError):
        run(cleans())
    assert cleaned == [True]


def test_flow_beside_the_loop_runs_in_one_worker_thread_and_awaits_on_the_loop() -> None:
    loop_thread = 0

    def where() -> str:
        return "loop" if threading.get_ident() == loop_thread else f"worker {threading.get_ident()}"

    async def where_async() -> str:
        await asyncio.sleep(0)
        return where()

    async def door() -> list[str]:
        nonlocal loop_thread
        loop_thread = threading.get_ident()
        return await run_beside_loop(flow(where, where_async, where, where_async))

    first, second, third, fourth = anyio.run(door)
    assert first.startswith("worker")
    assert first == third
    assert second == fourth == "loop"


def test_flow_beside_the_loop_awaits_what_is_no_coroutine() -> None:
    assert anyio.run(run_beside_loop, flow(Ready)) == ["value"]


def test_error_on_the_loop_reaches_the_flow_in_the_thread() -> None:
    seen: list[str] = []

    async def catches() -> str:
        try:
            return await settle(fails())
        except LookupError as error:
            seen.append(str(error))
            return "caught"

    assert anyio.run(run_beside_loop, catches()) == "caught"
    assert seen == ["from the loop"]


def test_what_runs_on_the_loop_may_settle_awaitables_itself() -> None:
    async def settles() -> str:
        return await settle(suspends())

    assert anyio.run(run_beside_loop, flow(settles)) == ["value"]


def test_error_of_the_flow_leaves_run_beside_loop_as_it_is() -> None:
    with pytest.raises(LookupError, match="from the loop"):
        anyio.run(run_beside_loop, flow(fails))


def test_loop_serves_others_while_a_flow_blocks_its_thread() -> None:
    opened, passed = threading.Event(), threading.Event()

    def blocks() -> str:
        opened.set()
        assert passed.wait(30)
        return "value"

    async def door() -> list[str]:
        results: list[str] = []

        async def drive() -> None:
            results.extend(await run_beside_loop(flow(blocks)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drive)
            while not opened.is_set():
                await asyncio.sleep(0)
            passed.set()
        return results

    assert anyio.run(door) == ["value"]


def test_context_variables_of_the_request_are_seen_by_the_flow_and_by_its_parts() -> None:
    variable: ContextVar[str] = ContextVar("variable")

    async def on_loop() -> str:
        return variable.get()

    async def door() -> list[str]:
        variable.set("of this request")
        return await run_beside_loop(flow(variable.get, on_loop))

    assert anyio.run(door) == ["of this request"] * 2


def test_awaiting_is_the_loops_again_after_a_flow_beside_it() -> None:
    async def door() -> list[str]:
        await run_beside_loop(flow(suspends))
        return await flow(suspends)

    assert anyio.run(door) == ["value"]


def test_part_is_asynchronous_if_one_of_the_named_methods_is() -> None:
    class Mixed:
        def load(self) -> None: ...

        async def replace(self) -> None: ...

    assert is_async(Mixed(), "load", "replace")
    assert not is_async(Mixed(), "load", "absent")


@pytest.mark.parametrize(
    ("world", "elsewhere"),
    [(BlockingWorld(), False), (LoopWorld(), False), (LoopWorld(blocks=True), True)],
    ids=["a thread", "a loop", "a loop with stores that block"],
)
def test_only_what_blocks_leaves_the_loop(world: World, elsewhere: bool) -> None:
    async def which() -> int:
        return threading.get_ident()

    async def tells() -> int:
        await settle(world.sleep(0))
        return await world.beside(which())

    told = run(tells()) if isinstance(world, BlockingWorld) else anyio.run(tells)
    assert (told != threading.get_ident()) is elsewhere


def test_flow_that_is_cancelled_before_a_thread_takes_it_is_closed() -> None:
    """As when a loop is closed; a coroutine that nobody awaits is a warning on the way out."""

    async def story() -> str:
        taken = flow(plain)
        task = asyncio.ensure_future(run_beside_loop(taken))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return inspect.getcoroutinestate(taken)

    assert asyncio.run(story()) == inspect.CORO_CLOSED


# AnyIO leaves a coroutine of its own behind there, which it never begins.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_a_thread_sends_to_a_loop_that_is_gone_is_closed() -> None:
    begun, gone, told = threading.Event(), threading.Event(), threading.Event()
    parts: list[Flow] = []

    def part() -> Flow:
        begun.set()
        gone.wait()
        parts.append(suspends())
        return parts[0]

    async def goes_on() -> None:
        try:
            await settle(part())
        except RuntimeError:
            told.set()

    async def story() -> None:
        task = asyncio.ensure_future(run_beside_loop(goes_on()))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())
    gone.set()
    assert told.wait(20)
    assert inspect.getcoroutinestate(parts[0]) == inspect.CORO_CLOSED
