"""Durable workflows in Python.

A program is a module ``workflow`` with a coroutine function ``run``, whose argument is the run's input and
whose result is the run's::

    from dataclasses import dataclass
    from wfhost import agent, sleep

    @dataclass
    class Input:
        name: str = "world"

    async def run(input: Input):
        greeting = await agent(f"greet {input.name}")
        await sleep(60)
        return {"greeting": greeting}

What is asked of the world is a *step*. It begins when the function is called, its result is recorded, and a
run that was killed goes on behind the last recorded one. Steps are futures of asyncio: `asyncio.gather`,
`asyncio.timeout`, `asyncio.TaskGroup`, `asyncio.Semaphore` work as usual, and cancelling what awaits a step
cancels it. Which step was first is recorded as well.

Lengths of time are seconds, as everywhere in Python, or `datetime.timedelta`. The standard library's clocks,
``time.sleep``, ``random``, files and output are virtual: the same in every execution.
"""

from __future__ import annotations

import dataclasses as _dataclasses
import datetime as _datetime
from typing import (
    Any, Callable, Iterable, Literal, Mapping, NoReturn, Optional, Sequence, TypedDict, TypeVar, Union, Unpack, cast,
    overload,
)

from . import _host, _schema
from ._host import Failure
from ._loop import Step, millis as _seconds_to_millis
from ._patterns import Done, Retry, first_ok, parallel_map, quorum, race, retry, rounds, saga
from ._patterns import continue_as_new as _continue_as_new

__all__ = [
    "AgentOptions", "Budget", "Cache", "Done", "Failure", "Limits", "Reply", "Retry", "RunInfo", "Step", "Usage", "agent",
    "agent_json", "agent_reply", "ask", "budget", "cancelled", "child", "continue_as_new", "first_ok", "info",
    "log", "now", "parallel_map", "patched", "phase", "post", "publish", "quorum", "race", "random", "retry",
    "rounds", "saga", "send", "signal", "sleep", "sleep_until",
]

Length = Union[int, float, _datetime.timedelta]
T = TypeVar("T")


def _millis(length: Length) -> int:
    if isinstance(length, _datetime.timedelta):
        length = length.total_seconds()
    if not length >= 0:
        raise Failure("rejected", f"a length of time is not negative: {length}")
    return _seconds_to_millis(length)


def _optional_millis(length: Optional[Length]) -> Optional[int]:
    return None if length is None else _millis(length)


@_dataclasses.dataclass(frozen=True)
class Limits:
    """Time limits for one attempt, for the whole step, and for the time without a sign of life."""

    attempt: Optional[Length] = None
    total: Optional[Length] = None
    heartbeat: Optional[Length] = None


@_dataclasses.dataclass(frozen=True)
class Cache:
    """An answer may be taken from an earlier run that asked the same under the same version, if it is not
    older than ``age``."""

    version: str
    age: Optional[Length] = None


