"""Steps as futures of asyncio, and the event loop that waits for the host.

Everything of asyncio that needs no sockets and no threads works on it: ``gather``, ``wait``, ``timeout``,
``TaskGroup``, ``Queue``, ``Semaphore``, and ``asyncio.sleep``, which is a durable sleep.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import json as _json
from typing import Any, Awaitable, Callable, Coroutine, NoReturn, Optional, TypeVar, cast

from . import _host
from ._host import Failure

T = TypeVar("T")

_numbers = iter(range(1, 1 << 62))

# Whether what runs is a part of a compensation.
_compensating = contextvars.ContextVar("compensating", default=False)


class Task(asyncio.Task):  # type: ignore[type-arg]
    """A task whose place in a set does not depend on where it lies in memory."""

    def __init__(self, *arguments: Any, context: Optional[contextvars.Context] = None, **options: Any) -> None:
        self._number = next(_numbers)
        given = contextvars.copy_context() if context is None else context
        self.compensates = given.get(_compensating, False)
        super().__init__(*arguments, context=context, **options)

    def __hash__(self) -> int:
        return self._number


class Loop(asyncio.AbstractEventLoop):
    """The event loop of one run."""

    def __init__(self) -> None:
        self._ready: collections.deque[asyncio.Handle] = collections.deque()
        # Steps that something waits for, by the tag that they have in the host's set.
        self._waiting: dict[int, Waitable] = {}
        # Those of them that are not in it: it is asked only when there are several.
        self._outside: dict[int, Waitable] = {}
        self._set: Any = None
        # Held here: what nothing refers to would be collected, and thereby cancelled.
        self._open: set[Any] = set()
        # Tasks that have not ended, in the order in which they were made.
        self._tasks: dict[int, Task] = {}
        self._background: set[asyncio.Future[Any]] = set()
        self._running = False
        self.begun = 0

    # What asyncio asks for.

    def time(self) -> float:
        return float(_host.context.now() / 1000)

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        timer.begin(when - self.time())
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = Task(coro, loop=self, **options)
        self._tasks[task._number] = task
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Future[Any]) -> None:
        del self._tasks[task._number]  # type: ignore[attr-defined]

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        pass

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        message = context.get("message", "an error in the event loop")
        if (error := context.get("exception")) is not None:
            message = f"{message}: {type(error).__name__}: {error}"
        _host.log.write(_host.log.Level.ERROR, message, [])

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> NoReturn:
        raise RuntimeError("a workflow has no threads: call the function itself")

    async def shutdown_asyncgens(self) -> None:
        pass

    def _asyncgen_firstiter_hook(self, generator: Any) -> None:
        pass

    # What the SDK asks for.

    def wait_for_step(self, step: Waitable) -> None:
        """Has `step.finish` called when the step is done."""
        if step.tag is None:
            step.tag = next(_numbers)
            self._waiting[step.tag] = step
            self._outside[step.tag] = step

    def forget(self, step: Waitable) -> None:
        """It is done or given up."""
        if step.tag is not None:
            del self._waiting[step.tag]
            if self._outside.pop(step.tag, None) is None:
                self._set.remove(step.tag)
            step.tag = None

    def in_background(self, body: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that the run does not end before."""
        context = contextvars.copy_context()
        context.run(_compensating.set, True)
        task = self.create_task(body, context=context)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def run(self, body: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine to its end, and what goes on in the background. Tasks that still run then are
        cancelled, as `asyncio.run` does, and end as well."""
        asyncio._set_running_loop(self)
        self._running = True
        try:
            main = self.create_task(body)
            ending: list[Task] = []
            while True:
                while self._ready:
                    handle = self._ready.popleft()
                    if not handle.cancelled():
                        handle._run()
                # What they begin while they end is theirs.
                if main.done() and all(task.done() for task in ending):
                    ending = self._left()
                    for task in ending:
                        task.cancel()
                    if not ending and not self._background:
                        return cast(T, main.result())
                    if ending:
                        continue
                self._advance()
        finally:
            self._running = False
            asyncio._set_running_loop(None)

    def _left(self) -> list[Task]:
        """What the end of the workflow cancels: compensations, and what they have begun, go on."""
        return [task for task in self._tasks.values() if not (task.compensates and self._background)]

    def _advance(self) -> None:
        """Waits for one of the steps that something waits for."""
        if len(self._waiting) == 1 and self._outside:
            (step,) = self._outside.values()
        else:
            if self._set is None:
                self._set = _host.types.WaitSet()
            for tag, outside in self._outside.items():
                self._set.add(outside.handle, tag)
            self._outside.clear()
            # Of an empty set nothing is ever done, which the host reports.
            tag = self._set.next()
            step = self._waiting[tag]
            # Done ones are no members any more.
            self._outside[tag] = step
        step.finish()


class Waitable:
    """A step of the host that the loop waits for."""

    handle: Any
    tag: Optional[int] = None

    def finish(self) -> None:
        raise NotImplementedError


class _Timer(asyncio.TimerHandle, Waitable):
    """`loop.call_later`: a durable sleep."""

    def begin(self, seconds: float) -> None:
        loop: Any = self._loop  # type: ignore[attr-defined]
        loop.begun += 1
        self.tag = None
        self.handle = _host.sleep.start_for(millis(max(seconds, 0)))
        loop.wait_for_step(self)

    def finish(self) -> None:
        loop: Any = self._loop  # type: ignore[attr-defined]
        try:
            _host.call(self.handle.get)
        except Failure as failure:
            # The run was asked to stop. That is what `asyncio.sleep` fails with; other timers are of
            # something that fails by itself.
            sleeper = self._args[0] if self._args else None
            if isinstance(sleeper, asyncio.Future) and not sleeper.done():
                sleeper.set_exception(failure)
        else:
            loop._ready.append(self)
        loop.forget(self)
        release(self.handle)

    def cancel(self) -> None:
        if not self.cancelled() and self.tag is not None:
            loop: Any = self._loop  # type: ignore[attr-defined]
            loop.forget(self)
            release(self.handle)
        super().cancel()


def release(handle: Any) -> None:
    """Drops a step of the host. One that is not done is cancelled by this."""
    handle.__exit__(None, None, None)


def millis(seconds: float) -> int:
    """Rounded up: nothing happens too early."""
    return min(-int(-round(seconds * 1_000_000) // 1000), (1 << 64) - 1)


def current() -> Loop:
    loop = asyncio._get_running_loop()
    if not isinstance(loop, Loop):
        raise RuntimeError("steps begin within a workflow")
    return loop


class Step(asyncio.Future[T], Waitable):
    """An operation that was started, a future to be awaited.

    It goes on until it is done, is cancelled, or the run ends. Cancelling what awaits it cancels it.
    """

    def __init__(self, start: Callable[[], Any], read: Callable[[Any], T]) -> None:
        loop = current()
        super().__init__(loop=loop)
        self._read = read
        self.tag = None
        self.handle = None
        self._number = next(_numbers)
        loop.begun += 1
        try:
            self.handle = _host.call(start)
        except Failure as failure:
            self.set_exception(failure)
            return
        loop._open.add(self)

    def __hash__(self) -> int:
        return self._number

    @property
    def id(self) -> int:
        """The number of the step within the run; 0 if it could not be started or has ended."""
        return 0 if self.handle is None else int(self.handle.id())

    def get(self) -> T:
        """Waits without letting anything else go on, for code that cannot be ``async``. May be called
        again and gives the same."""
        if not self.done():
            self.finish()
        return self.result()

    def cancel(self, msg: Any = None) -> bool:
        """Gives it up. If it is not done, whoever does it is told to stop."""
        if self.done():
            return False
        self._close()
        return super().cancel(msg=msg)

    def add_done_callback(self, callback: Any, *, context: Optional[contextvars.Context] = None) -> None:
        # Somebody waits: from here on its outcome is taken from the host.
        if not self.done():
            self.get_loop().wait_for_step(self)  # type: ignore[attr-defined]
        super().add_done_callback(callback, context=context)

    def finish(self) -> None:
        try:
            value = self._read(_json.loads(_host.call(self.handle.get)))
        except Exception as error:
            self._close()
            self.set_exception(error)
        else:
            self._close()
            self.set_result(value)

    def _close(self) -> None:
        loop: Loop = self.get_loop()  # type: ignore[assignment]
        loop.forget(self)
        loop._open.discard(self)
        release(self.handle)
        self.handle = None


async def settle(value: Any) -> Any:
    """The value itself, or what it gives when it is awaited."""
    return await value if isinstance(value, Awaitable) else value
