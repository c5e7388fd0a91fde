"""Durable workflows in Python.

A program is a module `workflow` with a function `run`, whose argument is the
run's input and whose result is the run's, both anything that JSON can say::

    from wfhost import agent, sleep

    def run(input):
        greeting = agent(f"greet {input['name']}")
        sleep(60)
        return {"greeting": greeting}

Each call here that waits is a step of the run's journal, and is never carried
out a second time once it is done. Calls block: there is nothing to await. What
is to happen side by side is started first (`start_agent`, ...) and waited for
afterwards (`Step.get`, `all_of`, `any_of`).

Lengths of time are seconds, as everywhere in Python, or `datetime.timedelta`.
The standard library's clocks, `time.sleep`, `random`, files and output are
virtual: the same in every execution.
"""

from __future__ import annotations

import datetime
import json as _json
import random as _random
import traceback as _traceback
from typing import Any, Callable, Generic, Iterable, Mapping, NoReturn, Optional, Sequence, TypeVar, Union

from componentize_py_types import Err
from wit_world.imports import agent as _agent
from wit_world.imports import child as _child
from wit_world.imports import context as _context
from wit_world.imports import log as _log
from wit_world.imports import signal as _signal
from wit_world.imports import sleep as _sleep
from wit_world.imports import types as _types

# Names of hosts are encoded by it. It is looked up while the component is built, for later nothing
# can be imported.
"localhost".encode("idna")

Json = Any
Length = Union[int, float, datetime.timedelta]
T = TypeVar("T")