@_dataclasses.dataclass(frozen=True)
class Usage:
    """The usage of an answer. ``cost_micros`` are millionths of a US dollar."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_micros: int = 0


@_dataclasses.dataclass(frozen=True)
class Reply:
    """An answer with its session, usage and provider.

    Attributes:
        output: JSON: a text if the agent answered with plain text.
        session: To go on with this conversation: the option ``session`` of `agent`.
        model: The model that answered.
        usage: What it consumed, if the provider says so.
        provider: Who answered.
    """

    output: Any
    session: Optional[str] = None
    model: Optional[str] = None
    usage: Optional[Usage] = None
    provider: str = ""

    def text(self) -> str:
        """A text as it is, other JSON as it is written."""
        return _text(self.output)

    def json(self, returns: Any = Any) -> Any:
        """The answer as data of a type: if the agent answered with text, the text is parsed as JSON."""
        return _data(returns, self.output)


def _text(output: Any) -> str:
    return output if isinstance(output, str) else _host.dump(output)


def _data(returns: Any, output: Any, has_schema: bool = False) -> Any:
    try:
        return _schema.decode_answer(returns, output, has_schema)
    except _schema.Misfit as misfit:
        excerpt = _text(output)
        excerpt = f"{excerpt[:200]}..." if len(excerpt) > 200 else excerpt
        raise Failure("invalid-output", f"the answer does not fit: {misfit}; it was: {excerpt}") from None


def _fitting(returns: Any, what: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        try:
            return _schema.decode(returns, value)
        except _schema.Misfit as misfit:
            raise Failure("invalid-output", f"the {what} does not fit: {misfit}") from None

    return read


def _reply(reply: Mapping[str, Any]) -> Reply:
    usage = reply.get("usage")
    if usage is not None:
        known = {field.name for field in _dataclasses.fields(Usage)}
        usage = Usage(**{name: value for name, value in usage.items() if name in known})
    provider = reply.get("provider") or ""
    return Reply(reply["output"], reply.get("session"), reply.get("model"), usage, provider)


class AgentOptions(TypedDict, total=False):
    """Options of an agent call. Unset options are taken from the host's configuration."""

    input: Any
    """Structured data in addition to the prompt."""
    provider: str
    """The provider that answers."""
    providers: Sequence[str]
    """The providers that answer: attempt n goes to the n-th, the last one gets the rest."""
    model: str
    """The provider's default if none."""
    session: Optional[str]
    """Continues an earlier conversation: `Reply.session` of its last answer."""
    fork: str
    """Forks an earlier conversation: starts a new one from that point; the original is unchanged."""
    workspace: str
    """The workspace of the agent, by its name in the host's configuration."""
    label: str
    """A label for people. Default: the beginning of the prompt."""
    group: str
    """Calls of the same group share a concurrency limit."""
    retry: Retry
    """When and how often a failed attempt is retried."""
    once: bool
    """Makes the call at most once: no second attempt and no correction of an answer that does not match.
    If the host dies during it, the call fails and `Failure.is_outcome_unknown`."""
    limits: Limits
    """Time limits of the call."""
    cache: Cache
    """Reuses the answer to an equal request of an earlier run."""
    options: Mapping[str, Any]
    """An object that is passed to the provider unchanged."""


_OPTIONS = frozenset(AgentOptions.__annotations__)


def _ask_agent(read: Callable[[Any], T], prompt: str, schema: Any, options: AgentOptions) -> Step[T]:
    if unknown := sorted(set(options) - _OPTIONS):
        raise TypeError(f"an agent has no option {', '.join(unknown)}")
    return Step(lambda: _host.agent.start(_request(prompt, schema, options)), read)


def _request(prompt: str, schema: Any, options: AgentOptions) -> Any:
    host = _host.agent
    policy = None
    if options.get("once"):
        # A call that names this kind among the fatal ones is made at most once.
        policy = host.Retry(1, 1_000, 2.0, 60_000, 0.1, ["unknown-outcome"])
    elif (retry := options.get("retry")) is not None:
        lengths = (_millis(retry.initial), float(retry.factor), _millis(retry.max), float(retry.jitter))
        policy = host.Retry(retry.attempts, *lengths, list(retry.fatal))
    limits = None
    if (limit := options.get("limits")) is not None:
        limits = host.Limits(*map(_optional_millis, (limit.attempt, limit.total, limit.heartbeat)))
    caching = None
    if (cache := options.get("cache")) is not None:
        caching = host.Caching(cache.version, _optional_millis(cache.age))
    passed, session = options.get("options"), options.get("session")
    if (fork := options.get("fork")) is not None:
        passed, session = {**(passed or {}), "fork": True}, fork
    provider = options.get("provider")
    return host.Request(
        prompt=prompt,
        input=_host.optional(options.get("input"), "input"),
        providers=[provider] if provider is not None else list(options.get("providers", ())),
        model=options.get("model"),
        schema=_host.optional(schema, "schema"),
        session=session,
        workspace=options.get("workspace"),
        label=options.get("label"),
        group=options.get("group"),
        retry=policy,
        limits=limits,
        cache=caching,
        options=_host.optional(passed, "options"),
    )


