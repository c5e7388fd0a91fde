"""Several things at the same time, the same again, and compensation."""

from __future__ import annotations

import asyncio
import dataclasses
from types import TracebackType
from typing import Any, Awaitable, Callable, Generic, Iterable, Optional, Sequence, TypeVar, Union

from . import _host
from ._host import Failure
from ._loop import Loop, current, millis, settle

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")


@dataclasses.dataclass(frozen=True)
class Retry:
    """When and how often a failed attempt is retried. Lengths are seconds.

    Attributes:
        attempts: In all, the first one included.
        initial: The delay before the second attempt.
        factor: Each further delay is this many times the one before.
        max: No delay is longer.
        jitter: Each delay is varied by up to this fraction, 0 to 1.
        fatal: Kinds of failure, or reasons in their details, that are not retried.
    """

    attempts: int = 3
    initial: float = 1.0
    factor: float = 2.0
    max: float = 60.0
    jitter: float = 0.1
    fatal: Sequence[str] = ()

    def allows_another(self, attempt: int, failure: Failure) -> bool:
        """Whether there is another attempt after one (from 1) failed so: the rules of the host."""
        names = {failure.kind.lower()}
        if isinstance(failure.details, dict) and isinstance(reason := failure.details.get("reason"), str):
            names.add(reason.lower())
        # What would come again.
        final = failure.kind in ("cancelled", "rejected", "budget-exceeded")
        fatal = any(name.lower() in names for name in self.fatal)
        return attempt < self.attempts and not final and not fatal

    def delay(self, attempt: int, random: float) -> float:
        """The delay after an attempt (from 1) in seconds, varied by a number from 0 to 1."""
        try:
            grown = self.initial * max(self.factor, 0.0) ** (attempt - 1)
        except OverflowError:
            grown = self.max
        # Nothing times infinity is no number, and means no delay.
        capped = 0.0 if grown != grown else min(grown, self.max)
        varied = capped * (1 + min(max(self.jitter, 0.0), 1.0) * (2 * random - 1))
        return min(varied, self.max)