class Failure(Exception):
    """Why a step did not end well. Raised by a program, it is how its run fails.

    `kind` is one of failed, timed-out, cancelled, invalid-output,
    budget-exceeded, unavailable, rejected; `details` is JSON or None;
    `attempts` is how often it was tried.
    """

    def __init__(self, kind: str, message: str, details: Json = None, attempts: int = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.details = details
        self.attempts = attempts


def _call(function: Callable[..., T], *arguments: Any) -> T:
    """Calls the host, whose failures are exceptions of the bindings."""
    try:
        return function(*arguments)
    except Err as error:
        failure = error.value
        kind = failure.kind.name.lower().replace("_", "-")
        details = None if failure.details is None else _json.loads(failure.details)
        raise Failure(kind, failure.message, details, failure.attempts) from None


def _dump(value: Json) -> str:
    try:
        return _json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Failure("rejected", f"this is not JSON: {error}") from error


def _optional(value: Json) -> Optional[str]:
    return None if value is None else _dump(value)


def _millis(length: Length) -> int:
    if isinstance(length, datetime.timedelta):
        length = length.total_seconds()
    if length < 0:
        raise Failure("rejected", f"a length of time is not negative: {length}")
    # Rounded up: nothing happens too early.
    return -int(-length * 1000 // 1)


def _timeout(timeout: Optional[Length]) -> Optional[int]:
    return None if timeout is None else _millis(timeout)


class Step(Generic[T]):
    """An operation that was started. One that nothing refers to any more is
    cancelled if it is not done."""

    def __init__(self, step: _types.Step, read: Callable[[Json], T]) -> None:
        self._step = step
        self._read = read

    @property
    def id(self) -> int:
        """Its number within the run."""
        return self._step.id()

    def get(self) -> T:
        """Waits until it is done. May be called again and gives the same."""
        return self._read(_json.loads(_call(self._step.get)))


def all_of(steps: Iterable[Step[T]]) -> list[T]:
    """Waits for all, in their order. The first failure in that order is raised."""
    return [step.get() for step in steps]


def any_of(steps: Sequence[Step[Any]]) -> int:
    """Waits for one; gives the index of the one that was done first."""
    return _types.wait_any([step._step for step in steps])


def _as_it_is(value: Json) -> Json:
    return value


def _request(prompt: str, options: Mapping[str, Any]) -> _agent.Request:
    known = {
        "input", "provider", "providers", "model", "schema", "session", "workspace", "label", "group",
        "attempts", "once", "attempt_timeout", "timeout", "options",
    }
    if unknown := set(options) - known:
        raise TypeError(f"agent() has no option {', '.join(sorted(unknown))}")
    provider = options.get("provider")
    providers = [provider] if provider is not None else list(options.get("providers", []))
    attempts = options.get("attempts")
    retry = None
    if options.get("once"):
        # A call that names this kind among the fatal ones is made at most once.
        retry = _agent.Retry(1, 1_000, 2.0, 60_000, 0.1, ["unknown-outcome"])
    elif attempts is not None:
        retry = _agent.Retry(attempts, 1_000, 2.0, 60_000, 0.1, [])
    attempt, total = _timeout(options.get("attempt_timeout")), _timeout(options.get("timeout"))
    limits = None if attempt is None and total is None else _agent.Limits(attempt, total, None)
    return _agent.Request(
        prompt=prompt,
        input=_optional(options.get("input")),
        providers=providers,
        model=options.get("model"),
        schema=_optional(options.get("schema")),
        session=options.get("session"),
        workspace=options.get("workspace"),
        label=options.get("label"),
        group=options.get("group"),
        retry=retry,
        limits=limits,
        cache=None,
        options=_optional(options.get("options")),
    )


def agent(prompt: str, **options: Any) -> Json:
    """Asks an agent and gives its answer: a text, or JSON if it sent some.

    Options: `input` (JSON beside the prompt), `provider` or `providers` (attempt
    n goes to the n-th), `model`, `schema` (a JSON Schema that the answer has to
    fit), `session`, `workspace`, `label` (what people see), `group` (calls of
    one group share a limit of concurrency), `attempts` (in all),
    `once` (one call is made, whatever happens; if the host dies during it, the
    call fails with the reason `unknown-outcome` in its details), `attempt_timeout` and `timeout` (of one, of all), `options` (for the provider).
    """
    return _json.loads(_call(_agent.run, _request(prompt, options)).output)


def start_agent(prompt: str, **options: Any) -> Step[Json]:
    """The same without waiting."""
    return Step(_agent.start(_request(prompt, options)), lambda reply: reply["output"])


def sleep(length: Length) -> None:
    """Sleeps; the deadline survives crashes."""
    _call(_sleep.sleep, _millis(length))


def start_sleep(length: Length) -> Step[None]:
    return Step(_sleep.start_for(_millis(length)), _as_it_is)


def signal(name: str, timeout: Optional[Length] = None) -> Json:
    """Waits for a signal and gives its payload. Signals that come early are kept."""
    return _json.loads(_call(_signal.wait, name, _timeout(timeout)))


def start_signal(name: str, timeout: Optional[Length] = None) -> Step[Json]:
    return Step(_signal.start(name, _timeout(timeout)), _as_it_is)


def send(run: str, name: str, payload: Json = None) -> None:
    """Sends a signal to another run, exactly once."""
    _call(_signal.send, run, name, _dump(payload))


def _question(prompt: str, schema: Json, choices: Sequence[str], details: Json) -> _signal.Question:
    return _signal.Question(prompt, _optional(schema), list(choices), _optional(details))


def ask(
    prompt: str, *, schema: Json = None, choices: Sequence[str] = (), details: Json = None,
    timeout: Optional[Length] = None,
) -> Json:
    """Asks a person. A refusal is the failure `rejected`."""
    question = _question(prompt, schema, choices, details)
    return _json.loads(_call(_signal.ask, question, _timeout(timeout)))


def start_ask(
    prompt: str, *, schema: Json = None, choices: Sequence[str] = (), details: Json = None,
    timeout: Optional[Length] = None,
) -> Step[Json]:
    question = _question(prompt, schema, choices, details)
    return Step(_signal.start_ask(question, _timeout(timeout)), _as_it_is)


def post(name: str, payload: Json = None) -> None:
    """Leaves a message for whoever reads them outside."""
    _signal.post(name, _dump(payload))


def child(module: str, input: Json = None) -> Json:
    """Runs another workflow and gives its result."""
    return _json.loads(_call(_child.run, module, _dump(input), None))


def start_child(module: str, input: Json = None) -> Step[Json]:
    return Step(_child.start(module, _dump(input), None), _as_it_is)


def now() -> datetime.datetime:
    """Virtual time in UTC: when the latest thing happened that the program has seen."""
    return datetime.datetime.fromtimestamp(_context.now() / 1000, datetime.timezone.utc)


def run_id() -> str:
    return _context.info().run


def patched(id: str) -> bool:
    """Whether the run reaches this place for the first time under code that has it."""
    return _context.patched(id)


def cancelled() -> bool:
    """Whether the run was asked to stop."""
    return _context.cancelled()


def phase(title: str) -> None:
    """Names what is being done, for people who watch."""
    _context.phase(title)


def publish(key: str, value: Json) -> None:
    """State that outsiders can read: the latest value of a key."""
    _context.publish(key, _dump(value))


def continue_as_new(input: Json) -> NoReturn:
    """Ends this run and goes on as a fresh one with this input."""
    _context.continue_as_new(_dump(input))
    raise AssertionError("the run has ended")


def log(message: object, level: str = "info") -> None:
    """Writes a line to the run's log: trace, debug, info, warn, error. Silent while replaying."""
    _log.write(_log.Level[level.upper()], str(message), [])


def _kind(name: str) -> _types.FailureKind:
    return _types.FailureKind[name.upper().replace("-", "_")]


def _entry(body: Callable[[Json], Json], text: str) -> str:
    """What the component exports."""
    # The state that was made when the module was built is the same in every run.
    _random.seed(_context.random())
    try:
        return _dump(body(_json.loads(text)))
    except Failure as failure:
        details = _optional(failure.details)
        raise Err(_types.Failure(_kind(failure.kind), failure.message, details, failure.attempts)) from None
    except Exception as error:
        details = _dump({"traceback": _traceback.format_exc()})
        message = f"{type(error).__name__}: {error}"
        raise Err(_types.Failure(_types.FailureKind.FAILED, message, details, 0)) from None