@overload
def agent(prompt: str, *, returns: type[T], **options: Unpack[AgentOptions]) -> Step[T]: ...
@overload
def agent(prompt: str, **options: Unpack[AgentOptions]) -> Step[str]: ...
def agent(prompt: str, *, returns: Any = None, **options: Any) -> Step[Any]:
    """Calls an agent: a model, a coding agent, a service, a person.

    The answer is a text, or data of the type ``returns``: a dataclass, a ``TypedDict``, a pydantic model,
    ``list[str]``, ... The host has the agent answer so that it fits. The options are those of `AgentOptions`.
    """
    if returns is None:
        return _ask_agent(lambda reply: _text(reply["output"]), prompt, None, cast(AgentOptions, options))
    schema = _schema.schema_of(returns)
    return _ask_agent(lambda reply: _data(returns, reply["output"], True), prompt, schema, cast(AgentOptions, options))


def agent_json(prompt: str, *, schema: Any = None, **options: Unpack[AgentOptions]) -> Step[Any]:
    """Calls an agent; the answer is any data. If the agent answers with text, the text is parsed as JSON.
    ``schema`` is a JSON Schema that it has to match."""
    return _ask_agent(lambda reply: _data(Any, reply["output"], schema is not None), prompt, schema, options)


def agent_reply(
    prompt: str, *, returns: Any = None, schema: Any = None, **options: Unpack[AgentOptions]
) -> Step[Reply]:
    """Calls an agent; the answer comes with its session, usage and provider."""

    def read(reply: Mapping[str, Any]) -> Reply:
        made = _reply(reply)
        return made if returns is None else _dataclasses.replace(made, output=_data(returns, made.output, True))

    return _ask_agent(read, prompt, schema if returns is None else _schema.schema_of(returns), options)


def _nothing(_: Any) -> None:
    return None


def sleep(length: Length) -> Step[None]:
    """Sleeps, at most for 100 years. The deadline is fixed when it is called, and survives crashes."""
    return Step(lambda: _host.sleep.start_for(_millis(length)), _nothing)


def sleep_until(at: Union[_datetime.datetime, float]) -> Step[None]:
    """Sleeps until a point in time: a `datetime` with its time zone, or seconds since 1970."""
    seconds = at.timestamp() if isinstance(at, _datetime.datetime) else at
    return Step(lambda: _host.sleep.start(_seconds_to_millis(max(seconds, 0))), _nothing)


@overload
def signal(name: str, *, timeout: Optional[Length] = None, returns: type[T]) -> Step[T]: ...
@overload
def signal(name: str, *, timeout: Optional[Length] = None) -> Step[Any]: ...
def signal(name: str, *, timeout: Optional[Length] = None, returns: Any = Any) -> Step[Any]:
    """Waits for a signal and returns its payload, of the type ``returns``. Early signals are kept;
    each signal is consumed by one wait."""
    return Step(lambda: _host.signal.start(name, _optional_millis(timeout)), _fitting(returns, f"signal {name}"))


def send(run: str, name: str, payload: Any = None) -> None:
    """Sends a signal to another run, exactly once.

    Raises:
        Failure: ``rejected`` if the run does not exist or if it has ended.
    """
    _host.call(_host.signal.send, run, name, _host.dump(payload, "payload"))


def ask(
    prompt: str,
    *,
    choices: Iterable[str] = (),
    returns: Any = Any,
    schema: Any = None,
    details: Any = None,
    timeout: Optional[Length] = None,
) -> Step[Any]:
    """Asks a person. If the person denies the question, the failure is ``rejected``.

    Args:
        prompt: What is asked.
        choices: If there are any, the answer is one of them.
        returns: The type of the answer. The host refuses others.
        schema: The same as a JSON Schema.
        details: What one has to know to answer.
        timeout: The question is withdrawn then.
    """

    def start() -> Any:
        asked = schema if returns is Any else _schema.schema_of(returns)
        schema_text, details_text = _host.optional(asked, "schema"), _host.optional(details, "details")
        question = _host.signal.Question(prompt, schema_text, list(choices), details_text)
        return _host.signal.start_ask(question, _optional_millis(timeout))

    return Step(start, _fitting(returns, "answer"))