def failure_of(error: BaseException) -> Failure:
    """Any exception as a failure."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, asyncio.CancelledError):
        return Failure("cancelled", str(error) or "the program cancelled it")
    if isinstance(error, TimeoutError):
        return Failure("timed-out", str(error) or "the time limit passed")
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return failure_of(error.exceptions[0])
    return Failure("failed", f"{type(error).__name__}: {error}")


class _Contest(Generic[T]):
    """Awaitables side by side, in the order in which they end."""

    def __init__(self, contestants: Iterable[Awaitable[T]]) -> None:
        self.running: list[asyncio.Future[T]] = [asyncio.ensure_future(one) for one in contestants]
        self._ended: asyncio.Queue[int] = asyncio.Queue()
        for index, one in enumerate(self.running):
            one.add_done_callback(self._told(index))

    def _told(self, index: int) -> Callable[[object], None]:
        return lambda _: self._ended.put_nowait(index)

    async def next(self) -> tuple[int, asyncio.Future[T]]:
        index = await self._ended.get()
        return index, self.running[index]

    def __enter__(self) -> _Contest[T]:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.running:
            one.cancel()
            # Nobody looks at it any more.
            one.add_done_callback(lambda one: one.cancelled() or one.exception())


async def race(*contestants: Awaitable[T]) -> tuple[int, T]:
    """Returns the index and the result of the one that ends first; the others are cancelled.

    Raises:
        Failure: The first one failed.
    """
    with _Contest(contestants) as contest:
        index, first = await contest.next()
        return index, first.result()


async def quorum(count: int, *contestants: Awaitable[T]) -> list[tuple[int, T]]:
    """Gives the first ``count`` that succeed, with their indices, in the order in which they did; the
    others are cancelled.

    Raises:
        Failure: There can be no ``count`` successes any more. All failures are in its details.
    """
    with _Contest(contestants) as contest:
        total = len(contest.running)
        if total < count:
            raise Failure("rejected", f"{count} successes are asked for, of {total} tries")
        successes: list[tuple[int, T]] = []
        failures: list[dict[str, Any]] = []
        while len(successes) < count:
            index, one = await contest.next()
            # One that was cancelled has no exception, but raises one.
            error = asyncio.CancelledError() if one.cancelled() else one.exception()
            if error is None:
                successes.append((index, one.result()))
                continue
            failure = failure_of(error)
            failures.append({"index": index, "kind": failure.kind, "message": failure.message})
            if total - len(failures) < count:
                message = f"{len(failures)} of {total} tries failed, {count} have to succeed: {failure.message}"
                raise Failure(failure.kind, message, {"failures": failures})
        return successes


async def first_ok(*contestants: Awaitable[T]) -> T:
    """Returns the result of the first one that succeeds; the others are cancelled. Fails only if
    all fail."""
    ((_, first),) = await quorum(1, *contestants)
    return first


async def parallel_map(items: Iterable[T], limit: int, function: Callable[[T], Awaitable[R]]) -> list[R]:
    """Calls a function for each item, at most ``limit`` at the same time, and gives the results in the
    order of the items. The first failure cancels what is under way and begins no more.

    Raises:
        Exception: The failure that came first.
    """
    loop = current()
    results: dict[int, R] = {}
    running: dict[asyncio.Future[R], int] = {}
    ended: asyncio.Queue[asyncio.Future[R]] = asyncio.Queue()
    numbered = iter(enumerate(items))
    count = 0
    try:
        while True:
            while len(running) < max(limit, 1) and (following := next(numbered, None)) is not None:
                index, item = following
                task: asyncio.Future[R] = asyncio.ensure_future(_awaited(function, item), loop=loop)
                running[task] = index
                count += 1
                task.add_done_callback(ended.put_nowait)
            if not running:
                return [results[index] for index in range(count)]
            done = await ended.get()
            results[running.pop(done)] = done.result()
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(lambda one: one.cancelled() or one.exception())


async def _awaited(function: Callable[[T], Awaitable[R]], item: T) -> R:
    return await function(item)


async def retry(block: Callable[[int], Awaitable[T]], policy: Retry = Retry()) -> T:
    """Runs a block again until it succeeds, as often and with such delays as the policy says. The block is
    told which attempt it is, from 1. The delays are durable.

    ``cancelled``, ``rejected`` and ``budget-exceeded`` end it at once. For a single call of an agent see the
    option ``retry`` of `agent`, which the host keeps.

    Raises:
        Exception: That of the last attempt.
    """
    attempt = 1
    while True:
        try:
            return await block(attempt)
        except Exception as error:
            failure = failure_of(error)
            if not policy.allows_another(attempt, failure):
                raise
        _host.log.write(_host.log.Level.INFO, f"attempt {attempt} failed: {failure}", [])
        await _pause(policy.delay(attempt, (_host.context.random() >> 11) / (1 << 53)))
        attempt += 1


def _pause(seconds: float) -> Awaitable[None]:
    from ._loop import Step

    return Step(lambda: _host.sleep.start_for(millis(seconds)), lambda _: None)


@dataclasses.dataclass(frozen=True)
class Done(Generic[T]):
    """Ends `rounds`, with a result."""

    result: T


async def rounds(steps: int, first: S, block: Callable[[S], Awaitable[Union[S, Done[T]]]]) -> T:
    """Runs a block again and again until it gives `Done`. What it gives else is the state of the next round.

    After about ``steps`` steps the run continues as new: a fresh run of the same module begins with the
    state as its input, so that each journal stays short.
    """
    state = first
    while True:
        following = await block(state)
        if isinstance(following, Done):
            return following.result
        if current().begun >= steps:
            continue_as_new(following)
        state = following


def continue_as_new(input: Any) -> Any:
    _host.context.continue_as_new(_host.dump(input, "input"))
    raise AssertionError("the run has ended")


class saga:
    """Compensates the completed steps of its block, in the reverse order, if the block fails or is cancelled::

        async with saga() as trip:
            flight = await trip.step("flight", book("flight"), cancel)
            hotel = await trip.step("hotel", book("hotel"), cancel)

    The failure that leaves it has a member ``saga`` in its details, with the names of what was ``undone`` and
    ``not_undone``. The run does not end before compensation is complete, and nothing cancels that. A task that is
    still within such a block when the workflow ends is cancelled then, as all tasks are.
    """

    def __init__(self) -> None:
        self._done: list[tuple[str, Callable[[], Any]]] = []
        self._is_undone = False

    async def step(self, name: str, action: Awaitable[T], undo: Callable[[T], Any]) -> T:
        """Does something; ``undo`` is called with its result if the block fails later, and what it gives is
        awaited if it can be."""
        if _host.context.cancelled():
            # A coroutine has not begun; a step or a task has.
            if hasattr(action, "close"):
                action.close()
            elif hasattr(action, "cancel"):
                action.cancel()
            raise Failure("cancelled", "the run was asked to stop")
        value = await action
        self.undo(name, lambda: undo(value))
        return value

    def undo(self, name: str, undo: Callable[[], Any]) -> None:
        """Registers a compensation before its step. It has to succeed also when there is
        nothing to compensate."""
        self._done.append((name, undo))
        # A step that was under way beside the one that failed.
        if self._is_undone:
            current().in_background(self._undo_all())

    async def __aenter__(self) -> saga:
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if error is None or isinstance(error, GeneratorExit):
            return
        if not self._done:
            self._is_undone = True
            return
        loop: Loop = current()
        undoing = loop.in_background(self._undo_all())
        undone, not_undone = await asyncio.shield(undoing)
        if isinstance(error, asyncio.CancelledError):
            return
        raise explain(error, undone, not_undone) from error

    async def _undo_all(self) -> tuple[list[str], list[Any]]:
        undone: list[str] = []
        not_undone: list[Any] = []
        while self._done:
            name, undo = self._done.pop()
            stopping = _host.context.cancelled()
            try:
                try:
                    await settle(undo())
                except Failure as stopped:
                    if stopping or not _host.context.cancelled() or stopped.kind != "cancelled":
                        raise
                    # It was the request to stop that ended it, and there is but one.
                    await settle(undo())
                undone.append(name)
            # One that gives up its own task, or awaits one that was given up, is no reason to leave the others.
            except (Exception, asyncio.CancelledError) as error:
                failure = failure_of(error)
                _host.log.write(_host.log.Level.ERROR, f"`{name}` could not be undone: {failure}", [])
                not_undone.append({"step": name, "kind": failure.kind, "message": failure.message})
        self._is_undone = True
        return undone, not_undone


def explain(error: BaseException, undone: list[str], not_undone: list[Any]) -> Failure:
    """The failure, with what was undone in its details."""
    failure = failure_of(error)
    members = failure.details
    if not isinstance(members, dict):
        members = {} if members is None else {"details": members}
    # A saga within this one has undone its part before.
    inner = members.get("saga")
    before = inner if isinstance(inner, dict) else {}
    known = {name: part if isinstance(part, list) else [] for name, part in before.items()}
    everything = {
        "undone": [*known.get("undone", []), *undone],
        "not_undone": [*known.get("not_undone", []), *not_undone],
    }
    return Failure(failure.kind, failure.message, {**members, "saga": everything}, failure.attempts)