def post(name: str, payload: Any = None) -> None:
    """Appends to the messages of this run, which are read in order with a cursor."""
    _host.signal.post(name, _host.dump(payload, "payload"))


def child(
    module: str,
    input: Any = None,
    *,
    id: Optional[str] = None,
    on_close: Literal["cancel", "abandon"] = "cancel",
    labels: Optional[Mapping[str, str]] = None,
    returns: Any = Any,
) -> Step[Any]:
    """Runs another workflow as a durable run of its own and returns its result, of the type ``returns``.

    Args:
        module: The name of the workflow.
        input: Its input.
        id: The child's id; made from the parent's and the step if none.
        on_close: What becomes of it when this run ends first.
        labels: By which people find it.
        returns: The type of its result.
    """

    def start() -> Any:
        host = _host.child
        close = host.OnParentClose[on_close.upper()]
        options = host.Options(id=id, on_close=close, labels=list((labels or {}).items()))
        return host.start(module, _host.dump(input, "input"), options)

    return Step(start, _fitting(returns, "result"))


def now() -> _datetime.datetime:
    """Virtual time in UTC: the time of the latest event that the program has observed."""
    return _datetime.datetime.fromtimestamp(_host.context.now() / 1000, _datetime.timezone.utc)


def random() -> int:
    """The next random number of this run, of 64 bits. The module ``random`` is seeded by one."""
    return int(_host.context.random())


@_dataclasses.dataclass(frozen=True)
class RunInfo:
    """Information about this run."""

    run: str
    workflow: str
    digest: str
    parent: Optional[str]
    started: _datetime.datetime
    attempt: int
    labels: Mapping[str, str]


def info() -> RunInfo:
    """Information about this run: its id, its workflow, its start time."""
    known = _host.context.info()
    started = _datetime.datetime.fromtimestamp(known.started / 1000, _datetime.timezone.utc)
    labels = dict(known.labels)
    return RunInfo(known.run, known.workflow, known.digest, known.parent, started, known.attempt, labels)


@_dataclasses.dataclass(frozen=True)
class Budget:
    """In tokens. No ``total`` means no limit."""

    total: Optional[int]
    spent: int

    @property
    def remaining(self) -> Optional[int]:
        """The remaining budget; None if there is no limit."""
        return None if self.total is None else max(self.total - self.spent, 0)


def budget() -> Budget:
    """The budget of this run and its children, and what has been spent of it."""
    spending = _host.context.budget()
    return Budget(spending.total, spending.spent)


def patched(id: str) -> bool:
    """False for runs that passed this place before the code contained the call, true for all others."""
    return bool(_host.context.patched(id))


def cancelled() -> bool:
    """Whether cancellation of the run was requested. It has some time to clean up."""
    return bool(_host.context.cancelled())


def phase(title: str) -> None:
    """Names the current phase of the run, for people."""
    _host.context.phase(title)


def publish(key: str, value: Any) -> None:
    """Publishes state, which can be read at any time: the latest value of a key."""
    _host.context.publish(key, _host.dump(value))


def continue_as_new(input: Any) -> NoReturn:
    """Ends this run and continues as a new one with this input."""
    _continue_as_new(input)
    raise AssertionError("the run has ended")


def log(
    message: object, level: Literal["trace", "debug", "info", "warn", "error"] = "info", **fields: object
) -> None:
    """Writes a line to the run's log, with fields. Silent while replaying."""
    pairs = [(name, value if isinstance(value, str) else _spell(value)) for name, value in fields.items()]
    _host.log.write(_host.log.Level[level.upper()], str(message), pairs)


def _spell(value: object) -> str:
    try:
        return _host.dump(value)
    except Failure:
        return str(value)
